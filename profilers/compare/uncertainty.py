"""How sure a front is: draws of accuracies and latencies, and what the front does in each of them.

A draw redraws the units that were drawn independently: test users for an accuracy, by bootstrap (Efron & Tibshirani,
1993, chapter 13); processes for a time, by Student's t, the spread that the interval of a mean or median has
(`intervals.process_draws`). Models judged on the same rows are redrawn with the same users, so that a difference
between two is as sure as these users make it; times are independent of one another.
With a single process the spread between processes is unseen, and every probability here is too sure of itself.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbserve.core.errors import UsageError
from rbserve.runs.measurement import MS, Measurement
from rbserve.stats.intervals import (
    Statistic,
    auc_draws,
    gauc_draws,
    mean_draws,
    percentile_interval,
    process_draws,
)
from rbserve.stats.metrics import gains_at_k, hits_at_k

RESAMPLES = 1000
METRICS_WITH_DRAWS = ("auc", "gauc", "ndcg@10", "recall@10")
ACCURACY_DIGITS = 4
REFERENCE_MS = 1000.0
"""Where the hypervolume begins: a call slower than a second adds nothing to it."""
REFERENCE_ACCURACY = {"auc": 0.5, "gauc": 0.5, "ndcg@10": 0.0, "recall@10": 0.0}

Draws = NDArray[np.float64]
Interval = tuple[float, float]


class Front(msgspec.Struct, frozen=True):
    """The front of one slate as a whole.

    `hypervolume` is the area between the front and (`reference_ms`, `reference_accuracy`), in units of accuracy times
    decades of latency (moocore); `ci95` is its interval, null without raw samples. Larger is better.
    """

    slate: int
    hypervolume: float | None
    ci95: Interval | None
    reference_ms: float
    reference_accuracy: float
    resamples: int


class Evidence:
    """Draws [R] of the figures in measurements, from their raw samples and predictions; each is made once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], Draws | None] = {}

    def accuracy(self, run: Measurement, variant: str, metric: str) -> Draws | None:
        """The accuracy of a variant; nan where a draw has none. None where its predictions were not kept."""
        key = (run.id, variant, metric)
        if key not in self._kept:
            self._kept[key] = _accuracy_draws(run, variant, metric)
        return self._kept[key]

    def latency(
        self, run: Measurement, variant: str, slate: int, statistic: Statistic = "median"
    ) -> Draws | None:
        """Milliseconds a call of a variant in the run's scope. None where the raw samples were not kept."""
        key = (run.id, run.plan.scope, variant, slate, statistic)
        if key not in self._kept:
            times = run_times(run, variant, slate)
            seed = zlib.crc32(repr(key[:4]).encode())
            self._kept[key] = process_draws(times, statistic, RESAMPLES, seed) if times else None
        return self._kept[key]


def run_times(run: Measurement, variant: str, slate: int) -> list[Draws]:
    """Milliseconds of every timed call, one array a process, of a measurement of one scope."""
    return [
        np.asarray(one.runs_ns, np.float64) * MS
        for one in run.samples
        if (one.variant, one.scope, one.slate) == (variant, run.plan.scope, slate)
    ]


def front_probabilities(latency: Sequence[Draws], accuracy: Sequence[Draws]) -> list[float]:
    """For each point, the share of draws in which no other is at least as good in both and better in one.

    Accuracies are compared at the printed digits, as the front's are (`as_printed`).
    """
    times, values = _defined(latency, accuracy)
    values = as_printed(values)
    if not times.shape[1]:
        return [math.nan] * len(times)
    on_front = np.zeros(len(times))
    for column in range(times.shape[1]):
        on_front += nondominated_rows(np.column_stack([times[:, column], values[:, column]]))
    return [float(share) for share in on_front / times.shape[1]]


def as_printed(accuracy: ArrayLike) -> NDArray[np.float64]:
    """Accuracies at the digits that reports print: of points with equal ones only the fastest is on the front."""
    return np.asarray(accuracy, np.float64).round(ACCURACY_DIGITS)


def nondominated_rows(
    rows: NDArray[np.float64], maximise: Sequence[bool] = (False, True)
) -> NDArray[np.bool_]:
    """Whether each row is on the front; equal rows stand or fall together."""
    kept: NDArray[np.bool_] = _moocore().is_nondominated(rows, maximise=list(maximise), keep_weakly=True)
    return kept


def front_of(
    slate: int,
    metric: str,
    points: Iterable[tuple[float, float]],
    latency: Sequence[Draws] | None,
    accuracy: Sequence[Draws] | None,
) -> Front:
    """The front of points (ms, accuracy) with its hypervolume, and its interval where there are draws."""
    rows = list(points)
    reference = REFERENCE_ACCURACY.get(metric, 0.0)
    interval = None
    if latency and accuracy:
        times, values = _defined(latency, accuracy)
        areas = [
            hypervolume(np.column_stack([times[:, column], values[:, column]]), reference)
            for column in range(times.shape[1])
        ]
        interval = interval_of(np.array(areas))
    return Front(
        slate=slate,
        hypervolume=hypervolume(rows, reference) if rows else None,
        ci95=interval,
        reference_ms=REFERENCE_MS,
        reference_accuracy=reference,
        resamples=RESAMPLES if interval else 0,
    )


def hypervolume(points: ArrayLike, reference_accuracy: float) -> float:
    """What points [P, 2] of (ms, accuracy) dominate: accuracy above the reference times decades below REFERENCE_MS."""
    rows = np.array(points, np.float64).reshape(-1, 2)
    rows[:, 0] = np.log10(rows[:, 0])
    corner = [math.log10(REFERENCE_MS), reference_accuracy]
    useful = rows[(rows[:, 0] < corner[0]) & (rows[:, 1] > corner[1])]
    return float(_moocore().hypervolume(useful, ref=corner, maximise=[False, True])) if len(useful) else 0.0


def _defined(latency: Sequence[Draws], accuracy: Sequence[Draws]) -> tuple[Draws, Draws]:
    """Both [P, R], without the draws in which some accuracy is not defined."""
    values = np.stack(accuracy)
    whole = ~np.isnan(values).any(axis=0)
    return np.stack(latency)[:, whole], values[:, whole]


def _accuracy_draws(run: Measurement, variant: str, metric: str) -> Draws | None:
    seen = run.predictions
    seed = zlib.crc32(run.dataset_fingerprint.encode())  # of the data: the same users for every model of it
    if metric in ("auc", "gauc") and variant in seen.scores:
        draws = auc_draws if metric == "auc" else gauc_draws
        scores = np.asarray(seen.scores[variant], np.float32)
        return draws(np.asarray(seen.labels, np.int8), scores, np.asarray(seen.users), RESAMPLES, seed)
    if metric in ("ndcg@10", "recall@10") and variant in seen.ranks:
        values = gains_at_k if metric == "ndcg@10" else hits_at_k
        return mean_draws(values(np.asarray(seen.ranks[variant], np.int64), 10), RESAMPLES, seed)
    return None


def _moocore() -> Any:
    try:
        import moocore
    except ImportError:
        raise UsageError(
            "a report needs moocore, which is not installed", "pip install 'rbserve[report]'"
        ) from None
    return moocore


def interval_of(draws: Draws) -> Interval | None:
    """The 95% interval of a statistic from its resamples; None where none of them tells."""
    known = draws[~np.isnan(draws)]
    return percentile_interval(known) if len(known) else None
