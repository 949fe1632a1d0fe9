"""Files of pytest-benchmark (JSON): reading their medians, and writing a gate's samples as such files."""

from __future__ import annotations

import datetime
import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import msgspec
import numpy as np

from rbserve.core.errors import DataError
from rbserve.core.files import write_bytes
from rbserve.machine.environment import environment
from rbserve.profilers.gate.sides import Contender, Side

IQR_OF_NORMAL = 1.349  # in standard deviations
IQR_WORTH = 0.37  # of a datum: how well a range tells a normal sample's spread, beside its standard deviation
IQR_ROUNDS = 20  # the fewest whose interquartile range is one
PROCESSES = "process_medians_s"


class Stats(msgspec.Struct, frozen=True):
    """Seconds of the rounds of one benchmark; `data` has them all, where it was saved."""

    median: float
    rounds: int
    stddev: float | None = None
    iqr: float | None = None
    data: list[float] = []


class Spread(NamedTuple):
    """The standard deviation of a process's rounds as a share of their median, and how many data it is worth."""

    share: float
    freedom: float


class Benchmark(msgspec.Struct, frozen=True):
    """One benchmark of a file."""

    fullname: str
    stats: Stats
    extra_info: dict[str, Any] = {}

    @property
    def process_medians(self) -> list[float]:
        """The median of each process, seconds."""
        if PROCESSES in self.extra_info:
            return msgspec.convert(self.extra_info[PROCESSES], list[float], strict=False)
        return [float(np.median(self.stats.data)) if self.stats.data else self.stats.median]

    @property
    def rounds(self) -> int:
        """How many rounds were timed."""
        return len(self.stats.data) or self.stats.rounds

    @property
    def spread(self) -> Spread | None:
        """The spread of the rounds; None where it is unknown: of a single round, of equal rounds, or of figures of NaN.

        By the interquartile range of at least IQR_ROUNDS, which a few slow rounds do not move, else by the standard
        deviation: the range of a few values is far too small.
        """
        rounds, stats = self.rounds, self.stats
        iqr, deviation = stats.iqr, stats.stddev
        if stats.data:
            low, high = np.quantile(stats.data, [0.25, 0.75])
            iqr, deviation = float(high - low), float(np.std(stats.data, ddof=1)) if rounds > 1 else None
        middle = float(np.median(self.process_medians))
        if rounds >= IQR_ROUNDS and _is_spread(iqr):
            return Spread(iqr / IQR_OF_NORMAL / middle, IQR_WORTH * (rounds - 1))
        if rounds >= 2 and _is_spread(deviation):
            return Spread(deviation / middle, rounds - 1)
        return None


def _is_spread(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and value > 0


class BenchmarkFile(msgspec.Struct, frozen=True):
    """The fields of a pytest-benchmark file that the gate reads."""

    benchmarks: list[Benchmark]
    machine_info: dict[str, Any] = {}

    @property
    def comparability(self) -> tuple[Any, ...]:
        """Two files may be compared only when these are equal."""
        info = self.machine_info
        cpu = info.get("cpu")
        brand = cpu.get("brand_raw") if isinstance(cpu, dict) else cpu
        return (brand, *(info.get(key) for key in ("machine", "python_implementation", "python_version")))


def is_benchmark_file(path: Path) -> bool:
    """Whether a file is JSON with a list of benchmarks, as pytest-benchmark writes it."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and isinstance(document.get("benchmarks"), list)


def read(path: Path) -> BenchmarkFile:
    """Reads a file of pytest-benchmark; DataError when it is none.

    NaN and Infinity, which pytest-benchmark may write, are an error only in the times that are judged.
    """
    again = "pytest --benchmark-json FILE writes one"
    try:
        document = json.loads(path.read_bytes())
        if isinstance(document, dict) and "samples" in document and "benchmarks" not in document:
            again = f"it is a run file: rbserve check --baseline {path}"
        file = msgspec.convert(document, BenchmarkFile)
        medians = {benchmark.fullname: benchmark.process_medians for benchmark in file.benchmarks}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", again) from None
    except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
        raise DataError(f"{path} is not JSON of pytest-benchmark: {error}", again) from None
    for name, times in medians.items():
        if not times or not all(math.isfinite(median) and median > 0 for median in times):
            raise DataError(f"{path}: the median of {name} is not a time", again)
    return file


# ---- Writing ----


def write(path: Path, contenders: Sequence[Contender]) -> Path:
    """Writes head's samples to `path`, and base's beside it as <name>.base.json, whose path is returned."""
    base = path.with_name(f"{path.stem}.base.json")
    for file, side in ((path, "head"), (base, "base")):
        benchmarks = [
            benchmark
            for contender in contenders
            for benchmark in _benchmarks(contender, getattr(contender, side))
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
                "extra_info": {PROCESSES: [float(np.median(times)) * 1e-9 for times in runs]},
                "options": {},
                "stats": _stats(np.concatenate(runs) * 1e-9),
            }
        )
    return made


def _stats(seconds: Any) -> dict[str, Any]:
    """The statistics that pytest-benchmark derives from rounds."""
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
