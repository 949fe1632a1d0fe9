"""The paper's protocol: the rows that labelled events give, for both tasks (section 4.1, Table 2).

Everything here works on whole users, so a data set of any size is handled in pieces (`splitting.py`). Which rows
train, validate and test is decided by `user_split.py`, the paper's way, or by `time_split.py`.

Click prediction, one of two ways:

- *held out* (`held_out` = n, the paper's MicroLens, H&M, Goodreads and CDs): the user's last n liked items are
  the positive rows; the history of all of the user's rows is what was liked before the first of them. The
  negative rows are what the user disliked after that history, or, with `negatives` = m, m random items
  that the user never touched.
- *every event* (`held_out` = 0, the paper's MIND; also MovieLens): every labelled event is a row, and its history
  is what the user liked before it.

A user gives at most `rows_per_label` rows a label, the most recent ones; held-out likes and random items come in
the numbers asked for. A user whose rows have one label only is left out. Sequential: what the user liked, in
order; the last item is the target.

Two rules that decide what histories hold:

- *Ties.* Events of one user at equal times are simultaneous: none is in another's history. Where an order is
  needed (which likes are last, which rows are most recent, the sequence) they are ordered by a hash of seed,
  user and item: not by the order of the raw rows, which means nothing, nor by the item's number, which
  would tell labels apart.
- *Repeats.* A user meets an item once: the first event counts; at equal times a dislike before a like.

A row has the context (hour, page) of its own event. Random items have none: a user's take the contexts of the user's
positive rows in turn, so that the context of a row says nothing of its label.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.types import Items
from rbserve.data.columns import slices
from rbserve.data.dataset import NEVER, CtrSplit, SeqSplit
from rbserve.train.protocol.options import Protocol

GIVEN = 2  # label of an event that is history only: liked before the observation began
SAMPLED = -1  # candidate of a row whose random item is yet to be drawn
FOREVER = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Period:
    """The times from `first` to `last`, both included, in the unit of the source."""

    first: int = NEVER
    last: int = FOREVER

    def holds(self, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of E times are in the period: bool[E]."""
        return (times >= self.first) & (times <= self.last)


ALWAYS = Period()


@dataclass(frozen=True)
class Interactions:
    """E events as columns: user and item numbers, label 1 (liked), 0 or GIVEN, time in any unit.

    `places` says which event of the source each one is, where events have fields.
    """

    users: NDArray[np.int32]
    items: Items
    labels: NDArray[np.int8]
    times: NDArray[np.int64]
    places: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Interactions:
        """The given events, in that order."""
        places = None if self.places is None else self.places[rows]
        return Interactions(self.users[rows], self.items[rows], self.labels[rows], self.times[rows], places)


@dataclass(frozen=True)
class CtrRows:
    """R click-prediction rows before their histories are copied: row r's is liked.items[begin[r]:end[r]].

    `places` says which event of the source has the context of each row, where events have fields.
    """

    users: NDArray[np.int32]
    candidates: Items
    labels: NDArray[np.int8]
    times: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]
    liked: Interactions
    places: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> CtrRows:
        """The given rows, in that order."""
        places = None if self.places is None else self.places[rows]
        return CtrRows(
            self.users[rows], self.candidates[rows], self.labels[rows], self.times[rows],
            self.begin[rows], self.end[rows], self.liked, places)  # fmt: skip

    @property
    def newest(self) -> NDArray[np.int64]:
        """When the last item of each history was liked; NEVER where there is none."""
        return _newest(self.liked.times, self.begin, self.end)

    def split(self) -> CtrSplit:
        """The rows with histories of their own."""
        return CtrSplit(
            self.users, self.candidates, self.labels, slices(self.liked.items, self.begin, self.end)
        )


class Sequences(NamedTuple):
    """S next-item rows, the times of their targets, and of the newest item before each: int64[S] both."""

    rows: SeqSplit
    times: NDArray[np.int64]
    newest: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Sequences:
        """The given rows, in that order."""
        return Sequences(self.rows.take(rows), self.times[rows], self.newest[rows])


def clean(events: Interactions, seed: int, dropped: Counter[str]) -> Interactions:
    """Events by user, then time, then the tie rule; each user meets an item once."""
    ties = pair_hash(seed, events.users, events.items)
    ordered = events.take(np.lexsort((events.labels, ties, events.times, events.users)))
    first = _first_of_pairs(ordered.users, ordered.items)
    dropped["repeated item of a user"] += len(events) - len(first)
    return ordered.take(first)


