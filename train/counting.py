"""Counted features of a data set's rows, and the tables that they are looked up in (`features/counted.py`).

Everything is counted in the training rows of click prediction. A training row must not be counted for itself: trees
read its label in the difference that it makes, also where that label alone is taken out. So the training rows are cut
into PARTS parts. Where users are divided, a part has a tenth of the users and is counted by the other nine. Where time
is, a part has the rows of a time and is counted by the parts before it. Validation and test rows, and requests to a
server, are counted by all parts.

Counting is a join of each user's items in DuckDB, in bounded memory: pairs that do not fit go to disk, and an item of a
history keeps the partners that it has most often.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.fields import TIME, FieldSpec
from rbserve.core.files import digest, mismatch, replacing_directory, scratch, write_bytes
from rbserve.core.types import Items, Progress, Vectors, no_progress
from rbserve.data.columns import open_column
from rbserve.data.dataset import NEVER, SPLITS, CtrSplit, Dataset, Split
from rbserve.features.counted import (
    FOLDER,
    MANIFEST,
    SCHEMA,
    CountedManifest,
    CountedTables,
    counted_names,
    read_counted_manifest,
)
from rbserve.runtimes.evaluate import slate_starts
from rbserve.train.encoders.embed import embed_texts
from rbserve.train.spilling import open_database

PARTS = 10
MEMORY = 2 << 30
MOST_PAIRS = 1 << 25
FEWEST_PARTNERS, MOST_PARTNERS = 16, 256
PIECE = 100_000  # rows
IN_HISTORY, LIKED = 0, 1  # kinds of events
Table = NDArray[Any]


@dataclass(frozen=True)
class Counted:
    """Counted features on disk; every file is checked against the manifest when it is first used."""

    path: Path
    manifest: CountedManifest

    @property
    def fields(self) -> list[FieldSpec]:
        """The features as fields, in the order of their columns."""
        return [FieldSpec(name, "counted", "number") for name in self.manifest.names]

    def features(self, split: Split) -> Vectors:
        """float32[R, features] of the rows of a split, as a read-only memory map."""
        return self._column(f"{split}.features").reshape(-1, len(self.manifest.names))

    @cached_property
    def tables(self) -> CountedTables:
        """The tables by which requests are counted."""
        return CountedTables({name: self._column(name) for name in self.manifest.tables}, self.manifest.end)

    @property
    def vectors(self) -> Vectors | None:
        """The vectors float32[n, D] of the items' texts, of length 1, where texts are compared."""
        if "vectors" not in self.manifest.tables:
            return None
        table = self._column("vectors")
        return table.reshape(-1, len(table) // len(self._column("likes")))

    def _column(self, name: str) -> Table:
        path = self.path / f"{name}.npy"
        if reason := mismatch(path, self.manifest.files[path.name]):
            raise DataError(f"{path} is damaged: {reason}", f"delete {self.path}: it is made anew")
        return open_column(path)


def counted_features(
    dataset: Dataset, encoder: str | None, memory: int = MEMORY, progress: Progress = no_progress
) -> Counted:
    """The counted features of a data set, made where they are missing; with similarities of texts by an encoder.

    `encoder` is a name of BACKBONES, a hub id or a directory; None, or a data set without texts: no similarities.
    """
    encoder = encoder if any(dataset.items.texts) else None
    name = hashlib.sha256(str(encoder).encode()).hexdigest()[:8] if encoder else "plain"
    path = dataset.path / FOLDER / name
    if (path / MANIFEST).is_file():
        manifest = read_counted_manifest(path / MANIFEST)
        names = [*counted_names(dataset.by_time, encoder is not None)]
        made_of = (manifest.fingerprint, manifest.encoder, manifest.names)
        if made_of == (dataset.fingerprint, encoder, names):
            return Counted(path, manifest)
    with replacing_directory(path) as partial, scratch(dataset.path, "counting") as temporary:
        vectors = None
        if encoder:
            vectors = _of_length_one(embed_texts(dataset.items.texts, encoder, progress=progress))
        _Counting(dataset, temporary, vectors, memory, progress).write(partial, encoder)
    return Counted(path, read_counted_manifest(path / MANIFEST))


def pair_features(
    dataset: Dataset,
    counted: Counted,
    owners: NDArray[np.int64],
    candidates: Items,
    memory: int = MEMORY,
    progress: Progress = no_progress,
) -> Vectors:
    """float32[P, features] of P candidates, each for the history of the training row `owners[p]`.

    They are counted as the training row is: in the parts that do not have its user, or that are earlier.
    """
    with scratch(dataset.path, "counting") as temporary:
        counting = _Counting(dataset, temporary, counted.vectors, memory, progress)
        return counting.of_pairs(owners, candidates)


class _Counting:
    """The training rows of a data set in parts, and how often each part has each item and pair of items."""

    def __init__(
        self, dataset: Dataset, folder: Path, vectors: Vectors | None, memory: int, progress: Progress
    ) -> None:
        """`vectors` are those of the items' texts, of length 1."""
        self._dataset, self._progress, self._items = dataset, progress, len(dataset.items)
        self._train = dataset.ctr("train")
        self._times = dataset.column("ctr/train", "time") if dataset.by_time else None
        self._parts = _parts_by_time(self._times) if self._times is not None else self._train.users % PARTS
        self._vectors = vectors
        self._database = open_database(folder, "counts", memory)
        self._database.execute("create table event (part tinyint, kind tinyint, user_ integer, item integer)")
        for place in range(0, len(self._train), PIECE):
            self._add(np.arange(place, min(place + PIECE, len(self._train))))
        self._database.execute("create table met as select distinct * from event")
        self._count_pairs()

    def _add(self, rows: NDArray[np.int64]) -> None:
        """The items that a user has in histories, and those that she likes, as events."""
        piece, parts = self._train.take(rows), self._parts[rows]
        liked = piece.labels == 1
        lengths = piece.histories.lengths
        events = pa.table(
            {
                "part": np.concatenate([np.repeat(parts, lengths), parts[liked]]).astype(np.int8),
                "kind": np.repeat([IN_HISTORY, LIKED], [lengths.sum(), liked.sum()]).astype(np.int8),
                "user_": np.concatenate([np.repeat(piece.users, lengths), piece.users[liked]]),
                "item": np.concatenate([piece.histories.values, piece.candidates[liked]]),
            }
        )
        self._database.register("piece", events)
        self._database.execute("insert into event select * from piece")
        self._database.unregister("piece")

    def _count_pairs(self) -> None:
        self._database.execute(
            "create table pair (part tinyint, key bigint, together integer, liked integer)"
        )
        for part in range(PARTS):
            self._progress(part, PARTS, "parts of the training rows counted")
            self._database.execute(
                f"""insert into pair select {part}, past.item::bigint * {self._items} + partner.item,
                count(*) filter (partner.kind = {IN_HISTORY}), count(*) filter (partner.kind = {LIKED})
                from (select user_, item from met where part = {part} and kind = {IN_HISTORY}) past
                join (select user_, item, kind from met where part = {part}) partner using (user_) group by all"""
            )

    def write(self, folder: Path, encoder: str | None) -> None:
        """Writes the tables of all parts, the features of every split, and the manifest."""
        everything = self._tables([*range(PARTS)])
        for name, table in everything.items():
            np.save(folder / f"{name}.npy", table)
        end = None if self._times is None else int(self._times.max(initial=0))
        names = CountedTables(everything, end).names
        for split in SPLITS:
            self._write_features(folder / f"{split}.features.npy", split, everything, end, len(names))
        manifest = CountedManifest(
            SCHEMA, self._dataset.fingerprint, encoder, end, [*names], [*everything],
            {file.name: digest(file) for file in sorted(folder.glob("*.npy"))})  # fmt: skip
        write_bytes(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))

    def _write_features(
        self, path: Path, split: Split, everything: Mapping[str, Table], end: int | None, width: int
    ) -> None:
        rows = self._dataset.ctr(split)
        made = np.lib.format.open_memmap(path, "w+", np.float32, (len(rows) * width,)).reshape(-1, width)
        rows_made = 0
        for places, tables in self._counted_by(split, everything, end):
            for piece in np.split(places, range(PIECE, len(places), PIECE)):
                made[piece] = row_features(tables, rows.take(piece), self._times_of(split, piece))
                rows_made += len(piece)
                self._progress(rows_made, len(rows), f"{split} rows with counted features")

    def of_pairs(self, owners: NDArray[np.int64], candidates: Items) -> Vectors:
        """float32[P, features] of candidates for the histories of training rows, counted as those rows are."""
        end = None if self._times is None else int(self._times.max(initial=0))
        made: Vectors | None = None
        for rows, tables in self._counted_by("train", {}, end):
            if made is None:
                made = np.empty((len(owners), len(tables.names)), np.float32)
            places = np.flatnonzero(np.isin(owners, rows))
            for piece in np.split(places, range(PIECE, len(places), PIECE)):
                pairs = replace(self._train.take(owners[piece]), candidates=candidates[piece])
                made[piece] = row_features(tables, pairs, self._times_of("train", owners[piece]))
        assert made is not None
        return made

    def _times_of(self, split: Split, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        return self._dataset.column(f"ctr/{split}", "time")[rows] if self._dataset.by_time else None

    def _counted_by(
        self, split: Split, everything: Mapping[str, Table], end: int | None
    ) -> Iterator[tuple[NDArray[np.int64], CountedTables]]:
        """Rows of a split, and the tables by which they are counted."""
        if split != "train":
            yield np.arange(len(self._dataset.ctr(split))), CountedTables(everything, end)
            return
        for part in range(PARTS):
            later = [] if self._dataset.by_time else [*range(part + 1, PARTS)]
            yield (
                np.flatnonzero(self._parts == part),
                CountedTables(self._tables([*range(part), *later]), end),
            )

    def _tables(self, parts: list[int]) -> dict[str, Table]:
        """The tables of some parts of the training rows."""
        rows = np.isin(self._parts, parts)
        candidates, labels = self._train.candidates[rows], self._train.labels[rows]
        tables: dict[str, Table] = {
            "likes": np.bincount(candidates, labels, self._items).astype(np.int32),
            "shows": np.bincount(candidates, minlength=self._items).astype(np.int32),
            "in_histories": self._in_histories(parts),
            **self._pairs_of(parts),
        }
        if self._times is not None:
            tables |= _moments(candidates, labels, self._times[rows], self._items)
        if self._vectors is not None:
            tables["vectors"] = self._vectors.ravel()
        return tables

    def _in_histories(self, parts: list[int]) -> Table:
        items = self._database.execute(
            "select item, count(distinct user_) as users from met "
            f"where kind = {IN_HISTORY} and list_contains({parts}::tinyint[], part) group by item"
        ).fetchnumpy()
        counts = np.zeros(self._items, np.int32)
        counts[items["item"]] = items["users"]
        return counts

    def _pairs_of(self, parts: list[int]) -> dict[str, Table]:
        """The pairs of some parts; of an item of a history the partners that it has most often."""
        partners = max(FEWEST_PARTNERS, min(MOST_PARTNERS, MOST_PAIRS // max(self._items, 1)))
        pairs = self._database.execute(
            f"""select key, together, liked from (
                select key, sum(together)::integer as together, sum(liked)::integer as liked from pair
                where list_contains({parts}::tinyint[], part) group by key)
            qualify row_number() over (partition by key // {self._items} order by together + liked desc, key)
                <= {partners} order by key"""
        ).fetchnumpy()
        return {
            "pairs.keys": np.asarray(pairs["key"], np.int64),
            "pairs.together": np.asarray(pairs["together"], np.int32),
            "pairs.liked": np.asarray(pairs["liked"], np.int32),
        }


def row_features(tables: CountedTables, rows: CtrSplit, times: NDArray[np.int64] | None = None) -> Vectors:
    """float32[R, features] of R rows; rows in turn with one history and time are counted together."""
    made = np.empty((len(rows), len(tables.names)), np.float32)
    starts = slate_starts(rows.histories, {} if times is None else {TIME: times})
    for begin, end in pairwise(starts.tolist()):
        time = None if times is None else int(times[begin])
        made[begin:end] = tables.features(rows.histories[begin], rows.candidates[begin:end], time)
    return made


def _parts_by_time(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """The part of each row, by time; rows of one time are in one part."""
    bounds = np.quantile(times, np.arange(1, PARTS) / PARTS, method="lower") if len(times) else times
    return np.searchsorted(bounds, times, side="right")


def _moments(items: Table, labels: Table, times: Table, count: int) -> dict[str, Table]:
    """When each item was first asked about, and last liked; NEVER where it was not."""
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, items, times)
    last = np.full(count, NEVER)
    np.maximum.at(last, items[labels == 1], times[labels == 1])
    first[np.bincount(items, minlength=count) == 0] = NEVER
    return {"first": first, "last_like": last}


def _of_length_one(vectors: Vectors) -> Vectors:
    scaled: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-9))
    return scaled
