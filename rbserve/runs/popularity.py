"""Popularity: how often training users like an item, in several forms, as the score of a test row.

A form answers rows of one task: with a score each for (user, candidate) pairs, with the rank of the target for
sequences. The forms of a window count the training rows of some days that end at the row's own time, as a table does
that a live system refreshes all the time; where training ends earlier (a split by time), the window ends there. They
exist where rows have times since 1970, in seconds, milli-, micro- or nanoseconds, and not where a row's time is its
place in a file. No form reads a test label. Memory is bounded by BLOCK events at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.types import Items
from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, SeqSplit

LAST_LIKES = "last likes"
ALL_LIKES = "all likes"
WINDOW_DAYS = (1, 7, 30, 365)
PRIOR_ROWS = 5  # of the overall rate, which a rate is drawn towards
BLOCK = 1 << 23  # events that are held in memory at a time
SORTED_ROWS = 16  # rows that share counts; from so many, sorting the counts is the faster way to their ranks

Answers = NDArray[np.float64]
Times = NDArray[np.int64]


class TimedRows(NamedTuple):
    """R rows of a split, and when each happened: int64[R] in the unit of the source."""

    split: CtrSplit | SeqSplit
    times: Times


Form = Callable[[TimedRows], Answers]
"""The answer float64[R] to each row: the score of its candidate, or the 1-based rank of its target, 0 for none."""


# ---- Forms of click prediction ----


def pair_forms(train: TimedRows, items: int) -> dict[str, dict[str, Form]]:
    """The forms of `popularity`, an item's likes, and of `item_mean`, its click rate, by their names."""
    moving = WindowCounts(train)
    return {"popularity": like_forms(train, items, moving), "item_mean": rate_forms(train, items, moving)}


def like_forms(train: TimedRows, items: int, moving: WindowCounts) -> dict[str, Form]:
    """The number of a candidate's likes: those that training rows ask about, those in histories too, or of windows."""
    split = train.split
    assert isinstance(split, CtrSplit)
    last = _counts(split.candidates, items, split.labels)
    return {
        LAST_LIKES: partial(_of_candidates, last),
        ALL_LIKES: partial(_of_candidates, last + _longest_histories(split, items)),
        **{f"likes of {name}": partial(_likes_within, moving, width) for name, width in moving.windows},
    }


def rate_forms(train: TimedRows, items: int, moving: WindowCounts) -> dict[str, Form]:
    """A candidate's click rate in training rows, drawn towards the overall rate: of all rows (""), or of windows."""
    split = train.split
    assert isinstance(split, CtrSplit)
    shown, liked = _counts(split.candidates, items), _counts(split.candidates, items, split.labels)
    mean = float(split.labels.mean()) if len(split) else 0.0
    overall = (liked + PRIOR_ROWS * mean) / (shown + PRIOR_ROWS)
    return {
        "": partial(_of_candidates, overall),
        **{name: partial(_rate_within, moving, mean, width) for name, width in moving.windows},
    }


def _of_candidates(score: Answers, rows: TimedRows) -> Answers:
    return score[rows.split.items]


def _likes_within(moving: WindowCounts, width: int, rows: TimedRows) -> Answers:
    return moving.counts(rows, width, liked=True)


def _rate_within(moving: WindowCounts, mean: float, width: int, rows: TimedRows) -> Answers:
    likes, shows = (moving.counts(rows, width, liked=liked) for liked in (True, False))
    return (likes + PRIOR_ROWS * mean) / (shows + PRIOR_ROWS)


class WindowCounts:
    """Counts of training rows in `windows`, (name, width) each; all windows of a split are counted together, once."""

    def __init__(self, train: TimedRows) -> None:
        self._train = train
        self.windows = windows(train.times)
        self._known: list[tuple[TimedRows, bool, dict[int, Answers]]] = []

    def counts(self, rows: TimedRows, width: int, liked: bool) -> Answers:
        """The counts float64[R] of `counts_within` of one width."""
        for known_rows, known_liked, counts in self._known:
            if known_rows is rows and known_liked == liked:
                return counts[width]
        counts = counts_within(self._train, [width for _, width in self.windows], rows, liked)
        self._known.append((rows, liked, counts))
        return counts[width]


