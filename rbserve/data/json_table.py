"""A table in JSON lines, an object a line, read twice: to find the type of each column, and to read its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.json

from rbserve.core.errors import DataError
from rbserve.data.table_types import known_type, plain_type

PIECE_BYTES = 1 << 22
NO_OBJECT = "rows that are no JSON object"


class _AnyObject(msgspec.Struct):
    """Any JSON object: its keys are skipped."""


def json_schema(source: Path) -> pa.Schema:
    """The columns of all lines and their types; DataError for a column that holds values of several kinds."""
    schema = pa.schema([])
    for piece in _pieces(source):
        schema = _unified(source, schema, _table(source, piece, None, Counter()).schema)
    return pa.schema([(field.name, known_type(field.type)) for field in schema])


def json_batches(source: Path, schema: pa.Schema, skipped: Counter[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file as values of a schema; lines that are no objects are counted as skipped."""
    for piece in _pieces(source):
        yield from _table(source, piece, schema, skipped).to_batches()


def _pieces(source: Path) -> Iterator[bytes]:
    """The whole lines of a file, about PIECE_BYTES at a time."""
    with source.open("rb") as file:
        while lines := file.readlines(PIECE_BYTES):
            yield b"".join(lines)


def _table(source: Path, piece: bytes, schema: pa.Schema | None, skipped: Counter[str]) -> pa.Table:
    """The objects of a piece of lines; lines that are none are counted as skipped."""
    try:
        return parse_lines(piece, schema)
    except pa.ArrowInvalid:
        lines = [line for line in piece.splitlines() if line.strip()]
        objects = [line for line in lines if _is_object(line)]
        skipped[NO_OBJECT] += len(lines) - len(objects)
    try:
        return parse_lines(b"\n".join(objects), schema)
    except pa.ArrowInvalid as error:
        reason = str(error).removeprefix("JSON parse error: ").partition(" in row")[0]
        raise DataError(f"{source}: {reason}", "a column holds values of one kind") from None


def _is_object(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=_AnyObject)
    except msgspec.MsgspecError:
        return False
    return True


def parse_lines(lines: bytes, schema: pa.Schema | None) -> pa.Table:
    """Objects as a table; their types are found where no schema is given. Raises ArrowInvalid for what is no object."""
    if not lines.strip():
        return (schema or pa.schema([])).empty_table()
    parse = pyarrow.json.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
    )
    read = pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    table = pyarrow.json.read_json(BytesIO(lines), read, parse)
    return table if schema is None else table.select(schema.names)


def _unified(source: Path, known: pa.Schema, more: pa.Schema) -> pa.Schema:
    plain = pa.schema([(field.name, plain_type(field.type)) for field in more])
    try:
        return pa.unify_schemas([known, plain], promote_options="permissive")
    except pa.ArrowTypeError as error:
        reason = str(error).removeprefix("Unable to merge: ")
        raise DataError(f"{source}: {reason}", "a column holds values of one kind") from None
