"""The paper's split: users are divided at random, and no user is in two splits of a task.

Users are shuffled once per task, then fill the test set, then the finetune set; validation is 10% of the finetune
users. The rows that each user would give are counted while the events are stored.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.tasks import CTR, SEQREC, TASKS
from rbserve.data.dataset import SPLITS, Split
from rbserve.train.protocol import sampling
from rbserve.train.protocol.event_store import EventStore, count_users
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import ALWAYS, CtrRows, Interactions, Period, Sequences
from rbserve.train.protocol.tally import Tally


class UserSplit:
    """Which users train, validate and test."""

    def __init__(self, protocol: Protocol, tally: Tally, users: int) -> None:
        self._protocol = protocol
        self._tally = tally
        self.ctr_rows_of = np.zeros(users, np.int64)
        self.seqrec_rows_of = np.zeros(users, np.int64)
        self._ctr = self._seqrec = np.empty(0, np.int8)

    def count(self, events: Interactions) -> None:
        """Counts the rows that each of these users would give."""
        dropped = self._tally.dropped
        count_users(self.ctr_rows_of, sampling.ctr_rows(events, self._protocol, dropped).users)
        count_users(self.seqrec_rows_of, sampling.sequences(events, self._protocol, dropped).rows.users)

    @property
    def counted(self) -> dict[str, NDArray[np.int64]]:
        """The rows that each user would give, by task."""
        return {CTR.name: self.ctr_rows_of, SEQREC.name: self.seqrec_rows_of}

    def choose(self, store: EventStore) -> NDArray[np.int64]:
        """Divides the users and returns those of the splits; DataError where they are too few."""
        options, dropped = self._protocol, self._tally.dropped
        self._ctr = choose_users(
            self.ctr_rows_of,
            options.ctr_test_rows,
            options.ctr_finetune_rows,
            options,
            CTR.name,
            dropped,
            store.at_once,
        )
        self._seqrec = choose_users(
            self.seqrec_rows_of, options.seqrec_test_rows, options.seqrec_finetune_rows, options, SEQREC.name, dropped,
            store.at_once)  # fmt: skip
        return np.flatnonzero((self._ctr >= 0) | (self._seqrec >= 0))

    def period(self, split: Split) -> Period:
        """The time of a split's click-prediction rows: any."""
        del split
        return ALWAYS

    @property
    def moments(self) -> dict[str, dict[str, int]]:
        """No moment divides the splits."""
        return {}

    def ctr_rows(self, events: Interactions) -> list[CtrRows]:
        """The click-prediction rows of these users, by split."""
        unused: Counter[str] = Counter()  # counted before
        rows = sampling.ctr_rows(events.take(self._ctr[events.users] >= 0), self._protocol, unused)
        return [rows.take(self._ctr[rows.users] == number) for number in range(len(SPLITS))]

    def sequences(self, events: Interactions) -> list[Sequences]:
        """The next-item rows of these users, by split."""
        unused: Counter[str] = Counter()
        ordered = sampling.sequences(events.take(self._seqrec[events.users] >= 0), self._protocol, unused)
        splits = self._seqrec[ordered.rows.users]
        return [ordered.take(np.flatnonzero(splits == number)) for number in range(len(SPLITS))]


def choose_users(
    rows_of: NDArray[np.int64], test_rows: int, finetune_rows: int, protocol: Protocol,
    task: str, dropped: Counter[str], at_once: float = 0.0,
) -> NDArray[np.int8]:  # fmt: skip
    """For each user the number of their split in SPLITS, or -1; `rows_of[user]` counts the rows they would give.

    A data set smaller than test + finetune is divided in the same proportion. `at_once` is the share of events with
    the same time as the user's event before: above one half, an error names them as the cause.
    """
    eligible = np.flatnonzero(rows_of)
    shuffled = eligible[np.random.default_rng(protocol.seed).permutation(len(eligible))]
    filled = np.cumsum(rows_of[shuffled])
    total = int(filled[-1]) if len(filled) else 0
    if total < test_rows + finetune_rows:
        test_rows = round(total * test_rows / (test_rows + finetune_rows))
        finetune_rows = total - test_rows
    test_users = int(np.searchsorted(filled, test_rows)) + 1 if test_rows else 0
    in_test = int(filled[test_users - 1]) if 0 < test_users <= len(filled) else 0
    used = min(int(np.searchsorted(filled, in_test + finetune_rows)) + 1, len(eligible))
    valid_users = round((used - test_users) * protocol.valid_users)
    bounds: dict[Split, NDArray[np.int64]] = {
        "test": shuffled[:test_users],
        "valid": shuffled[test_users : test_users + valid_users],
        "train": shuffled[test_users + valid_users : used],
    }
    if any(len(part) == 0 for part in bounds.values()):
        few = f"{task}: {len(eligible)} usable users are too few for a test, a validation and a training set"
        if at_once > 0.5 and not protocol.given_history:
            raise DataError(
                f"{few}: {at_once:.0%} of the events have the same time as their user's event before, "
                "and events at one time are no history for each other",
                "name a column of finer times with --time, or leave --time out if the rows stand in time order",
            )
        raise DataError(few, _remedy(task, protocol))
    dropped[f"{task}: beyond the sizes asked for"] += total - int(filled[used - 1])
    chosen = np.full(len(rows_of), -1, np.int8)
    for name, users in bounds.items():
        chosen[users] = SPLITS.index(name)
    return chosen


def _remedy(task: str, protocol: Protocol) -> str:
    if not TASKS[task].ranks and not protocol.negatives:
        return "give more interactions, or sample negatives: --negatives 2"
    return "give more interactions"
