"""Delimited text files as records: one definition of record, header and quotation mark for every file.

A field that begins with a quotation mark ends with the next one that is not doubled, and may hold delimiters and line
ends. A quotation mark within another field is a character like any other. Lines end with \\n or \\r\\n; blank lines
are skipped. Records that do not fit are repaired and counted, dropped and counted, or refused:

- text behind a closing quotation mark: `\\"` is read as a quotation mark, or the line is read without quoting
- a record over several lines is counted; if its further lines look like records, its quotation mark may be a
  mere character: an error asks for `quotes="csv"` or `"literal"`
- a quotation mark that is never closed is an error

Chunks on which all CSV parsers agree are read by pyarrow, others line by line by the csv module;
`tests/train/test_delimited.py` proves both equal.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from rbserve.core.errors import DataError
from rbserve.train.datasets.columns import column_places
from rbserve.train.datasets.options import Dialect, Quotes
from rbserve.train.datasets.raw_file import LONGEST_LINE, LOST_LETTERS, NUL, open_utf8
from rbserve.train.datasets.record_lines import (
    BYTE_ORDER_MARK,
    LONGEST_RECORD,
    ChunkLines,
    Chunks,
    OpenRecordError,
    is_blank,
    quoted_record,
    without_end,
)
from rbserve.train.protocol.tally import Tally

CHUNK = 1 << 20  # bytes read at a time, then to the end of the line
SHOWN = 80  # characters of a line in an error message
QUOTE, NEWLINE, RETURN = b'"\n\r'


COMMAS, PLAIN_TABS = Dialect(",", "csv"), Dialect("\t", "literal")


class ReasonNames(NamedTuple):
    """The names of a reader's counts. `undecodable` None: rows with undecodable letters are kept."""

    fields: str
    several_lines: str
    nul: str
    undecodable: str | None


EVENTS = ReasonNames(
    fields="row with another number of fields, or no JSON object",
    several_lines="record over several lines",
    nul="row with NUL characters",
    undecodable="row that is not UTF-8",
)
ITEMS = ReasonNames(
    fields="item row with another number of fields",
    several_lines="item record over several lines",
    nul=NUL,
    undecodable=None,
)


USERS = ReasonNames(
    fields="user row with another number of fields",
    several_lines="user record over several lines",
    nul=NUL,
    undecodable=None,
)


