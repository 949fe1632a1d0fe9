"""pytest-benchmark's JSON: two of its files judged like two artefacts, and a gate's samples written as such a file.

A file usually holds one process, whose spread between processes nobody has seen: `process_cv` of the configuration
stands in for it. Files that `write` made keep the median of each process, and several files a side are several
processes; where both sides have at least five, their own spread decides.
"""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rbserve.core.environment import environment
from rbserve.core.errors import DataError
from rbserve.core.files import write_bytes
from rbserve.profilers.gate import (
    FEWEST_PROCESSES,
    Estimate,
    Line,
    SequentialTest,
    Suite,
    Verdict,
    judged,
    suite_of,
    unpaired,
)
from rbserve.profilers.gate_config import GateConfig
from rbserve.profilers.gate_sides import Contender, Side

MEDIAN_ERROR = 1.2533  # the error of a normal sample's median, in errors of its mean: sqrt(pi / 2)
IQR_OF_NORMAL = 1.349  # in standard deviations
PROCESSES = "process_medians_s"


class Stats(msgspec.Struct, frozen=True):
    """Seconds of the rounds of one benchmark; `data` has them all, where it was saved."""

    median: float
    stddev: float
    rounds: int
    iqr: float | None = None
    data: list[float] = []


class Benchmark(msgspec.Struct, frozen=True):
    """One benchmark of a file."""

    fullname: str
    stats: Stats
    extra_info: dict[str, Any] = {}

    @property
    def process_medians(self) -> list[float]:
        """The median of each process, seconds."""
        known: list[float] = self.extra_info.get(PROCESSES) or [
            float(np.median(self.stats.data)) if self.stats.data else self.stats.median
        ]
        return known

    @property
    def relative_error(self) -> float:
        """Of the median, within the process."""
        stats = self.stats
        if stats.data:
            low, high = np.quantile(stats.data, [0.25, 0.75])
            spread = float(high - low) / IQR_OF_NORMAL
        else:
            spread = stats.stddev if stats.iqr is None else stats.iqr / IQR_OF_NORMAL
        return MEDIAN_ERROR * spread / math.sqrt(max(1, stats.rounds)) / self.process_medians[0]


class BenchmarkFile(msgspec.Struct, frozen=True):
    """What is read of a file."""

    benchmarks: list[Benchmark]
    machine_info: dict[str, Any] = {}

    @property
    def comparability(self) -> tuple[Any, ...]:
        """Two files may be compared only when these are equal."""
        info = self.machine_info
        cpu = info.get("cpu")
        brand = cpu.get("brand_raw") if isinstance(cpu, dict) else cpu
        return (brand, *(info.get(key) for key in ("machine", "python_implementation", "python_version")))


def read(path: Path) -> BenchmarkFile:
    """Reads a file of pytest-benchmark; DataError when it is none."""
    again = "pytest --benchmark-json FILE writes one"
    try:
        file = msgspec.json.decode(path.read_bytes(), type=BenchmarkFile)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", again) from None
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is not JSON of pytest-benchmark: {error}", again) from None
    for one in file.benchmarks:
        if not all(math.isfinite(median) and median > 0 for median in one.process_medians):
            raise DataError(f"{path}: the median of {one.fullname} is not a time", again)
    return file


def compare(base: Sequence[Path], head: Sequence[Path], config: GateConfig) -> Suite:
    """Judges every benchmark of the base files, matched by its full name."""
    sides = [[read(path) for path in side] for side in (base, head)]
    machines = {file.comparability for side in sides for file in side}
    before, after = (_by_name(side) for side in sides)
    tolerance = math.log1p(config.tolerance.p50_pytest_benchmark)
    matched = [name for name in before if name in after]
    test = SequentialTest(dict.fromkeys(matched, tolerance), config.alpha, config.beta, 1)
    test.look(1, {name: _estimate(before[name], after[name], config.process_cv) for name in matched})
    lines = []
    for name, benchmarks in before.items():
        line = Line(name, "p50", Verdict.MISSING, base=_median_ms(benchmarks))
        if name not in after:
            line = msgspec.structs.replace(line, reason="head has no such benchmark")
        else:
            processes = len(_processes(after[name]))
            line = msgspec.structs.replace(line, head=_median_ms(after[name]), rounds=processes)
            line = judged(line, test.decisions[name], tolerance, relative=True)
        if name in after and len(machines) > 1:
            reason = "base and head are of other machines or Pythons"
            line = msgspec.structs.replace(line, verdict=Verdict.NOT_COMPARABLE, reason=reason)
        elif line.verdict is Verdict.INCONCLUSIVE:
            reason = f"{line.rounds} process(es) are too few for the spread; give several files a side"
            line = msgspec.structs.replace(line, reason=reason)
        lines.append(line)
    return suite_of(lines, config, None)