def counts_within(
    train: TimedRows, widths: Sequence[int], rows: TimedRows, liked: bool
) -> dict[int, Answers]:
    """How often training rows ask about the item of each row in each width of time before it: float64[R] by width.

    `liked` counts rows with label 1 alone. Items are counted some at a time, so that their events fit BLOCK.
    """
    counts = {width: np.zeros(len(rows.times)) for width in widths}
    until = window_ends(train.times, rows.times)
    for first, last in _item_ranges(train.split.items):
        items, times = _events_of(train, first, last, liked)
        own = np.flatnonzero((rows.split.items >= first) & (rows.split.items < last))
        before = _counter(items, times, rows.split.items[own])
        ends = before(until[own])
        for width in widths:
            counts[width][own] = ends - before(until[own] - width)
    return counts


def _counter(items: Items, times: Times, candidates: Items) -> Callable[[Times], NDArray[np.intp]]:
    """A function of moments int64[R]: of each candidate, its events before the moment and all of lower items.

    Events are sorted by a key of their item and the place of their time among all times: whole numbers, in that order.
    """
    clock = np.sort(times)
    places = len(clock) + 1
    keys = np.sort(items.astype(np.int64) * places + np.searchsorted(clock, times))
    firsts = candidates.astype(np.int64) * places
    return lambda moments: np.searchsorted(keys, firsts + np.searchsorted(clock, moments))


def _item_ranges(items: Items) -> Iterator[tuple[int, int]]:
    """Ranges [first, last) of items that together hold all of them, each with BLOCK events or a single item."""
    ends = np.cumsum(_counts(items, int(items.max()) + 1 if len(items) else 0))
    first = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        yield first, last
        first = last


def _events_of(train: TimedRows, first: int, last: int, liked: bool) -> tuple[Items, Times]:
    """Items and times of the training rows about items [first, last)."""
    split = train.split
    assert isinstance(split, CtrSplit)
    chosen = []
    for begin in range(0, len(split), BLOCK):
        piece = slice(begin, begin + BLOCK)
        wanted = (split.candidates[piece] >= first) & (split.candidates[piece] < last)
        chosen.append(begin + np.flatnonzero(wanted & (split.labels[piece] == 1) if liked else wanted))
    rows = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    return split.candidates[rows], train.times[rows]


# ---- Forms of rankings ----


def list_forms(train: TimedRows, items: int, exclude_seen: bool) -> dict[str, Form]:
    """Ranks by the number of an item's likes: in targets and histories, in targets alone, or in those of windows."""
    split = train.split
    assert isinstance(split, SeqSplit)
    last = _counts(split.targets, items)
    every = last + _counts(split.histories.values, items)
    return {
        ALL_LIKES: partial(_ranks_by, every, exclude_seen),
        LAST_LIKES: partial(_ranks_by, last, exclude_seen),
        **{
            f"likes of {name}": partial(_ranks_within, train, width, items, exclude_seen)
            for name, width in windows(train.times)
        },
    }


def _ranks_by(counts: Answers, exclude_seen: bool, rows: TimedRows) -> Answers:
    assert isinstance(rows.split, SeqSplit)
    return popularity_ranks(counts, rows.split, exclude_seen).astype(np.float64)


