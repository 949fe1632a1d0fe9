"""The clean events of a source on disk, whole users in the order of their numbers, to be read in several passes.

Memory holds a piece of about a million events, and a few bytes for each user and item.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.types import Progress
from rbserve.data.columns import ColumnWriter, blocks, open_column
from rbserve.train.protocol import sampling
from rbserve.train.protocol.own_fields import FieldTables
from rbserve.train.protocol.sampling import Interactions, Period
from rbserve.train.protocol.tally import Tally

PIECE = 1 << 20  # events read at a time


class Events(typing.Protocol):
    """The events of a source: whole users in the order of their numbers, with the ids and texts behind the numbers."""

    @property
    def users(self) -> int:
        """The number of users."""
        ...

    @property
    def items(self) -> int:
        """The number of items that have a text."""
        ...

    @property
    def rows(self) -> int:
        """The number of events."""
        ...

    @property
    def fields(self) -> FieldTables | None:
        """The values of fields beside ids and texts, where the source has such; events then have places."""
        ...

    def pieces(self) -> Iterator[Interactions]:
        """The events, about PIECE at a time, never a user in two pieces."""
        ...

    def item_texts(self, items: NDArray[np.int32]) -> Iterator[tuple[list[str], list[str]]]:
        """Raw ids and texts of the given items, rising, in batches."""
        ...

    def user_ids(self, users: NDArray[np.int32]) -> Iterator[list[str]]:
        """Raw ids of the given users, rising, in batches."""
        ...


class EventStore:
    """The clean events of all users on disk."""

    def __init__(self, folder: Path, users: int, items: int) -> None:
        self.folder = folder
        self.offsets = np.zeros(users + 1, np.int64)
        self.seen = np.zeros(items, bool)
        self.likes = self.given = self.follow = self.together = 0

    @classmethod
    def write(
        cls,
        folder: Path,
        events: Events,
        seed: int,
        tally: Tally,
        watch: Callable[[Interactions], None],
        progress: Progress,
    ) -> EventStore:
        """The first pass: cleans, orders and stores the events; `watch` gets the clean events of each piece."""
        store = cls(folder, events.users, events.items)
        done = 0
        with ExitStack() as files:
            kinds: list[tuple[str, type[np.generic]]] = [
                ("item", np.int32),
                ("label", np.int8),
                ("time", np.int64),
            ]
            kinds += [("place", np.int64)] if events.fields else []
            columns = [files.enter_context(closing(ColumnWriter(folder / f"{name}.npy", kind)))
                       for name, kind in kinds]  # fmt: skip
            for piece in events.pieces():
                clean = sampling.clean(piece, seed, tally.dropped)
                columns[0].append(clean.items)
                columns[1].append(clean.labels)
                columns[2].append(clean.times)
                if clean.places is not None:
                    columns[3].append(clean.places)
                count_users(store.offsets[1:], clean.users)
                store.seen[clean.items] = True
                watch(clean)
                store.given += int((clean.labels == sampling.GIVEN).sum())
                store.likes += int((clean.labels == 1).sum())
                follow, together = sampling.at_once(clean)
                store.follow += follow
                store.together += together
                done += len(piece)
                progress(done, events.rows, "events ordered by user and time")
        np.cumsum(store.offsets, out=store.offsets)
        return store

    @property
    def at_once(self) -> float:
        """The share of the events that follow another one of their user at the same time."""
        return self.together / max(self.follow, 1)

    @property
    def counts(self) -> dict[str, int]:
        """Counts of the clean events, for the manifest."""
        return {
            "users": int((np.diff(self.offsets) > 0).sum()),
            "items": int(self.seen.sum()),
            "items_with_text": len(self.seen),
            "interactions": int(self.offsets[-1]),
            "positives": self.likes,
            "given": self.given,
        }

    @property
    def users(self) -> NDArray[np.int64]:
        """The numbers of the users who have events, rising."""
        return np.flatnonzero(np.diff(self.offsets))

    def met_items(self, period: Period) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which items anybody met before the end of the period, and how many likes each has in it, GIVEN ones apart."""
        seen, likes = np.zeros(len(self.seen), bool), np.zeros(len(self.seen), np.int64)
        columns = [blocks(self.column(name)) for name in ("item", "label", "time")]
        for items, labels, times in zip(*columns, strict=True):
            seen[items[times <= period.last]] = True
            liked = (labels == 1) & period.holds(times)
            likes += np.bincount(items[liked], minlength=len(likes))
        return seen, likes

    def column(self, name: str) -> NDArray[Any]:
        """A column of the folder as a memory map: item, label or time of every event."""
        return open_column(self.folder / f"{name}.npy")

    def of_users(self, users: NDArray[np.int64]) -> Iterator[Interactions]:
        """The events of the given users, rising, in pieces of about PIECE events."""
        lengths = self.offsets[users + 1] - self.offsets[users]
        ends = np.searchsorted(np.cumsum(lengths), np.arange(PIECE, int(lengths.sum()) + PIECE, PIECE)) + 1
        for part in np.split(users, np.unique(ends[ends < len(users)])):
            if len(part):
                yield self._read(part)

    def remove(self) -> None:
        """Deletes the files."""
        for file in self.folder.iterdir():
            file.unlink()
        self.folder.rmdir()

    def _read(self, users: NDArray[np.int64]) -> Interactions:
        begin, end = self.offsets[users], self.offsets[users + 1]
        first, last = int(begin[0]), int(end[-1])
        lengths = end - begin
        skipped = np.concatenate(([0], np.cumsum(lengths)))
        rows = np.repeat(begin - first - skipped[:-1], lengths) + np.arange(skipped[-1])
        # Opened anew for every piece: the pages of a closed memory map do not count as memory of this process.
        names = ["item", "label", "time", *(["place"] if (self.folder / "place.npy").is_file() else [])]
        columns = [np.array(self.column(name)[first:last][rows]) for name in names]
        return Interactions(np.repeat(users, lengths).astype(np.int32), *columns)


def count_users(counts: NDArray[np.int64], users: NDArray[np.int32]) -> None:
    """Adds 1 to counts[user] for each of the users; a piece's users lie in a small range of numbers."""
    if len(users):
        first = int(users.min())
        added = np.bincount(users - first)
        counts[first : first + len(added)] += added
