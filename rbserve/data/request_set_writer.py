"""Writes a request set piece by piece: columns of numbers, texts and lists, then digests and the fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rbserve.core.files import digest, write_bytes
from rbserve.core.requests import TEXT
from rbserve.data.columns import ColumnWriter, blocks, open_column
from rbserve.data.request_set import KIND, SCHEMA, ColumnRecord, RequestSetManifest, column_files
from rbserve.data.table_columns import Cells

Labels = Literal["binary", "graded"] | None


class RequestPiece(NamedTuple):
    """Some requests, or a part of one, with `rows` candidates: `starts` int64 are the rows where a request begins."""

    rows: int
    starts: NDArray[np.int64]
    users: NDArray[np.int32]
    labels: NDArray[np.float32] | None
    columns: Mapping[str, Cells]


class RequestSetWriter:
    """A request set in the making, in a folder that nobody takes for a finished one."""

    def __init__(self, folder: Path, columns: Mapping[str, ColumnRecord], has_labels: bool) -> None:
        self.folder, self.records = folder, columns
        self.rows = self.requests = 0
        self._offsets = ColumnWriter(folder / "offsets.npy", np.int64)
        self._users = ColumnWriter(folder / "user.npy", np.int32)
        self._labels = ColumnWriter(folder / "label.npy", np.float32) if has_labels else None
        self._columns = {name: _CellWriter(folder, record) for name, record in columns.items()}

    def append(self, piece: RequestPiece) -> None:
        """Adds rows, and the requests that begin with one of them."""
        self._offsets.append(piece.starts + self.rows)
        self._users.append(piece.users)
        if self._labels is not None:
            assert piece.labels is not None
            self._labels.append(piece.labels)
        for name, writer in self._columns.items():
            writer.append(piece.columns[name])
        self.rows += piece.rows
        self.requests += len(piece.starts)

    def close(self) -> None:
        """No more rows; from here on the columns can be read."""
        with ExitStack() as files:  # all are closed, whichever of them fails
            for writer in (self._offsets, self._users, self._labels, *self._columns.values()):
                if writer is not None:
                    files.callback(writer.close)
            self._offsets.append(np.array([self.rows]))

    def seal(
        self,
        *,
        name: str,
        source: str,
        labels: Labels,
        skipped: Mapping[str, int],
        missing: Mapping[str, int],
        notes: Sequence[str],
        data_set: tuple[str, str] | None,
    ) -> None:
        """Computes digests and the fingerprint of the closed columns and writes the manifest."""
        manifest = RequestSetManifest(
            schema=SCHEMA,
            kind=KIND,
            name=name,
            source=source,
            requests=self.requests,
            rows=self.rows,
            labels=labels,
            columns=dict(self.records),
            skipped=dict(skipped),
            fingerprint=_fingerprint(self.folder, self.records),
            files={
                file.relative_to(self.folder).as_posix(): digest(file)
                for file in sorted(self.folder.rglob("*.npy"))
            },
            data_set=data_set,
            missing=dict(missing),
            notes=[*notes],
        )
        # Keys are not sorted: columns stay in their order.
        write_bytes(self.folder / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))


class _CellWriter:
    """The files of one column."""

    def __init__(self, folder: Path, record: ColumnRecord) -> None:
        self._record = record
        is_text = record.dtype == TEXT
        kinds: dict[str, type[np.generic]] = {
            "values": np.uint8 if is_text else np.dtype(record.dtype).type, "texts": np.int64, "lists": np.int64
        }  # fmt: skip
        self._files = {
            part: ColumnWriter(folder / path, kinds[part]) for part, path in column_files(record).items()
        }
        for part in ("texts", "lists"):
            if part in self._files:
                self._files[part].append(np.zeros(1, np.int64))
        self._total = dict.fromkeys(self._files, 0)

    def append(self, cells: Cells) -> None:
        values = cells.values
        if "lists" in self._files:
            self._append_ends("lists", cells.lengths[0])
        if "texts" in self._files:
            content, lengths = _utf8(values)
            self._append_ends("texts", lengths)
            self._files["values"].append(content)
        else:
            self._files["values"].append(numbers(values, self._record.dtype))

    def _append_ends(self, part: str, lengths: NDArray[np.int64]) -> None:
        ends = np.cumsum(lengths, dtype=np.int64) + self._total[part]
        self._files[part].append(ends)
        self._total[part] = int(ends[-1]) if len(ends) else self._total[part]

    def close(self) -> None:
        with ExitStack() as files:
            for file in self._files.values():
                files.callback(file.close)


def numbers(values: pa.Array, dtype: str) -> NDArray[Any]:
    """Arrow numbers or booleans as a NumPy array of a dtype; what is missing is NaN."""
    if values.null_count:
        values = pc.fill_null(values.cast(pa.float64()), float("nan"))
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    return array


def _utf8(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of all texts, one after the other, and how many bytes each has."""
    texts = pc.fill_null(texts, "")
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    values = np.frombuffer(content, np.uint8) if content is not None else np.zeros(0, np.uint8)
    return values[ends[0] : ends[-1]], np.diff(ends)


# ---- The fingerprint ----


def _fingerprint(folder: Path, records: Mapping[str, ColumnRecord]) -> str:
    """A digest of the content, whatever the table's format and the width of its numbers: columns by name, then rows."""
    sha = hashlib.sha256()
    for name, record in sorted(records.items()):
        sha.update(f"{name}\0{_family(record.dtype)}\0{record.scope}\0{record.width}\0".encode())
        _add(sha, folder, column_files(record).values())
    _add(sha, folder, [name for name in ("offsets.npy", "label.npy", "user.npy") if (folder / name).exists()])
    return sha.hexdigest()


def _add(sha: hashlib._Hash, folder: Path, names: Iterable[str]) -> None:
    for name in names:
        sha.update(b"\0")
        for block in blocks(open_column(folder / name)):
            sha.update(np.ascontiguousarray(_widest(block)).data)


def _widest(values: NDArray[Any]) -> NDArray[Any]:
    """Numbers in the one width that all of their kind have in a digest, with one NaN."""
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
        wide[np.isnan(wide)] = np.nan
        return wide
    return values.astype(np.int64) if values.dtype.kind == "i" else values


def _family(dtype: str) -> str:
    return dtype if dtype == TEXT else np.dtype(dtype).kind