def _ranks_within(train: TimedRows, width: int, items: int, exclude_seen: bool, rows: TimedRows) -> Answers:
    """Ranks by counts that move with the rows' times: at each moment, events come in and others drop out."""
    assert isinstance(rows.split, SeqSplit)
    order = np.argsort(train.times, kind="stable")
    clock, happened = train.times[order], train.split.items[order]
    until = window_ends(train.times, rows.times)
    by_time = np.argsort(until, kind="stable")
    moments, starts = np.unique(until[by_time], return_index=True)
    begins, ends = np.searchsorted(clock, moments - width), np.searchsorted(clock, moments)
    ranks, counts = np.zeros(len(until)), np.zeros(items)
    begin = end = 0
    for (start, stop), next_begin, next_end in zip(
        pairwise([*starts, len(until)]), begins, ends, strict=True
    ):
        np.add.at(counts, happened[end:next_end], 1)
        np.subtract.at(counts, happened[begin:next_begin], 1)
        begin, end = next_begin, next_end
        own = by_time[start:stop]
        ranks[own] = popularity_ranks(counts, rows.split.take(own), exclude_seen)
    return ranks


def popularity_ranks(counts: Answers, test: SeqSplit, exclude_seen: bool) -> NDArray[np.int64]:
    """1-based rank int64[R] of each target by counts [n_items]; ties rank before their target.

    `exclude_seen` leaves the items of the row's history out of its list; a target among them has rank 0.
    """
    if len(test) < SORTED_ROWS:
        ranks = np.array([np.count_nonzero(counts >= counts[target]) for target in test.targets], np.int64)
    else:
        ranks = len(counts) - np.searchsorted(np.sort(counts), counts[test.targets])
    if exclude_seen:
        for row, target in enumerate(test.targets):
            seen = np.unique(test.histories[row])
            left_out = np.count_nonzero(counts[seen] >= counts[target])
            ranks[row] = 0 if target in seen else ranks[row] - left_out
    return ranks


# ---- Times ----


def windows(times: Times) -> list[tuple[str, int]]:
    """Name and width of each window, in the unit of the times int64[n]; none where these are no times since 1970."""
    day = day_length(times)
    named = [(f"the last {days} days" if days > 1 else "the last day", days) for days in WINDOW_DAYS]
    return [(name, days * day) for name, days in named] if day else []


def day_length(times: Times) -> int | None:
    """A day in the unit of times int64[n] since 1970, by their size; None for others, such as places in a file.

    Times of 1980 to 2100 are told: in one unit they are 13 times as large at most, units are a thousand apart, and
    places in a file begin at 0. A twentieth of the times may be wrong.
    """
    if not len(times):
        return None
    low, high = np.quantile(times[:: max(1, len(times) // 100_000)], [0.05, 0.95])
    for unit in (1, 10**3, 10**6, 10**9):
        if 315_532_800 * unit <= low and high <= 4_102_444_800 * unit:
            return 86_400 * unit
    return None


def window_ends(train: Times, times: Times) -> Times:
    """Where the window of each row ends, int64[R]: at its own time, which it leaves out, or where training ends."""
    return np.minimum(times, train.max() + 1) if len(train) else times


# ---- Counts ----


def _counts(items: Items, size: int, labels: NDArray[np.int8] | None = None) -> Answers:
    """How often each item occurs, float64[size]; of rows with labels, how often with label 1."""
    counts = np.zeros(size)
    for begin in range(0, len(items), BLOCK):
        piece = slice(begin, begin + BLOCK)
        counts += np.bincount(items[piece], None if labels is None else labels[piece], minlength=size)
    return counts


def _longest_histories(train: CtrSplit, items: int) -> Answers:
    """How often each item stands in the training users' histories, the longest one of each user."""
    order = np.lexsort((train.histories.lengths, train.users))
    last_of_user = np.append(np.diff(train.users[order]) > 0, True)[: len(order)]
    rows = np.sort(order[last_of_user])
    counts = np.zeros(items)
    for piece in _pieces(train.histories, rows):
        counts += _counts(train.histories.take(piece).values, items)
    return counts


def _pieces(histories: Ragged, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The rows in pieces whose histories hold about BLOCK items."""
    places = np.cumsum(histories.lengths[rows]) // BLOCK
    yield from np.split(rows, np.flatnonzero(np.diff(places)) + 1)
