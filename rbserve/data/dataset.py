"""A prepared data set: an item table, three splits for both tasks, and a manifest that proves them.

    data/<name>/
      manifest.json        counts, options, what was dropped and why, file digests, fingerprint
      items.parquet        item_id, text; the row number is the item's int32 index everywhere else
      users.parquet        user, user_id: the raw ids of the users in the splits
      ctr/{train,valid,test}/       user, candidate, label, time, newest, history.{values,offsets}
      seqrec/{train,valid,test}/    user, target, time, newest, history.{values,offsets}
      text/                words.parquet (word, items), tokens.{values,offsets}: the items' texts as word numbers
      fields/              item.<name>: a value an item; user.<name>: a value a row of users.parquet; of fields with
                           several categories rows of `width` codes; values.<name>.parquet: the values of the codes
      ctr/<split>/context.<name>      a value a row

Splits are columns, one `.npy` file each, and are memory-mapped: opening a split of R rows reads nothing and
makes no R objects. Histories are ragged, oldest item first. `time` is when the row happened, `newest` when
the last item of its history did (NEVER when there is none), both in the unit of the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.errors import DataError, RbserveError, UsageError
from rbserve.core.fields import TIME, FieldSpec
from rbserve.core.files import FileDigest, mismatch
from rbserve.core.ids import id_text
from rbserve.core.manifest import read_manifest
from rbserve.core.tasks import CTR, SEQREC, TASKS
from rbserve.core.types import Items
from rbserve.data.columns import Ragged, open_column
from rbserve.data.judging import Judging, judging_of, prepare_command
from rbserve.data.request_set import is_request_set

SCHEMA = 2
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
RETIRED = "retired"
WORD_LIMIT = "rbserve.max_words"
"""The key of words.parquet's metadata that says how many words of a text are kept."""
NEVER = int(np.iinfo(np.int64).min)
COLUMNS: dict[str, dict[str, type[np.generic]]] = {
    CTR.name: {
        "user": np.int32, CTR.item_column: np.int32, "label": np.int8, "time": np.int64, "newest": np.int64
    },
    SEQREC.name: {
        "user": np.int32, SEQREC.item_column: np.int32, "time": np.int64, "newest": np.int64
    },
}  # fmt: skip
"""The columns of a task's splits, beside the histories."""


Extras = Mapping[str, NDArray[Any]]
"""What a request has beside history and candidates, by the name of its entry (`core/fields.py`): a row for each row."""
NO_EXTRAS: Extras = {}


@dataclass(frozen=True)
class CtrSplit:
    """R labelled (user, candidate) pairs, each with the user's history at that moment.

    `extras` are the fields of the user and of the context, and the time, of each row: of data sets that have fields.
    """

    users: NDArray[np.int32]
    candidates: Items
    labels: NDArray[np.int8]
    histories: Ragged
    extras: Extras = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def items(self) -> Items:
        """The item int32[R] that each row is about: its candidate."""
        return self.candidates

    def take(self, rows: NDArray[np.int64]) -> CtrSplit:
        """The given rows as a split of their own, in memory."""
        extras = {name: column[rows] for name, column in self.extras.items()}
        return CtrSplit(
            self.users[rows], self.candidates[rows], self.labels[rows], self.histories.take(rows), extras
        )


@dataclass(frozen=True)
class SeqSplit:
    """R sequences: what each user consumed, and the item that came next."""

    users: NDArray[np.int32]
    targets: Items
    histories: Ragged

    def __len__(self) -> int:
        return len(self.users)

    @property
    def items(self) -> Items:
        """The item int32[R] that each row is about: its target."""
        return self.targets

    def take(self, rows: NDArray[np.int64]) -> SeqSplit:
        """The given rows as a split of their own, in memory."""
        return SeqSplit(self.users[rows], self.targets[rows], self.histories.take(rows))


