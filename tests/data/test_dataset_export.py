"""A data set as flat tables: the rows of every split with raw ids and texts, which can be bound to it again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError
from rbserve.data import dataset_export
from rbserve.data.dataset import SPLITS, Dataset, Split
from rbserve.data.dataset_export import export_dataset, request_starts
from rbserve.data.request_table import write_request_set


@pytest.fixture(scope="module")
def tables(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "tables"
    export_dataset(planted, folder)
    return folder


@pytest.mark.parametrize("split", SPLITS)
def test_a_table_has_the_rows_of_its_split_in_order(tables: Path, planted: Dataset, split: Split) -> None:
    table = pq.read_table(tables / f"{split}.parquet")
    rows, items = planted.ctr(split), planted.items
    users = pq.read_table(planted.path / "users.parquet").to_pydict()
    user_ids = dict(zip(users["user"], users["user_id"], strict=True))
    assert table["user"].to_pylist() == [user_ids[user] for user in rows.users.tolist()]
    assert table["item"].to_pylist() == items.names(rows.candidates)
    assert table["label"].to_pylist() == rows.labels.tolist()
    assert table["time"].to_pylist() == planted.column(f"ctr/{split}", "time").tolist()
    assert table["text"].to_pylist() == [items.texts[item] for item in rows.candidates.tolist()]
    assert table["history"].to_pylist() == [items.names(rows.histories[row]) for row in range(len(rows))]
    texts = [[items.texts[item] for item in rows.histories[row].tolist()] for row in range(len(rows))]
    assert table["history_texts"].to_pylist() == texts
    assert set(table["split"].to_pylist()) == {split}


def test_a_request_is_the_rows_in_turn_of_one_user_with_one_history(tables: Path) -> None:
    table = pq.read_table(tables / "test.parquet").to_pylist()
    numbers = [int(row["request_id"].removeprefix("test-")) for row in table]
    for before, after, row, following in zip(numbers, numbers[1:], table, table[1:], strict=False):
        same = (row["user"], row["history"]) == (following["user"], following["history"])
        assert after == before + (not same)


def test_the_size_of_the_pieces_changes_no_request(planted: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = request_starts(planted.ctr("test"))
    monkeypatch.setattr(dataset_export, "PIECE", 3)
    assert np.array_equal(request_starts(planted.ctr("test")), whole)


def test_tables_have_the_items_and_the_sequences(tables: Path, planted: Dataset) -> None:
    items = pq.read_table(tables / "items.parquet").to_pydict()
    assert items == {"item": [*planted.items.ids], "text": [*planted.items.texts]}
    sequences = pq.read_table(tables / "sequences_test.parquet")
    assert sequences["item"].to_pylist() == planted.items.names(planted.seqrec("test").targets)
    assert "label" not in sequences.column_names


def test_csv_has_the_rows_of_parquet_with_lists_in_json(
    tables: Path, planted: Dataset, tmp_path: Path
) -> None:
    export_dataset(planted, tmp_path / "csv", "csv")
    expected = pq.read_table(tables / "test.parquet").to_pylist()
    with (tmp_path / "csv" / "test.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [json.loads(row["history"]) for row in rows] == [row["history"] for row in expected]
    assert [row["text"] for row in rows] == [row["text"] for row in expected]


def test_an_export_replaces_an_earlier_one_and_nothing_else(planted: Dataset, tmp_path: Path) -> None:
    export_dataset(planted, tmp_path / "tables")
    export_dataset(planted, tmp_path / "tables", "csv")
    assert not [*(tmp_path / "tables").glob("*.parquet")]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="was not made by rbserve"):
        export_dataset(planted, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_an_exported_test_table_is_bound_to_its_data_set(planted: Dataset, tmp_path: Path, form: Any) -> None:
    export_dataset(planted, tmp_path / "tables", form)
    requests = write_request_set(
        tmp_path / "tables" / f"test.{form}", tmp_path / "set", AdoptOptions(), "set", dataset=planted
    )
    test = planted.ctr("test")
    assert requests.manifest.data_set == (planted.name, planted.fingerprint)
    assert np.array_equal(requests.users, test.users)
    assert requests.labels is not None
    assert np.array_equal(requests.labels, test.labels)
    assert np.array_equal(requests.offsets[:-1], request_starts(test))
    histories = [requests.column("history").one(number).tolist() for number in range(len(requests))]
    if form == "parquet":
        assert histories == [planted.items.names(test.histories[row]) for row in request_starts(test)]


CHANGES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "fewer rows": (lambda table: table.slice(1), "has [0-9,]+ rows, but .* has [0-9,]+ test rows"),
    "another order": (
        lambda table: table.take(np.arange(len(table))[::-1]).drop_columns(["request_id", "history", "history_texts"]),
        "in row 1, but test row 1",
    ),
    "another label": (
        lambda table: table.set_column(
            table.schema.get_field_index("label"), "label",
            pa.array([1 - label if row == 4 else label for row, label in enumerate(table["label"].to_pylist())]),
        ), "has label . in row 5, but test row 5 of .* has .",
    ),
    "another item": (
        lambda table: table.set_column(
            table.schema.get_field_index("item"), "item", pa.array([*table["item"].to_pylist()[:-1], "none"]),
        ), "has item none in row",
    ),
    "another user": (
        lambda table: table.set_column(
            table.schema.get_field_index("user"), "user", pa.array(["none", *table["user"].to_pylist()[1:]]),
        ), "has user none in row 1",
    ),
    "no items": (lambda table: table.drop_columns(["item"]), "has no column item"),
    "no users": (lambda table: table.drop_columns(["user"]), "has no column user"),
    "no labels": (lambda table: table.drop_columns(["label"]), "has no column label"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_other_rows_are_not_bound_and_leave_nothing(
    tables: Path, planted: Dataset, tmp_path: Path, change: str
) -> None:
    changed, message = CHANGES[change]
    pq.write_table(changed(pq.read_table(tables / "test.parquet")), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=message):
        write_request_set(
            tmp_path / "other.parquet", tmp_path / "set", AdoptOptions(), "set", dataset=planted
        )
    assert not (tmp_path / "set").exists()
