"""Writes a stream of events as a data set with three splits, in bounded memory.

The first pass cleans and orders the events of every user and stores them on disk (`event_store.py`). Then a splitter
decides which rows train, validate and test: by user (`user_split.py`) or by time (`time_split.py`). The last pass
reads the events again, draws negatives (`negatives.py`) and writes the rows.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.files import replacing_directory
from rbserve.core.types import Items, Progress, no_progress
from rbserve.data.columns import Ragged
from rbserve.data.dataset import SPLITS, Dataset, ItemTable, Split, open_dataset
from rbserve.data.dataset_writer import DatasetWriter
from rbserve.train.protocol.event_store import Events, EventStore
from rbserve.train.protocol.negatives import POOLS, ItemPool, Pairs, draw_negatives
from rbserve.train.protocol.options import Catalogue, Protocol, WordLimits
from rbserve.train.protocol.own_fields import FieldTables, RowPlaces, write_fields
from rbserve.train.protocol.sampling import CtrRows, Interactions, Period, Sequences
from rbserve.train.protocol.tally import Tally
from rbserve.train.protocol.time_split import TimeSplit
from rbserve.train.protocol.title_words import Vocabulary, tokenize_items
from rbserve.train.protocol.user_split import UserSplit


class Splitter(typing.Protocol):
    """How rows are divided into training, validation and test; it sees the events of whole users."""

    def count(self, events: Interactions) -> None:
        """Sees all clean events once, piece by piece, before `choose`."""
        ...

    @property
    def counted(self) -> dict[str, NDArray[np.int64]]:
        """What `count` counts of each user, by name; the arrays of users that were counted elsewhere are written to."""
        ...

    def choose(self, store: EventStore) -> NDArray[np.int64]:
        """Decides what is in which split, and returns the users whose events are to be read again, rising."""
        ...

    def period(self, split: Split) -> Period:
        """When the click-prediction rows of a split are."""
        ...

    @property
    def moments(self) -> dict[str, dict[str, int]]:
        """By task and split the time of the earliest rows, where times divide the splits."""
        ...

    def ctr_rows(self, events: Interactions) -> list[CtrRows]:
        """The click-prediction rows of these users, by split."""
        ...

    def sequences(self, events: Interactions) -> list[Sequences]:
        """The next-item rows of these users, by split."""
        ...


SPLITTERS: dict[str, Callable[[Protocol, Tally, int], Splitter]] = {"users": UserSplit, "time": TimeSplit}
"""The class by `Protocol.split`; it is made of the protocol, the tally and the number of users."""


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
    stored: Callable[[Path, Splitter], EventStore] | None = None,
) -> Dataset:
    """Splits the events for both tasks and writes the data set at `path`, atomically.

    The item table holds the items of the splits (`used`), those of any event (`seen`), or all that have a
    text (`all`). Random negatives come from the seen ones, whatever the table holds; in a
    split by time from those seen before the end of a row's period. `stored` gives the clean events where they were
    ordered and counted elsewhere.
    """
    with replacing_directory(path) as partial:
        splitter = SPLITTERS[protocol.split](protocol, tally, events.users)
        if stored:
            store = stored(partial / ".events", splitter)
        else:
            store = EventStore.write(
                partial / ".events", events, protocol.seed, tally, splitter.count, progress
            )
        read = splitter.choose(store)
        writer = DatasetWriter(partial)
        places = RowPlaces(store.folder)
        with closing(writer), closing(places):
            _write_rows(writer, store, splitter, read, protocol, tally, progress, places)
        _require_rows(writer)
        listed = _listed_items(writer, events, store, catalogue)
        catalogued = _write_items(writer, events, listed, texts, progress)
        users = writer.users()
        writer.add_users(users, events.user_ids(users))
        if events.fields is not None:
            write_fields(writer, events.fields, places, listed, users, events.rows, store.folder, tally)
        store.remove()
        writer.seal(
            name=path.name,
            source=source,
            seed=protocol.seed,
            options={
                **dataclasses.asdict(protocol), "catalogue": catalogue, "min_count": texts.min_count,
                "max_words": texts.max_words, **(options or {})},
            counts={**catalogued, "source": store.counts, **_moments(splitter)},
            dropped=tally.dropped,
            repaired=tally.repaired,
        )  # fmt: skip
    return open_dataset(path)


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

    @property
    def fields(self) -> FieldTables | None:
        """No fields beside ids and texts."""
        return None

    def pieces(self) -> Iterator[Interactions]:
        """All events in one piece."""
        yield self.events

    def item_texts(self, items: NDArray[np.int32]) -> Iterator[tuple[list[str], list[str]]]:
        """Ids and texts of the items."""
        yield [self.table.ids[item] for item in items], [self.table.texts[item] for item in items]

    def user_ids(self, users: NDArray[np.int32]) -> Iterator[list[str]]:
        """The users' numbers as text."""
        yield [str(user) for user in users]


