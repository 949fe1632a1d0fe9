"""Bootstrap of accuracies over users: what an accuracy would be on other users of the same kind.

Users are what was drawn independently, hundreds of them, so a percentile bootstrap holds (Efron & Tibshirani, 1993,
chapter 13). The same seed draws the same users for every model and metric: the difference of two arrays of draws is a
paired bootstrap. Work is cut into blocks, so that memory hardly grows with `resamples`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbserve.stats.intervals import BLOCK, Interval, percentile_interval
from rbserve.stats.pairwise import checked_rows, user_auc

RESAMPLES = 1000


def auc_draws(
    labels: ArrayLike, scores: ArrayLike, users: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """The AUC [R] of each resample of users with all their rows, nan where a resample holds a single label.

    The same seed draws the same users for any scores of the same rows: the difference of two such arrays is a
    paired bootstrap.
    """
    y, s, ids = checked_rows(labels, scores, users)
    names, user = np.unique(ids, return_inverse=True)
    order = np.argsort(s)
    negatives, positives = order[y[order] == 0], order[y[order] == 1]
    lower = np.searchsorted(s[negatives], s[positives], side="left")
    upper = np.searchsorted(s[negatives], s[positives], side="right")
    wins, pairs = [], []
    for counts in _user_counts(len(names), len(s), resamples, seed):
        below = np.zeros((len(negatives) + 1, counts.shape[1]))  # [j]: weight of the j lowest negatives
        np.cumsum(counts[user[negatives]], axis=0, out=below[1:])
        drawn = counts[user[positives]]
        wins.append(np.einsum("pr,pr->r", drawn, below[lower] + below[upper]) / 2)
        pairs.append(drawn.sum(axis=0) * below[-1])
    return _ratios(wins, pairs)


def gauc_draws(
    labels: ArrayLike, scores: ArrayLike, users: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """The GAUC [R] of each resample of users, nan where none of a resample's users has both labels."""
    _, aucs, rows = user_auc(labels, scores, users)
    weights = np.where(np.isnan(aucs), 0, rows).astype(np.float64)
    return ratio_draws(np.nan_to_num(aucs) * weights, weights, resamples, seed)


def ratio_draws(
    sums: NDArray[Any], weights: NDArray[Any], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """The sums [U] of the users drawn, divided by their weights [U], in each resample [R]; nan where these are 0."""
    numerators, denominators = [], []
    for counts in _user_counts(len(sums), len(sums), resamples, seed):
        numerators.append(sums @ counts)
        denominators.append(weights @ counts)
    return _ratios(numerators, denominators)


def mean_draws(values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """The mean [R] of each resample of one value a user [U]; nan of none."""
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or not np.isfinite(column).all():
        raise ValueError("values must be one array of finite numbers, one a user")
    blocks = _user_counts(len(column), len(column), resamples, seed)
    sums = [column @ counts for counts in blocks]
    return _ratios(sums, [np.full(len(block), float(len(column))) for block in sums])


def draws_interval(draws: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Interval (low, high) of a statistic from its resamples [R] that are not nan; (nan, nan) where all are."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    defined = draws[~np.isnan(draws)]
    return percentile_interval(defined, confidence) if len(defined) else (float("nan"), float("nan"))


def _user_counts(users: int, rows: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each resample drew each user, in blocks [users, R] so small that [rows, R] fits `BLOCK`."""
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    rng = np.random.default_rng(seed)
    width = max(1, BLOCK // max(rows, 1))
    for start in range(0, resamples if users else 0, width):
        size = min(width, resamples - start)
        drawn = rng.integers(users, size=(size, users)).T  # a resample draws in one go, whatever the block
        cells = drawn * size + np.arange(size)
        yield np.bincount(cells.ravel(), minlength=users * size).reshape(users, size).astype(np.float64)


def _ratios(
    numerators: list[NDArray[np.float64]], denominators: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Numerator / denominator of all blocks' resamples, nan where the denominator is not positive."""
    if not numerators:
        return np.empty(0)
    numerator, denominator = np.concatenate(numerators), np.concatenate(denominators)
    ratios = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=ratios, where=denominator > 0)
    return ratios
