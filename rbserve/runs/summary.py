"""The figures of a run, derived from its raw samples and predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from rbserve.runs.measurement import Accuracy, Latency, Measurement, Result, SlateSizes
from rbserve.runs.plan import TABLE, WARM, Slate
from rbserve.runs.roofline import roofline
from rbserve.runs.samples import Samples
from rbserve.runs.stability import inconclusive
from rbserve.stats.intervals import certified_percentile, percentile_bound, process_interval
from rbserve.stats.metrics import ILLEGAL_SHARE, measure
from rbserve.stats.scaling import Growth, between, over

MS = 1e-6  # nanoseconds to milliseconds
STAGES_OFF = 0.03  # how much observing may change a call's time before a report says so
ONE_STAGE = {"forward", "rest"}  # the stages of a call that is not divided into stages

Shape = tuple[str, str, Slate]
"""Variant, scope and slate: what one result is of."""


def summarise(measurement: Measurement) -> list[Result]:
    """One Result for each variant, scope and slate, in the order in which they were measured."""
    predictions = measurement.predictions
    accuracy = {
        variant: _accuracy(measurement, variant) for variant in (predictions.scores or predictions.ranks)
    }
    shapes = samples_by_shape(measurement)
    results = []
    for (variant, scope, slate), samples in shapes.items():
        before = _next_smaller(shapes, (variant, scope, slate))
        result = _result(measurement, samples, accuracy.get(variant, {}), before)
        warm = shapes.get((variant, WARM, slate)) if scope == "forward" else None
        if warm:
            result = msgspec.structs.replace(result, warm_ms=latency([process.runs_ns for process in warm]))
        results.append(result)
    return results


def samples_by_shape(measurement: Measurement) -> dict[Shape, list[Samples]]:
    """The samples of each variant, scope and slate, one a process, in the order in which they were measured."""
    shapes: dict[Shape, list[Samples]] = {}
    for samples in measurement.samples:
        shapes.setdefault((samples.variant, samples.scope, samples.slate), []).append(samples)
    return shapes


def _next_smaller(shapes: dict[Shape, list[Samples]], shape: Shape) -> list[Samples] | None:
    """The samples of the next smaller slate of the same variant and scope, None where there are none."""
    variant, scope, slate = shape
    numbers = [n for v, s, n in shapes if (v, s) == (variant, scope) and n != TABLE]
    smaller = max((n for n in numbers if slate != TABLE and n < slate), default=None)
    return shapes[variant, scope, smaller] if smaller else None


def by_scope(measurement: Measurement) -> list[Measurement]:
    """The measurement once for each of its scopes, with the results of that scope only: what may be compared."""
    results = measurement.results or summarise(measurement)
    plan = measurement.plan
    return [
        msgspec.structs.replace(
            measurement,
            plan=msgspec.structs.replace(plan, scope=scope, warm=plan.warm and scope != WARM),
            results=[result for result in results if result.scope == scope],
        )
        for scope in dict.fromkeys(result.scope for result in results)
    ]


def latency(runs_ns: Sequence[Sequence[int]]) -> Latency:
    """Milliseconds of a call, from the nanoseconds of the timed calls of each process."""
    processes = [np.asarray(runs, np.float64) * MS for runs in runs_ns]
    runs = np.concatenate(processes)
    return Latency(
        mean=float(runs.mean()),
        p50=float(np.median(runs)),
        p90=certified_percentile(runs, 0.90),
        p99=certified_percentile(runs, 0.99),
        max=float(runs.max()),
        ci95=process_interval(processes, "median"),
        mean_ci95=process_interval(processes, "mean"),
        p90_bound=percentile_bound(runs, 0.90),
        p99_bound=percentile_bound(runs, 0.99),
        p95=certified_percentile(runs, 0.95),
        p95_bound=percentile_bound(runs, 0.95),
    )


def _result(
    measurement: Measurement, samples: list[Samples], accuracy: Accuracy, smaller: list[Samples] | None
) -> Result:
    """The figures of one shape; `smaller` are the samples of the next smaller slate, if there are any."""
    first = samples[0]
    costs = [cost for cost in measurement.costs if (cost.variant, cost.slate) == (first.variant, first.slate)]
    if first.scope == WARM:  # the cost is that of a user who is not remembered
        costs = []
    resident = [process.loaded_rss_bytes for process in samples if process.loaded_rss_bytes is not None]
    return Result(
        variant=first.variant,
        scope=first.scope,
        slate=first.slate,
        threads=first.threads,
        n=sum(len(process.runs_ns) for process in samples),
        processes=len(samples),
        latency_ms=latency([process.runs_ns for process in samples]),
        accuracy=accuracy,
        peak_rss_mb=max(process.peak_rss_bytes for process in samples) / 2**20,
        load_ms=float(np.median([process.load_ns for process in samples])) * MS,
        first_call_ms=float(np.median([process.first_call_ns for process in samples])) * MS,
        file_mb=measurement.file_bytes[first.variant] / 2**20,
        warnings=[
            *measurement.variant_warnings.get(first.variant, []),
            *measurement.predictions.warnings(first.variant),
        ],
        **_stages(samples),
        inconclusive=inconclusive(samples),
        overhead_us=_overhead_us(samples),
        energy_mj=_energy_mj(samples),
        loaded_rss_mb=max(resident) / 2**20 if resident else None,
        slate_growth=_slate_growth(smaller, samples),
        history_growth=_history_growth(samples),
        cost=roofline(costs[0], [process.unobserved_ns for process in samples]) if costs else None,
        slate_sizes=_slate_sizes(samples),
    )


def _overhead_us(samples: list[Samples]) -> float | None:
    """Microseconds that the timing loop adds to a call; None where no process measured it."""
    known = [process.overhead_ns for process in samples if process.overhead_ns is not None]
    return float(np.median(known)) / 1000 if known else None


def _energy_mj(samples: list[Samples]) -> float | None:
    """Millijoules a timed call, of all processes together; None where one could not be counted."""
    spent = [process.noise.energy_uj if process.noise else None for process in samples]
    known = [energy for energy in spent if energy is not None]
    if len(known) < len(spent):
        return None
    return sum(known) / 1000 / sum(len(process.runs_ns) for process in samples)


def _stages(samples: list[Samples]) -> dict[str, Any]:
    """Each stage's share of all observed time, and an observed call's time as a part of the unobserved one's."""
    spent: Counter[str] = Counter()
    for process in samples:
        spent.update(process.stages_ns)
    total = spent.total()
    if not total or spent.keys() <= ONE_STAGE:
        return {}
    pairs = [
        pair for process in samples for pair in zip(process.observed_ns, process.unobserved_ns, strict=True)
    ]
    return {
        "stages": {stage: ns / total for stage, ns in spent.items()},
        "stages_check": float(np.median([seen / unseen for seen, unseen in pairs])) if pairs else None,
    }


