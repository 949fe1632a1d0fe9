"""Arrays on disk: written piece by piece, read as memory maps.

A column is one `.npy` file. Appending never holds more than one piece in memory, and opening reads nothing
until rows are used, so a split of a hundred million rows costs what its batches cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.files import naming
from rbserve.core.types import Items

BLOCK = 1 << 22  # elements of a column handled at a time


@dataclass(frozen=True)
class Ragged:
    """R sequences of int32 of different lengths: sequence r is values[offsets[r]:offsets[r + 1]]."""

    values: Items
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Items:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64[R]"""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> Ragged:
        """The sequences of `rows`, in that order, copied into arrays of their own."""
        return slices(self.values, self.offsets[rows], self.offsets[rows + 1])


def runs(rows: Ragged) -> NDArray[np.int64]:
    """Where in R sequences each run of equal ones begins, and the end: int64[runs + 1]."""
    same = lists_as_before(rows.values, rows.offsets[:-1], rows.lengths)
    return np.append(np.flatnonzero(~same), len(rows))


def lists_as_before(
    values: NDArray[Any], begins: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether each of R lists, which stand one behind the other, has the items of the list before it: bool[R]."""
    same = np.concatenate([[False], lengths[1:] == lengths[:-1]])[: len(lengths)]
    rows = np.flatnonzero(same)
    places = list_places(begins[rows], lengths[rows])
    row_of_place = np.repeat(rows, lengths[rows])
    same[row_of_place[values[places] != values[places - lengths[row_of_place]]]] = False
    return same


def list_places(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """begins[r], begins[r] + 1, …: the place of each item of each list r, in turn."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(begins - (ends - lengths), lengths) + np.arange(total)


def slices(values: Items, begin: NDArray[np.int64], end: NDArray[np.int64]) -> Ragged:
    """values[begin[r]:end[r]] for each r, as one ragged array."""
    lengths = end - begin
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    return Ragged(values[np.repeat(begin - offsets[:-1], lengths) + np.arange(offsets[-1])], offsets)


class ColumnWriter:
    """A one-dimensional `.npy` file that grows. The header leaves room for the final length."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.dtype = np.dtype(dtype)
        self.rows = 0
        self._file = path.open("wb")
        self._write_header()
        self._file.flush()  # from here on the file reads as an empty column

    def append(self, values: NDArray[Any]) -> None:
        """Adds values at the end, row after row; they must be of the column's kind."""
        piece = np.ascontiguousarray(values, self.dtype).ravel()
        with naming(self.path):
            self._file.write(piece.data)
        self.rows += len(piece)

    def close(self) -> None:
        """Writes the final length. A column that was not closed reads as empty."""
        if not self._file.closed:
            with naming(self.path), self._file:
                self._file.seek(0)
                self._write_header()

    def _write_header(self) -> None:
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.rows,)}
        npy.write_array_header_1_0(self._file, header)


class RaggedWriter:
    """Sequences appended to a pair of columns: `<name>.values.npy` and `<name>.offsets.npy`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.values = ColumnWriter(folder / f"{name}.values.npy", np.int32)
        self.offsets = ColumnWriter(folder / f"{name}.offsets.npy", np.int64)
        self.offsets.append(np.zeros(1, np.int64))

    def append(self, rows: Ragged) -> None:
        """Adds sequences at the end."""
        begin, end = rows.offsets[0], rows.offsets[-1]
        self.offsets.append(rows.offsets[1:] - begin + self.values.rows)
        self.values.append(rows.values[begin:end])

    def close(self) -> None:
        """Makes both columns readable."""
        self.values.close()
        self.offsets.close()


def open_column(path: Path, writable: bool = False) -> NDArray[Any]:
    """The column as a memory map; DataError when the file is none."""
    try:
        array: NDArray[Any] = npy.open_memmap(path, mode="r+" if writable else "r")
    except (ValueError, TypeError, OSError, TokenError) as error:  # what NumPy raises for a spoilt header
        raise DataError(f"{path} is not a column: {error}") from None
    if array.ndim != 1:
        raise DataError(f"{path} is not a column: it has {array.ndim} dimensions")
    return array


def open_ragged(folder: Path, name: str) -> Ragged:
    """The pair of columns that RaggedWriter wrote, as memory maps."""
    return Ragged(open_column(folder / f"{name}.values.npy"), open_column(folder / f"{name}.offsets.npy"))


def blocks(column: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The column in consecutive views of at most BLOCK elements."""
    for begin in range(0, len(column), BLOCK):
        yield column[begin : begin + BLOCK]