def at_once(events: Interactions) -> tuple[int, int]:
    """The number of clean events that follow another of their user, and of those with the same time as that one."""
    follows = np.diff(events.users) == 0
    return int(follows.sum()), int((follows & (np.diff(events.times) == 0)).sum())


def ctr_rows(
    events: Interactions, protocol: Protocol, dropped: Counter[str], period: Period = ALWAYS
) -> CtrRows:
    """The click-prediction rows of whole users' clean events in a period; counts those left out in `dropped`.

    Histories reach back beyond the period. What is said of a user's last likes, of the most recent rows and of both
    labels is meant of the user's events in the period.
    """
    moments = _moments(events)
    is_liked = events.labels == GIVEN if protocol.keeps_given_history else events.labels != 0
    liked, when_liked = events.take(is_liked), moments[is_liked]
    if protocol.held_out:
        rows = _held_out_rows(events, moments, liked, when_liked, protocol, dropped, period)
    else:
        labelled = np.flatnonzero((events.labels != GIVEN) & period.holds(events.times))
        end = np.searchsorted(when_liked, moments[labelled])
        begin = _history_begin(liked.users, events.users[labelled], end, protocol.history)
        rows = _event_rows(events, labelled, begin, end, liked)
        long_enough = end - begin >= protocol.min_history
        dropped["ctr: history too short"] += int((~long_enough).sum())
        rows = rows.take(long_enough)
    both = has_both_labels(rows)
    dropped["ctr: user with rows of one label only"] += int((~both).sum())
    rows = rows.take(both)
    most = np.where(rows.labels == 1, protocol.most_rows(1), protocol.most_rows(0))
    recent = _rank_from_last(rows.users * np.int64(2) + rows.labels) < most
    dropped["ctr: over the user's rows per label"] += int((~recent).sum())
    return rows.take(recent)


def sequences(
    events: Interactions, protocol: Protocol, dropped: Counter[str], period: Period = ALWAYS, *,
    strictly_before: bool = False,
) -> Sequences:  # fmt: skip
    """Next-item rows of whole users' clean events: a user's last like in a period, after the likes before it.

    Histories reach back beyond the period. With `strictly_before` they end before the target's time; else likes of the
    same time are ordered by the tie rule.
    """
    liked = events.take(events.labels != 0)
    last = _last_in(liked, period)
    first = np.searchsorted(liked.users, liked.users[last])
    end = np.searchsorted(moments := _moments(liked), moments[last]) if strictly_before else last
    long_enough = end > first
    dropped["seqrec: fewer than two liked items"] += int((~long_enough).sum())
    first, last, end = first[long_enough], last[long_enough], end[long_enough]
    begin = np.maximum(first, end - (protocol.history - 1))  # the last 20 include the target
    rows = SeqSplit(liked.users[last], liked.items[last], slices(liked.items, begin, end))
    return Sequences(rows, liked.times[last], _newest(liked.times, begin, end))


def has_both_labels(rows: CtrRows) -> NDArray[np.bool_]:
    """For each of R rows whether its user has rows of both labels: bool[R]."""
    liked, disliked = (np.unique(rows.users[rows.labels == label]) for label in (1, 0))
    return np.isin(rows.users, np.intersect1d(liked, disliked, assume_unique=True))


def pair_hash(seed: int, users: NDArray[np.integer], items: NDArray[np.integer]) -> NDArray[np.uint64]:
    """A 64-bit hash of each (seed, user, item), the finaliser of splitmix64 (Steele et al. 2014)."""
    pair = (users.astype(np.uint64) << np.uint64(32)) | (items.astype(np.uint64) & np.uint64(0xFFFFFFFF))
    return _mix(pair ^ _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64)))


