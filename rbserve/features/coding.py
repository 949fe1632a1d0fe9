"""Values of fields as numbers and codes: one rule for the tables of `prepare`, for new items and for requests.

A value is taken by its text, which `core/ids.py` makes: 3, 3.0 and "3" are one value. `FieldCoder.column` codes a
column of a table, `FieldCoder.value` one Python value; a test holds them equal.

- A number is float32. Nothing, an empty text and NaN are missing. A text that is no finite number is malformed: it is
  counted in a column, where it becomes a missing value, and refused as a single value.
- A category is a code of the vocabulary; where there are too many values for one, a hash of its text. The values of a
  hashed field are not kept, so that `FieldCoder.value` also takes a code in the place of a value (HashedValue).
- Several categories are a list, a text that is a JSON list, or a text with a separator between them; or they are the
  words of a text, in lower case. Those beyond the field's width are cut off, and counted in a column.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rbserve.core.fields import FIRST, MISSING, UNSEEN, WORDS, FieldSpec, HashedValue
from rbserve.core.ids import EDGE, column_text, id_text, value_text

MOST_VALUES = 1_000_000
"""Distinct values of a field for which a vocabulary is made, unless another number is given."""
MOST_WIDTH = 16
"""Categories that a field of several has at most."""
WHOLE_ROWS = 0.99
"""The share of the rows from which no category is cut off, as far as MOST_WIDTH allows."""
NO_NUMBER = "value that is no number, taken for a missing one"
"""How a malformed value of a column is counted."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NAMED = {"": math.nan, "nan": math.nan, "true": 1.0, "false": 0.0}
_WORD = re.compile(r"\w+")


@dataclass
class CodedCounts:
    """What coding columns found: values that are no numbers, with an example, and categories that were cut off.

    `rows` were coded, of which `missing` have no value.
    """

    rows: int = 0
    missing: int = 0
    malformed: int = 0
    example: str = ""
    cut: int = 0


