"""MovieLens-100K: the real files, and files that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import raw_layouts as raw
from demo_request import REQUEST

from rbserve.core.errors import DataError
from rbserve.data.dataset import SPLITS, Dataset
from rbserve.train.datasets.source import NEITHER
from rbserve.train.datasets.sources import prepare

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"


def _raw(
    folder: Path, inter: str | bytes, item: str = ITEM + "10\tTen\t1990\tDrama\n2\tTwo\t1991\tWar\n"
) -> Path:
    raw.put(folder, "ml-100k.inter", inter)
    raw.put(folder, "ml-100k.item", item)
    return folder


@pytest.fixture(scope="module")
def ml(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare("ml-100k", tmp_path_factory.mktemp("data") / "ml-100k", catalogue="all")


@pytest.mark.network
def test_the_real_files_give_the_counts_that_movielens_publishes(ml: Dataset) -> None:
    assert len(ml.items) == 1_682
    assert ml.items.texts[0] == "Toy Story"
    dropped = ml.manifest.dropped
    assert dropped[NEITHER] == 27_145
    rows = sum(counts["rows"] for counts in ml.manifest.counts["ctr"].values())
    left_out = sum(count for reason, count in dropped.items() if reason.startswith("ctr:"))
    assert {reason for reason in dropped if ":" not in reason} == {NEITHER}
    assert rows + left_out + 27_145 == 100_000
    assert ml.manifest.counts["source"]["users"] == 943


@pytest.mark.network
def test_preparing_twice_gives_the_same_bytes(ml: Dataset, tmp_path: Path) -> None:
    again = prepare("ml-100k", tmp_path / "ml-100k", catalogue="all")
    assert again.manifest == ml.manifest


def test_ratings_become_labels_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    rows = ["1\t10\t4\t5", "1\t2\t2\t6", "2\t10\t3\t7", "2\t2\tgood\t8", "2\t99\t5\t9", "2\t2\t1\t10", "2\t2\t5\t11",
            "3\t2", "3\t10\t5\t12\textra"]  # fmt: skip
    loaded = raw.load("ml-100k", _raw(tmp_path, INTER + "\n".join(rows) + "\n"))
    assert list(loaded.items) == ["2", "10"]  # numeric order
    assert loaded.events == [("1", "10", 1), ("1", "2", 0), ("2", "2", 0), ("2", "2", 1)]
    assert loaded.times == [5, 6, 10, 11]
    assert loaded.dropped == {
        NEITHER: 1,
        "row whose label is none": 1,
        "row with another number of fields, or no JSON object": 2,
        "item without text or not in the item file": 1,
    }


def test_an_item_that_a_user_rates_again_counts_once(tmp_path: Path) -> None:
    rows = [f"{user}\t{item}\t{1 + 4 * (item % 2)}\t{item}" for user in range(9) for item in (1, 2, 3, 4)]
    again = [f"{user}\t{item}\t{5 - 4 * (item % 2)}\t{9 + item}" for user in range(9) for item in (1, 2)]
    item = ITEM + "".join(f"{item}\tFilm\t1990\tDrama\n" for item in range(1, 5))
    once = prepare("ml-100k", tmp_path / "once", _raw(tmp_path / "a", INTER + "\n".join(rows), item))
    twice = prepare(
        "ml-100k", tmp_path / "twice", _raw(tmp_path / "b", INTER + "\n".join(rows + again), item)
    )
    assert once.fingerprint == twice.fingerprint
    assert twice.manifest.dropped["repeated item of a user"] == len(again)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    text = (INTER + "1\t10\t5\t5\n1\t2\t1\t6\n").replace("\n", "\r\n")
    loaded = raw.load("ml-100k", _raw(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert loaded.events == [("1", "10", 1), ("1", "2", 0)]


def test_items_without_a_title_and_repeated_items_are_counted(tmp_path: Path) -> None:
    item = ITEM + "10\tTen\t1\tx\n10\tTen again\t1\tx\n2\t\t1\tx\n"
    loaded = raw.load("ml-100k", _raw(tmp_path, INTER + "1\t10\t5\t5\n", item))
    assert loaded.items == {"10": "Ten"}
    assert loaded.dropped == {"duplicate item": 1, "item without text": 1}


def test_a_wrong_column_is_named_with_its_file(tmp_path: Path) -> None:
    folder = _raw(tmp_path, "user_id:token\titem_id:token\tstars\ttimestamp:float\n1\t10\t5\t5\n")
    with pytest.raises(DataError, match=r"ml-100k\.inter lacks the column 'rating:float'"):
        raw.load("ml-100k", folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no file ml-100k\.item") as error:
        raw.load("ml-100k", tmp_path)
    assert str(tmp_path) in error.value.message
    assert "--raw" in (error.value.hint or "")


def test_no_usable_rating_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable row: 1 rating that is neither liked nor disliked"):
        raw.load("ml-100k", _raw(tmp_path, INTER + "1\t10\t3\t5\n"))


@pytest.mark.network
def test_no_history_holds_its_own_candidate(ml: Dataset) -> None:
    for name in SPLITS:
        split = ml.ctr(name)  # type: ignore[arg-type]
        owner = np.repeat(np.arange(len(split)), np.diff(split.histories.offsets))
        assert len(split)
        assert not (split.histories.values == split.candidates[owner]).any()


@pytest.mark.network
def test_the_demo_asks_for_items_that_the_prepared_data_has(tmp_path: Path) -> None:
    """`prepare` keeps the items of the splits, fewer than the raw files have."""
    items = prepare("ml-100k", tmp_path / "ml-100k").items
    assert not [one for ids in REQUEST.values() for one in ids if one not in items.index]
