"""Draws of accuracies and latencies: what else the measured figures might have been.

A draw redraws the units that were drawn independently: test users for an accuracy, by bootstrap (Efron & Tibshirani,
1993, chapter 13); processes for a time, by Student's t, the spread that the interval of a mean or median has
(`intervals.process_draws`). Models judged on the same rows are redrawn with the same users, so that a difference
between two is as sure as these users make it; times are independent of one another.
With a single process the spread between processes is unseen, and every probability here is too sure of itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.tasks import TASKS
from rbserve.runs.measurement import Measurement
from rbserve.runs.plan import Slate
from rbserve.runs.summary import MS
from rbserve.stats.bootstrap import RESAMPLES
from rbserve.stats.intervals import Interval, Statistic, percentile_interval, process_draws
from rbserve.stats.metrics import METRICS

Draws = NDArray[np.float64]


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

    def baseline(self, run: Measurement, name: str, metric: str) -> Draws | None:
        """The accuracy of a baseline, on the same users. None where its answers were not kept."""
        key = (run.id, "baseline", name, metric)
        if key not in self._kept:
            self._kept[key] = _baseline_draws(run, name, metric)
        return self._kept[key]

    def latency(
        self, run: Measurement, variant: str, slate: Slate, statistic: Statistic = "median"
    ) -> Draws | None:
        """Milliseconds a call of a variant in the run's scope. None where the raw samples were not kept."""
        key = (run.id, run.plan.scope, variant, slate, statistic)
        if key not in self._kept:
            times = run_times(run, variant, slate)
            seed = zlib.crc32(repr(key[:4]).encode())
            self._kept[key] = process_draws(times, statistic, RESAMPLES, seed) if times else None
        return self._kept[key]


def run_times(run: Measurement, variant: str, slate: Slate) -> list[Draws]:
    """Milliseconds of every timed call, one array a process, of a measurement of one scope."""
    return [
        np.asarray(process.runs_ns, np.float64) * MS
        for process in run.samples
        if (process.variant, process.scope, process.slate) == (variant, run.plan.scope, slate)
    ]


def all_or_none(draws: Sequence[Draws | None]) -> list[Draws] | None:
    """The draws of all points, or None where a point has none: it would win every comparison, or lose it."""
    known = [values for values in draws if values is not None]
    return known if known and len(known) == len(draws) else None


def interval_of(draws: Draws) -> Interval | None:
    """The 95% interval of a statistic from its resamples [R]; None where all of them are nan."""
    known = draws[~np.isnan(draws)]
    return percentile_interval(known) if len(known) else None


def _baseline_draws(run: Measurement, name: str, metric: str) -> Draws | None:
    answers = run.baseline_answers.get(name)
    if answers is None or not run.predictions.users:
        return None
    column = "ranks" if TASKS[run.task].ranks else "scores"
    predictions = msgspec.structs.replace(run.predictions, scores={}, ranks={})
    predictions = msgspec.structs.replace(predictions, **{column: {name: answers}})
    return _accuracy_draws(msgspec.structs.replace(run, predictions=predictions), name, metric)


def _accuracy_draws(run: Measurement, variant: str, metric: str) -> Draws | None:
    row = METRICS[run.task].get(metric)
    if row is None or row.draws is None or variant not in (run.predictions.scores or run.predictions.ranks):
        return None
    seed = zlib.crc32(run.dataset_fingerprint.encode())  # of the data: the same users for every model of it
    return row.draws(*run.predictions.judged_rows(variant), resamples=RESAMPLES, seed=seed)
