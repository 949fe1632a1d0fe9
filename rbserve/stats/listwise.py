"""List-wise accuracy: one target item per sequence, judged by its rank in the whole catalogue (RecBench, section 4.2).

Ranks are whole numbers [B], one a sequence: 1-based, or 0 for a miss. Ties rank before their target, so that constant
scores gain nothing. What cannot be computed (no sequence) is nan; bad input is a ValueError.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ranks_in_lists(items: NDArray[np.integer], targets: NDArray[np.integer]) -> NDArray[np.int64]:
    """1-based place [B] of the targets [B] in lists of items [B, k], best first; 0 where absent.

    An item that is listed twice has its first place; -1 stands for no item and is never a target.
    """
    items, targets = np.asarray(items), np.asarray(targets)
    if items.ndim != 2 or targets.shape != items.shape[:1]:
        raise ValueError(f"items [B, k] and targets [B] expected, got {items.shape} and {targets.shape}")
    if (targets < 0).any():
        raise ValueError("targets must be items, 0 or more")
    matches = items == targets[:, None]
    before = np.count_nonzero(np.logical_and.accumulate(~matches, axis=1), axis=1)
    return np.where(matches.any(axis=1), before + 1, 0).astype(np.int64)


def gains_at_k(ranks: ArrayLike, k: int) -> NDArray[np.float64]:
    """1 / log2(rank + 1) of each target rank [B], 0 for a miss (rank 0, or past k): the ndcg of one target."""
    ranks = _checked_ranks(ranks)
    gains: NDArray[np.float64] = _hits(ranks, k) / np.log2(np.maximum(ranks, 1) + 1)
    return gains


def hits_at_k(ranks: ArrayLike, k: int) -> NDArray[np.float64]:
    """1.0 for each target rank [B] from 1 to k, else 0.0: the recall of one target."""
    return _hits(_checked_ranks(ranks), k)


def ndcg_at_k(ranks: ArrayLike, k: int) -> float:
    """Mean of `gains_at_k` over target ranks [B]; in [0, 1]."""
    return mean(gains_at_k(ranks, k))


def mrr_at_k(ranks: ArrayLike, k: int | None = None) -> float:
    """Mean of 1 / rank over target ranks [B], 0 for a miss (rank 0, or past k if given); in [0, 1]."""
    ranks = _checked_ranks(ranks)
    return mean(_hits(ranks, k) / np.maximum(ranks, 1))


def recall_at_k(ranks: ArrayLike, k: int) -> float:
    """Share of target ranks [B] from 1 to k, also called hit rate at k; in [0, 1]."""
    return mean(hits_at_k(ranks, k))


# ---- Checks ----


def _hits(ranks: NDArray[np.int64], k: int | None) -> NDArray[np.float64]:
    """1.0 where a 1-based rank is within k, else 0.0."""
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    hit = ranks >= 1 if k is None else (ranks >= 1) & (ranks <= k)
    return hit.astype(np.float64)


def mean(values: NDArray[np.float64]) -> float:
    """The mean of values [n], nan of none."""
    return float(values.mean()) if len(values) else float("nan")


def checked_column(values: ArrayLike, name: str, rows: int | None = None) -> NDArray[np.float64]:
    """Values as float64[n], or a ValueError that calls them `name`: another shape or length than `rows`, or NaN."""
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or (rows is not None and len(column) != rows):
        raise ValueError(f"{name} must have shape ({'n' if rows is None else rows},), got {column.shape}")
    nans = np.count_nonzero(np.isnan(column))
    if nans:
        raise ValueError(f"{nans} of {len(column)} {name} are NaN")
    return column


def _checked_ranks(ranks: ArrayLike) -> NDArray[np.int64]:
    column = checked_column(ranks, "ranks")
    if (column < 0).any() or (column != np.floor(column)).any():
        raise ValueError("ranks must be whole numbers: 1-based, or 0 for a miss")
    return column.astype(np.int64)
