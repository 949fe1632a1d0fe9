"""Columns on disk: what is appended in any cuts reads back, as memory maps; what is no column is refused."""

from __future__ import annotations

import tempfile
import tracemalloc
import zipfile
from contextlib import suppress
from itertools import accumulate, groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rbserve.core.errors import DataError
from rbserve.data import columns
from rbserve.data.columns import (
    ColumnWriter,
    Ragged,
    RaggedWriter,
    blocks,
    open_column,
    open_ragged,
    runs,
    slices,
)

ROWS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=12)
CUTS = st.lists(st.integers(0, 12), max_size=4).map(sorted)
HEADER = 128  # bytes before the first value


def _ragged(rows: list[list[int]]) -> Ragged:
    values = np.array([value for row in rows for value in row], np.int32)
    return Ragged(values, np.cumsum([0] + [len(row) for row in rows]))


def _lists(ragged: Ragged) -> list[list[int]]:
    return [ragged[row].tolist() for row in range(len(ragged))]


def _pieces(rows: list[list[int]], cuts: list[int]) -> list[list[list[int]]]:
    return [rows[begin:end] for begin, end in pairwise([0, *cuts, len(rows)])]


def _written(path: Path, values: list[int]) -> Path:
    writer = ColumnWriter(path, np.int32)
    writer.append(np.array(values, np.int32))
    writer.close()
    return path


@settings(max_examples=60)
@given(ROWS, CUTS)
def test_appending_in_any_cuts_equals_appending_once(rows: list[list[int]], cuts: list[int]) -> None:
    cuts = [min(cut, len(rows)) for cut in cuts]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name, pieces in (("cut", _pieces(rows, cuts)), ("whole", [rows])):
            column, ragged = ColumnWriter(folder / f"{name}.npy", np.int64), RaggedWriter(folder, name)
            for piece in pieces:
                column.append(np.array([len(row) for row in piece], np.int64))
                ragged.append(_ragged(piece))
            column.close()
            ragged.close()
            assert open_column(folder / f"{name}.npy").tolist() == [len(row) for row in rows]
            assert _lists(open_ragged(folder, name)) == rows
            assert open_ragged(folder, name).lengths.tolist() == [len(row) for row in rows]
        for kind in ("npy", "values.npy", "offsets.npy"):
            assert (folder / f"cut.{kind}").read_bytes() == (folder / f"whole.{kind}").read_bytes()


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64])
def test_a_column_is_an_ordinary_npy_file_of_its_kind(kind: type[np.generic], tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path / "folder" / "column.npy", kind)
    for part in ([1, -2], [], [3]):
        writer.append(np.array(part, np.int16))
    writer.close()
    writer.close()  # a second time changes nothing
    column = np.load(writer.path, allow_pickle=False)
    assert column.dtype == kind
    assert column.tolist() == [1, -2, 3]
    assert writer.path.stat().st_size == HEADER + 3 * np.dtype(kind).itemsize


def test_values_that_are_not_contiguous_are_written_as_they_are_seen(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path / "column.npy", np.int32)
    writer.append(np.arange(10, dtype=np.int32)[::-3])
    writer.close()
    assert open_column(writer.path).tolist() == [9, 6, 3, 0]


@given(ROWS, st.data())
def test_taking_and_slicing_equal_indexing_one_by_one(rows: list[list[int]], data: st.DataObject) -> None:
    ragged = _ragged(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10)) if rows else []
    assert _lists(ragged.take(np.array(chosen, np.int64))) == [rows[row] for row in chosen]
    bound = st.integers(0, len(ragged.values))
    spans = [sorted(span) for span in data.draw(st.lists(st.tuples(bound, bound), max_size=6))]
    begin, end = np.array(spans, np.int64).reshape(-1, 2).T
    expected = [ragged.values[first:last].tolist() for first, last in spans]
    assert _lists(slices(ragged.values, begin, end)) == expected


