"""A table of items alone, as `rbserve items` takes it: CSV, TSV or Parquet, read as `prepare csv` reads its items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rbserve.train.datasets import tables
from rbserve.train.datasets.reading import csv_records, items
from rbserve.train.tally import Tally


def read_items(
    path: Path, item: str, text: str, tally: Tally, delimiter: str | None = None
) -> Iterator[tuple[str, str]]:
    """The id and the clean text of every row that has both; the others are counted."""
    return items(_records(path, (item, text), tally, delimiter), tally)


def read_ids(path: Path, item: str, delimiter: str | None = None) -> list[str]:
    """The ids in a table's column."""
    records = _records(path, (item,), Tally(), delimiter)
    return [name for value, *_ in records if (name := (value or "").strip())]


def _records(
    path: Path, columns: Sequence[str], tally: Tally, delimiter: str | None
) -> Iterator[Sequence[str | None]]:
    if path.suffix == ".parquet":
        yield from tables._parquet_records(path, (columns[0], columns[-1]))
    else:
        yield from csv_records(path, columns, tally, delimiter or tables._delimiter(path))
