"""A file's column names: exact, of any spelling, never mixed up with rbserve's own, refused where two are alike."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import raw_layouts as raw

from rbserve.core.errors import DataError, UsageError
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.sources import find_source, protocol_of

INTERNAL = (
    "ok",
    "OK",
    "position",
    "user",
    "item",
    "time",
    "label",
    "rating",
    "problem",
    "user_id",
    "c0",
    "line",
    "f",
)
ROWS = 60


def _columns(**named: str) -> dict[str, list[Any]]:
    """Columns of ROWS rows: a user, an item, a time that runs backwards, and a label that is 1 in half of the rows."""
    labels = [row % 2 for row in range(ROWS)]
    random.Random(1).shuffle(labels)
    return {
        named.get("user", "who"): [f"u{row // 6:02}" for row in range(ROWS)],
        named.get("item", "what"): [f"A{row % 6}" for row in range(ROWS)],
        named.get("time", "at"): [1_700_000_000 + ROWS - row for row in range(ROWS)],
        named.get("label", "liked"): labels,
    }


def _write(folder: Path, columns: dict[str, list[Any]], kind: str) -> Path:
    raw.put(folder, "items.csv", "item_id,title\n" + "".join(f"A{item},Title {item}\n" for item in range(6)))
    path = folder / f"interactions.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_arrays(list(map(pa.array, columns.values())), names=list(columns)), path)
    else:
        quote = '"' if kind == "txt" else ""
        lines = [",".join(f"{quote}{value}{quote}" for value in row)
                 for row in [tuple(columns), *zip(*columns.values(), strict=True)]]  # fmt: skip
        raw.put(folder, path.name, "\n".join([*lines, ""]))
    return path


def _load(folder: Path, path: Path, **names: str) -> raw.Loaded:
    named = {"user": "who", "item": "what", "item_key": "item_id", **names}
    return raw.load("csv", folder, interactions=path, items=folder / "items.csv", **named)


@pytest.mark.parametrize(("kind", "shift"), [("csv", shift) for shift in range(len(INTERNAL))]
                         + [("txt", 0), ("txt", 1), ("parquet", 0), ("parquet", 1), ("parquet", 2)])  # fmt: skip
def test_a_column_may_have_any_name_in_any_role(kind: str, shift: int, tmp_path: Path) -> None:
    plain = {"user": "who", "item": "what", "time": "at", "label": "liked"}
    expected = _load(tmp_path / "plain", _write(tmp_path / "plain", _columns(), "csv"), **plain)
    names = {role: INTERNAL[(shift + place) % len(INTERNAL)] for place, role in enumerate(plain)}
    loaded = _load(tmp_path, _write(tmp_path, _columns(**names), kind), **names)
    assert (loaded.events, loaded.times, loaded.dropped) == (expected.events, expected.times, {})
    assert sum(label for _, _, label in loaded.events) == ROWS // 2


@pytest.mark.parametrize("kind", ["csv", "txt", "parquet"])
def test_a_label_called_position_does_not_become_the_time(kind: str, tmp_path: Path) -> None:
    loaded = _load(tmp_path, _write(tmp_path, _columns(label="position"), kind), label="position")
    assert loaded.times == [row + 1 for row in range(ROWS)]
    assert [label for _, _, label in loaded.events] == _columns()["liked"]


@pytest.mark.parametrize("kind", ["csv", "txt", "parquet"])
def test_names_that_differ_in_case_alone_are_different_columns(kind: str, tmp_path: Path) -> None:
    columns = {"Click": [0] * ROWS, **_columns(label="click"), "CLICK": [1] * ROWS}
    path = _write(tmp_path, columns, kind)
    for name in ("Click", "click", "CLICK"):
        assert [label for _, _, label in _load(tmp_path, path, label=name).events] == columns[name]
    with pytest.raises(DataError, match="lacks the column 'cLICK'"):
        _load(tmp_path, path, label="cLICK")


@pytest.mark.parametrize("kind", ["csv", "txt", "parquet"])
def test_of_two_columns_of_one_name_none_is_guessed(kind: str, tmp_path: Path) -> None:
    columns = _columns()
    path = _write(tmp_path, columns, kind)
    twice = [*columns, "liked", ""]
    if kind == "parquet":
        arrays = [pa.array(columns.get(name, columns["who"])) for name in twice]
        pq.write_table(pa.Table.from_arrays(arrays, names=twice), path)
    else:
        head, *rest = path.read_text().splitlines()
        more = ',"liked",""' if kind == "txt" else ",liked,"
        raw.put(tmp_path, path.name, "\n".join([head + more, *(f'{line},"7",""' if kind == "txt" else f"{line},7,"
                                                               for line in rest), ""]))  # fmt: skip
    with pytest.raises(DataError, match=r"interactions\.\w+ has 2 columns named 'liked'") as error:
        _load(tmp_path, path, label="liked")
    assert "rename" in (error.value.hint or "")
    assert (
        len(_load(tmp_path, path).events) == ROWS
    )  # a column that nobody asks for may have any name, or none


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_of_two_texts_of_one_name_none_is_guessed(kind: str, tmp_path: Path) -> None:
    path = _write(tmp_path, _columns(), "csv")
    goods = tmp_path / f"goods.{kind}"
    if kind == "parquet":
        arrays = [pa.array(["A0"]), pa.array(["one"]), pa.array(["other"])]
        pq.write_table(pa.Table.from_arrays(arrays, names=["item_id", "title", "title"]), goods)
    else:
        raw.put(tmp_path, goods.name, "item_id,title,title\nA0,one,other\n")
    with pytest.raises(DataError, match=r"goods\.\w+ has 2 columns named 'title'"):
        raw.load("csv", tmp_path, interactions=path, items=goods, user="who", item="what", item_key="item_id")


def test_microlens_pairs_may_name_their_columns_as_they_like(tmp_path: Path) -> None:
    raw.put(tmp_path, "MicroLens-50k_titles.csv", "item,title\n2,Two\n10,Ten\n")
    for header in (
        "ok,position,timestamp",
        'us"er,item,TimeStamp',
        "item,ITEM,timestamp",
        " user , item , timestamp ",
    ):
        raw.put(tmp_path, "MicroLens-50k_pairs.csv", f"{header}\n1,10,300\n1,2,100\n")
        assert raw.load("microlens", tmp_path).events == [("1", "2", 1), ("1", "10", 1)]


# ---- Likes alone


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_own_tables_without_label_and_rating_get_two_random_negatives_a_user(name: str) -> None:
    source = find_source(name)
    assert (protocol_of(source).negatives, protocol_of(source).held_out) == (2, 2)
    assert protocol_of(source, {"negatives": 5, "held_out": 3}).negatives == 5
    for reading in (Reading(label="liked"), Reading(rating="stars")):
        assert (
            protocol_of(source, reading=reading).negatives,
            protocol_of(source, reading=reading).held_out,
        ) == (0, 0)
        assert protocol_of(source, {"negatives": 2}, reading).negatives == 2
    with pytest.raises(UsageError, match="every row is a like") as error:
        protocol_of(source, {"negatives": 0})
    assert "--label" in (error.value.hint or "")


def test_a_source_that_has_dislikes_keeps_its_own_protocol() -> None:
    assert (protocol_of(find_source("goodbooks")).negatives, protocol_of(find_source("hm")).negatives) == (
        0,
        2,
    )


@pytest.mark.parametrize("delimiter", [";", "|"])
def test_a_header_with_another_delimiter_names_the_option_to_give(delimiter: str, tmp_path: Path) -> None:
    raw.put(tmp_path, "interactions.csv", f"user_id{delimiter}item_id\nu{delimiter}a\n")
    raw.put(tmp_path, "items.csv", "item_id,title\na,A\n")
    with pytest.raises(DataError, match="lacks the column 'user_id'") as error:
        raw.load("csv", tmp_path)
    assert f"--delimiter '{delimiter}'" in (error.value.hint or "")
    with pytest.raises(DataError, match=r"items\.csv lacks the column 'item_id'") as error:
        raw.load("csv", tmp_path, delimiter=delimiter)
    assert "--delimiter ','" in (error.value.hint or "")
