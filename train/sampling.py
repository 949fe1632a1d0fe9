"""The paper's protocol: labelled events to user-disjoint splits for both tasks (section 4.1, Table 2).

Click prediction: every labelled event is a row; its history is what the user liked strictly earlier, at
most the last 20. Users with one label only are left out, each user gives at most 10 rows a label, the most
recent ones. Sequential: what the user liked, in order; the last item is the target.

Users are shuffled once per task, then fill the test set, then the finetune set; validation is 10% of the
finetune users. No user is in two splits. Events of one user with equal times count as simultaneous: none
is in another's history, and where an order is needed they are ordered by item index.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbserve.core.dataset import CtrSplit, Histories, SeqSplit, Split
from rbserve.core.errors import DataError
from rbserve.core.types import Items


@dataclass(frozen=True)
class Protocol:
    """The protocol's numbers. The paper's sizes; a smaller data set keeps their proportions."""

    seed: int = 2024
    history: int = 20
    rows_per_label: int = 10
    ctr_test_rows: int = 20_000
    ctr_finetune_rows: int = 100_000
    seqrec_test_rows: int = 5_000
    seqrec_finetune_rows: int = 40_000
    valid_users: float = 0.1


@dataclass(frozen=True)
class Interactions:
    """E labelled events as columns: user and item indices, label 1 (liked) or 0, time in any unit."""

    users: NDArray[np.int32]
    items: Items
    labels: NDArray[np.int8]
    times: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Interactions:
        """The given events, in that order."""
        return Interactions(self.users[rows], self.items[rows], self.labels[rows], self.times[rows])


def in_order(events: Interactions) -> Interactions:
    """Events by user, then time, then item index."""
    return events.take(np.lexsort((events.items, events.times, events.users)))


def ctr_splits(events: Interactions, protocol: Protocol, dropped: Counter[str]) -> dict[Split, CtrSplit]:
    """Click-prediction splits; adds the events it leaves out to `dropped`, by reason."""
    events = in_order(events)
    liked = events.take(events.labels == 1)
    both = _users_with_both_labels(events)
    keep = np.isin(events.users, both)
    dropped["ctr: user has one label only"] += int((~keep).sum())
    rows = events.take(keep)
    recent = _rank_from_last(rows.users * np.int64(2) + rows.labels) < protocol.rows_per_label
    dropped["ctr: over the user's rows per label"] += int((~recent).sum())
    rows = rows.take(recent)
    if not len(rows):
        raise DataError(
            "no user has both a liked and a disliked item", "lower the rating bounds or sample negatives"
        )
    pairs = CtrSplit(rows.users, rows.items, rows.labels, _liked_before(rows, liked, protocol.history))
    parts = _split_users(
        rows.users, protocol.ctr_test_rows, protocol.ctr_finetune_rows, protocol, dropped, "ctr"
    )
    return {name: pairs.take(part) for name, part in parts.items()}


def seqrec_splits(events: Interactions, protocol: Protocol, dropped: Counter[str]) -> dict[Split, SeqSplit]:
    """Next-item splits; adds the liked events of users too short for a sequence to `dropped`."""
    liked = in_order(events.take(events.labels == 1))
    last = np.flatnonzero(np.diff(liked.users, append=-1))
    first = np.concatenate(([0], last[:-1] + 1)) if len(last) else last
    long_enough = last > first
    dropped["seqrec: fewer than two liked items"] += int((~long_enough).sum())
    first, last = first[long_enough], last[long_enough]
    start = np.maximum(first, last - (protocol.history - 1))  # the last 20 include the target
    users = liked.users[last]
    histories = _slices(liked.items, start, last)
    parts = _split_users(
        users, protocol.seqrec_test_rows, protocol.seqrec_finetune_rows, protocol, dropped, "seqrec"
    )
    return {
        name: SeqSplit(users[part], liked.items[last][part], histories.take(part))
        for name, part in parts.items()
    }


def _liked_before(rows: Interactions, liked: Interactions, longest: int) -> Histories:
    """For each row, the user's liked items with an earlier time, at most the last `longest`."""
    times = np.unique(np.concatenate((rows.times, liked.times)))
    begin = np.searchsorted(liked.users, rows.users, side="left")
    end = np.searchsorted(_moments(liked, times), _moments(rows, times), side="left")
    return _slices(liked.items, np.maximum(begin, end - longest), end)


def _moments(events: Interactions, times: NDArray[np.int64]) -> NDArray[np.int64]:
    """One integer per event that orders by user, then time; `times` are all distinct times, sorted."""
    return events.users.astype(np.int64) * len(times) + np.searchsorted(times, events.times)


def _slices(values: Items, begin: NDArray[np.int64], end: NDArray[np.int64]) -> Histories:
    """values[begin[r]:end[r]] for each r, as one ragged array."""
    lengths = end - begin
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return Histories(values[np.repeat(begin - offsets[:-1], lengths) + np.arange(offsets[-1])], offsets)


def _users_with_both_labels(events: Interactions) -> NDArray[np.int32]:
    liked = np.unique(events.users[events.labels == 1])
    disliked = np.unique(events.users[events.labels == 0])
    return np.intersect1d(liked, disliked)


def _rank_from_last(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 for the last event of its group, 1 for the one before, and so on; input order is time order."""
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    ends = np.searchsorted(sorted_groups, sorted_groups, side="right")
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = ends - 1 - np.arange(len(groups))
    return ranks


def _split_users(
    users: NDArray[np.int32],
    test_rows: int,
    finetune_rows: int,
    protocol: Protocol,
    dropped: Counter[str],
    task: str,
) -> dict[Split, NDArray[np.int64]]:
    """Rows of each split: shuffled users fill test, then finetune; 10% of the finetune users validate.

    A data set smaller than test + finetune is divided in the same proportion.
    """
    distinct, rows_of = np.unique(users, return_counts=True)
    shuffled = np.random.default_rng(protocol.seed).permutation(len(distinct))
    total = int(rows_of.sum())
    if total < test_rows + finetune_rows:
        test_rows = round(total * test_rows / (test_rows + finetune_rows))
        finetune_rows = total - test_rows
    filled = np.cumsum(rows_of[shuffled])
    test_users = int(np.searchsorted(filled, test_rows)) + 1 if test_rows else 0
    in_test = int(filled[test_users - 1]) if test_users else 0
    used = min(int(np.searchsorted(filled, in_test + finetune_rows)) + 1, len(distinct))
    valid_users = round((used - test_users) * protocol.valid_users)
    bounds = {
        "test": shuffled[:test_users],
        "valid": shuffled[test_users : test_users + valid_users],
        "train": shuffled[test_users + valid_users : used],
    }
    if any(len(part) == 0 for part in bounds.values()):
        raise DataError(
            f"{task}: {len(distinct)} users are too few for a test, a validation and a training set",
            "give more interactions",
        )
    dropped[f"{task}: beyond the sizes asked for"] += total - int(filled[used - 1])
    parts: dict[Split, NDArray[np.int64]] = {}
    for name in ("train", "valid", "test"):
        parts[name] = np.flatnonzero(np.isin(users, distinct[bounds[name]]))
    return parts
