"""The gate between files of pytest-benchmark, judged like artefacts.

A file usually holds one process, whose spread between processes nobody has seen: `process_cv` of the configuration
stands in for it, and the line says so. The spread of its rounds is never assumed: one round, or equal ones, are
INCONCLUSIVE. Files that `write` made keep the median of each process, and several files a side are several processes;
where both sides have at least five, their own spread decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from rbserve.profilers.gate.benchmark_file import Benchmark, BenchmarkFile, Spread, read
from rbserve.profilers.gate.config import GateConfig
from rbserve.profilers.gate.verdict import (
    FEWEST_PROCESSES,
    Estimate,
    Line,
    SequentialTest,
    Suite,
    Verdict,
    judged,
    suite_of,
    unpaired,
    welch,
)

MEDIAN_ERROR = 1.2533  # the error of a normal sample's median, in errors of its mean: sqrt(pi / 2)


def compare(base: Sequence[Path], head: Sequence[Path], config: GateConfig) -> Suite:
    """Judges every benchmark of the base files, matched by its full name."""
    sides = [[read(path) for path in side] for side in (base, head)]
    before, after = (_by_name(side) for side in sides)
    lines = judge_benchmarks(before, after, config)
    if len({file.comparability for side in sides for file in side}) > 1:
        reason = "base and head are of other machines or Pythons"
        lines = [
            line
            if line.verdict is Verdict.MISSING
            else msgspec.structs.replace(line, verdict=Verdict.NOT_COMPARABLE, reason=reason)
            for line in lines
        ]
    return suite_of(lines, config, None)


def judge_benchmarks(
    base: Mapping[str, Sequence[Benchmark]], head: Mapping[str, Sequence[Benchmark]], config: GateConfig
) -> list[Line]:
    """A line for each benchmark of base, which head has by the same name, or lacks."""
    tolerance = math.log1p(config.tolerance.p50_pytest_benchmark)
    matched = [name for name in base if name in head]
    test = SequentialTest(dict.fromkeys(matched, tolerance), config.alpha, config.beta, 1)
    test.look(1, {name: _estimate(base[name], head[name], config.process_cv) for name in matched})
    lines = []
    for name, before in base.items():
        line = Line(name, "p50", Verdict.MISSING, base=_median_ms(before))
        if name not in head:
            lines.append(msgspec.structs.replace(line, reason="head has no such benchmark"))
            continue
        after = head[name]
        line = msgspec.structs.replace(line, head=_median_ms(after), rounds=len(_processes(after)))
        line = judged(line, test.decisions[name], tolerance, relative=True)
        reason = _reason(before, after, line.verdict, config.process_cv)
        lines.append(msgspec.structs.replace(line, reason=reason))
    return lines


def _by_name(files: Sequence[BenchmarkFile]) -> dict[str, list[Benchmark]]:
    by_name: dict[str, list[Benchmark]] = {}
    for file in files:
        for benchmark in file.benchmarks:
            by_name.setdefault(benchmark.fullname, []).append(benchmark)
    return by_name


def _processes(benchmarks: Sequence[Benchmark]) -> list[float]:
    return [median for benchmark in benchmarks for median in benchmark.process_medians]


def _median_ms(benchmarks: Sequence[Benchmark]) -> float:
    return float(np.median(_processes(benchmarks))) * 1e3


def _estimate(base: Sequence[Benchmark], head: Sequence[Benchmark], process_cv: float) -> Estimate:
    """Log ratio of medians, with the processes' own spread where both sides have enough of them.

    Fewer processes count with the spread of their rounds and the one between processes that is assumed; where those few
    differ by more than that, with what they differ.
    """
    before, after = _processes(base), _processes(head)
    if not _is_assumed(base, head):
        return unpaired(before, after)
    change = float(np.log(after).mean() - np.log(before).mean())
    within = [_within(side) for side in (base, head)]
    if None in within:
        return Estimate(change, math.inf)
    known = [spread for spread in within if spread]
    between = process_cv**2 * (1 / len(before) + 1 / len(after))
    error = math.sqrt(sum(spread.share**2 for spread in known) + between)
    assumed = Estimate(change, error, min(spread.freedom for spread in known))
    return max(assumed, welch(before, after), key=lambda estimate: _margin(estimate))


def _margin(estimate: Estimate) -> float:
    """How wide an estimate is, for telling which of two is more careful; one without a spread is no estimate."""
    return -1.0 if math.isinf(estimate.error) else estimate.upper(0.01) - estimate.change


def _within(benchmarks: Sequence[Benchmark]) -> Spread | None:
    """The error that the rounds leave in the mean of a side's medians; None where a process shows no spread.

    The degrees of freedom are those of the process that has the fewest: never too bold, whatever the spreads.
    """
    processes = len(_processes(benchmarks))
    variance, freedom = 0.0, math.inf
    for benchmark in benchmarks:
        spread = benchmark.spread
        if spread is None:
            return None
        error = MEDIAN_ERROR * spread.share / math.sqrt(benchmark.rounds)
        variance += (error * len(benchmark.process_medians) / processes) ** 2
        freedom = min(freedom, spread.freedom)
    return Spread(math.sqrt(variance), freedom)


def _is_assumed(base: Sequence[Benchmark], head: Sequence[Benchmark]) -> bool:
    """Whether a side has too few processes to show their own spread."""
    return min(len(_processes(side)) for side in (base, head)) < FEWEST_PROCESSES


def _reason(
    base: Sequence[Benchmark], head: Sequence[Benchmark], verdict: Verdict, process_cv: float
) -> str | None:
    """What a verdict rests on that the files do not show, or what an inconclusive verdict lacks."""
    assumed = _is_assumed(base, head)
    if verdict is not Verdict.INCONCLUSIVE:
        return (
            f"rests on an assumed spread between processes of {process_cv:.1%} (process_cv)"
            if assumed
            else None
        )
    more = f"give at least {FEWEST_PROCESSES} files a side"
    sides = (("base", base), ("head", head))
    for name, side in sides:
        if not assumed and len({*_processes(side)}) == 1:
            return f"the medians of all {len(_processes(side))} processes of {name} are equal: their spread is unknown"
    for name, side in sides:
        unseen = [benchmark for benchmark in side if benchmark.spread is None]
        if assumed and unseen:
            rounds = unseen[0].rounds
            why = "a single round shows no spread" if rounds == 1 else f"its {rounds} rounds show no spread"
            return f"{name}: {why}, so that it is unknown; time more rounds, or {more}"
    return f"{len(_processes(head))} process(es) are too few for the spread; {more}"
