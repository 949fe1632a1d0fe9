"""A user's table in Parquet, CSV or JSON lines, as a Parquet file of typed columns that is read in pieces.

A Parquet table is read as it is. CSV and JSON lines are read twice: once to find the type of each column, once to
write a Parquet file in a scratch folder. Rows that cannot be read are counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rbserve.core.errors import DataError, UsageError
from rbserve.core.files import FULL, file_error
from rbserve.core.loss import is_too_much, loss_error
from rbserve.core.types import Progress, no_progress
from rbserve.data.csv_table import OTHER_FIELDS, csv_batches, csv_schema
from rbserve.data.json_table import NO_OBJECT, json_batches, json_schema
from rbserve.data.table_types import require_distinct

PIECE_ROWS, LIST_ROWS = 1 << 16, 1 << 11  # read at a time of a table without lists, and of one with lists
ADVICE = {
    OTHER_FIELDS: "quote fields that hold the delimiter",
    NO_OBJECT: 'JSON lines are one object a line, such as {"label": 1, "price": 2.5}',
}


class TextFormat(NamedTuple):
    """A format of text: the function that finds a file's schema, and the one that reads its rows."""

    name: str
    schema: Callable[[Path], pa.Schema]
    batches: Callable[[Path, pa.Schema, Counter[str]], Iterator[pa.RecordBatch]]


CSV = TextFormat("CSV", csv_schema, csv_batches)
JSON_LINES = TextFormat("JSON lines", json_schema, json_batches)
_FORMATS: dict[str, TextFormat | None] = {
    ".parquet": None, ".pq": None, ".jsonl": JSON_LINES, ".ndjson": JSON_LINES, ".json": JSON_LINES,
    ".csv": CSV, ".tsv": CSV, ".txt": CSV,
}  # fmt: skip
"""The format of a file by its suffix; None is Parquet."""


@dataclass(frozen=True)
class RequestTable:
    """A table: the file that the user named, the Parquet file it is read from, and its unreadable rows by reason."""

    source: Path
    file: Path
    schema: pa.Schema
    rows: int
    skipped: dict[str, int]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in pieces of at most PIECE_ROWS; DataError for a damaged file."""
        nested = any(pa.types.is_nested(kind) for kind in self.schema.types)
        rows = LIST_ROWS if nested else PIECE_ROWS
        with _readable(self.source, "Parquet"), pq.ParquetFile(self.file, memory_map=True) as file:
            for group in range(
                file.num_row_groups
            ):  # a reader of several keeps the memory of each until the end
                yield from file.iter_batches(rows, row_groups=[group], use_threads=False)


def open_table(source: Path, scratch: Path, progress: Progress = no_progress) -> RequestTable:
    """The table of a file, whose format its name says, else its content.

    DataError for a file that cannot be read, has no row, two columns of one name, or too many unreadable rows.
    """
    if not source.is_file():
        problem = "is a folder: name one file" if source.is_dir() else "is not there"
        raise UsageError(f"{source} {problem}", "a table of requests in Parquet, CSV or JSON lines")
    suffix = source.suffix.lower()
    form = _FORMATS[suffix] if suffix in _FORMATS else _form_of(source)
    skipped: Counter[str] = Counter()
    with _readable(source, form.name if form else "Parquet"):
        file = _write(form, source, scratch / "table.parquet", skipped, progress) if form else source
        with pq.ParquetFile(file) as parquet:
            table = RequestTable(source, file, parquet.schema_arrow, parquet.metadata.num_rows, dict(skipped))
    _check(table)
    return table


def _form_of(source: Path) -> TextFormat | None:
    with source.open("rb") as file:
        head = file.read(1024)
    return None if head[:4] == b"PAR1" else JSON_LINES if head.lstrip()[:1] == b"{" else CSV


def _write(form: TextFormat, source: Path, typed: Path, skipped: Counter[str], progress: Progress) -> Path:
    """Writes the rows of a text file to a Parquet file."""
    schema, done = form.schema(source), 0
    with pq.ParquetWriter(typed, schema, compression="lz4") as writer:
        for batch in form.batches(source, schema, skipped):
            writer.write_batch(batch)
            done += len(batch)
            progress(done, 0, "rows read")
    return typed


def _check(table: RequestTable) -> None:
    lost = sum(table.skipped.values())
    if is_too_much(lost, table.rows + lost):
        most = max(table.skipped, key=lambda reason: table.skipped[reason])
        causes = [f"{count:,} {reason}" for reason, count in table.skipped.items()]
        raise loss_error(table.source, lost, table.rows + lost, causes, ADVICE[most])
    require_distinct(table.source, table.schema.names)
    if not table.rows:
        raise DataError(f"{table.source} has no rows", "a table of requests has at least one")


@contextmanager
def _readable(source: Path, form: str) -> Iterator[None]:
    """Turns what Arrow and the system say of a file into one line."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise DataError(f"cannot read {source} as {form}: {reason}", "is it whole, and UTF-8?") from None
    except OSError as error:
        if error.errno in FULL:  # of the table that is written: a full disk
            raise file_error(error) from None
        raise DataError(f"cannot read {source}: {error.strerror or error}", "is it whole?") from None
