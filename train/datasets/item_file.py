"""Reads a table of items for `prepare` and `rbserve items`: CSV, TSV, JSON lines or Parquet, in one file or parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rbserve.core.ids import id_text
from rbserve.train.datasets.delimited import csv_records, find_dialect
from rbserve.train.datasets.formats import open_table
from rbserve.train.datasets.options import Format, Quotes
from rbserve.train.datasets.parquet import text_batches
from rbserve.train.datasets.reading import items, json_records
from rbserve.train.protocol.tally import Tally


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
    return items(_records(path, (item, text), tally, format, delimiter, quotes, encoding), tally)


def read_ids(path: Path, item: str, delimiter: str | None = None) -> list[str]:
    """The ids in a table's column."""
    records = _records(path, (item,), Tally(), None, delimiter)
    return [name for value, *_ in records if (name := id_text(value))]


def _records(
    path: Path,
    columns: Sequence[str],
    tally: Tally,
    format: Format | None,
    delimiter: str | None,
    quotes: Quotes = "auto",
    encoding: str | None = None,
) -> Iterator[Sequence[str | None]]:
    """The named columns of every row as text."""
    table = open_table(path, format)
    if table.format == "parquet":
        roles = dict(zip(("item", "text"), columns, strict=False))
        for batch in text_batches(table.parts, roles):
            yield from zip(*(column.to_pylist() for column in batch.values()), strict=True)
        return
    for part in table.parts:
        if table.format == "json":
            yield from json_records(part, columns, tally)
        else:
            yield from csv_records(part, columns, tally, find_dialect(part, delimiter, quotes, encoding))
