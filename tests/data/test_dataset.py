"""Data sets on disk: the round trip, damage that is noticed, and splits that are never read whole."""

from __future__ import annotations

import dataclasses
import shutil
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rbserve.core.errors import DataError, UsageError
from rbserve.data.columns import Ragged
from rbserve.data.dataset import (
    NEVER,
    SCHEMA,
    SPLITS,
    CtrSplit,
    Dataset,
    ItemTable,
    check_same_data,
    open_dataset,
)
from rbserve.data.dataset_writer import DatasetWriter


def test_a_data_set_reads_back_what_was_written(planted: Dataset) -> None:
    again = open_dataset(planted.path)
    assert again.manifest == planted.manifest
    assert again.manifest.schema == SCHEMA == 2
    for split in SPLITS:
        one, other = planted.ctr(split), again.ctr(split)
        np.testing.assert_array_equal(one.candidates, other.candidates)
        np.testing.assert_array_equal(one.histories.values, other.histories.values)
        for task, rows in (("ctr", one), ("seqrec", planted.seqrec(split))):
            assert len(rows) == len(rows.histories) == planted.manifest.counts[task][split]["rows"] > 0
            for name in ("user", "time", "newest"):
                assert len(again.column(f"{task}/{split}", name)) == len(rows)
    assert again.items == planted.items
    assert len(again.tokens) == len(again.items)


def test_words_and_tokens_are_the_items_texts(planted: Dataset) -> None:
    known = set(planted.words)
    assert len(known) == len(planted.words) == planted.manifest.counts["words"]
    for item, text in enumerate(planted.items.texts):
        words = [planted.words[number] for number in planted.tokens[item]]
        assert words == [word for word in text.split() if word in known]


def test_every_column_of_a_split_is_a_memory_map_that_cannot_be_written(planted: Dataset) -> None:
    ctr, seqrec = planted.ctr("train"), planted.seqrec("train")
    for column in (
        ctr.users, ctr.candidates, ctr.labels, ctr.histories.values, ctr.histories.offsets,
        seqrec.users, seqrec.targets, seqrec.histories.values, planted.column("ctr/train", "time"),
        planted.tokens.values):  # fmt: skip
        assert isinstance(column, np.memmap)
        assert not column.flags.writeable


def test_rows_that_are_taken_are_those_rows_in_that_order(planted: Dataset) -> None:
    rows = np.array([5, 0, 5, 2])
    for whole in (planted.ctr("test"), planted.seqrec("test")):
        part = whole.take(rows)
        np.testing.assert_array_equal(part.users, whole.users[rows])
        for place, row in enumerate(rows):
            np.testing.assert_array_equal(part.histories[place], whole.histories[row])


def test_a_split_of_three_million_rows_opens_and_gives_a_batch_without_being_read(tmp_path: Path) -> None:
    pieces, rows, length = 10, 300_000, 5
    writer = DatasetWriter(tmp_path)
    histories = Ragged(np.arange(rows * length, dtype=np.int32) % 1_000, np.arange(rows + 1) * length)
    for piece in range(pieces):
        users = np.arange(piece * rows, (piece + 1) * rows, dtype=np.int32)
        part = CtrSplit(users, users % 1_000, (users % 2).astype(np.int8), histories)
        writer.add_ctr("train", part, users.astype(np.int64), np.full(rows, NEVER))
    writer.close()
    writer.add_items([([str(item) for item in range(1_000)], ["text"] * 1_000)])
    no_texts = Ragged(np.empty(0, np.int32), np.zeros(1_001, np.int64))
    writer.add_tokens([], np.empty(0, np.int64), no_texts, 64)
    writer.seal(name="big", source="made", seed=0, options={}, counts={}, dropped={}, repaired={})
    chosen = np.random.default_rng(0).integers(pieces * rows, size=5_000)
    tracemalloc.start()
    try:
        split = open_dataset(tmp_path).ctr("train")
        batch = split.take(chosen)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(split) == 3_000_000
    assert most < 5 << 20  # of 135 million bytes
    np.testing.assert_array_equal(batch.candidates, chosen % 1_000)
    first = chosen[0] % rows * length
    assert batch.histories[0].tolist() == [(first + step) % 1_000 for step in range(length)]


