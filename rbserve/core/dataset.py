"""A prepared data set: an item table, user-disjoint splits for both tasks, and a manifest that proves them.

    data/<name>/
      manifest.json            counts, options, what was dropped and why, file digests, fingerprint
      items.parquet            item_id, text; the row number is the item's int32 index everywhere else
      ctr/{train,valid,test}.parquet      user, candidate, label, history
      seqrec/{train,valid,test}.parquet   user, target, history

Splits are columnar: a split of R rows is a handful of arrays, not R objects. Histories are ragged and
stored as values plus offsets (CSR), oldest item first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.errors import DataError, RbserveError, UsageError
from rbserve.core.files import FileDigest, digest, mismatch, replacing_directory, write_bytes
from rbserve.core.types import Items

SCHEMA = 1
SPLITS = ("train", "valid", "test")
Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Histories:
    """R ragged item sequences: sequence r is values[offsets[r]:offsets[r + 1]]."""

    values: Items
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Items:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def take(self, rows: NDArray[np.int64]) -> Histories:
        """The sequences of `rows`, in that order, copied into a new CSR pair."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        source = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Histories(self.values[source], offsets)


@dataclass(frozen=True)
class CtrSplit:
    """R labelled (user, candidate) pairs, each with the user's history at that moment."""

    users: NDArray[np.int32]
    candidates: Items
    labels: NDArray[np.int8]
    histories: Histories

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: NDArray[np.int64]) -> CtrSplit:
        """The given rows as a split of their own."""
        return CtrSplit(self.users[rows], self.candidates[rows], self.labels[rows], self.histories.take(rows))


@dataclass(frozen=True)
class SeqSplit:
    """R sequences: what each user consumed, and the item that came next."""

    users: NDArray[np.int32]
    targets: Items
    histories: Histories

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class ItemTable:
    """The catalogue: raw ids and texts by item index."""

    ids: Sequence[str]
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """Raw id -> item index."""
        return {item: row for row, item in enumerate(self.ids)}

    def lookup(self, ids: Sequence[str]) -> Items:
        """Item indices int32[n] of raw ids; KeyError carries the list of unknown ones."""
        index = self.index
        try:
            return np.fromiter((index[item] for item in ids), np.int32, len(ids))
        except KeyError:
            raise KeyError([item for item in ids if item not in index]) from None


class DatasetManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a data set says of itself. `options` are the protocol's numbers it was made with."""

    schema: int
    name: str
    source: str
    seed: int
    options: dict[str, Any]
    counts: dict[str, Any]
    dropped: dict[str, int]
    fingerprint: str
    files: dict[str, FileDigest]


@dataclass(frozen=True)
class Dataset:
    """A data set on disk; tables are read, and checked against the manifest, when first used."""

    path: Path
    manifest: DatasetManifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @cached_property
    def items(self) -> ItemTable:
        self._check("items.parquet")
        return read_items(self.path / "items.parquet")

    def ctr(self, split: Split) -> CtrSplit:
        """Labelled pairs of one split."""
        table = self._table(f"ctr/{split}.parquet")
        return CtrSplit(
            _column(table, "user"),
            _column(table, "candidate"),
            _column(table, "label"),
            _lists(table, "history"),
        )

    def seqrec(self, split: Split) -> SeqSplit:
        """Next-item sequences of one split."""
        table = self._table(f"seqrec/{split}.parquet")
        return SeqSplit(_column(table, "user"), _column(table, "target"), _lists(table, "history"))

    def _table(self, name: str) -> pa.Table:
        self._check(name)
        return pq.read_table(self.path / name, use_threads=False)

    def _check(self, name: str) -> None:
        reason = mismatch(self.path / name, self.manifest.files[name])
        if reason:
            raise DataError(
                f"data set {self.name} is damaged: {self.path / name} {reason}",
                f"rbserve prepare {self.name} makes it anew",
            )


def open_dataset(path: Path) -> Dataset:
    """Opens a prepared data set; DataError when it is absent, unreadable or of another version."""
    file = path / "manifest.json"
    if not file.is_file():
        raise DataError(f"no data set at {path}", f"rbserve prepare {path.name}")
    try:
        manifest = msgspec.json.decode(file.read_bytes(), type=DatasetManifest)
    except msgspec.MsgspecError as error:
        raise DataError(
            f"{file} is not a data set manifest: {error}", f"rbserve prepare {path.name} makes it anew"
        ) from None
    if manifest.schema != SCHEMA:
        raise DataError(
            f"{file} has schema {manifest.schema}, this rbserve reads {SCHEMA}",
            f"rbserve prepare {path.name} makes it anew",
        )
    return Dataset(path, manifest)


