"""Many rows at once: the scores of all test rows, the ranked lists of many users."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rbserve.core.requests import is_of_request, row_request
from rbserve.core.types import Items, Ranker, Scorer, Scores
from rbserve.data.columns import Ragged, runs
from rbserve.data.dataset import NO_EXTRAS, Extras

LONGEST = 4096
"""The most rows of a slate when rows are scored."""


@runtime_checkable
class RowScorer(Protocol):
    """A scorer that is asked for many rows at a time, rather than for one slate after another."""

    def score_rows(self, histories: Ragged, candidates: Items) -> Scores:
        """The score float32[R] of R (history, candidate) pairs."""
        ...


def score_rows(scorer: Scorer, histories: Ragged, candidates: Items, extras: Extras = NO_EXTRAS) -> Scores:
    """The score float32[R] of R (history, candidate) pairs; rows in turn that share a history are one slate.

    `extras` has the fields of each row, for a model that reads fields.
    """
    if isinstance(scorer, RowScorer):
        return scorer.score_rows(histories, candidates)
    scores = np.empty(len(candidates), np.float32)
    for begin, end in pairwise(slate_starts(histories, extras).tolist()):
        request = row_request(histories[begin], candidates[begin:end], extras, begin, end)
        scores[begin:end] = scorer.score(request)
    return scores


def slate_starts(histories: Ragged, extras: Extras) -> NDArray[np.int64]:
    """Where in R rows each slate begins, and the end: where the history or what is of the request is another one."""
    starts = runs(histories)
    for name, column in extras.items():
        if is_of_request(name):
            rows = column.reshape(len(column), -1)
            starts = np.union1d(starts, np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1)
    return np.union1d(starts, np.arange(0, len(histories), LONGEST))


def recommend(ranker: Ranker, history: Items, k: int, exclude_seen: bool = False) -> tuple[Items, Scores]:
    """The k best items int32[<=k] for history int32[T] and their scores; `exclude_seen` leaves out the history's."""
    if not exclude_seen:
        return ranker.top_k(history, k)
    return without_seen(history, k, *ranker.top_k(history, k + len(history)))


def without_seen(history: Items, k: int, items: Items, scores: Scores) -> tuple[Items, Scores]:
    """The first k of a list of items int32[n], and their scores, that are not in history int32[T]."""
    unseen = np.flatnonzero(~np.isin(items, history))[:k]
    return items[unseen], scores[unseen]


def rank_rows(
    ranker: Ranker, histories: Ragged, k: int, batch: int = 256, exclude_seen: bool = False
) -> Items:
    """What `recommend` gives for each of R histories, int32[R, k]; -1 at the end of a list shorter than k.

    Histories of one length are ranked together, at most `batch` a call.
    """
    ranked = np.full((len(histories), k), -1, np.int32)
    for together, seen in by_length(histories, batch):
        items, _ = ranker.top_k_batch(seen, k + exclude_seen * seen.shape[1])
        unwanted = items < 0
        if exclude_seen:
            unwanted |= (items[:, :, None] == seen[:, None, :]).any(axis=2)
        best = _wanted_first(items, unwanted)[:, :k]
        ranked[together, : best.shape[1]] = best
    return ranked


@runtime_checkable
class ApproximateRanker(Ranker, Protocol):
    """A ranker whose index may miss items of the list, and that can make the list without it."""

    def exact_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        """The best items of B users with histories int32[B, T] if the index missed none: int32[B, <=k], and scores."""
        ...


def recall_at(ranker: ApproximateRanker, histories: Ragged, k: int) -> float:
    """The mean share of the k best items of R histories that a ranker's lists have."""
    users = [seen for _, seen in by_length(histories, 64)]
    lists = (ranker.top_k_batch(seen, k)[0] for seen in users)
    return mean_share(lists, (ranker.exact_batch(seen, k)[0] for seen in users))


def mean_share(lists: Iterable[Items], exact: Iterable[Items]) -> float:
    """The mean share of the items of exact lists int32[B, <=k] that the lists int32[B, k] have as well; 1 of none."""
    pairs = zip(lists, exact, strict=True)
    shares = [(best[:, :, None] == own[:, None, :]).any(axis=2).mean(axis=1) for own, best in pairs]
    return float(np.concatenate(shares).mean()) if shares else 1.0


def by_length(histories: Ragged, batch: int) -> Iterator[tuple[NDArray[np.int64], Items]]:
    """Histories of one length together, at most `batch` at a time: their rows int64[B] and their items int32[B, T]."""
    lengths = histories.lengths
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        for together in np.split(rows, range(batch, len(rows), batch)):
            yield together, histories.take(together).values.reshape(len(together), length)


def _wanted_first(items: Items, unwanted: NDArray[np.bool_]) -> Items:
    """Each row of items int32[B, n] without the unwanted ones, then -1, in the order they had."""
    order = np.argsort(unwanted, axis=1, kind="stable")
    moved: Items = np.take_along_axis(np.where(unwanted, np.int32(-1), items), order, axis=1)
    return moved