@given(st.lists(st.lists(st.integers(0, 1), max_size=2), max_size=12))
@example([])
@example([[], [], [0]])
def test_runs_are_the_groups_of_equal_rows_in_turn(rows: list[list[int]]) -> None:
    lengths = [len(list(group)) for _, group in groupby(rows)]
    assert runs(_ragged(rows)).tolist() == [0, *accumulate(lengths)]


def test_sequences_from_the_middle_of_others_are_appended_as_they_read(tmp_path: Path) -> None:
    whole = _ragged([[1], [2, 3], [], [4, 5, 6], [7]])
    middle = Ragged(whole.values, whole.offsets[1:5])
    writer = RaggedWriter(tmp_path, "history")
    for _ in range(2):
        writer.append(middle)
    writer.close()
    assert _lists(middle) == [[2, 3], [], [4, 5, 6]]
    assert _lists(open_ragged(tmp_path, "history")) == _lists(middle) * 2


@pytest.mark.parametrize("values", [0, 3, 100_000])
def test_a_column_that_was_not_closed_reads_as_empty(values: int, tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path / "column.npy", np.int32)
    writer.append(np.arange(values, dtype=np.int32))
    assert open_column(writer.path).tolist() == []
    writer.close()
    assert len(open_column(writer.path)) == values


def test_columns_and_ragged_arrays_are_memory_maps(tmp_path: Path) -> None:
    _written(tmp_path / "column.npy", [1, 2, 3])
    writer = RaggedWriter(tmp_path, "history")
    writer.append(_ragged([[1, 2], [3]]))
    writer.close()
    ragged = open_ragged(tmp_path, "history")
    for array in (open_column(tmp_path / "column.npy"), ragged.values, ragged.offsets):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    assert isinstance(ragged[0], np.memmap)  # a view
    assert not isinstance(ragged.take(np.array([1])).values, np.memmap)  # a copy


def test_opening_copies_nothing(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path / "column.npy", np.int64)
    for _ in range(10):
        writer.append(np.arange(200_000))
    writer.close()
    tracemalloc.start()
    try:
        column = open_column(writer.path)
        parts = [len(block) for block in blocks(column)]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(parts) == 2_000_000
    assert most < 100_000  # of 16 million bytes


def test_a_writable_column_changes_on_disk(tmp_path: Path) -> None:
    path = _written(tmp_path / "column.npy", [1, 2, 3])
    open_column(path, writable=True)[1] = 7
    assert open_column(path).tolist() == [1, 7, 3]


def test_blocks_are_views_that_cover_the_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BLOCK", 4)
    column = np.arange(10)
    parts = list(blocks(column))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert all(np.shares_memory(part, column) for part in parts)
    assert np.concatenate(parts).tolist() == column.tolist()
    assert list(blocks(column[:0])) == []


@pytest.mark.parametrize(
    "content", [b"", b"PAR1 and so on", b"\x93NUMPY", b"\x80\x04N.", b"\x93NUMPY\x01\x00v\x00{"]
)
def test_a_file_that_is_no_column_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "column.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"column\.npy is not a column"):
        open_column(path)


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.npy"):
        with pytest.raises(DataError, match="is not a column"):
            open_column(path)


def test_archives_tables_and_objects_are_no_columns(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.npy", "w") as archive:
        archive.writestr("a", "b")
    np.save(tmp_path / "table.npy", np.zeros((2, 3)))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for name in ("archive", "table", "objects"):
        with pytest.raises(DataError, match=rf"{name}\.npy is not a column"):
            open_column(tmp_path / f"{name}.npy")


def test_a_column_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path / "column.npy", [1, 2, 3])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="is not a column"):
        open_column(path)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example([(12, ord("b"))])
@example([(10, ord("(")), (11, ord("("))])
def test_a_spoilt_header_is_refused_or_reads_as_something(changes: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as made:
        path = _written(Path(made) / "column.npy", [1, 2, 3])
        content = bytearray(path.read_bytes())
        for position, byte in changes:
            content[position] = byte
        path.write_bytes(content)
        with suppress(DataError):
            open_column(path)