class FieldCoder:
    """Codes the values of one field; `values` is its vocabulary, the value of each code from FIRST on.

    `counts` adds up what became of the values of columns.
    """

    def __init__(self, spec: FieldSpec, values: Sequence[str] = ()) -> None:
        self.spec, self.values = spec, values
        self.counts = CodedCounts()
        self._codes = {value: FIRST + row for row, value in enumerate(values)}

    def column(self, column: pa.Array) -> NDArray[Any]:
        """A column of R values as float32[R], int32[R], or int32[R, width] of several categories.

        Raises ValueError for a column of lists or structs in the place of single values.
        """
        coded = self._numbers(column) if self.spec.is_number else self._column_codes(column)
        nothing = (
            np.isnan(coded) if self.spec.is_number else coded.reshape(-1, self.spec.width)[:, 0] == MISSING
        )
        self.counts.rows += len(column)
        self.counts.missing += int(nothing.sum())
        return coded

    def value(self, value: object) -> NDArray[Any]:
        """One Python value as float32[1] or int32[width]. Raises ValueError for a value that the field cannot have."""
        if not self.spec.is_number:
            codes = self._given_codes(value) or self._codes_of(categories(self.spec, value))
            return np.array(self._row(codes), np.int32)
        number = _number(_single(self.spec, value))
        if number is None:
            raise ValueError(f"{self.spec.name} takes a number, not {value!r}")
        return np.array([number], np.float32)

    def raw(self, coded: NDArray[Any]) -> object:
        """A value of JSON that is coded so: a number, a text, a list of texts, or None where it is missing.

        Of a hashed field, whose values are not kept, a HashedValue stands for a text.
        """
        if self.spec.is_number:
            number = float(coded.reshape(1)[0])
            return None if math.isnan(number) else number
        codes = [code for code in coded.reshape(-1).tolist() if code != MISSING]
        values = [HashedValue(code) if self.spec.hashed else self._text(code) for code in codes]
        return values if self.spec.kind == "multi" else next(iter(values), None)

    def _given_codes(self, value: object) -> list[int]:
        """The codes of a HashedValue, or of a list of them where there are several categories; none of other values."""
        several = self.spec.kind == "multi" and isinstance(value, list | tuple)
        parts = cast(Sequence[object], value) if several else [value]
        codes = [part.hash for part in parts if isinstance(part, HashedValue)]
        if not (codes and self.spec.hashed):
            return []
        last = self.spec.size - 1
        if len(codes) < len(parts) or not all(FIRST <= code <= last for code in codes):
            raise ValueError(f"{self.spec.name} takes hashes from {FIRST} to {last}, not {value!r}")
        return codes

    def _text(self, code: int) -> str:
        """The value of a code; of UNSEEN some text that the vocabulary does not have."""
        if code == UNSEEN:
            return next(text for place in count() if (text := f"unseen{place}") not in self._codes)
        return self.values[code - FIRST]

    def _numbers(self, column: pa.Array) -> NDArray[np.float32]:
        texts = column_text(column)
        try:  # the usual column, at Arrow's speed
            numbers = pc.if_else(pc.equal(texts, ""), None, texts).cast(pa.float64())
            wide = numbers.to_numpy(zero_copy_only=False).astype(np.float64)
        except pa.ArrowInvalid:
            return self._odd_numbers(texts)
        if np.isinf(narrow := _narrowed(wide)).any():
            return self._odd_numbers(texts)
        return narrow

    def _odd_numbers(self, texts: pa.Array) -> NDArray[np.float32]:
        """Numbers of texts of which some are none."""
        listed = texts.to_pylist()
        numbers = [_number(text or "") for text in listed]
        malformed = [text for text, number in zip(listed, numbers, strict=True) if number is None]
        self.counts.malformed += len(malformed)
        self.counts.example = self.counts.example or (malformed[0] if malformed else "")
        return np.array([math.nan if number is None else number for number in numbers], np.float32)

    def _column_codes(self, column: pa.Array) -> NDArray[np.int32]:
        encoded = field_text(self.spec, column).dictionary_encode()
        lists = [categories(self.spec, text) for text in encoded.dictionary.to_pylist()]
        places = encoded.indices.fill_null(len(lists)).to_numpy()
        if self.spec.kind == "multi":
            beyond = np.array([max(len(values) - self.spec.width, 0) for values in [*lists, []]])
            self.counts.cut += int(beyond[places].sum())
        table = np.array([self._row(self._codes_of(values)) for values in [*lists, []]], np.int32)
        codes: NDArray[np.int32] = table[places]
        return codes if self.spec.kind == "multi" else codes[:, 0]

    def _codes_of(self, values: Sequence[str]) -> list[int]:
        """The codes of as many categories as the field's width has room for."""
        return [self._code(value) for value in values[: self.spec.width]]

    def _row(self, codes: list[int]) -> list[int]:
        """Codes cut off at the field's width, or filled up to it with MISSING."""
        return codes[: self.spec.width] + [MISSING] * (self.spec.width - len(codes))

    def _code(self, value: str) -> int:
        if self.spec.hashed:
            return FIRST + text_hash(value) % (self.spec.size - FIRST)
        return self._codes.get(value, UNSEEN)


