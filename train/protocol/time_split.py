"""A split by time: the most recent rows are the test set, those before them validate, those before these train.

A user may have rows in several splits. A row's history is what the user liked strictly before it, likes of earlier
splits included: they are known by then. A user's rows of a split follow the protocol (`sampling.py`) within the split's
period: the last likes of the period are held out, rows have both labels, and the last like of the period is the one
target of a sequence.

Each task has periods of its own, chosen from the last to the first. A period begins as late as possible: it is the
shortest one with the rows asked for. Where more rows enter at its first moment, a shuffle by the seed says which of the
users who enter then are left out. Rows before the training period are left out. A data set smaller than the sizes gives
its test period the same share of its rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.tasks import CTR, SEQREC
from rbserve.data.columns import ColumnWriter, blocks, open_column
from rbserve.data.dataset import NEVER, SPLITS, Split
from rbserve.train.protocol import sampling
from rbserve.train.protocol.event_store import EventStore
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import FOREVER, CtrRows, Interactions, Period, Sequences
from rbserve.train.protocol.tally import Tally

Entries = tuple[NDArray[np.int32], NDArray[np.int64]]
"""The users of R rows, and the latest beginning of a period of a given end that has the row: int32[R], int64[R]."""


class SplitPeriod(NamedTuple):
    """When the rows of a split are, and which users have rows in it: bool[users]."""

    period: Period
    users: NDArray[np.bool_]


class TimeSplit:
    """Which period trains, validates and tests."""

    def __init__(self, protocol: Protocol, tally: Tally, users: int) -> None:
        self._protocol = protocol
        self._dropped = tally.dropped
        self._users = users
        self._ctr: list[SplitPeriod] = []
        self._seqrec: list[SplitPeriod] = []

    def count(self, events: Interactions) -> None:
        """Nothing is counted before the periods are known."""

    @property
    def counted(self) -> dict[str, NDArray[np.int64]]:
        """No counts of users."""
        return {}

    def choose(self, store: EventStore) -> NDArray[np.int64]:
        """Chooses the periods; all users are read again, so that every row left out is counted."""
        options = self._protocol
        sizes = Sizes(options.ctr_test_rows, options.ctr_finetune_rows, options.valid_users)
        self._ctr = self._periods(store, CTR.name, sizes, self._ctr_entries)
        sizes = Sizes(options.seqrec_test_rows, options.seqrec_finetune_rows, options.valid_users)
        self._seqrec = self._periods(store, SEQREC.name, sizes, self._seqrec_entries)
        return store.users

    def period(self, split: Split) -> Period:
        """When the click-prediction rows of a split are."""
        return self._ctr[SPLITS.index(split)].period

    @property
    def moments(self) -> dict[str, dict[str, int]]:
        """By task and split the first moment of its period."""
        return {
            task: {split: part.period.first for split, part in zip(SPLITS, parts, strict=True)}
            for task, parts in ((CTR.name, self._ctr), (SEQREC.name, self._seqrec))
        }

    def ctr_rows(self, events: Interactions) -> list[CtrRows]:
        """The click-prediction rows of these users, by split; counts what is left out."""
        parts = []
        for part in _with_what_is_older(self._ctr):
            rows = sampling.ctr_rows(events, self._protocol, self._dropped, part.period)
            parts.append(rows.take(part.users[rows.users]))
            self._dropped["ctr: beyond the sizes asked for"] += len(rows) - len(parts[-1])
        return parts[1:]

    def sequences(self, events: Interactions) -> list[Sequences]:
        """The next-item rows of these users, by split; counts what is left out."""
        parts = []
        for part in _with_what_is_older(self._seqrec):
            rows = self._sequences(events, part.period, self._dropped)
            parts.append(rows.take(np.flatnonzero(part.users[rows.rows.users])))
            self._dropped["seqrec: beyond the sizes asked for"] += len(rows.times) - len(parts[-1].times)
        return parts[1:]

    def _periods(
        self,
        store: EventStore,
        task: str,
        sizes: Sizes,
        entries_of: Callable[[Interactions, Period], Entries],
    ) -> list[SplitPeriod]:
        """The periods of a task in the order of SPLITS, chosen from the last to the first."""
        parts: list[SplitPeriod] = []
        for rows_of in (sizes.test, sizes.valid, sizes.train):
            before = Period(last=parts[0].period.first - 1 if parts else FOREVER)
            pieces = (entries_of(events, before) for events in store.of_users(store.users))
            entries = _store_entries(store, f"{task} {len(parts)}", pieces)
            rows = rows_of(len(entries[1]))
            if not rows:
                raise DataError(
                    f"{task}: the usable rows are too few, or have too few different times, for a training, a "
                    "validation and a test period",
                    "give more interactions or finer times, or divide the users: --split users",
                )
            period = Period(_latest_with(entries[1], rows), before.last)
            parts.insert(0, SplitPeriod(period, self._users_of(entries, period.first, rows)))
        return parts

    def _users_of(self, entries: Entries, first: int, rows: int) -> NDArray[np.bool_]:
        """The users of a period that begins at `first`; users who enter at that moment fill it up to `rows`."""
        rows_of, tied = np.zeros(self._users, np.int64), np.zeros(self._users, bool)
        for users, moments in zip(blocks(entries[0]), blocks(entries[1]), strict=True):
            np.add.at(rows_of, users[moments >= first], 1)
            tied[users[moments == first]] = True
        eligible = np.flatnonzero(rows_of)
        shuffled = eligible[np.random.default_rng(self._protocol.seed).permutation(len(eligible))]
        ordered = shuffled[np.argsort(tied[shuffled], kind="stable")]
        filled = np.cumsum(rows_of[ordered])
        chosen = np.zeros(self._users, bool)
        chosen[ordered[: int(np.searchsorted(filled, rows)) + 1]] = True
        return chosen

    def _ctr_entries(self, events: Interactions, before: Period) -> Entries:
        rows = sampling.ctr_rows(events, self._protocol, Counter(), before)
        return rows.users, entry_moments(rows, bool(self._protocol.held_out))

    def _seqrec_entries(self, events: Interactions, before: Period) -> Entries:
        rows = self._sequences(events, before, Counter())
        return rows.rows.users, rows.times

    def _sequences(self, events: Interactions, period: Period, dropped: Counter[str]) -> Sequences:
        return sampling.sequences(events, self._protocol, dropped, period, strictly_before=True)


class Sizes(NamedTuple):
    """The rows asked for of a task, and the share of the finetune rows that validate."""

    test_rows: int
    finetune_rows: int
    valid_share: float

    def test(self, usable: int) -> int:
        """Test rows, when so many rows are usable."""
        needed = self.test_rows + self.finetune_rows
        return self.test_rows if usable >= needed else round(usable * self.test_rows / needed)

    def valid(self, usable: int) -> int:
        """Validation rows, when so many rows are usable before the test period."""
        return round(min(self.finetune_rows, usable) * self.valid_share)

    def train(self, usable: int) -> int:
        """Training rows, when so many rows are usable before the validation period."""
        return min(self.finetune_rows - self.valid(self.finetune_rows), usable)


def entry_moments(rows: CtrRows, held_out: bool) -> NDArray[np.int64]:
    """For each row of a period the latest beginning of a period of the same end that has the row: int64[R].

    A row needs its own time in the period, a held-out one that of its user's first held-out like, and all rows need one
    of each label of their user.
    """
    own = np.minimum(rows.times, rows.liked.times[rows.end]) if held_out else rows.times
    users, owner = np.unique(rows.users, return_inverse=True)
    latest: NDArray[np.int64] = np.full((len(users), 2), NEVER)
    np.maximum.at(latest, (owner, rows.labels), own)
    both: NDArray[np.int64] = latest.min(axis=1)
    return np.minimum(own, both[owner])


def _with_what_is_older(parts: list[SplitPeriod]) -> list[SplitPeriod]:
    """The periods, and before them the time before the first one, of which no user has rows."""
    older = Period(last=parts[0].period.first - 1)
    return [SplitPeriod(older, np.zeros_like(parts[0].users)), *parts]


def _store_entries(store: EventStore, name: str, pieces: Iterator[Entries]) -> Entries:
    """The entries of all pieces, as columns on disk."""
    users = ColumnWriter(store.folder / f"{name} user.npy", np.int32)
    moments = ColumnWriter(store.folder / f"{name} moment.npy", np.int64)
    with closing(users), closing(moments):
        for piece in pieces:
            users.append(piece[0])
            moments.append(piece[1])
    return open_column(users.path), open_column(moments.path)


def _latest_with(moments: NDArray[np.int64], rows: int) -> int:
    """The latest moment that at least `rows` of the moments do not precede, by bisection."""
    low = min(int(block.min()) for block in blocks(moments))
    high = max(int(block.max()) for block in blocks(moments))
    while low < high:
        middle = (low + high + 1) // 2
        if sum(int((block >= middle).sum()) for block in blocks(moments)) >= rows:
            low = middle
        else:
            high = middle - 1
    return low