def write_dataset(
    path: Path,
    *,
    source: str,
    seed: int,
    options: Mapping[str, Any],
    dropped: Mapping[str, int],
    items: ItemTable,
    ctr: Mapping[Split, CtrSplit],
    seqrec: Mapping[Split, SeqSplit],
) -> Dataset:
    """Writes a data set named after its directory, atomically, and opens it."""
    with replacing_directory(path) as partial:
        write_items(partial / "items.parquet", items)
        for name, split in ctr.items():
            _write(partial / f"ctr/{name}.parquet", user=split.users, candidate=split.candidates,
                   label=split.labels, history=split.histories)  # fmt: skip
        for name, sequences in seqrec.items():
            _write(partial / f"seqrec/{name}.parquet", user=sequences.users, target=sequences.targets,
                   history=sequences.histories)  # fmt: skip
        files = sorted(file for file in partial.rglob("*.parquet"))
        manifest = DatasetManifest(
            schema=SCHEMA,
            name=path.name,
            source=source,
            seed=seed,
            options=dict(options),
            counts=_counts(items, ctr, seqrec),
            dropped=dict(dropped),
            fingerprint=_fingerprint(items, ctr, seqrec),
            files={file.relative_to(partial).as_posix(): digest(file) for file in files},
        )
        write_bytes(partial / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
    return open_dataset(path)


def read_items(path: Path) -> ItemTable:
    """Reads an item table."""
    try:
        table = pq.read_table(path, use_threads=False)
        return ItemTable(table["item_id"].to_pylist(), table["text"].to_pylist())
    except (pa.ArrowException, KeyError) as error:
        raise RbserveError(f"{path} is not an item table: {error}") from None


def write_items(path: Path, items: ItemTable) -> None:
    """Writes an item table."""
    columns = {"item_id": pa.array(items.ids, pa.string()), "text": pa.array(items.texts, pa.string())}
    pq.write_table(pa.table(columns), path)


def _write(path: Path, **columns: NDArray[Any] | Histories) -> None:
    path.parent.mkdir(exist_ok=True)
    arrays = {
        name: pa.LargeListArray.from_arrays(column.offsets, column.values)
        if isinstance(column, Histories)
        else pa.array(column)
        for name, column in columns.items()
    }
    pq.write_table(pa.table(arrays), path)


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    array: NDArray[Any] = table[name].to_numpy()
    return np.array(array)  # a copy: Arrow's buffers are read-only, which torch will not wrap


def _lists(table: pa.Table, name: str) -> Histories:
    array = table[name].combine_chunks()
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy()[offsets[0] : offsets[-1]] if len(offsets) else np.empty(0, np.int32)
    return Histories(values.astype(np.int32), offsets - offsets[0])


def _counts(
    items: ItemTable, ctr: Mapping[Split, CtrSplit], seqrec: Mapping[Split, SeqSplit]
) -> dict[str, Any]:
    pairs = {
        name: {
            "rows": len(split),
            "users": len(np.unique(split.users)),
            "items": len(np.unique(split.candidates)),
            "positives": int(split.labels.sum()),
        }
        for name, split in ctr.items()
    }
    sequences = {
        name: {
            "rows": len(split),
            "users": len(np.unique(split.users)),
            "items": len(np.unique(split.targets)),
        }
        for name, split in seqrec.items()
    }
    return {"items": len(items), "ctr": pairs, "seqrec": sequences}


def _fingerprint(items: ItemTable, ctr: Mapping[Split, CtrSplit], seqrec: Mapping[Split, SeqSplit]) -> str:
    """A digest of the content, not of the Parquet bytes, which change with the writer's version."""
    sha = hashlib.sha256()
    sha.update(msgspec.json.encode([list(items.ids), list(items.texts)]))
    for name, split in sorted(ctr.items()):
        sha.update(f"ctr/{name}".encode())
        for array in (
            split.users,
            split.candidates,
            split.labels,
            split.histories.values,
            split.histories.offsets,
        ):
            sha.update(np.ascontiguousarray(array).tobytes())
    for name, sequences in sorted(seqrec.items()):
        sha.update(f"seqrec/{name}".encode())
        for array in (
            sequences.users,
            sequences.targets,
            sequences.histories.values,
            sequences.histories.offsets,
        ):
            sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def check_same_data(artifact: str, artifact_fingerprint: str, dataset: Dataset) -> None:
    """Refuses to use an artefact with another data set's items: the same index would be another item."""
    if artifact_fingerprint != dataset.fingerprint:
        raise UsageError(
            f"artefact {artifact} was made from data {artifact_fingerprint[:12]}, "
            f"but data set {dataset.name} is {dataset.fingerprint[:12]}",
            "train it again on this data set, or point --dataset at the one it was made from",
        )
