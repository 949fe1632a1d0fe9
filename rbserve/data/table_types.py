"""The types of columns that are written as text: found piece by piece, joined where pieces differ."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa

from rbserve.core.errors import DataError


def joined_type(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that has the values of both; text where there is no other."""
    schemas = [pa.schema([("column", each)]) for each in (kind, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        return pa.string()


def plain_type(kind: pa.DataType) -> pa.DataType:
    """A type that was found in JSON, where a text that looks like a time is a text."""
    if pa.types.is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    return pa.string() if pa.types.is_timestamp(kind) else kind


def known_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column; numbers where it has no value at all."""
    if pa.types.is_list(kind):
        return pa.list_(known_type(kind.value_type))
    return pa.float64() if pa.types.is_null(kind) else kind


def require_distinct(source: Path, names: list[str]) -> None:
    """DataError for two columns of one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{source} has two columns {twice[0]}", "give each column a name of its own")
