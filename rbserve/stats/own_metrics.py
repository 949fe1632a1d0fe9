"""Metrics of the user's own: functions `module:function` of labels, scores and users [n] that return a number.

More is better: a function of a loss returns its negative. Where a metric is compared, its error comes from resamples of
the users, and the function is called once for each. `users` are numbers that tell the users apart; a user whom a
resample draws twice counts as two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.user_code import find_callable, kind_of, run_user_code
from rbserve.stats.bootstrap import draws_interval
from rbserve.stats.intervals import Interval
from rbserve.stats.metrics import METRICS, Metric, Rows

EXAMPLE = "MODULE:FUNCTION, such as shop.metrics:revenue, a function of (labels, scores, users) that returns a number"
RESAMPLES = 200
"""Calls of a function for its interval, or for the error of a change: each may take as long as the user's code does."""
MOST_ROWS = 100_000
"""Test rows up to which a profile calls a function for its interval."""

OwnMetrics = dict[str, Metric]
"""Metrics by their name `module:function`."""


def is_own(name: str) -> bool:
    """Whether a metric's name is that of a function of the user's own."""
    return ":" in name


def load_metrics(names: Sequence[str]) -> OwnMetrics:
    """The functions of `module:function`, imported from the working directory or installed.

    UsageError where there is no such module or function, RbserveError where importing it fails.
    """
    return {name: own_metric(name) for name in names}


def own_metric(name: str) -> Metric:
    """The row of a function `module:function`, which is imported; raises what `load_metrics` does."""
    function = find_callable(name, "metric", EXAMPLE)
    return Metric(name, partial(_value, name, function), draws=partial(_draws, name, function))


def find_metric(task: str, name: str) -> Metric:
    """The row of a task's metric, or of a function of the user's own."""
    return own_metric(name) if is_own(name) else METRICS[task][name]


def require_pairs(names: Sequence[str], ranks: bool) -> None:
    """UsageError where metrics of one's own are asked of a model that ranks the catalogue."""
    if names and ranks:
        raise UsageError(
            f"--metric {names[0]} takes labels and scores, but the model ranks the catalogue and has none",
            "leave out --metric",
        )


def compute_own(metrics: OwnMetrics, rows: Rows) -> dict[str, float | None]:
    """The value of each metric of a variant's test rows; None for NaN, which says that it is not defined.

    RbserveError where a function fails or returns no number.
    """
    values = {name: metric.compute(*rows) for name, metric in metrics.items()}
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def own_intervals(metrics: OwnMetrics, rows: Rows) -> dict[str, Interval]:
    """The 95% interval of each metric over users, where it is defined; of more than MOST_ROWS test rows none."""
    if len(rows[0]) > MOST_ROWS:
        return {}
    intervals = {
        name: draws_interval(metric.draws(*rows, resamples=RESAMPLES, seed=0))
        for name, metric in metrics.items()
        if metric.draws
    }
    return {name: interval for name, interval in intervals.items() if not np.isnan(interval).any()}


def _value(
    name: str,
    function: Callable[..., object],
    labels: ArrayLike,
    scores: ArrayLike,
    users: ArrayLike,
    *_requests: ArrayLike,
) -> float:
    value = run_user_code(f"the metric {name}", lambda: function(labels, scores, users))
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise RbserveError(f"the metric {name} returned {kind_of(value)}, which is no number", EXAMPLE)
    return float(value)


def _draws(
    name: str,
    function: Callable[..., object],
    labels: ArrayLike,
    scores: ArrayLike,
    users: ArrayLike,
    *_requests: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The metric [R] of at most RESAMPLES resamples of users with all their rows; nan where it is not defined."""
    y, s = np.asarray(labels), np.asarray(scores)
    drawn = _drawn_rows(np.asarray(users), min(resamples, RESAMPLES), seed)
    return np.array([_value(name, function, y[rows], s[rows], copies) for rows, copies in drawn])


def _drawn_rows(
    users: NDArray[np.int32], resamples: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Of each resample the numbers of its rows, and the user of each, numbered anew."""
    rng = np.random.default_rng(seed)
    _, user, lengths = np.unique(users, return_inverse=True, return_counts=True)
    order = np.argsort(user, kind="stable")
    begins = np.cumsum(lengths) - lengths
    for _ in range(resamples if len(lengths) else 0):
        drawn = rng.integers(len(lengths), size=len(lengths))
        taken = lengths[drawn]
        within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        copies = np.repeat(np.arange(len(drawn), dtype=np.int32), taken)
        yield order[np.repeat(begins[drawn], taken) + within], copies
