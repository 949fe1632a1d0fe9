"""Writes a stream of events as a data set with user-disjoint splits, in bounded memory.

The first pass cleans and orders the events of every user, stores them on disk, and counts the rows that each user
would give. Then users are chosen. The second pass reads the events of the chosen users and writes their rows. Memory
holds a piece of about a million events, and a few bytes for each user and item.
"""

from __future__ import annotations

import dataclasses
import typing
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.files import replacing_directory
from rbserve.core.tasks import CTR, SEQREC
from rbserve.core.types import Items, Progress, no_progress
from rbserve.data.columns import ColumnWriter, Ragged, open_column
from rbserve.data.dataset import SPLITS, Dataset, ItemTable, open_dataset
from rbserve.data.dataset_writer import DatasetWriter
from rbserve.train.protocol import sampling
from rbserve.train.protocol.options import Catalogue, Protocol, WordLimits
from rbserve.train.protocol.sampling import Interactions
from rbserve.train.protocol.tally import Tally
from rbserve.train.protocol.title_words import Vocabulary, tokenize_items

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

    def pieces(self) -> Iterator[Interactions]:
        """The events, about PIECE at a time, never a user in two pieces."""
        ...

    def item_texts(self, items: NDArray[np.int32]) -> Iterator[tuple[list[str], list[str]]]:
        """Raw ids and texts of the given items, rising, in batches."""
        ...

    def user_ids(self, users: NDArray[np.int32]) -> Iterator[list[str]]:
        """Raw ids of the given users, rising, in batches."""
        ...


@dataclasses.dataclass(frozen=True)
class Texts(WordLimits):
    """How item texts become word numbers. Without a `vocabulary`, words of the training rows' items are learnt."""

    vocabulary: Annotated[Vocabulary | None, Meta(description="Words and their numbers.")] = None


TEXTS = Texts()


def write_splits(
    path: Path,
    source: str,
    events: Events,
    protocol: Protocol,
    tally: Tally,
    *,
    texts: Texts = TEXTS,
    catalogue: Catalogue = "used",
    options: dict[str, Any] | None = None,
    progress: Progress = no_progress,
) -> Dataset:
    """Splits the events for both tasks and writes the data set at `path`, atomically.

    The item table holds the items of the splits (`used`), those of any event (`seen`), or all that have a
    text (`all`). Random negatives come from the seen ones, whatever the table holds.
    """
    with replacing_directory(path) as partial:
        store = EventStore.write(partial / ".events", events, protocol, tally, progress)
        ctr = sampling.choose_users(
            store.ctr_rows, protocol.ctr_test_rows, protocol.ctr_finetune_rows, protocol, CTR.name, tally.dropped,
            store.at_once)  # fmt: skip
        seqrec = sampling.choose_users(
            store.seqrec_rows, protocol.seqrec_test_rows, protocol.seqrec_finetune_rows, protocol, SEQREC.name,
            tally.dropped, store.at_once)  # fmt: skip
        writer = DatasetWriter(partial)
        with closing(writer):
            _write_rows(writer, store, ctr, seqrec, protocol, tally, progress)
        _require_rows(writer)
        catalogued = _write_items(writer, events, store, catalogue, texts, progress)
        users = writer.users()
        writer.add_users(users, events.user_ids(users))
        store.remove()
        writer.seal(
            name=path.name,
            source=source,
            seed=protocol.seed,
            options={
                **dataclasses.asdict(protocol), "catalogue": catalogue, "min_count": texts.min_count,
                "max_words": texts.max_words, **(options or {})},
            counts={**catalogued, "source": store.counts},
            dropped=tally.dropped,
            repaired=tally.repaired,
        )  # fmt: skip
    return open_dataset(path)


class EventStore:
    """The clean events of all users on disk, and the number of rows that each user would give."""

    def __init__(self, folder: Path, users: int, items: int) -> None:
        self.folder = folder
        self.offsets = np.zeros(users + 1, np.int64)
        self.ctr_rows = np.zeros(users, np.int64)
        self.seqrec_rows = np.zeros(users, np.int64)
        self.seen = np.zeros(items, bool)
        self.counts: dict[str, int] = {}
        self.at_once = 0.0

    @classmethod
    def write(
        cls, folder: Path, events: Events, protocol: Protocol, tally: Tally, progress: Progress
    ) -> EventStore:
        """The first pass: cleans, orders, stores and counts the events."""
        store = cls(folder, events.users, events.items)
        done = histories = liked = follow = together = 0
        with ExitStack() as files:
            columns = [files.enter_context(closing(ColumnWriter(folder / f"{name}.npy", kind)))
                       for name, kind in (("item", np.int32), ("label", np.int8), ("time", np.int64))]  # fmt: skip
            for piece in events.pieces():
                clean = sampling.clean(piece, protocol.seed, tally.dropped)
                columns[0].append(clean.items)
                columns[1].append(clean.labels)
                columns[2].append(clean.times)
                store._count(clean, protocol, tally)
                histories += int((clean.labels == sampling.GIVEN).sum())
                liked += int((clean.labels == 1).sum())
                in_piece = sampling.at_once(clean)
                follow, together = follow + in_piece[0], together + in_piece[1]
                done += len(piece)
                progress(done, events.rows, "events ordered by user and time")
        np.cumsum(store.offsets, out=store.offsets)
        store.at_once = together / max(follow, 1)
        store.counts = {
            "users": int((np.diff(store.offsets) > 0).sum()),
            "items": int(store.seen.sum()),
            "items_with_text": events.items,
            "interactions": int(store.offsets[-1]),
            "positives": liked,
            "given": histories,
        }
        return store

    def _count(self, events: Interactions, protocol: Protocol, tally: Tally) -> None:
        """Counts the events and rows of these users, and marks their items as seen."""
        _add_at(self.offsets[1:], events.users)
        _add_at(self.ctr_rows, sampling.ctr_rows(events, protocol, tally.dropped).users)
        _add_at(self.seqrec_rows, sampling.sequences(events, protocol, tally.dropped)[0].users)
        self.seen[events.items] = True

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
        item, label, time = (
            np.array(open_column(self.folder / f"{name}.npy")[first:last][rows])
            for name in ("item", "label", "time")
        )
        return Interactions(np.repeat(users, lengths).astype(np.int32), item, label, time)