class ValueCounts:
    """Counts the values of a field, to make its coder: the more frequent a value, the lower its code; ties by text.

    `spec` has no size and width yet. Above `most_values` distinct ones, nothing is counted any more: codes are hashes.
    """

    def __init__(self, spec: FieldSpec, most_values: int = MOST_VALUES) -> None:
        self._spec, self._most = spec, most_values
        self._counts: Counter[str] = Counter()
        self._lengths: Counter[int] = Counter()
        self._hashed = False

    def add(self, column: pa.Array) -> None:
        """Counts the values of a column. Raises ValueError as `FieldCoder.column` does."""
        if self._spec.is_number:
            return
        for entry in field_text(self._spec, column).value_counts().to_pylist():
            values = categories(self._spec, entry["values"])
            self._lengths[min(len(values), MOST_WIDTH + 1)] += entry["counts"]
            if not self._hashed:
                for value in values:
                    self._counts[value] += entry["counts"]
        if len(self._counts) > self._most:
            self._hashed = True
            self._counts.clear()

    def coder(self) -> FieldCoder:
        """The coder of the field."""
        if self._spec.is_number:
            return FieldCoder(self._spec)
        values = sorted(self._counts, key=lambda value: (-self._counts[value], value))
        spec = msgspec.structs.replace(
            self._spec,
            size=FIRST + (self._most if self._hashed else len(values)),
            width=self._width() if self._spec.kind == "multi" else 1,
            hashed=self._hashed,
        )
        return FieldCoder(spec, values)

    def _width(self) -> int:
        """The fewest categories that hold WHOLE_ROWS of the rows with any, at most MOST_WIDTH."""
        lengths = {length: rows for length, rows in sorted(self._lengths.items()) if length}
        reached, wanted = 0, WHOLE_ROWS * sum(lengths.values())
        for length, rows in lengths.items():
            reached += rows
            if reached >= wanted:
                return min(length, MOST_WIDTH)
        return 1


def categories(spec: FieldSpec, value: object) -> list[str]:
    """The texts of the categories that a Python value stands for: none where it is missing.

    Raises ValueError for a list or an object in the place of a single value.
    """
    if spec.kind == "category":
        values: Sequence[object] = [_single(spec, value)]
    elif isinstance(value, list | tuple):
        values = [_single(spec, part) for part in value]
    else:
        values = _parts(_single(spec, value), spec.separator)
    return [text for part in values if (text := id_text(part))]


def field_text(spec: FieldSpec, column: pa.Array) -> pa.Array:
    """A column of any type as texts, null where it has no value; lists of a field of several categories as JSON.

    Raises ValueError for a column of lists or structs in the place of single values.
    """
    if spec.kind != "multi" or not pa.types.is_nested(column.type) or pa.types.is_struct(column.type):
        return column_text(column)
    try:
        lengths = pc.list_value_length(column).fill_null(0).to_numpy()
        texts = column_text(pc.list_flatten(column))
    except pa.ArrowException:
        raise ValueError(f"holds values of type {column.type}, not lists of categories") from None
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, texts).to_pylist()
    return pa.array([msgspec.json.encode(values).decode() for values in lists], pa.string())


def text_hash(text: str) -> int:
    """A number of 64 bits that is always the same of a text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _single(spec: FieldSpec, value: object) -> str:
    """The text of a value that is no list and no object."""
    if isinstance(value, list | tuple | dict | set | HashedValue):
        noun = "a number" if spec.is_number else "one value"
        raise ValueError(f"{spec.name} takes {noun}, not {value!r}")
    return value_text(value)


def _parts(text: str, separator: str) -> Sequence[object]:
    if separator == WORDS:
        return _WORD.findall(text.lower())
    if text.lstrip().startswith("["):
        try:
            values = msgspec.json.decode(text, type=list[str | float | int | bool | None])
            return cast(Sequence[object], values)
        except msgspec.MsgspecError:
            pass  # a text that begins with a bracket
    return text.split(separator)


def _number(text: str) -> float | None:
    """The number of a text as float32 has it, NaN where it is missing, None where it is no finite number."""
    bare = text.strip(EDGE)
    number = float(bare) if _NUMBER.fullmatch(bare) else _NAMED.get(bare.lower())
    if number is None or math.isnan(number):
        return number
    narrow = float(_narrowed(np.array([number]))[0])
    return narrow if math.isfinite(narrow) else None


def _narrowed(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """float64[n] as float32[n], without a warning of numbers that are too large."""
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)
