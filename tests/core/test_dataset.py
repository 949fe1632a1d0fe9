"""Data sets on disk: ragged columns, the round trip, and damage that is noticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.core.dataset import Dataset, Histories, ItemTable, check_same_data, open_dataset
from rbserve.core.errors import DataError, UsageError

RAGGED = st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=8)


def _histories(rows: list[list[int]]) -> Histories:
    values = np.array([item for row in rows for item in row], np.int32)
    return Histories(values, np.cumsum([0] + [len(row) for row in rows]))


@given(RAGGED, st.data())
def test_taking_rows_equals_indexing_one_by_one(rows: list[list[int]], data: st.DataObject) -> None:
    histories = _histories(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10)) if rows else []
    taken = histories.take(np.array(chosen, np.int64))
    assert [taken[i].tolist() for i in range(len(taken))] == [rows[i] for i in chosen]


def test_a_data_set_reads_back_what_was_written(planted: Dataset) -> None:
    again = open_dataset(planted.path)
    for split in ("train", "valid", "test"):
        one, other = planted.ctr(split), again.ctr(split)
        np.testing.assert_array_equal(one.candidates, other.candidates)
        np.testing.assert_array_equal(one.histories.values, other.histories.values)
        assert len(one) == planted.manifest.counts["ctr"][split]["rows"]
        assert len(planted.seqrec(split)) == planted.manifest.counts["seqrec"][split]["rows"]
    assert again.items.ids == planted.items.ids


def test_a_truncated_split_is_refused_by_name(planted: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "planted"
    shutil.copytree(planted.path, copy)
    victim = copy / "ctr" / "test.parquet"
    victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"ctr/test\.parquet has \d+ bytes instead of"):
        open_dataset(copy).ctr("test")


def test_a_tampered_split_of_the_same_size_is_refused(planted: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "planted"
    shutil.copytree(planted.path, copy)
    victim = copy / "items.parquet"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(DataError, match="sha256"):
        _ = open_dataset(copy).items


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}'])
def test_a_broken_manifest_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match="not a data set manifest"):
        open_dataset(tmp_path)


def test_another_schema_is_refused(planted: Dataset, tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(planted.manifest, schema=99)
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(DataError, match="schema 99"):
        open_dataset(tmp_path)


def test_a_missing_data_set_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        open_dataset(tmp_path / "ml-100k")
    assert error.value.hint == "rbserve prepare ml-100k"


def test_unknown_item_ids_are_all_named() -> None:
    items = ItemTable(["a", "b"], ["A", "B"])
    assert items.lookup(["b", "a"]).tolist() == [1, 0]
    with pytest.raises(KeyError, match=r"\['x', 'y'\]"):
        items.lookup(["a", "x", "y"])


def test_data_with_another_fingerprint_is_refused_with_both(planted: Dataset) -> None:
    with pytest.raises(UsageError, match=rf"0123456789ab.*{planted.fingerprint[:12]}"):
        check_same_data("dnn", "0123456789abcdef", planted)
