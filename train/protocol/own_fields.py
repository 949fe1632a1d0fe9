"""Writes the fields of a user's own tables into a data set, in bounded memory.

The vocabulary of a field of the items is of all items of the data set; that of a field of users or of the context is
of the users and the events of training rows. Memory holds the vocabularies, a piece of a table, and a byte an event.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.fields import FieldScope, FieldSpec
from rbserve.core.loss import is_too_much, loss_error
from rbserve.core.types import Items
from rbserve.data.columns import ColumnWriter, blocks, open_column
from rbserve.data.dataset import SPLITS
from rbserve.data.dataset_writer import DatasetWriter
from rbserve.features.coding import NO_NUMBER, FieldCoder, ValueCounts
from rbserve.train.protocol.tally import Tally

Tables = Iterator[dict[str, pa.Array]]
"""Pieces of a table: the columns of fields, by the fields' names."""


class FieldTables(typing.Protocol):
    """The raw values of a source's fields; `most_values` and `allow_loss` are those of `prepare`."""

    @property
    def specs(self) -> Sequence[FieldSpec]:
        """The fields, without sizes and widths."""
        ...

    @property
    def most_values(self) -> int:
        """Distinct values of a field above which its codes are hashes."""
        ...

    @property
    def allow_loss(self) -> bool:
        """Whether many texts that should be numbers are taken for missing values."""
        ...

    def of_items(self, items: Items) -> Tables:
        """The item fields of the given items, rising."""
        ...

    def of_users(self, users: NDArray[np.int32]) -> Tables:
        """The user fields of the given users, rising."""
        ...

    def of_events(self) -> Tables:
        """The context fields of all events, in the order of `Interactions.places`."""
        ...


class RowPlaces:
    """The event of the source that has the context of each click-prediction row, by split, in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._writers = [ColumnWriter(folder / f"place.{split}.npy", np.int64) for split in SPLITS]

    def add(self, split: int, places: NDArray[np.int64] | None) -> None:
        """Adds the places of rows of the split of this number."""
        if places is not None:
            self._writers[split].append(places)

    def close(self) -> None:
        """Makes the files readable."""
        for writer in self._writers:
            writer.close()

    def columns(self) -> list[NDArray[np.int64]]:
        """The places of the rows of each split, as memory maps."""
        return [open_column(writer.path) for writer in self._writers]


def write_fields(
    writer: DatasetWriter,
    tables: FieldTables,
    places: RowPlaces,
    items: Items,
    users: NDArray[np.int32],
    events: int,
    folder: Path,
    tally: Tally,
) -> None:
    """Writes the fields of `tables` for the item table's `items`, the `users` of users.parquet and all rows.

    `folder` is for temporary files. Raises DataError where too many values of a numeric field are no numbers.
    """
    trained = np.isin(users, writer.column("ctr/train", "user"))
    coders = [
        *_write_table(writer, _of(tables, "item"), tables, lambda: tables.of_items(items)),
        *_write_table(writer, _of(tables, "user"), tables, lambda: tables.of_users(users), trained),
        *_write_context(writer, tables, places.columns(), events, folder),
    ]
    by_name = {coder.spec.name: coder for coder in coders}
    for spec in tables.specs:
        coder = by_name[spec.name]
        _count_losses(coder, tables.allow_loss, tally)
        writer.add_field(coder.spec, coder.values)


def _of(tables: FieldTables, scope: FieldScope) -> list[FieldSpec]:
    return [spec for spec in tables.specs if spec.scope == scope]


def _write_table(
    writer: DatasetWriter,
    specs: Sequence[FieldSpec],
    tables: FieldTables,
    read: typing.Callable[[], Tables],
    counted: NDArray[np.bool_] | None = None,
) -> list[FieldCoder]:
    """Writes fields of a table that has a row an item or a user; the rows `counted` make the vocabularies."""
    if not specs:
        return []
    coders = _coders(specs, read(), tables.most_values, counted)
    _code(coders, read(), [writer.field_writer(coder.spec) for coder in coders])
    return coders


def _write_context(
    writer: DatasetWriter,
    tables: FieldTables,
    places: Sequence[NDArray[np.int64]],
    events: int,
    folder: Path,
) -> list[FieldCoder]:
    """Writes the context fields of all rows: every event is coded once, and looked up by the rows that have it."""
    specs = _of(tables, "context")
    if not specs:
        return []
    in_training = np.zeros(events, bool)
    for block in blocks(places[SPLITS.index("train")]):
        in_training[block] = True
    coders = _coders(specs, tables.of_events(), tables.most_values, in_training)
    files = [folder / f"field.{number}.npy" for number in range(len(coders))]
    kinds = [np.float32 if coder.spec.is_number else np.int32 for coder in coders]
    columns: list[Any] = [ColumnWriter(file, kind) for file, kind in zip(files, kinds, strict=True)]
    _code(coders, tables.of_events(), columns)
    for coder, file in zip(coders, files, strict=True):
        coded = open_column(file).reshape(-1, coder.spec.width)
        for split, rows in zip(SPLITS, places, strict=True):
            with closing(writer.field_writer(coder.spec, split)) as column:
                for block in blocks(rows):
                    column.append(coded[block])
    return coders


def _coders(
    specs: Sequence[FieldSpec], table: Tables, most_values: int, counted: NDArray[np.bool_] | None
) -> list[FieldCoder]:
    """The coder of each field, made of the values in the rows that count."""
    counts = [ValueCounts(spec, most_values) for spec in specs]
    done = 0
    for piece in table:
        rows = len(piece[specs[0].name])
        chosen = None if counted is None else pa.array(counted[done : done + rows])
        done += rows
        for spec, values in zip(specs, counts, strict=True):
            column = piece[spec.name]
            values.add(column if chosen is None else column.filter(chosen))
    return [values.coder() for values in counts]


def _code(coders: Sequence[FieldCoder], table: Tables, columns: Sequence[ColumnWriter]) -> None:
    """Writes the codes of a table's fields to a column each."""
    with ExitStack() as files:
        for column in columns:
            files.enter_context(closing(column))
        for piece in table:
            for coder, column in zip(coders, columns, strict=True):
                column.append(coder.column(piece[coder.spec.name]))


def _count_losses(coder: FieldCoder, allow_loss: bool, tally: Tally) -> None:
    """Counts values that are no numbers and categories that were cut off; DataError for too many of the former."""
    spec, counts = coder.spec, coder.counts
    present = counts.rows - counts.missing + counts.malformed
    if is_too_much(counts.malformed, present) and not allow_loss:
        raise loss_error(
            f"feature {spec.name}",
            counts.malformed,
            present,
            [f"{counts.malformed:,} values are no numbers, for example {counts.example!r}"],
            f"without :numeric {spec.name} is a category; --allow-loss takes these values for missing ones",
        )
    if counts.malformed:
        tally.repaired[f"{spec.name}: {NO_NUMBER}"] += counts.malformed
    if counts.cut:
        tally.repaired[f"{spec.name}: category beyond the {spec.width} of a row that are kept"] += counts.cut
    if spec.size == 2 and not spec.is_number:
        raise DataError(
            f"feature {spec.name} has no value in any row", "leave it out, or name another column"
        )
