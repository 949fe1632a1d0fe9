"""A user's own data: an interactions table and an items table, as CSV, TSV or Parquet, columns named by options.

Interactions: a user, an item, and as far as there are any a time, a label (1 or 0, true or false) or a
rating. Items: an id and a text. Without a time, rows stand in time order. Without label and rating, every row
is a like and negatives are sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rbserve.core.errors import DataError, UsageError
from rbserve.train.datasets.columns import column_places
from rbserve.train.datasets.reading import csv_records, items, lines, locate
from rbserve.train.datasets.source import NEITHER, Reading, Source, in_file_order, rating_label
from rbserve.train.datasets.workspace import BATCH, Workspace
from rbserve.train.tally import Tally

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
LABEL = """coalesce(try_cast(try_cast({0} as boolean) as tinyint),
    case try_cast({0} as double) when 1 then 1 when 0 then 0 end)"""  # pandas writes 1.0 where others are missing


def load(raw: Path, work: Workspace, reading: Reading) -> None:
    """Puts both tables into the workspace."""
    catalogue = reading.items or locate(raw, *(f"items{suffix}" for suffix in SUFFIXES))
    interactions = reading.interactions or locate(raw, *(f"interactions{suffix}" for suffix in SUFFIXES))
    if reading.label and reading.rating:
        raise UsageError("give either --label or --rating, not both")
    key = (reading.item_key or reading.item, reading.text)
    if catalogue.suffix == ".parquet":
        records: Iterator[tuple[str | None, str | None]] = _parquet_records(catalogue, key)
    else:
        delimiter = reading.delimiter or _delimiter(catalogue)
        records = csv_records(catalogue, key, work.tally, delimiter)  # type: ignore[assignment]
    work.add_items(items(records, work.tally))
    roles = {"user": reading.user, "item": reading.item, "time": reading.time, "label": reading.label,
             "rating": reading.rating}  # fmt: skip
    columns = {role: column for role, column in roles.items() if column is not None}
    if interactions.suffix == ".parquet":
        relation = work.parquet(interactions, columns)
    else:
        relation = work.delimited(
            interactions, columns, reading.delimiter or _delimiter(interactions), quoted=True
        )
    if reading.time is None:
        relation, time = in_file_order(relation), "position"
    else:
        relation = work.table("interactions", relation, interactions)
        time = _time(work, relation, reading.time, interactions)
    label = "1"
    if reading.label:
        label = LABEL.format('"label"')
    elif reading.rating:
        label = rating_label("rating", reading)
    work.add_events(
        relation, interactions, user='"user"', item="item", label=label, time=time, neither=NEITHER
    )


def _time(work: Workspace, relation: str, column: str, path: Path) -> str:
    """SQL for the time: whole numbers, numbers, or dates and timestamps, whichever most rows are."""
    kinds = {
        'try_cast("time" as bigint)': "whole numbers",
        'try_cast(try_cast("time" as double) * 1000000 as bigint)': "numbers",
        'epoch_us(try_cast("time" as timestamptz))': "dates",
    }
    counts = work.count_values(relation, list(kinds))
    best = max(counts, key=lambda kind: counts[kind])  # of equals the first
    if not counts[best]:
        raise DataError(
            f"the column {column!r} of {path} holds no time", "numbers, or dates such as 2024-05-01 12:30:00"
        )
    return best


def _parquet_records(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str | None, str | None]]:
    try:
        with pq.ParquetFile(path) as file:
            column_places(path, columns, file.schema_arrow.names, "--items-id and --text name its columns")
            for batch in file.iter_batches(batch_size=BATCH, columns=list(dict.fromkeys(columns))):
                texts = (batch[name].cast(pa.string()).to_pylist() for name in columns)
                yield from zip(*texts, strict=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file: {str(error).splitlines()[0]}") from None


def _delimiter(path: Path) -> str:
    """A comma or a tab, whichever the first line has more of."""
    first = next(lines(path, Tally()), "")
    return "\t" if first.count("\t") > first.count(",") else ","


def _source(kind: str) -> Source:
    return Source(
        about=f"your own {kind}: an interactions and an items table, columns named by options",
        load=load,
        needs="--interactions and --items, or a folder (--raw) with interactions.* and items.*",
        own=True,
    )


CSV = _source("CSV or TSV")
PARQUET = _source("Parquet")