class DelimitedFile:
    """The records of a file. `names` are its columns: the first record, or `header` for a file without one.

    At most `max_rows` records are read, 0 for all. Raises `DataError` for a file that is empty, cannot be read, or has
    a quotation mark that is never closed or ambiguous (see above).
    """

    def __init__(
        self,
        path: Path,
        dialect: Dialect,
        tally: Tally,
        reasons: ReasonNames = EVENTS,
        header: Sequence[str] | None = None,
        max_rows: int = 0,
        chunk: int = CHUNK,
    ) -> None:
        self.path, self.dialect, self.tally, self.reasons = path, dialect, tally, reasons
        self._max_rows, self._chunk = max_rows, chunk
        self._has_header = header is None
        self._quoted = dialect.quotes != "literal"
        self._several_lines = ""
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
        self.names = list(header) if header is not None else self._read_header()

    def batches(self, places: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """The records of the right width as text columns: of the given places 0, 2, … the columns c0, c2, …."""
        places = sorted(set(places))
        left = self._max_rows
        with open_utf8(self.path, self.dialect.encoding) as stream:
            text = Chunks(self.path, stream, self._chunk, self.tally)
            if self._has_header:
                self._skip_header(text)
            while chunk := text.next():
                lines = chunk.count(b"\n") + 1
                if (not self._max_rows or lines <= left) and self._is_plain(chunk):
                    batch, count = self._parse_plain(chunk, places)
                    text.line += chunk.count(b"\n")
                else:
                    rows, count = self._parse(text, chunk, left)
                    batch = _batch([row for row in rows if row], places)
                if batch.num_rows:
                    yield batch
                left -= count
                if self._max_rows and left <= 0:
                    return

    # By the csv module, a record at a time

    def _read_header(self) -> list[str]:
        with open_utf8(self.path, self.dialect.encoding) as stream:
            return self._skip_header(Chunks(self.path, stream, self._chunk, Tally()))

    def _skip_header(self, text: Chunks) -> list[str]:
        while chunk := text.next():
            lines = ChunkLines(chunk, text.line)
            while lines.place < len(lines.texts):
                if is_blank(lines.texts[lines.place]):
                    lines.skip(1)
                    continue
                fields, used = self._record(lines, text.at_end, width=0)
                if not used:
                    break
                lines.skip(used)
                text.push_back(lines)
                return [name.strip() for name in fields]
            text.push_back(lines)
        raise DataError(f"{self.path} is empty", "fetch the file again")

    def _parse(self, text: Chunks, chunk: bytes, most: int) -> tuple[list[list[str]], int]:
        """The records of the chunk and their number; a record that continues behind the chunk is put back."""
        lines = ChunkLines(chunk, text.line)
        rows: list[list[str]] = []
        count = 0
        while lines.place < len(lines.texts) and (not self._max_rows or count < most):
            if is_blank(lines.texts[lines.place]):
                lines.skip(1)
                continue
            fields, used = self._record(lines, text.at_end, len(self.names))
            if not used:
                break
            rows.append(self._check(fields, lines, used))
            count += 1
            lines.skip(used)
        text.push_back(lines)
        return rows, count

    def _record(self, lines: ChunkLines, at_end: bool, width: int) -> tuple[list[str], int]:
        """The fields of the next record and its number of lines, 0 if it continues behind the last line."""
        line = lines.texts[lines.place]
        delimiter = self.dialect.delimiter
        if not self._quoted or '"' not in line:
            return without_end(line).split(delimiter), 1
        try:
            fields, used = quoted_record(lines.texts, lines.place, delimiter)
        except OpenRecordError as still_open:
            if still_open.lines < LONGEST_RECORD and not at_end:
                return [], 0
            raise self._not_closed(lines.number) from None
        except csv.Error as error:
            if "limit" in str(error):
                raise DataError(f"{self.path}, line {lines.number}: {error}") from None
            return self._stray(lines, at_end, width)
        if used > 1 and width:
            self._check_lines(lines, used, width)
        return fields, used

    def _stray(self, lines: ChunkLines, at_end: bool, width: int) -> tuple[list[str], int]:
        """Reads a record with text behind a closing quotation mark: with \\" as a quotation mark, or unquoted."""
        line = lines.texts[lines.place]
        where = f"line {lines.number}: {line[:SHOWN].rstrip()}"
        if '\\"' in line:
            try:
                fields, used = quoted_record(
                    lines.texts, lines.place, self.dialect.delimiter, lambda line: line.replace('\\"', '""')
                )
            except OpenRecordError as still_open:
                if still_open.lines < LONGEST_RECORD and not at_end:
                    return [], 0
            except csv.Error:
                pass
            else:
                if len(fields) == width:
                    self.tally.mend('row with \\" for a quotation mark', where)
                    return fields, used
        fields = without_end(line).split(self.dialect.delimiter)
        if len(fields) == width:
            self.tally.mend("row with a stray quotation mark, read as it stands", where)
        return fields, 1

    def _check_lines(self, lines: ChunkLines, used: int, width: int) -> None:
        """Counts a record over several lines; refuses one whose further lines are records by themselves."""
        further = lines.texts[lines.place + 1 : lines.place + used]
        alike = sum(line.count(self.dialect.delimiter) == width - 1 for line in further)
        last = lines.number + used - 1
        if self.dialect.quotes == "auto" and 2 * alike > len(further):
            raise DataError(
                f"{self.path}, lines {lines.number} to {last}: one record with a quoted field over {used} lines, "
                "or a record a line with quotation marks that are only signs?",
                "--quotes csv for the first, --quotes literal for the second",
            )
        self._several_lines = (
            self._several_lines or f"{self.reasons.several_lines}, the first at line {lines.number}"
        )
        self.tally.repaired[self._several_lines] += 1

    def _check(self, fields: list[str], lines: ChunkLines, used: int) -> list[str]:
        """The fields; none if the record is dropped, which is counted."""
        first = lines.texts[lines.place]
        where = f"line {lines.number}: {first[:SHOWN].rstrip()}"
        lost = lines.lost and any(place in lines.lost for place in range(lines.place, lines.place + used))
        if lost and self.reasons.undecodable:
            self.tally.drop(self.reasons.undecodable, where)
            return []
        if lost:
            self.tally.mend(LOST_LETTERS, where)
        if lines.nul and any(place in lines.nul for place in range(lines.place, lines.place + used)):
            self.tally.mend(self.reasons.nul, where)
        if len(fields) != len(self.names):
            self.tally.drop(self.reasons.fields, where)
            return []
        return [field.replace("\0", "\r") for field in fields] if lines.returns else fields

    def _not_closed(self, line: int) -> DataError:
        return DataError(
            f"{self.path}, line {line}: a quotation mark is not closed",
            'within a quoted field a quotation mark is written twice: "a 12"" record"; '
            "--quotes literal where quotation marks are only signs",
        )

    # By pyarrow, where all parsers agree

    def _is_plain(self, chunk: bytes) -> bool:
        """Whether every line is a record of its own with unambiguous quotation marks."""
        if not self.dialect.delimiter.isascii() or chunk.startswith(BYTE_ORDER_MARK) or b"\0" in chunk:
            return False
        if b"\r" in chunk and chunk.count(b"\r") != chunk.count(b"\r\n"):
            return False
        try:
            chunk.decode()
        except UnicodeDecodeError:
            return False
        if not self._quoted or b'"' not in chunk:
            return True
        return _is_well_quoted(np.frombuffer(chunk, np.uint8), ord(self.dialect.delimiter))

    def _parse_plain(self, chunk: bytes, places: Sequence[int]) -> tuple[pa.RecordBatch, int]:
        """The records of the right width, and the number of all records."""
        dropped = 0

        def drop(row: pyarrow.csv.InvalidRow) -> str:
            nonlocal dropped
            dropped += 1
            self.tally.drop(self.reasons.fields, str(row.text)[:SHOWN])
            return "skip"

        names = [f"c{place}" for place in range(len(self.names))]
        wanted = [names[place] for place in places]
        if not chunk.strip(b"\r\n"):
            return _batch([], places), 0
        table = pyarrow.csv.read_csv(
            io.BytesIO(chunk),
            pyarrow.csv.ReadOptions(use_threads=False, block_size=len(chunk) + 1, column_names=names),
            pyarrow.csv.ParseOptions(
                delimiter=self.dialect.delimiter,
                quote_char='"' if self._quoted else False,
                invalid_row_handler=drop,
            ),
            pyarrow.csv.ConvertOptions(
                check_utf8=False, column_types=dict.fromkeys(names, pa.string()), include_columns=wanted
            ),
        )
        (batch,) = table.combine_chunks().to_batches() or [_batch([], places)]
        return batch, len(table) + dropped


def delimiter_of(path: Path, encoding: str | None = None) -> str:
    """The more frequent of comma and tab in the first line, outside quoted fields; a comma if it has neither."""
    first = DelimitedFile(path, Dialect("\x1f", "literal", encoding), Tally()).names[0]
    return max(",\t", key=re.sub('"[^"]*"', "", first).count)


def find_dialect(
    path: Path, delimiter: str | None = None, quotes: Quotes = "auto", encoding: str | None = None
) -> Dialect:
    """The dialect of a user's file, by the options; without a delimiter, the one that the file has."""
    return Dialect(delimiter or delimiter_of(path, encoding), quotes, encoding)


def csv_records(
    path: Path,
    columns: Sequence[str],
    tally: Tally,
    dialect: Dialect = COMMAS,
    header: Sequence[str] | None = None,
    reasons: ReasonNames = ITEMS,
) -> Iterator[tuple[str, ...]]:
    """The named `columns` of every record of a file of items or users, as text, in the order of their names.

    `header` names the columns of a file without a header line. Raises `DataError` as `DelimitedFile` does, and for a
    column that is missing or ambiguous.
    """
    file = DelimitedFile(path, dialect, tally, reasons, header)
    hint = f"columns are separated by {dialect.delimiter!r} and named as they are in the file"
    places = column_places(path, columns, file.names, hint)
    for batch in file.batches(list(places.values())):
        texts = {name: batch.column(f"c{place}").to_pylist() for name, place in places.items()}
        yield from zip(*(texts[name] for name in columns), strict=True)


def _is_well_quoted(signs: np.ndarray, delimiter: int) -> bool:
    """Whether quotation marks open behind a delimiter or line end, close before one, and are doubled within."""
    quotes = np.flatnonzero(signs == QUOTE)
    if len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    before = np.where(opening > 0, signs[opening - 1], NEWLINE)
    after = np.where(closing < len(signs) - 1, signs[np.minimum(closing + 1, len(signs) - 1)], NEWLINE)
    if not np.isin(before, (delimiter, NEWLINE, QUOTE)).all():
        return False
    if not np.isin(after, (delimiter, NEWLINE, RETURN, QUOTE)).all():
        return False
    ends = np.searchsorted(quotes, np.flatnonzero(signs == NEWLINE))
    return bool((ends % 2 == 0).all())


def _batch(rows: Sequence[Sequence[str]], places: Sequence[int]) -> pa.RecordBatch:
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in places]
    return pa.RecordBatch.from_arrays(columns, names=[f"c{place}" for place in places])