@dataclass(frozen=True)
class ItemTable:
    """The catalogue: raw ids and texts by item index.

    `retired` items keep their index, so that histories may have them; they are no candidates and not recommended.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    retired: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Raw id -> item index."""
        return {item: row for row, item in enumerate(self.ids)}

    @cached_property
    def _older(self) -> dict[str, int]:
        """Ids as they would be written now -> index, of items whose ids an earlier version wrote otherwise."""
        return {text: row for row, item in enumerate(self.ids) if (text := id_text(item)) != item}

    def find(self, item: str | float) -> int | None:
        """The index of an item by its id: as it is in the table, or as `core/ids.py` writes both; None: unknown."""
        row = self.index.get(item) if isinstance(item, str) else None
        if row is None:
            text = id_text(item)
            row = self.index.get(text, self._older.get(text))
        return row

    def lookup(self, ids: Sequence[str | float]) -> Items:
        """Item indices int32[n] of ids, as `find` has them; KeyError carries the list of unknown ones."""
        try:
            return np.array([*map(self.index.__getitem__, ids)], np.int32)  # type: ignore[arg-type]
        except KeyError:
            rows = [self.find(item) for item in ids]
        if None in rows:
            raise KeyError([item for item, row in zip(ids, rows, strict=True) if row is None])
        return np.array(rows, np.int32)

    def names(self, rows: Items) -> list[str]:
        """Raw ids of item indices int32[n]."""
        return [self.ids[row] for row in rows.tolist()]


class DatasetManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a data set says of itself.

    `options` are the protocol's numbers it was made with; `counts` has the sizes of the clean source and of
    every split; `dropped` and `repaired` say by reason what became of the raw rows that are not as they were. `fields`
    are those of the user's own tables, in the order in which they were named.
    """

    schema: int
    name: str
    source: str
    seed: int
    options: dict[str, Any]
    counts: dict[str, Any]
    dropped: dict[str, int]
    repaired: dict[str, int]
    fingerprint: str
    files: dict[str, FileDigest]
    fields: list[FieldSpec] = []


@dataclass(frozen=True)
class Dataset:
    """A data set on disk; every file is checked against the manifest when it is first used."""

    path: Path
    manifest: DatasetManifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def by_time(self) -> bool:
        """Whether the splits lie one after another in time, so that users may be in several; else users are divided."""
        return self.manifest.options.get("split") == "time"

    @property
    def is_log(self) -> bool:
        """Whether each row is a request of its own: no users, no histories, one item, known by its fields alone."""
        return self.manifest.options.get("history") == 0

    @property
    def judging(self) -> Judging:
        """How the data set judges models, with the sizes of its source."""
        judging = judging_of(self.manifest.source, self.manifest.options)
        return msgspec.structs.replace(judging, sizes=self.manifest.counts["source"])

    @property
    def _remaking_command(self) -> str:
        if self.is_log:  # time is all that can divide it, which its name does not say
            return Judging(self.manifest.source).remaking_command(self.name)
        return self.judging.remaking_command(self.name)

    @cached_property
    def items(self) -> ItemTable:
        return read_items(self.file("items.parquet"))

    @cached_property
    def words(self) -> Sequence[str]:
        """The vocabulary: the word of each number in `tokens`."""
        return read_words(self.file("text/words.parquet"))

    @cached_property
    def tokens(self) -> Ragged:
        """The word numbers of each item's text; words outside the vocabulary are left out."""
        return self._ragged("text", "tokens")

    def rows(self, task: str, split: Split) -> CtrSplit | SeqSplit:
        """The rows of one split of the task of this name."""
        return self.seqrec(split) if TASKS[task].ranks else self.ctr(split)

    def ctr(self, split: Split) -> CtrSplit:
        """The labelled pairs of one split."""
        folder = f"{CTR.name}/{split}"
        return CtrSplit(
            self.column(folder, "user"),
            self.column(folder, "candidate"),
            self.column(folder, "label"),
            self._ragged(folder, "history"),
            self._extras(split),
        )

    def _extras(self, split: Split) -> Extras:
        """The fields of the user and of the context of each row; its time, where the splits lie in time."""
        folder = f"{CTR.name}/{split}"
        extras = {TIME: self.column(folder, "time")} if self.by_time else {}
        for spec in self.manifest.fields:
            if spec.scope == "context":
                extras[spec.entry] = self.field_column(folder, spec)
            elif spec.scope == "user":
                places = np.searchsorted(self._users, self.column(folder, "user"))
                extras[spec.entry] = self.field_column("fields", spec)[places]
        return extras

    @cached_property
    def _users(self) -> NDArray[np.int32]:
        table = pq.read_table(self.file("users.parquet"), columns=["user"], use_threads=False)
        users: NDArray[np.int32] = table["user"].to_numpy()
        return users

    def field_values(self, spec: FieldSpec) -> list[str]:
        """The values of a field's codes from FIRST on; none of a number and of a field whose codes are hashes."""
        return read_field_values(self.file(f"fields/{values_file(spec)}")) if spec.has_values else []

    def item_field(self, spec: FieldSpec) -> NDArray[Any]:
        """The value of a field of each item: float32[n], int32[n], or int32[n, width] of several categories."""
        return self.field_column("fields", spec)

    def field_column(self, folder: str, spec: FieldSpec) -> NDArray[Any]:
        """A field's values in a folder, as a read-only memory map; rows of `width` of several categories."""
        column = self.column(folder, spec.entry)
        return column.reshape(-1, spec.width) if spec.kind == "multi" else column

    def seqrec(self, split: Split) -> SeqSplit:
        """The next-item sequences of one split."""
        folder = f"{SEQREC.name}/{split}"
        return SeqSplit(
            self.column(folder, "user"), self.column(folder, "target"), self._ragged(folder, "history")
        )

    def column(self, folder: str, name: str) -> NDArray[Any]:
        """One column, for example ("ctr/test", "time"), as a read-only memory map."""
        return open_column(self.file(f"{folder}/{name}.npy"))

    def _ragged(self, folder: str, name: str) -> Ragged:
        return Ragged(self.column(folder, f"{name}.values"), self.column(folder, f"{name}.offsets"))

    def file(self, name: str) -> Path:
        """A file of the manifest, once it is found to be what the manifest says; DataError when it is not."""
        path = self.path / name
        expected = self.manifest.files.get(name)
        reason = mismatch(path, expected) if expected else "is not in the manifest"
        if reason:
            raise DataError(
                f"data set {self.name} is damaged: {path} {reason}",
                f"{self._remaking_command} makes it anew",
            )
        return path


