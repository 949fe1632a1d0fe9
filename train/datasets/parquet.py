"""Parquet tables as batches of text: any column type, one file or a folder of parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rbserve.core.errors import DataError
from rbserve.core.fields import FieldSpec
from rbserve.core.ids import column_text, lost_digits
from rbserve.features.coding import field_text
from rbserve.train.datasets.columns import column_places

BATCH = 50_000
BUFFER = 1 << 20
IDS = ("user", "item")
NO_FIELDS: Mapping[str, FieldSpec] = {}


def text_batches(
    parts: Sequence[Path],
    wanted: Mapping[str, str],
    at_most: int = 0,
    fields: Mapping[str, FieldSpec] = NO_FIELDS,
) -> Iterator[dict[str, pa.Array]]:
    """Batches of about `BATCH` rows of all parts, at most `at_most` rows (0: all): each role's column as strings.

    `fields` are the roles whose columns are fields: of several categories lists too, as JSON. Raises DataError for a
    file that is no Parquet, lacks a column or has two of its name, for another column of lists, and for an id (roles
    `IDS`) that is a float and has lost digits.
    """
    left = at_most
    for part in parts:
        for batch in _batches(part, wanted):
            rows = batch.slice(0, left) if at_most else batch
            yield {
                role: _text(part, name, rows[name], role in IDS, fields.get(role))
                for role, name in wanted.items()
            }
            left -= len(rows)
            if at_most and not left:
                return


def list_batches(parts: Sequence[Path], user: str, items: str) -> Iterator[dict[str, pa.Array]]:
    """Batches of a column of lists, an item a row: user, item, and `back`, the item's place from the end, from 1.

    Raises DataError as `text_batches` does, and for a column that holds no lists.
    """
    wanted = {"user": user, "item": items}
    for part in parts:
        for batch in _batches(part, wanted):
            lists = batch[items]
            if not pa.types.is_nested(lists.type) or pa.types.is_struct(lists.type):
                raise DataError(
                    f"{part}: the column {items!r} holds {lists.type}, not lists of items",
                    "--histories-items names the column of lists",
                )
            owners, lengths = pc.list_parent_indices(lists), pc.list_value_length(lists).drop_null()
            ends = np.repeat(np.cumsum(lengths), lengths)
            yield {
                "user": _text(part, user, batch[user].take(owners), True),
                "item": _text(part, items, pc.list_flatten(lists), True),
                "back": pa.array(ends - np.arange(len(ends)), pa.int64()),
            }


def count_rows(parts: Sequence[Path]) -> int:
    """The number of rows of all parts, from their footers."""
    return sum(_open(part).metadata.num_rows for part in parts)


def _batches(part: Path, wanted: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
    try:
        with _open(part) as file:
            column_places(part, wanted, file.schema_arrow.names)
            yield from file.iter_batches(BATCH, columns=list(set(wanted.values())), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(part, error) from None


def _open(part: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(part, pre_buffer=False, buffer_size=BUFFER)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(part, error) from None


def _unreadable(part: Path, error: Exception) -> DataError:
    return DataError(f"{part} is no readable Parquet file: {str(error).splitlines()[0]}", "fetch it again")


def _text(part: Path, name: str, column: pa.Array, is_id: bool, field: FieldSpec | None = None) -> pa.Array:
    try:
        large = lost_digits(column) if is_id else None
        text = field_text(field, column) if field else column_text(column)
    except (ValueError, pa.ArrowException) as error:
        hint = (
            f"each row must hold one value; a feature of lists is named {name}:multi"
            if field
            else "each row must hold one value; a list of items a user is read by --histories"
        )
        raise DataError(f"{part}: the column {name!r} {error}", hint) from None
    if large:
        raise DataError(
            f"{part}: the column {name!r} holds the id {large} as a float, which cannot hold so many digits",
            "write ids as whole numbers or as text; pandas' Int64 has room for gaps",
        )
    return text