def _slate_growth(smaller: list[Samples] | None, samples: list[Samples]) -> Growth | None:
    """Growth of p50 from the next smaller slate; of the slate `table`, growth of a call's time with its candidates."""
    slate, runs = samples[0].slate, [np.array(process.runs_ns, np.float64) for process in samples]
    if slate == TABLE:
        return over([np.array(process.slate_sizes) for process in samples], runs)
    if not smaller or smaller[0].slate == TABLE:
        return None
    before = [np.array(process.runs_ns, np.float64) for process in smaller]
    return between(before, runs, (smaller[0].slate, slate))


def _history_growth(samples: list[Samples]) -> Growth | None:
    """Growth of a call's time with its history; None of the slate `table`, whose calls differ in their candidates."""
    if samples[0].slate == TABLE:
        return None
    return over(
        [np.array(process.history_lengths) for process in samples],
        [np.array(process.unobserved_ns, np.float64) for process in samples],
    )


def _slate_sizes(samples: list[Samples]) -> SlateSizes | None:
    """The distribution of the timed calls' candidates; None where all have as many as the slate says."""
    sizes = [size for process in samples for size in process.slate_sizes]
    return SlateSizes(min(sizes), float(np.median(sizes)), max(sizes)) if sizes else None


def _accuracy(measurement: Measurement, variant: str) -> Accuracy:
    """Every metric of a variant and its interval, by name; None where it is not defined on these test rows."""
    predictions = measurement.predictions
    values = measure(measurement.task, predictions.judged_rows(variant), predictions.depth)
    if variant in predictions.illegal_share:
        values[ILLEGAL_SHARE] = predictions.illegal_share[variant]
    return {name: None if np.isnan(value).any() else value for name, value in values.items()}
