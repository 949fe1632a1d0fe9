"""What the columns of a table hold: types, lengths of lists, and how many numbers are not there, found in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rbserve.core.errors import DataError, first_line
from rbserve.core.ids import column_text
from rbserve.core.requests import TEXT
from rbserve.data.table_files import RequestTable

_WIDER = {pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.int64(), pa.null(): pa.float64()}


class Cells(NamedTuple):
    """The values of n rows of a column, flat; `lengths` of their lists int64[n], then of the lists in these."""

    values: pa.Array
    lengths: tuple[NDArray[np.int64], ...] = ()


@dataclass
class ColumnProfile:
    """What a column holds in all rows.

    `kind` is the type of its values. `depth` counts the lists around a value: 0, a value a row; 1, a list; 2, lists of
    lists. `widths` has the length of all lists of each depth, -1 where it differs, None where there is none; `lengths`
    is a digest of the outer lists' lengths. `gaps` counts the nulls among the values, `missing` the NaN as well.
    `other` is the first row whose list is not as long as that of the reference column, with both lengths.
    """

    kind: pa.DataType
    depth: int
    widths: list[int | None]
    lengths: hashlib._Hash = field(default_factory=hashlib.sha256)
    values: int = 0
    gaps: int = 0
    missing: int = 0
    other: tuple[int, int, int] | None = None

    @property
    def dtype(self) -> str:
        """The dtype of `core.requests.DTYPES` that has all values: whole numbers and booleans with gaps are float64."""
        if pa.types.is_string(self.kind):
            return TEXT
        if self.gaps and not pa.types.is_floating(self.kind):
            return "float64"
        return str(np.dtype(self.kind.to_pandas_dtype()).name)

    def width(self, depth: int) -> int:
        """The length of all lists of a depth, -1 where it differs; 0 where every list around them is empty."""
        width = self.widths[depth]
        return 0 if width is None else width


def profile_columns(table: RequestTable, reference: str | None) -> dict[str, ColumnProfile]:
    """The profile of each column; `reference` is the column whose lists tell the number of candidates, if it is known.

    Raises DataError for a column of values that no model takes.
    """
    profiles: dict[str, ColumnProfile] = {}
    row = 0
    for batch in table.batches():
        expected = row_lengths(batch, reference, table.source) if reference else None
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            cells = cells_of(column, name, table.source)
            if name not in profiles:
                depth = len(cells.lengths)
                profiles[name] = ColumnProfile(cells.values.type, depth, [None] * depth)
            _add(profiles[name], cells, expected, row)
        row += len(batch)
    return profiles


def row_lengths(batch: pa.RecordBatch, name: str, source: Path) -> NDArray[np.int64] | None:
    """The length int64[n] of each row's list in a column; None for a column without lists."""
    return next(iter(cells_of(batch.column(name), name, source).lengths), None)


def cells_of(column: pa.Array, name: str, source: Path) -> Cells:
    """The values of a column as numbers, booleans or texts; DataError for values of another kind."""
    lengths = []
    while _is_list(column.type):
        counts = pc.fill_null(pc.list_value_length(column), 0)
        lengths.append(counts.to_numpy(zero_copy_only=False).astype(np.int64))
        column = pc.list_flatten(column)
    try:
        return Cells(_scalars(column), tuple(lengths))
    except (ValueError, pa.ArrowException) as error:
        reason = first_line(error)
        raise DataError(f"{source}: column {name} {reason}", "leave the column out of the table") from None


def _is_list(kind: pa.DataType) -> bool:
    tests: Iterable[bool] = (
        pa.types.is_list(kind), pa.types.is_large_list(kind), pa.types.is_fixed_size_list(kind),
        pa.types.is_list_view(kind), pa.types.is_large_list_view(kind),
    )  # fmt: skip
    return any(tests)


def _scalars(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _scalars(values.dictionary_decode())
    if kind in _WIDER:
        return values.cast(_WIDER[kind])
    if pa.types.is_decimal(kind):
        return values.cast(pa.float64())
    is_number = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return values if is_number or pa.types.is_string(kind) else column_text(values).cast(pa.string())


def _add(profile: ColumnProfile, cells: Cells, expected: NDArray[np.int64] | None, row: int) -> None:
    for depth, lengths in enumerate(cells.lengths):
        widths = {profile.widths[depth], *np.unique(lengths).tolist()} - {None}
        profile.widths[depth] = None if not widths else widths.pop() if len(widths) == 1 else -1
    profile.values += len(cells.values)
    profile.gaps += cells.values.null_count
    profile.missing += _missing(cells.values)
    if cells.lengths:
        profile.lengths.update(cells.lengths[0].data)
        if expected is not None and profile.other is None:
            profile.other = _first_other(cells.lengths[0], expected, row)


def _missing(values: pa.Array) -> int:
    if pa.types.is_string(values.type):
        return 0
    is_float = pa.types.is_floating(values.type)
    nans = (pc.sum(pc.is_nan(values)).as_py() or 0) if is_float else 0
    return int(values.null_count) + int(nans)


def _first_other(
    lengths: NDArray[np.int64], expected: NDArray[np.int64], row: int
) -> tuple[int, int, int] | None:
    differs = np.flatnonzero(lengths != expected)
    if not len(differs):
        return None
    first = int(differs[0])
    return row + first + 1, int(lengths[first]), int(expected[first])