@pytest.mark.parametrize("name", ["ctr/test/label.npy", "ctr/test/history.values.npy", "items.parquet"])
def test_a_truncated_file_is_refused_by_name(name: str, planted: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "planted"
    shutil.copytree(planted.path, copy)
    victim = copy / name
    victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.raises(DataError, match=rf"{name} has \d+ bytes instead of"):
        _ = open_dataset(copy).ctr("test"), open_dataset(copy).items


def test_a_missing_column_and_one_that_nobody_declared_are_refused(planted: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "planted"
    shutil.copytree(planted.path, copy)
    (copy / "seqrec" / "train" / "target.npy").rename(copy / "seqrec" / "train" / "extra.npy")
    with pytest.raises(DataError, match=r"seqrec/train/target\.npy is missing"):
        open_dataset(copy).seqrec("train")
    with pytest.raises(DataError, match=r"extra\.npy is not in the manifest"):
        open_dataset(copy).column("seqrec/train", "extra")


@pytest.mark.parametrize("name", ["items.parquet", "ctr/test/candidate.npy"])
def test_a_tampered_file_of_the_same_size_is_refused(name: str, planted: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "planted"
    shutil.copytree(planted.path, copy)
    victim = copy / name
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with pytest.raises(DataError, match="sha256"):
        _ = open_dataset(copy).items, open_dataset(copy).ctr("test")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"schema": 2}', b'{"schema": "2"}'])
def test_a_broken_manifest_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match="not a data set manifest"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("schema", [1, 99])
def test_another_schema_is_refused_whatever_else_its_manifest_holds(schema: int, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode({"schema": schema, "else": []}))
    with pytest.raises(DataError, match=f"schema {schema}, this rbserve reads {SCHEMA}") as error:
        open_dataset(tmp_path)
    assert "makes it anew" in (error.value.hint or "")


def test_a_missing_data_set_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        open_dataset(tmp_path / "ml-100k")
    assert error.value.hint == "rbserve prepare ml-100k"
    with pytest.raises(DataError) as error:
        open_dataset(tmp_path / "hm-time-popular")
    assert error.value.hint == "rbserve prepare hm --split time --negatives 2 --negatives-by popularity"


@pytest.mark.parametrize(
    ("name", "options", "command"),
    [
        ("hm", {}, "rbserve prepare hm"),
        ("hm", {"negatives": 2}, "rbserve prepare hm"),
        ("hm-time", {"split": "time"}, "rbserve prepare hm --split time"),
        (
            "hm-popular", {"negatives": 3, "negatives_by": "popularity"},
            "rbserve prepare hm --negatives 3 --negatives-by popularity",
        ),
        ("hm-two", {"negatives": 2}, "rbserve prepare hm --negatives 2 --name hm-two"),
        ("it's", {"split": "time"}, """rbserve prepare hm --split time --name 'it'"'"'s'"""),
        ("other", {"split": "time", "history": 0}, "rbserve prepare hm --name other"),
    ],
)  # fmt: skip
def test_a_damaged_data_set_says_how_it_was_prepared(
    planted: Dataset, tmp_path: Path, name: str, options: dict[str, object], command: str
) -> None:
    shutil.copytree(planted.path, tmp_path / "copy")
    manifest = msgspec.structs.replace(
        planted.manifest, name=name, source="hm",
        options={"history": 20, "split": "users", "negatives_by": "uniform", "negatives": 0, **options},
    )  # fmt: skip
    dataset = dataclasses.replace(planted, path=tmp_path / "copy", manifest=manifest)
    (tmp_path / "copy" / "items.parquet").unlink()
    with pytest.raises(DataError) as error:
        _ = dataset.items
    assert error.value.hint == f"{command} makes it anew"


def test_unknown_item_ids_are_all_named() -> None:
    items = ItemTable(["a", "b"], ["A", "B"])
    assert items.lookup(["b", "a"]).tolist() == [1, 0]
    with pytest.raises(KeyError, match=r"\['x', 'y'\]"):
        items.lookup(["a", "x", "y"])


def test_ids_of_a_request_are_found_as_the_table_has_them_or_by_the_one_rule_for_their_text() -> None:
    items = ItemTable(["7", "A 0", "8.0", "8", " old"], [""] * 5)
    assert items.lookup([7, 7.0, "7.0", " 7", "A 0\xa0"]).tolist() == [0, 0, 0, 0, 1]
    assert items.lookup(["8.0", "8", 8.0, " old"]).tolist() == [2, 3, 3, 4]  # tables of before keep their ids
    assert items.lookup(["old", "old\t"]).tolist() == [4, 4]  # and are found by the ids of now
    with pytest.raises(KeyError) as error:
        items.lookup(["7", 9, "a 0", float("nan")])
    assert str(error.value.args[0]) == "[9, 'a 0', nan]"


def test_data_with_another_fingerprint_is_refused_with_both(planted: Dataset) -> None:
    with pytest.raises(UsageError, match=rf"0123456789ab.*{planted.fingerprint[:12]}"):
        check_same_data("dnn", "0123456789abcdef", planted)
