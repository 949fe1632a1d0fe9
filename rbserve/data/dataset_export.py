"""A prepared data set as flat tables, so that a model made elsewhere is trained and judged on exactly these rows.

    <folder>/
      export.json                        name and fingerprint of the data set, and the columns
      train|valid|test.parquet           click prediction, a row a candidate: request_id, user, item, label, time, text,
                                         history (ids of liked items, oldest first), history_texts, split, the
                                         fields of item, user and context, counted features if asked for
      sequences_train|valid|test.parquet next-item prediction: request_id, user, item (the target), time, history, split
      items.parquet                      item, text, fields: the whole catalogue

Fields have the values that a model reads: numbers, the texts of categories, lists of such. A missing one is null, one
that training rows do not have is the empty text, and one whose codes are hashes is the hash. Rows stand in the order of
the split. Rows in turn of one user with one history are a request. In CSV a list is JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.fields import MISSING, FieldSpec
from rbserve.core.files import replacing_directory, require_replaceable
from rbserve.core.tasks import CTR, SEQREC, Task
from rbserve.core.types import Progress, no_progress
from rbserve.data.columns import Ragged, lists_as_before
from rbserve.data.dataset import SPLITS, CtrSplit, Dataset, SeqSplit, Split

PIECE = 4096  # rows
MARKER = "export.json"
REQUEST, USER, ITEM, LABEL = "request_id", "user", "item", "label"
"""Columns by which exported rows are known again (`dataset_rows.py`)."""
EXPORTED = (REQUEST, USER, ITEM, LABEL, "time", "text", "history", "history_texts", "split")
"""The columns of exported rows; fields stand behind them."""
TableFormat = Literal["parquet", "csv"]


class ExportRecord(msgspec.Struct, frozen=True):
    """What export.json has: the data set that the tables are of, and their format."""

    dataset: str
    fingerprint: str
    format: str


Columns = Callable[[Split, NDArray[np.int64]], Mapping[str, NDArray[Any]]]
"""Further columns, by name, of some click-prediction rows of a split."""


def no_columns(split: Split, rows: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
    """No further columns."""
    del split, rows
    return {}


def export_dataset(
    dataset: Dataset,
    folder: Path,
    form: TableFormat = "parquet",
    progress: Progress = no_progress,
    columns: Columns = no_columns,
) -> list[Path]:
    """Writes the tables of a data set to `folder`, all or none, and returns their paths.

    Rows of click prediction get the further `columns` behind their own.

    An empty folder and an earlier export are replaced; UsageError for a folder that holds anything else.
    """
    require_replaceable(folder, MARKER)
    with replacing_directory(folder) as partial:
        source = _ExportSource(dataset, columns)
        for name, batches in source.tables():
            _write_table(partial / f"{name}.{form}", batches, name, progress)
        record = ExportRecord(dataset.name, dataset.fingerprint, form)
        (partial / MARKER).write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    return sorted(folder.glob(f"*.{form}"))


class _ExportSource:
    """The rows of a data set with raw ids and texts in the place of numbers."""

    def __init__(self, dataset: Dataset, columns: Columns) -> None:
        self._dataset = dataset
        self._columns = columns
        self._fields = {spec.name: FieldTexts(dataset, spec) for spec in dataset.manifest.fields}
        self._ids = pa.array(dataset.items.ids, pa.string())
        self._texts = pa.array(dataset.items.texts, pa.string())

    def tables(self) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        """The name of each table that has rows, and its rows in pieces."""
        for split in SPLITS:
            if len(self._dataset.ctr(split)):
                yield split, self._rows(CTR, split)
        for split in SPLITS:
            if len(self._dataset.seqrec(split)):
                yield f"sequences_{split}", self._rows(SEQREC, split)
        fields = {
            name: field.texts(self._dataset.item_field(field.spec))
            for name, field in self._fields.items()
            if field.spec.scope == "item"
        }
        yield "items", iter([pa.record_batch({ITEM: self._ids, "text": self._texts, **fields})])

    def _rows(self, task: Task, split: Split) -> Iterator[pa.RecordBatch]:
        rows = self._dataset.rows(task.name, split)
        times = self._dataset.column(f"{task.name}/{split}", "time")
        starts = request_starts(rows)
        for begin in range(0, len(rows), PIECE):
            places = np.arange(begin, min(begin + PIECE, len(rows)))
            piece = rows.take(places)
            numbers = np.searchsorted(starts, places, side="right") - 1
            yield pa.record_batch(
                {
                    REQUEST: pa.array([f"{split}-{number}" for number in numbers.tolist()]),
                    USER: self._user_ids.take(pa.array(np.searchsorted(self._users, piece.users))),
                    ITEM: self._ids.take(pa.array(piece.items)),
                    **({LABEL: pa.array(piece.labels)} if isinstance(piece, CtrSplit) else {}),
                    "time": pa.array(times[places]),
                    "text": self._texts.take(pa.array(piece.items)),
                    "history": _lists(piece.histories, self._ids),
                    "history_texts": _lists(piece.histories, self._texts),
                    "split": pa.array([split] * len(piece)),
                    **(self._further(piece, split, places) if isinstance(piece, CtrSplit) else {}),
                }
            )

    def _further(self, rows: CtrSplit, split: Split, places: NDArray[np.int64]) -> dict[str, pa.Array]:
        """The fields of rows, and the further columns."""
        fields = {name: field.texts(field.of_rows(rows)) for name, field in self._fields.items()}
        further = {name: pa.array(column) for name, column in self._columns(split, places).items()}
        return fields | further

    @cached_property
    def _user_table(self) -> pa.Table:
        return pq.read_table(self._dataset.file("users.parquet"), use_threads=False)

    @cached_property
    def _users(self) -> NDArray[np.int32]:
        users: NDArray[np.int32] = self._user_table["user"].to_numpy()
        return users

    @cached_property
    def _user_ids(self) -> pa.Array:
        return self._user_table["user_id"].combine_chunks()


class FieldTexts:
    """The raw values of a field of a data set."""

    def __init__(self, dataset: Dataset, spec: FieldSpec) -> None:
        self._dataset, self.spec = dataset, spec
        self._values = pa.array([None, "", *dataset.field_values(spec)], pa.string())

    def of_rows(self, rows: CtrSplit) -> NDArray[Any]:
        """The numbers or codes of R rows."""
        of_item = self.spec.scope == "item"
        column: NDArray[Any] = (
            self._dataset.item_field(self.spec)[rows.candidates] if of_item else rows.extras[self.spec.entry]
        )
        return column

    def texts(self, coded: NDArray[Any]) -> pa.Array:
        """The raw values of numbers or codes: numbers, texts, hashes, or lists of these; null where one is missing."""
        if self.spec.is_number:
            return pa.array(coded, mask=np.isnan(coded))
        codes = np.asarray(coded).reshape(-1, self.spec.width)
        there = codes != MISSING
        values = pa.array(codes[there]) if self.spec.hashed else self._values.take(pa.array(codes[there]))
        if self.spec.kind == "multi":
            ends = np.cumsum(there.sum(axis=1))
            return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), values)
        places = np.cumsum(there[:, 0]) - 1
        return values.take(pa.array(places, mask=~there[:, 0]))


def request_starts(rows: CtrSplit | SeqSplit) -> NDArray[np.int64]:
    """The rows int64[Q] where a request begins: where the user or the history is another one than in the row before."""
    starts = []
    for begin in range(0, len(rows), PIECE):
        first = max(0, begin - 1)  # the row before, to compare with
        piece = rows.take(np.arange(first, min(begin + PIECE, len(rows))))
        same = lists_as_before(piece.histories.values, piece.histories.offsets[:-1], piece.histories.lengths)
        same[1:] &= piece.users[1:] == piece.users[:-1]
        places = np.flatnonzero(~same) + first
        starts.append(places[places >= begin] if begin else places)
    return np.concatenate([np.zeros(0, np.int64), *starts])


def _lists(rows: Ragged, names: pa.Array) -> pa.Array:
    """Each history as the ids or the texts of its items."""
    return pa.ListArray.from_arrays(pa.array(rows.offsets, pa.int32()), names.take(pa.array(rows.values)))


def _write_table(path: Path, batches: Iterator[pa.RecordBatch], name: str, progress: Progress) -> None:
    writer: Any = None
    done = 0
    for batch in batches:
        shown = batch if path.suffix == ".parquet" else _with_json_lists(batch)
        if writer is None:
            write = pq.ParquetWriter if path.suffix == ".parquet" else pyarrow.csv.CSVWriter
            writer = write(path, shown.schema)
        writer.write_batch(shown)
        done += len(batch)
        progress(done, 0, f"rows of {name}")
    if writer is not None:
        writer.close()


def _with_json_lists(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        is_list = pa.types.is_list(column.type)
        texts = [msgspec.json.encode(value).decode() for value in column.to_pylist()] if is_list else None
        columns[name] = column if texts is None else pa.array(texts, pa.string())
    return pa.record_batch(columns)