def _held_out_rows(
    events: Interactions, moments: NDArray[np.int64], liked: Interactions, when_liked: NDArray[np.int64],
    protocol: Protocol, dropped: Counter[str], period: Period,
) -> CtrRows:  # fmt: skip
    """Rows of the held-out kind, a user's rows together, in time order."""
    last = _last_in(liked, period)
    first = np.searchsorted(liked.users, liked.users[last])
    held = last + 1 - protocol.held_out  # the first held-out like of each user
    enough = (held > first) & (liked.times[np.maximum(held, 0)] >= period.first)
    dropped["ctr: user with too few liked items"] += int((~enough).sum())
    first, last, held = first[enough], last[enough], held[enough]
    end = np.searchsorted(when_liked, when_liked[held])
    begin = np.maximum(first, end - protocol.history)
    with_history = end - begin >= max(protocol.min_history, 1)
    dropped["ctr: user whose history is too short"] += int((~with_history).sum())
    last, held, begin, end = (array[with_history] for array in (last, held, begin, end))
    users = liked.users[last]
    positive = (held[:, None] + np.arange(protocol.held_out)).ravel()
    owner = np.repeat(np.arange(len(users)), protocol.held_out)
    likes = _event_rows(liked, positive, begin[owner], end[owner], liked)
    likes = replace(likes, labels=np.ones_like(likes.labels))
    if protocol.negatives:
        owner = np.repeat(np.arange(len(users)), protocol.negatives)
        likes_in_turn = held[owner] + np.arange(len(owner)) % protocol.negatives % protocol.held_out
        negatives = CtrRows(
            users[owner], np.full(len(owner), SAMPLED, np.int32), np.zeros(len(owner), np.int8),
            liked.times[last][owner], begin[owner], end[owner], liked,
            None if liked.places is None else liked.places[likes_in_turn])  # fmt: skip
    else:
        disliked = np.flatnonzero((events.labels == 0) & period.holds(events.times))
        owner = np.searchsorted(users, events.users[disliked])
        owner[owner == len(users)] = 0
        known = users[owner] == events.users[disliked] if len(users) else np.zeros(len(disliked), bool)
        disliked, owner = disliked[known], owner[known]
        later = moments[disliked] > when_liked[end[owner] - 1]
        dropped["ctr: disliked before the history ends"] += int((~later).sum())
        disliked, owner = disliked[later], owner[later]
        negatives = _event_rows(events, disliked, begin[owner], end[owner], liked)
    return _by_user(likes, negatives)


def _by_user(likes: CtrRows, negatives: CtrRows) -> CtrRows:
    """The rows of both by user: a user's likes, then the user's negatives, each in their order."""
    rows = CtrRows(
        np.concatenate((likes.users, negatives.users)),
        np.concatenate((likes.candidates, negatives.candidates)),
        np.concatenate((likes.labels, negatives.labels)),
        np.concatenate((likes.times, negatives.times)),
        np.concatenate((likes.begin, negatives.begin)),
        np.concatenate((likes.end, negatives.end)),
        likes.liked,
        None
        if likes.places is None or negatives.places is None
        else np.concatenate((likes.places, negatives.places)),
    )
    return rows.take(np.argsort(rows.users, kind="stable"))


def _event_rows(
    events: Interactions, rows: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64],
    liked: Interactions,
) -> CtrRows:  # fmt: skip
    places = None if events.places is None else events.places[rows]
    return CtrRows(
        events.users[rows],
        events.items[rows],
        events.labels[rows],
        events.times[rows],
        begin,
        end,
        liked,
        places,
    )


def _history_begin(
    liked_users: NDArray[np.int32], users: NDArray[np.int32], end: NDArray[np.int64], longest: int
) -> NDArray[np.int64]:
    own = np.searchsorted(liked_users, users)
    return np.maximum(own, end - longest)


def _last_in(liked: Interactions, period: Period) -> NDArray[np.int64]:
    """For each user with a like in the period the row of the last one; `liked` are by user and time."""
    known = np.flatnonzero(liked.times <= period.last)
    last = known[np.flatnonzero(np.diff(liked.users[known], append=-1))]
    return last[liked.times[last] >= period.first]


def _newest(times: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    newest = np.full(len(begin), NEVER, np.int64)
    has_history = end > begin
    newest[has_history] = times[end[has_history] - 1]
    return newest


def _moments(events: Interactions) -> NDArray[np.int64]:
    """One rising integer per event: equal for simultaneous events of one user, else larger for later ones."""
    if not len(events):
        return np.empty(0, np.int64)
    new = (np.diff(events.users) != 0) | (np.diff(events.times) != 0)
    return np.concatenate(([0], np.cumsum(new)))


def _first_of_pairs(users: NDArray[np.int32], items: Items) -> NDArray[np.int64]:
    """Rows, ascending, at which a (user, item) pair occurs for the first time."""
    order = np.lexsort((items, users))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(users[order]) != 0) | (np.diff(items[order]) != 0)
    return np.sort(order[new])


def _rank_from_last(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 for the last row of its group, 1 for the one before, and so on; input order is time order."""
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    ends = np.searchsorted(sorted_groups, sorted_groups, side="right")
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = ends - 1 - np.arange(len(groups))
    return ranks


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
