"""A data set prepared in partitions is the data set that one process prepares, byte for byte."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest
import raw_layouts as raw

from rbserve.core.errors import DataError, UsageError
from rbserve.data.dataset import Dataset
from rbserve.train.datasets import partitioned
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.partitioned import Partitions, in_this_process
from rbserve.train.datasets.raw_shares import raw_shares
from rbserve.train.datasets.sources import find_source, prepare, protocol_of

USERS, ITEMS, ROWS = 60, 40, 2000


def write_hm(folder: Path, quoted: bool = False, damaged: int = 5) -> Path:
    """Purchases in the layout of H&M: many at one time, some repeated, some damaged, some of no known item."""
    chance = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    items = [f"{100 + item},,{'' if item == 3 else f'text of {item} with words'}" for item in range(ITEMS)]
    (folder / "articles.csv").write_text("\n".join(["article_id,name,detail_desc", *items]) + "\n")
    rows = []
    for row in range(ROWS):
        user = int(USERS * chance.random() ** 2)
        name = f'"u{user}"' if quoted else f"u{user}"
        day = 1 + chance.randrange(28)
        rows.append(f"2020-0{1 + row * 9 // ROWS}-{day:02},{name},{100 + chance.randrange(ITEMS + 1)},0.1,1")
    for row in range(0, damaged * 300, 300):
        rows[row] = rows[row][:12] if row % 600 else "2020-13-45,u1,101,0.1,1"
    (folder / "transactions_train.csv").write_text(
        "\n".join(["t_dat,customer_id,article_id,price,sales_channel_id", *rows]) + "\n"
    )
    return folder


def made(
    name: str, folder: Path, out: Path, count: int | None, protocol: dict[str, Any], **reading: Any
) -> Dataset:
    options = Reading(**reading)
    chosen = protocol_of(find_source(name), {"max_rows": 0, **protocol}, options)
    parts = None if count is None else Partitions(count, in_this_process)
    return prepare(name, out, folder, chosen, reading=options, partitions=parts)


def files(dataset: Dataset) -> dict[str, bytes]:
    return {
        str(path.relative_to(dataset.path)): path.read_bytes()
        for path in dataset.path.rglob("*")
        if path.is_file()
    }


SPLITS = {
    "users": {"ctr_test_rows": 200, "ctr_finetune_rows": 300, "seqrec_test_rows": 10, "seqrec_finetune_rows": 20},
    "time": {"split": "time", "ctr_test_rows": 200, "ctr_finetune_rows": 300},
    "caps": {"history": 5, "rows_per_label": 2, "min_history": 3},
    "popular": {"negatives_by": "popularity"},
}  # fmt: skip


@pytest.mark.parametrize("split", SPLITS)
def test_the_bytes_are_those_of_one_process_for_any_number_of_partitions(split: str, tmp_path: Path) -> None:
    folder = write_hm(tmp_path / "raw")
    alone = made("hm", folder, tmp_path / "alone" / "hm", None, SPLITS[split])
    assert alone.manifest.dropped["row whose time is none"] == 3
    for count in (1, 3, 8):
        parts = made("hm", folder, tmp_path / f"parts-{count}" / "hm", count, SPLITS[split])
        assert parts.fingerprint == alone.fingerprint
        assert files(parts) == files(alone), count


@pytest.mark.parametrize("layout", raw.LAYOUTS)
def test_every_source_is_the_same_in_partitions(layout: str, tmp_path: Path) -> None:
    folder = raw.example(layout, tmp_path / "raw")
    name, reading = raw.source_of(layout), raw.CSV if layout in ("csv", "json") else {}
    alone = made(name, folder, tmp_path / "alone" / name, None, {}, **reading)
    parts = made(name, folder, tmp_path / "parts" / name, 3, {}, **reading)
    assert files(parts) == files(alone)


@pytest.mark.parametrize("how", ["quoted", "gzip", "max_rows"])
def test_a_file_that_has_no_shares_is_read_by_one_process_and_sorted_in_partitions(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_hm(tmp_path / "raw", quoted=how == "quoted")
    if how == "gzip":
        plain = folder / "transactions_train.csv"
        (folder / "transactions_train.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    monkeypatch.setattr(partitioned, "read_share", None)
    protocol = {"max_rows": 1500} if how == "max_rows" else {}
    alone = made("hm", folder, tmp_path / "alone" / "hm", None, protocol)
    parts = made("hm", folder, tmp_path / "parts" / "hm", 4, protocol)
    assert files(parts) == files(alone)


def test_too_many_lost_rows_are_told_as_by_one_process(tmp_path: Path) -> None:
    folder = write_hm(tmp_path / "raw", damaged=0)
    path = folder / "transactions_train.csv"
    path.write_text(path.read_text().replace("2020-01", "never"))
    messages = set()
    for count in (None, 3):
        with pytest.raises(DataError) as caught:
            made("hm", folder, tmp_path / "out" / "hm", count, {})
        messages.add((caught.value.message, caught.value.hint))
    assert len(messages) == 1
    assert not (tmp_path / "out" / "hm").exists()


def test_the_shares_of_a_file_are_its_lines_each_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for rows in (0, 1, 5, 1000):
        lines = [f"{row},{'x' * (row % 50)}" for row in range(rows)]
        path.write_text("\n".join(["\nhead", *lines]))
        for count in (1, 2, 3, 16, 2000):
            shares = raw_shares(path, count, header=True, quotes=True)
            assert len(shares) <= count
            read = []
            for share in shares:
                head, *rest = share.copy(tmp_path / "copy").read_text().strip("\n").split("\n")
                assert head == "head"
                read += [line for line in rest if line]
            assert read == lines


def test_what_has_no_users_or_has_feature_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be partitioned"):
        prepare("synthetic", tmp_path / "x", partitions=Partitions(2, in_this_process))
    with pytest.raises(UsageError, match="feature columns"):
        made("csv", tmp_path, tmp_path / "x", 2, {}, item_features=("price",))