def open_dataset(path: Path) -> Dataset:
    """Opens a prepared data set; DataError when it is absent, unreadable or of another version."""
    file = path / "manifest.json"
    again = prepare_command(path.name) or f"rbserve prepare {path.name}"
    if not file.is_file():
        raise DataError(f"no data set at {path}", again)
    if is_request_set(path):
        raise DataError(
            f"{path.name} has requests for adopted models, and no items to train on",
            "--dataset takes a prepared data set; they are listed by rbserve datasets",
        )
    manifest = read_manifest(file, DatasetManifest, SCHEMA, "a data set manifest", f"{again} makes it anew")
    return Dataset(path, manifest)


def values_file(spec: FieldSpec) -> str:
    """The name of the file with the values of a field's codes."""
    return f"values.{spec.name}.parquet"


def read_field_values(path: Path) -> list[str]:
    """Reads the values of a field's codes from FIRST on."""
    return cast("list[str]", pq.read_table(path, columns=["value"])["value"].to_pylist())


def read_words(path: Path) -> list[str]:
    """Reads a vocabulary: the word of each number."""
    return cast("list[str]", pq.read_table(path, columns=["word"])["word"].to_pylist())


def read_items(path: Path) -> ItemTable:
    """Reads an item table."""
    try:
        table = pq.read_table(path, use_threads=False)
        retired = table[RETIRED].to_numpy().nonzero()[0].tolist() if RETIRED in table.column_names else ()
        return ItemTable(table["item_id"].to_pylist(), table["text"].to_pylist(), frozenset(retired))
    except (pa.ArrowException, KeyError) as error:
        raise RbserveError(f"{path} is not an item table: {error}") from None


def write_items(path: Path, items: ItemTable) -> None:
    """Writes an item table."""
    columns = {"item_id": pa.array(items.ids, pa.string()), "text": pa.array(items.texts, pa.string())}
    if items.retired:
        columns[RETIRED] = pa.array([row in items.retired for row in range(len(items))])
    pq.write_table(pa.table(columns), path)


def check_same_data(artifact: str, artifact_fingerprint: str, dataset: Dataset) -> None:
    """Refuses to use an artefact with another data set's items: the same index would be another item."""
    if artifact_fingerprint != dataset.fingerprint:
        raise UsageError(
            f"artefact {artifact} was made from data {artifact_fingerprint[:12]}, "
            f"but data set {dataset.name} is {dataset.fingerprint[:12]}",
            "train it again on this data set, or point --dataset at the one it was made from",
        )
