"""A table in CSV, read twice: to find the type of each column, and to convert its texts.

A column is of whole numbers, else of numbers, else of true and false, else of lists in JSON, else of texts: the first
that all its values are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from rbserve.core.errors import DataError
from rbserve.data.json_table import parse_lines
from rbserve.data.table_types import joined_type, known_type, plain_type, require_distinct

PIECE_BYTES = 1 << 22
NO_VALUE = ("", "NA", "N/A", "#N/A", "null", "NULL", "None", "nan", "NaN")
"""How CSV files write that a number is not there."""
OTHER_FIELDS = "rows with another number of fields"


def csv_schema(source: Path) -> pa.Schema:
    """The columns of a CSV file, which its first line names, and their types."""
    kinds: list[pa.DataType] = []
    names: list[str] = []
    for batch in _text_batches(source, Counter()):
        names = batch.schema.names
        kinds = kinds or [pa.null()] * len(names)
        kinds = [_widened(kind, column) for kind, column in zip(kinds, batch.columns, strict=True)]
    return pa.schema(list(zip(names, (known_type(kind) for kind in kinds), strict=True)))


def csv_batches(source: Path, schema: pa.Schema, skipped: Counter[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV file as values of a schema; rows with another number of fields are counted as skipped."""
    for batch in _text_batches(source, skipped):
        columns = [_converted(column, kind) for column, kind in zip(batch.columns, schema.types, strict=True)]
        yield pa.record_batch(columns, schema=schema)


def _text_batches(source: Path, skipped: Counter[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV file, every column as texts."""
    with source.open("rb") as file:
        header = file.readline().decode("utf-8-sig")
    delimiter = max(",\t;|", key=header.count)
    names = _csv_names(source, header, delimiter)

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        del row
        skipped[OTHER_FIELDS] += 1
        return "skip"

    reader = pyarrow.csv.open_csv(
        source,
        pyarrow.csv.ReadOptions(use_threads=False, block_size=PIECE_BYTES, column_names=names, skip_rows=1),
        pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )
    yield from reader


def _csv_names(source: Path, header: str, delimiter: str) -> list[str]:
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
    if not header.strip():
        raise DataError(f"{source} has no rows", "its first line has the names of the columns")
    named = pyarrow.csv.read_csv(BytesIO(header.encode()), parse_options=parse)
    names = [name.strip() for name in named.column_names]
    require_distinct(source, names)
    return names


def _widened(kind: pa.DataType, texts: pa.Array) -> pa.DataType:
    """The type of a column whose values so far were of `kind`, with more of them."""
    if pa.types.is_string(kind) or (kind in _SCALARS and _fits(texts, kind)):
        return kind
    return joined_type(kind, _type_of(texts))


def _type_of(texts: pa.Array) -> pa.DataType:
    """The narrowest type that all values of a column of texts are of."""
    values = _without_missing(texts)
    if not len(values):
        return pa.null()
    for kind in _SCALARS:
        if _fits(values, kind):
            return kind
    return _list_type(values) if pc.all(pc.starts_with(values, "[")).as_py() else pa.string()


_SCALARS = (pa.int64(), pa.float64(), pa.bool_())
_PADDED = "^[+-]?0[0-9]+$"  # 007 is an id and not the number 7


def _fits(texts: pa.Array, kind: pa.DataType) -> bool:
    values = _without_missing(texts)
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return pa.types.is_boolean(kind) or not pc.any(pc.match_substring_regex(values, _PADDED)).as_py()


def _without_missing(texts: pa.Array) -> pa.Array:
    values = pc.ascii_trim_whitespace(texts)
    return values.filter(pc.invert(pc.is_in(values, pa.array(NO_VALUE))))


def _list_type(texts: pa.Array) -> pa.DataType:
    try:
        return plain_type(_lists(texts, None).type)
    except pa.ArrowInvalid:
        return pa.string()


def _lists(texts: pa.Array, kind: pa.DataType | None) -> pa.Array:
    """The lists that texts are in JSON; of the type `kind`, where it is given."""
    lines = pc.binary_join_element_wise('{"list":', texts, "}", "").to_pylist()
    schema = pa.schema([("list", kind)]) if kind else None
    return parse_lines("\n".join(lines).encode(), schema).column("list").combine_chunks()


def _converted(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Texts of CSV as values of a type; null where a number or a list is not there."""
    if pa.types.is_string(kind):
        return texts
    values = pc.ascii_trim_whitespace(texts)
    absent = pc.is_in(values, pa.array(NO_VALUE))
    if pa.types.is_list(kind):
        return _lists(pc.if_else(absent, "null", values), kind)
    return pc.if_else(absent, pa.scalar(None, pa.string()), values).cast(kind)
