"""The text of an id: one rule for items and users, whatever file, column type or request an id comes from.

1. A value is printed: text as it is, bytes as UTF-8 (as hexadecimal digits where they are none), whole floats and
   decimals without a fraction (1193.0 is "1193"), booleans as `true` and `false`, times and dates in ISO form
   without needless zeros, a UUID in its usual form. Null and NaN are no id: the empty text.
2. The text is trimmed: white space of any kind, NUL, byte order marks and other signs without a width.
3. "1193.0" and "1193.00" are "1193": pandas and spreadsheets write a whole number so when its column has a gap.
   All else stays: "007", "+7", "1e3" and upper and lower case are ids of their own.

`id_text` does all three steps to a Python value of JSON. For a table, `column_text` does the first to an Arrow column
and `id_sql` the others in DuckDB. A test over formats and types holds them equal.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

LARGEST_EXACT = 1 << 53
"""From here on a float has lost digits of the whole number that it stands for."""

_SPACES = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000"
_SPACES += "".join(map(chr, range(0x2000, 0x200B)))
EDGE = _SPACES + "\x00\u200b\u2060\ufeff"
"""Characters that are removed from both ends of an id: white space, NUL and signs without a width."""
WHOLE = r"^(?:-?(0)|(-?[1-9][0-9]*))\.0+$"
"""A whole number with a fraction; its groups are the number."""

_whole = re.compile(WHOLE)
_CLASS = "[" + "".join(rf"\x{{{ord(character):04x}}}" for character in EDGE) + "]+"
_EDGES = f"^{_CLASS}|{_CLASS}$"  # of RE2, which DuckDB has
_PLAIN = r"[!-~]*[!-/1-~]"  # most ids: printable ASCII that ends in no 0


def id_text(value: object) -> str:
    """The text of an id that is a Python value (of JSON, a request, a row); empty where there is no id."""
    text = value_text(value).strip(EDGE)
    whole = _whole.match(text) if text.endswith("0") else None
    return (whole[1] or whole[2]) if whole else text


def id_sql(text: str) -> str:
    """DuckDB SQL: the text of the id that is the SQL expression `text`, a varchar."""
    trimmed = f"regexp_replace({text}, '{_EDGES}', '', 'g')"
    whole = rf"regexp_replace({trimmed}, '{WHOLE}', '\1\2')"
    return f"if(regexp_full_match({text}, '{_PLAIN}'), {text}, {whole})"


def column_text(column: pa.Array) -> pa.Array:
    """An Arrow column of any type as strings, null where it has no value; ValueError for lists and structs.

    Text stays as it is, so this is right for titles, labels and times too.
    """
    kind = column.type
    for matches, printed in _PRINTERS:
        if matches(kind):
            return printed(column)
    if pa.types.is_nested(kind):
        raise ValueError(f"holds values of type {kind}, not one value a row")
    return column.cast(pa.string())


def value_text(value: object) -> str:
    """A Python value as text, as `column_text` has it; null and NaN are empty."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_EXACT:
        return str(int(value))
    if isinstance(value, bytes):
        return _decoded(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def lost_digits(column: pa.Array) -> str | None:
    """A float of the column that stands for a whole number of more digits than a float holds, if there is one."""
    if not pa.types.is_floating(column.type):
        return None
    sizes = pc.abs(column.cast(pa.float64()))
    large = column.filter(pc.and_(pc.greater_equal(sizes, float(LARGEST_EXACT)), pc.is_finite(sizes)))
    return str(large[0]) if len(large) else None


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _floats(column: pa.Array) -> pa.Array:
    """Whole numbers without a fraction, as far as a float counts them; NaN is null."""
    wide = column.cast(pa.float64())
    whole = pc.and_(pc.equal(wide, pc.trunc(wide)), pc.less(pc.abs(wide), float(LARGEST_EXACT)))
    numbers = pc.if_else(whole, wide, None).cast(pa.int64()).cast(pa.string())
    other = column.cast(pa.float32()) if pa.types.is_float16(column.type) else column
    texts = pc.if_else(whole, numbers, other.cast(pa.string()))
    return pc.if_else(pc.is_nan(wide), None, texts)


def _binary(column: pa.Array) -> pa.Array:
    try:
        return column.cast(pa.binary()).cast(pa.string())  # which checks that it is UTF-8
    except pa.ArrowInvalid:
        texts = [None if value is None else _decoded(value) for value in column.to_pylist()]
        return pa.array(texts, pa.string())


def _moments(column: pa.Array) -> pa.Array:
    """ISO, to the microsecond, in UTC where there is a zone: one moment has one text in every unit and zone."""
    zone = "UTC" if column.type.tz else None
    return _short(column.cast(pa.timestamp("us", zone), safe=False).cast(pa.string()))


def _short(texts: pa.Array) -> pa.Array:
    """Without the zeros at the end of a fraction of a second."""
    bare = pc.replace_substring_regex(texts, r"\.0+(Z?)$", r"\1")
    return pc.replace_substring_regex(bare, r"(\.[0-9]*[1-9])0+(Z?)$", r"\1\2")


def _uuids(column: pa.Array) -> pa.Array:
    values = column.storage.to_pylist()
    return pa.array([None if value is None else str(uuid.UUID(bytes=value)) for value in values], pa.string())


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )  # fmt: skip


def _is_extension(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType)


_Printers = tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], pa.Array]], ...]
_PRINTERS: _Printers = (
    (lambda kind: kind == pa.uuid(), _uuids),
    (_is_extension, lambda column: column_text(column.storage)),
    (pa.types.is_dictionary, lambda column: column_text(column.dictionary_decode())),
    (pa.types.is_floating, _floats),
    (_is_binary, _binary),
    (pa.types.is_timestamp, _moments),
    (pa.types.is_time, lambda column: _short(column.cast(pa.string()))),
    (pa.types.is_duration, lambda column: column.cast(pa.int64()).cast(pa.string())),
)
