"""Accuracy of ranked candidates with graded relevance: one row per candidate of a request, with a whole grade.

A grade of 0 is not relevant; the gain of a grade is 2^grade - 1 (Burges et al., "Learning to Rank using Gradient
Descent", ICML 2005). Ties go against the model. A metric is the mean over the requests that have a relevant candidate;
nan where there is none. Bad input (NaN, unequal lengths, labels that are no grades) is a ValueError.

Shapes: n rows of Q requests. Rows need no order. Each function takes labels [n], scores [n], users [n], requests [n];
without requests the candidates of a user are one list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbserve.core.tasks import HIGHEST_GRADE
from rbserve.stats.bootstrap import RESAMPLES, ratio_draws
from rbserve.stats.listwise import checked_column, mean


class RankedLists(NamedTuple):
    """The candidates of Q requests, each list with the highest score first: the request, grade and rank of each row."""

    requests: NDArray[np.int64]
    grades: NDArray[np.float64]
    ranks: NDArray[np.int64]
    users: NDArray[np.int64]

    @property
    def relevant(self) -> NDArray[np.float64]:
        """How many relevant candidates [Q] each request has."""
        return np.bincount(self.requests, self.grades > 0).astype(np.float64)


Values = Callable[..., NDArray[np.float64]]
"""The value [Q] of each request of ranked lists at k, nan for a request without a relevant candidate."""


def ndcg_values(lists: RankedLists, k: int) -> NDArray[np.float64]:
    """Gain of the top k, each divided by log2(rank + 1), as a part of what the best order would reach."""
    best = np.lexsort((-lists.grades, lists.requests))
    ideal = _discounted_gains(lists._replace(grades=lists.grades[best]), k)
    return _ratios(_discounted_gains(lists, k), ideal)


def mrr_values(lists: RankedLists, k: int | None = None) -> NDArray[np.float64]:
    """1 / rank of the first relevant candidate (0 past k)."""
    rows = lists.grades > 0 if k is None else (lists.grades > 0) & (lists.ranks <= k)
    values = np.zeros(len(lists.relevant))
    np.maximum.at(values, lists.requests[rows], 1 / lists.ranks[rows])
    return np.where(lists.relevant > 0, values, np.nan)


def recall_values(lists: RankedLists, k: int) -> NDArray[np.float64]:
    """Share of the relevant candidates that are among the top k; the divisor is all of them, also above k."""
    hits = np.bincount(lists.requests, (lists.grades > 0) & (lists.ranks <= k), len(lists.relevant))
    return _ratios(hits, lists.relevant)


def graded_mean(
    values: Values, labels: ArrayLike, scores: ArrayLike, users: ArrayLike, requests: ArrayLike | None = None
) -> float:
    """The mean of a metric over the requests that have a relevant candidate; nan where none has."""
    of_requests = values(ranked_lists(labels, scores, users, requests))
    return mean(of_requests[~np.isnan(of_requests)])


def graded_draws(
    values: Values, labels: ArrayLike, scores: ArrayLike, users: ArrayLike, requests: ArrayLike | None = None,
    resamples: int = RESAMPLES, seed: int = 0,
) -> NDArray[np.float64]:  # fmt: skip
    """The mean of a metric in each resample [R] of users with all their requests."""
    lists = ranked_lists(labels, scores, users, requests)
    of_requests = values(lists)
    _, first = np.unique(lists.requests, return_index=True)
    defined = ~np.isnan(of_requests)
    owner = lists.users[first]
    sums = np.bincount(owner, np.where(defined, of_requests, 0.0))
    return ratio_draws(sums, np.bincount(owner, defined, len(sums)), resamples, seed)


def ranked_lists(
    labels: ArrayLike, scores: ArrayLike, users: ArrayLike, requests: ArrayLike | None = None
) -> RankedLists:
    """The rows as lists, best score first; of equal scores the lower grade first."""
    s = checked_column(scores, "scores")
    y = checked_column(labels, "labels", len(s))
    bad = ~((y >= 0) & (y <= HIGHEST_GRADE) & (y == np.trunc(y)))
    if bad.any():
        raise ValueError(f"labels must be whole grades of 0 to {HIGHEST_GRADE}, got {y[bad][0]:g}")
    numbers = [np.asarray(column) for column in (users, users if requests is None else requests)]
    if any(column.shape != s.shape for column in numbers):
        raise ValueError(f"users and requests must have shape {s.shape} like the scores")
    _, user = np.unique(numbers[0], return_inverse=True)
    _, request, rows = np.unique(numbers[1], return_inverse=True, return_counts=True)
    order = np.lexsort((y, -s, request))
    begins = np.cumsum(rows) - rows
    ranks = np.arange(1, len(s) + 1) - begins[request[order]]
    return RankedLists(request[order], y[order], ranks, user[order])


def _discounted_gains(lists: RankedLists, k: int) -> NDArray[np.float64]:
    gains = (2.0**lists.grades - 1) / np.log2(lists.ranks + 1) * (lists.ranks <= k)
    return np.bincount(lists.requests, gains).astype(np.float64)


def _ratios(parts: NDArray[Any], wholes: NDArray[Any]) -> NDArray[np.float64]:
    ratios = np.full(len(wholes), np.nan)
    np.divide(parts, wholes, out=ratios, where=wholes > 0)
    return ratios
