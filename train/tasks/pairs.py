"""Pairs of items that follow one another in training sequences: counted in DuckDB, in bounded memory.

A pair (earlier, later) has the sum of decay^(distance - 1) over all sequences in which the later item follows the
earlier one, for several decays at a time. Sums are of integers, in units of UNIT: they do not depend on the order in
which DuckDB's threads add, and the same data gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rbserve.core.types import Items, Progress
from rbserve.data.columns import Ragged
from rbserve.data.dataset import SeqSplit
from rbserve.train.spilling import open_database
from rbserve.train.tasks.seq import with_targets

MEMORY = 2 << 30
"""Bytes that DuckDB may take; more goes to disk."""
MEMORY_A_PAIR = 256  # bytes, while pairs are summed
UNIT = 2.0**-28
ROWS = 1 << 16  # training sequences that are read at a time
PIECE = 1 << 20  # pairs that are handed on at a time, about


class Occurrences(NamedTuple):
    """How often each of n items occurs in training sequences, int64[n], and how often as a target, int64[n]."""

    all: NDArray[np.int64]
    targets: NDArray[np.int64]


class PairPiece(NamedTuple):
    """P pairs of items, by earlier item, then by later item; all pairs of an earlier item are in one piece.

    `sums` float64[P, D] has a column for each of the decays that were counted.
    """

    earlier: Items
    later: Items
    sums: NDArray[np.float64]


class PairTable:
    """The pairs of a split's sequences in a temporary database below `folder`."""

    def __init__(self, folder: Path, decays: Sequence[float], memory: int = MEMORY) -> None:
        self.decays = tuple(decays)
        self._sums = [f"sum_{place}" for place in range(len(decays))]
        self._at_once = max(1, memory // MEMORY_A_PAIR)
        self._database = open_database(folder, "pairs", memory)

    def __enter__(self) -> PairTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def count(self, split: SeqSplit, n_items: int, max_history: int, progress: Progress) -> Occurrences:
        """Counts the pairs of the last `max_history` items and the target of every row; returns the items' counts."""
        columns = ", ".join(f"{name} integer" for name in self._sums)
        # No transaction around it all: DuckDB would hold what was inserted in memory, beyond its limit.
        self._database.execute(f"create table occurrence (earlier integer, later integer, {columns})")
        counts = Occurrences(np.zeros(n_items, np.int64), np.bincount(split.targets, minlength=n_items))
        followers = np.zeros(n_items, np.int64)
        for begin in range(0, len(split), ROWS):
            progress(begin, len(split), "sequences read")
            sequences = with_targets(_rows(split, begin, begin + ROWS), max_history)
            counts.all[:] += np.bincount(sequences.values, minlength=n_items)
            for distance in range(1, max_history + 1):
                earlier, later = _followers(sequences, distance)
                self._insert(earlier, later, distance)
                followers += np.bincount(earlier, minlength=n_items)
        self._sum(followers, progress)
        self._database.execute("drop table occurrence")
        return counts

    def pieces(self) -> Iterator[PairPiece]:
        """All pairs, by earlier item."""
        reader = self._database.sql("select * from pair").to_arrow_reader(PIECE)
        waiting: pa.Table | None = None
        for batch in reader:
            table = pa.Table.from_batches([batch])
            table = table if waiting is None else pa.concat_tables([waiting, table])
            earlier = table["earlier"].to_numpy()
            whole = int(
                np.searchsorted(earlier, earlier[-1])
            )  # the last item may have more in the next batch
            if whole:
                yield self._piece(table.slice(0, whole))
            waiting = table.slice(whole)
        if waiting is not None:
            yield self._piece(waiting)

    def _sum(self, followers: NDArray[np.int64], progress: Progress) -> None:
        """Sums the occurrences of each pair: a block of earlier items at a time, whose pairs have room in memory.

        `followers` int64[n] has the occurrences by earlier item.
        """
        columns = ", ".join(f"{name} bigint" for name in self._sums)
        sums = ", ".join(f"sum({name})::bigint" for name in self._sums)
        self._database.execute(f"create table pair (earlier integer, later integer, {columns})")
        blocks = np.cumsum(followers) // self._at_once
        begins = np.flatnonzero(np.diff(blocks, prepend=-1)).tolist()
        for begin, end in pairwise([*begins, len(followers)]):
            progress(begin, len(followers), "items whose followers are summed")
            self._database.execute(
                f"insert into pair select earlier, later, {sums} from occurrence "
                f"where earlier >= {begin} and earlier < {end} group by earlier, later order by earlier, later"
            )

    def _piece(self, table: pa.Table) -> PairPiece:
        sums = [table[name].to_numpy() * UNIT for name in self._sums]
        return PairPiece(table["earlier"].to_numpy(), table["later"].to_numpy(), np.stack(sums, axis=1))

    def _insert(self, earlier: Items, later: Items, distance: int) -> None:
        """Adds the occurrences of pairs at a distance."""
        if not len(earlier):
            return
        units = ", ".join(str(round(decay ** (distance - 1) / UNIT)) for decay in self.decays)
        self._database.register("followers", pa.table({"earlier": earlier, "later": later}))
        self._database.execute(f"insert into occurrence select earlier, later, {units} from followers")
        self._database.unregister("followers")


def _rows(split: SeqSplit, begin: int, end: int) -> SeqSplit:
    """Rows begin to end of a split, or to its end, without a copy of their items."""
    offsets = split.histories.offsets[begin : end + 1]
    values = split.histories.values[offsets[0] : offsets[-1]]
    return SeqSplit(split.users[begin:end], split.targets[begin:end], Ragged(values, offsets - offsets[0]))


def _followers(sequences: Ragged, distance: int) -> tuple[Items, Items]:
    """Every item of the sequences that has another one `distance` places later, and that one: int32[P] both."""
    ends = np.repeat(sequences.offsets[1:], sequences.lengths)
    places = np.flatnonzero(np.arange(len(ends)) + distance < ends)
    return sequences.values[places], sequences.values[places + distance]
