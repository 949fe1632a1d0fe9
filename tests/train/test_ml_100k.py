"""MovieLens-100K: the real files, and files that are not what they should be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rbserve.core.dataset import Dataset
from rbserve.core.errors import DataError
from rbserve.train.datasets import ml_100k
from rbserve.train.datasets.sources import prepare

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"


def _raw(
    folder: Path, inter: str | bytes, item: str = ITEM + "10\tTen\t1990\tDrama\n2\tTwo\t1991\tWar\n"
) -> Path:
    folder.mkdir(exist_ok=True)
    content = inter if isinstance(inter, bytes) else inter.encode()
    (folder / "ml-100k.inter").write_bytes(content)
    (folder / "ml-100k.item").write_text(item)
    return folder


@pytest.fixture(scope="module")
def ml(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare("ml-100k", tmp_path_factory.mktemp("data") / "ml-100k")


@pytest.mark.network
def test_the_real_files_give_the_counts_that_movielens_publishes(ml: Dataset) -> None:
    assert len(ml.items) == 1_682
    assert ml.items.texts[0] == "Toy Story"
    dropped = ml.manifest.dropped
    assert dropped["rating 3 (neither liked nor disliked)"] == 27_145
    assert dropped["unparsable row"] == 0
    rows = sum(counts["rows"] for counts in ml.manifest.counts["ctr"].values())
    left_out = sum(count for reason, count in dropped.items() if reason.startswith("ctr:"))
    assert rows + left_out + 27_145 == 100_000


@pytest.mark.network
def test_preparing_twice_gives_the_same_bytes(ml: Dataset, tmp_path: Path) -> None:
    again = prepare("ml-100k", tmp_path / "ml-100k")
    assert again.manifest == ml.manifest


def test_ratings_become_labels_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    rows = ["1\t10\t4\t5", "1\t2\t2\t6", "2\t10\t3\t7", "2\t2\tgood\t8", "2\t99\t5\t9", "2\t2\t1\t10", "2\t2\t5\t11",
            "3\t2", "3\t10\t5\t12\textra"]  # fmt: skip
    dropped: Counter[str] = Counter()
    events, items = ml_100k.read(_raw(tmp_path, INTER + "\n".join(rows) + "\n"), dropped)
    assert items.ids == ["2", "10"]  # numeric order
    assert events.labels.tolist() == [1, 0, 0]
    assert events.items.tolist() == [1, 0, 0]
    assert dropped["rating 3 (neither liked nor disliked)"] == 1
    assert dropped["unparsable row"] == 3
    assert dropped["item without text or not in the item file"] == 1
    assert dropped["duplicate rating of an item by a user"] == 1


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    text = (INTER + "1\t10\t5\t5\n1\t2\t1\t6\n").replace("\n", "\r\n")
    events, _ = ml_100k.read(_raw(tmp_path, b"\xef\xbb\xbf" + text.encode()), Counter())
    assert len(events) == 2


def test_items_without_a_title_and_repeated_items_are_counted(tmp_path: Path) -> None:
    item = ITEM + "10\tTen\t1\tx\n10\tTen again\t1\tx\n2\t\t1\tx\n"
    dropped: Counter[str] = Counter()
    _, items = ml_100k.read(_raw(tmp_path, INTER + "1\t10\t5\t5\n", item), dropped)
    assert items.texts == ["Ten"]
    assert (dropped["duplicate item"], dropped["item without text"]) == (1, 1)


def test_a_wrong_column_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ml-100k\.inter lacks the column 'rating:float'"):
        ml_100k.read(
            _raw(tmp_path, "user_id:token\titem_id:token\tstars\ttimestamp:float\n1\t10\t5\t5\n"), Counter()
        )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*ml-100k\.item") as error:
        ml_100k.read(tmp_path, Counter())
    assert "--raw" in (error.value.hint or "")


def test_no_usable_rating_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable rating"):
        ml_100k.read(_raw(tmp_path, INTER + "1\t10\t3\t5\n"), Counter())


@pytest.mark.network
def test_no_history_holds_its_own_candidate(ml: Dataset) -> None:
    for name in ("train", "valid", "test"):
        split = ml.ctr(name)  # type: ignore[arg-type]
        owner = np.repeat(np.arange(len(split)), np.diff(split.histories.offsets))
        assert not (split.histories.values == split.candidates[owner]).any()