def _by_name(files: Sequence[BenchmarkFile]) -> dict[str, list[Benchmark]]:
    found: dict[str, list[Benchmark]] = {}
    for file in files:
        for one in file.benchmarks:
            found.setdefault(one.fullname, []).append(one)
    return found


def _processes(benchmarks: Sequence[Benchmark]) -> list[float]:
    return [median for one in benchmarks for median in one.process_medians]


def _median_ms(benchmarks: Sequence[Benchmark]) -> float:
    return float(np.median(_processes(benchmarks))) * 1e3


def _estimate(base: Sequence[Benchmark], head: Sequence[Benchmark], process_cv: float) -> Estimate:
    """Log ratio of medians, with the processes' own spread where both sides show one."""
    before, after = _processes(base), _processes(head)
    if min(len(before), len(after)) >= FEWEST_PROCESSES:
        return unpaired(before, after)
    change = float(np.log(after).mean() - np.log(before).mean())
    within = sum(side[0].relative_error ** 2 for side in (base, head))
    between = process_cv**2 * (1 / len(before) + 1 / len(after))
    return Estimate(change, math.sqrt(within + between))


# ---- Writing ----


def write(path: Path, contenders: Sequence[Contender]) -> Path:
    """Writes head's samples to `path`, and base's beside it as <name>.base.json, whose path is returned."""
    base = path.with_name(f"{path.stem}.base.json")
    for file, side in ((path, "head"), (base, "base")):
        benchmarks = [
            one for contender in contenders for one in _benchmarks(contender, getattr(contender, side))
        ]
        document = {
            "machine_info": _machine_info(),
            "commit_info": {"id": side, "dirty": False, "time": None, "author_time": None},
            "benchmarks": benchmarks,
            "datetime": datetime.datetime.now(datetime.UTC).isoformat(),
            "version": "5.1.0",
        }
        write_bytes(file, msgspec.json.format(msgspec.json.encode(document)))
    return base


def _benchmarks(contender: Contender, side: Side) -> list[dict[str, Any]]:
    made = []
    for key in contender.keys:
        runs = side.runs(key) if key.metric == "p50" else []
        if not runs:
            continue
        group = f"{key.variant}, {key.scope}, slate {key.slate}"
        made.append(
            {
                "group": group,
                "name": f"{key.model}[{group}]",
                "fullname": f"{key.model}::{key.variant}[{key.scope}-{key.slate}]",
                "params": None,
                "param": None,
                "extra_info": {PROCESSES: [float(np.median(one)) * 1e-9 for one in runs]},
                "options": {},
                "stats": _stats(np.concatenate(runs) * 1e-9),
            }
        )
    return made


def _stats(seconds: Any) -> dict[str, Any]:
    """What pytest-benchmark derives of its rounds."""
    q1, median, q3 = (float(value) for value in np.quantile(seconds, [0.25, 0.5, 0.75]))
    mean, iqr = float(seconds.mean()), q3 - q1
    stddev = float(seconds.std(ddof=1)) if len(seconds) > 1 else 0.0
    inside = seconds[(seconds >= q1 - 1.5 * iqr) & (seconds <= q3 + 1.5 * iqr)]
    by_iqr = len(seconds) - len(inside)
    by_stddev = int((np.abs(seconds - mean) > stddev).sum())
    return {
        "min": float(seconds.min()), "max": float(seconds.max()), "mean": mean, "stddev": stddev,
        "rounds": len(seconds), "median": median, "iqr": iqr, "q1": q1, "q3": q3,
        "iqr_outliers": by_iqr, "stddev_outliers": by_stddev, "outliers": f"{by_stddev};{by_iqr}",
        "ld15iqr": float(inside.min()), "hd15iqr": float(inside.max()), "ops": 1 / mean,
        "total": float(seconds.sum()), "data": seconds.tolist(), "iterations": 1,
    }  # fmt: skip


def _machine_info() -> dict[str, Any]:
    machine = environment()
    return {
        "node": platform.node(),
        "processor": platform.processor(),
        "machine": platform.machine(),
        "python_implementation": platform.python_implementation(),
        "python_version": platform.python_version(),
        "release": platform.release(),
        "system": platform.system(),
        "cpu": {"brand_raw": machine.cpu, "count": machine.cores},
    }