def _moments(splitter: Splitter) -> dict[str, Any]:
    return {"moments": splitter.moments} if splitter.moments else {}


def _write_rows(
    writer: DatasetWriter,
    store: EventStore,
    splitter: Splitter,
    users: NDArray[np.int64],
    protocol: Protocol,
    tally: Tally,
    progress: Progress,
    places: RowPlaces,
) -> None:
    """The last pass: writes the rows of the users, and to `places` the events that have the rows' context."""
    pools = _pools(store, splitter, protocol)
    total, done = int((np.diff(store.offsets)[users]).sum()), 0
    for events in store.of_users(users):
        touched = Pairs(events.users, events.items)
        for number, (pool, rows) in enumerate(zip(pools, splitter.ctr_rows(events), strict=True)):
            drawn = draw_negatives(rows, touched, pool, protocol.seed)
            tally.dropped["ctr: no item left to sample"] += len(rows) - len(drawn)
            writer.add_ctr(SPLITS[number], drawn.split(), drawn.times, drawn.newest)
            places.add(number, drawn.places)
            touched = touched.add(drawn)
        for split, ordered in zip(SPLITS, splitter.sequences(events), strict=True):
            writer.add_seqrec(split, *ordered)
        done += len(events)
        progress(done, total, "events of the chosen users split")


def _pools(store: EventStore, splitter: Splitter, protocol: Protocol) -> list[ItemPool]:
    """What negatives are drawn from, by split; splits of the same period have the same pool."""
    periods = [splitter.period(split) for split in SPLITS]
    if not protocol.negatives:
        return [ItemPool(np.empty(0, np.int32)) for _ in periods]
    made = {period: POOLS[protocol.negatives_by](*store.met_items(period)) for period in set(periods)}
    return [made[period] for period in periods]


def _require_rows(writer: DatasetWriter) -> None:
    """Raises DataError for a split without rows: no user of it had an item left to sample."""
    for split in SPLITS:
        if not len(writer.column(f"ctr/{split}", "user")):
            raise DataError(
                f"ctr: all users of the {split} set have touched every item: none is left to sample",
                "give more items, or take the users' own dislikes: --negatives native",
            )


def _listed_items(writer: DatasetWriter, events: Events, store: EventStore, catalogue: Catalogue) -> Items:
    """The items of the item table, rising."""
    used = np.zeros(events.items, bool)
    writer.mark_items(used)
    is_listed = {"used": used, "seen": store.seen | used, "all": np.ones(events.items, bool)}[catalogue]
    return np.flatnonzero(is_listed).astype(np.int32)


def _write_items(
    writer: DatasetWriter, events: Events, listed: Items, texts: Texts, progress: Progress
) -> dict[str, float]:
    """Writes the item table, renumbers the items of the splits, and writes texts as word numbers; returns counts."""
    in_training = np.zeros(events.items, bool)
    writer.mark_items(in_training, ("train",))
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
