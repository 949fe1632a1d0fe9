"""Reads tables of items and users: CSV, TSV, JSON lines or Parquet, in one file or parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rbserve.core.fields import FieldSpec
from rbserve.core.ids import id_text
from rbserve.train.datasets.delimited import ITEMS, USERS, csv_records, find_dialect
from rbserve.train.datasets.formats import open_table
from rbserve.train.datasets.options import Format, Quotes
from rbserve.train.datasets.parquet import NO_FIELDS, text_batches
from rbserve.train.datasets.reading import item_rows, items, json_records
from rbserve.train.protocol.tally import Tally


@dataclass(frozen=True)
class TableStyle:
    """How a table is written, where that is not found by its content."""

    delimiter: str | None = None
    format: Format | None = None
    quotes: Quotes = "auto"
    encoding: str | None = None


def read_items(
    path: Path,
    item: str,
    text: str,
    tally: Tally,
    delimiter: str | None = None,
    format: Format | None = None,
    quotes: Quotes = "auto",
    encoding: str | None = None,
) -> Iterator[tuple[str, str]]:
    """The id and the clean text of every row that has both; other rows are counted in `tally`."""
    return items(_records(path, (item, text), tally, TableStyle(delimiter, format, quotes, encoding)), tally)


def read_item_fields(
    path: Path, item: str, text: str, fields: Mapping[str, FieldSpec], tally: Tally, style: TableStyle
) -> Iterator[Sequence[str | None]]:
    """The id, the clean text and the values of `fields` of every row that has id and text."""
    return item_rows(_records(path, (item, text), tally, style, fields), tally)


def read_user_fields(
    path: Path, user: str, fields: Mapping[str, FieldSpec], tally: Tally, style: TableStyle
) -> Iterator[Sequence[str | None]]:
    """The id and the values of `fields` of every row that has an id; other rows are counted in `tally`."""
    for value, *values in _records(path, (user,), tally, style, fields, "user"):
        if name := id_text(value):
            yield (name, *values)
        else:
            tally.dropped["user row without id"] += 1


def read_ids(path: Path, item: str, delimiter: str | None = None) -> list[str]:
    """The ids in a table's column."""
    records = _records(path, (item,), Tally(), TableStyle(delimiter))
    return [name for value, *_ in records if (name := id_text(value))]


def _records(
    path: Path,
    columns: Sequence[str],
    tally: Tally,
    style: TableStyle,
    fields: Mapping[str, FieldSpec] = NO_FIELDS,
    table: str = "item",
) -> Iterator[Sequence[str | None]]:
    """The named columns of every row as text, and behind them the values of the fields."""
    source = open_table(path, style.format)
    names = [*columns, *(spec.name for spec in fields.values())]
    if source.format == "parquet":
        roles = dict(zip((*("item", "text")[: len(columns)], *fields), names, strict=True))
        for batch in text_batches(source.parts, roles, fields=fields):
            yield from zip(*(batch[role].to_pylist() for role in roles), strict=True)
        return
    reasons = ITEMS if table == "item" else USERS
    for part in source.parts:
        if source.format == "json":
            yield from json_records(part, names, tally, len(columns), table)
        else:
            dialect = find_dialect(part, style.delimiter, style.quotes, style.encoding)
            yield from csv_records(part, names, tally, dialect, reasons=reasons)