@dataclasses.dataclass(frozen=True)
class EventsInMemory:
    """Events in arrays, in any order."""

    events: Interactions
    table: ItemTable

    @property
    def users(self) -> int:
        """The number of users."""
        return int(self.events.users.max(initial=-1)) + 1

    @property
    def items(self) -> int:
        """The number of items."""
        return len(self.table)

    @property
    def rows(self) -> int:
        """The number of events."""
        return len(self.events)

    def pieces(self) -> Iterator[Interactions]:
        """All events in one piece."""
        yield self.events

    def item_texts(self, items: NDArray[np.int32]) -> Iterator[tuple[list[str], list[str]]]:
        """Ids and texts of the items."""
        yield [self.table.ids[item] for item in items], [self.table.texts[item] for item in items]

    def user_ids(self, users: NDArray[np.int32]) -> Iterator[list[str]]:
        """The users' numbers as text."""
        yield [str(user) for user in users]


def _write_rows(
    writer: DatasetWriter,
    store: EventStore,
    ctr: NDArray[np.int8],
    seqrec: NDArray[np.int8],
    protocol: Protocol,
    tally: Tally,
    progress: Progress,
) -> None:
    """The second pass: writes the rows of the chosen users."""
    pool = np.flatnonzero(store.seen).astype(np.int32)
    chosen = np.flatnonzero((ctr >= 0) | (seqrec >= 0))
    total, done = int((np.diff(store.offsets)[chosen]).sum()), 0
    unused: Counter[str] = Counter()  # the first pass has counted what these rows leave out
    for events in store.of_users(chosen):
        rows = sampling.ctr_rows(events.take(ctr[events.users] >= 0), protocol, unused)
        wanted = len(rows)
        rows = sampling.draw_negatives(rows, events, pool, protocol.seed)
        tally.dropped["ctr: no item left to sample"] += wanted - len(rows)
        ordered, times, newest = sampling.sequences(events.take(seqrec[events.users] >= 0), protocol, unused)
        for number, split in enumerate(SPLITS):
            part = rows.take(ctr[rows.users] == number)
            writer.add_ctr(split, part.split(), part.times, part.newest)
            own = np.flatnonzero(seqrec[ordered.users] == number)
            writer.add_seqrec(split, ordered.take(own), times[own], newest[own])
        done += len(events)
        progress(done, total, "events of the chosen users split")


def _require_rows(writer: DatasetWriter) -> None:
    """Raises DataError for a split without rows: no user of it had an item left to sample."""
    for split in SPLITS:
        if not len(writer.column(f"ctr/{split}", "user")):
            raise DataError(
                f"ctr: all users of the {split} set have touched every item: none is left to sample",
                "give more items, or take the users' own dislikes: --negatives native",
            )


def _write_items(
    writer: DatasetWriter,
    events: Events,
    store: EventStore,
    catalogue: Catalogue,
    texts: Texts,
    progress: Progress,
) -> dict[str, float]:
    """Writes the item table, renumbers the items of the splits, and writes texts as word numbers; returns counts."""
    used = np.zeros(events.items, bool)
    writer.mark_items(used)
    in_training = np.zeros(events.items, bool)
    writer.mark_items(in_training, ("train",))
    is_listed = {"used": used, "seen": store.seen | used, "all": np.ones(events.items, bool)}[catalogue]
    listed = np.flatnonzero(is_listed).astype(np.int32)
    numbers = np.full(events.items, -1, np.int32)
    numbers[listed] = np.arange(len(listed), dtype=np.int32)
    writer.renumber_items(numbers)
    items = writer.add_items(events.item_texts(listed))
    tokens = tokenize_items(
        _texts(events, listed),
        in_training[listed],
        texts.vocabulary,
        texts.min_count,
        texts.max_words,
        progress,
    )
    writer.add_tokens(
        tokens.vocabulary.words, tokens.counts, Ragged(tokens.values, tokens.offsets), texts.max_words
    )
    return {
        "items": items,
        "words": len(tokens.vocabulary),
        "covered": round(tokens.covered, 4),
        "items_without_words": tokens.without_words,
    }


def _texts(events: Events, items: Items) -> Iterable[str]:
    for _, texts in events.item_texts(items):
        yield from texts


def _add_at(counts: NDArray[np.int64], users: NDArray[np.int32]) -> None:
    """Adds 1 to counts[user] for each of the users; a piece's users lie in a small range of numbers."""
    if len(users):
        first = int(users.min())
        added = np.bincount(users - first)
        counts[first : first + len(added)] += added
