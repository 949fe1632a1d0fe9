"""A user's own tables in every format: one id has one text, a folder of parts is one table, a wrong file is named."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import raw_layouts as raw
from hypothesis import given, settings
from hypothesis import strategies as st

from rbserve.core.errors import DataError
from rbserve.core.ids import id_text
from rbserve.data.dataset import SPLITS
from rbserve.train.datasets.formats import find_format, open_table
from rbserve.train.datasets.item_file import read_ids, read_items
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.sources import find_source, prepare, protocol_of
from rbserve.train.datasets.workspace import PROBLEMS
from rbserve.train.protocol.sampling import GIVEN
from rbserve.train.protocol.tally import Tally

TITLES = {f"A{item:02d}": f"Title {item}" for item in range(30)}
CLICKS = [(f"u{user}", f"A{(7 * user + 5 * step) % 30:02d}", 1_700_000_000 + 100 * user + step)
          for user in range(40) for step in range(6)]  # fmt: skip
Columns = dict[str, Sequence[Any]]


def _csv(path: Path, columns: Columns) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = [
        ",".join(columns),
        *(",".join("" if cell is None else str(cell) for cell in row) for row in rows),
    ]
    return raw.put(path.parent, path.name, "\n".join(lines) + "\n")


def _json(path: Path, columns: Columns) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    return raw.put(path.parent, path.name, "\n".join(lines) + "\n")


def _parquet(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


WRITERS: dict[str, Callable[[Path, Any], Path]] = {"csv": _csv, "jsonl": _json, "parquet": _parquet}


def _clicks(rows: Sequence[tuple[str, str, int]] = CLICKS) -> Columns:
    return dict(zip(("user_id", "item_id", "ts"), zip(*rows, strict=True), strict=True))


def _items() -> Columns:
    return {"item_id": list(TITLES), "title": list(TITLES.values())}


def _load(clicks: Path, items: Path, **reading: Any) -> raw.Loaded:
    return raw.load("csv", Path("nowhere"), interactions=clicks, items=items, **{"time": "ts"} | reading)


def _pair(folder: Path, items: Any, events: Any, kinds: Sequence[str] = ("parquet", "parquet")) -> raw.Loaded:
    """Loads one item and one event of it; their ids are Arrow columns, or lists."""
    catalogue = WRITERS[kinds[0]](
        folder / f"items.{kinds[0]}", {"item_id": items, "title": ["Title"] * len(items)}
    )
    rows = {"user_id": ["u"] * len(events), "item_id": events, "ts": [1] * len(events)}
    clicks = WRITERS[kinds[1]](folder / f"interactions.{kinds[1]}", rows)
    return _load(clicks, catalogue)


# ---- One id, one text


@pytest.mark.parametrize("ids", [
    pa.array([1193.0]), pa.array(["A00  "]), pa.array([b"\xc3\xa9"]), pa.array([b"A"], pa.large_binary()),
    pa.array([datetime(2024, 5, 1, 12)]), pa.array([Decimal("7.00")]), pa.array(["A\xa0"]), pa.array(["\tA"]),
    pa.array(["A"]).dictionary_encode(), pa.array([uuid.UUID(int=5).bytes], pa.uuid()), pa.array([True]),
    pa.array([7.0], pa.float32()), pa.array([7], pa.uint64()), pa.array([b"\xff\xfe"]),
], ids=lambda ids: f"{ids.type}: {ids.to_pylist()[0]!r}"[:40])  # fmt: skip
def test_both_parquet_files_name_an_item_alike_whatever_its_type(ids: pa.Array, tmp_path: Path) -> None:
    loaded = _pair(tmp_path, ids, ids)
    assert len(loaded.events) == 1
    assert loaded.dropped == {}


@pytest.mark.parametrize(("items", "events", "text"), [
    ("1193", "1193.0", "1193"), ("1193.0", "1193", "1193"), ("A00", "A00\xa0", "A00"), ("A00\xa0", "A00", "A00"),
    ("A00", '"A00\t"', "A00"), ('"\tA00"', "A00", "A00"), ("A00", "  A00 ", "A00"), ("A00", "A00\u3000", "A00"),
    ("A00", "\u200bA00", "A00"), ("007", "007", "007"), ("日本", "\u3000日本", "日本"),
])  # fmt: skip
def test_csv_ids_match_though_spaces_or_a_needless_fraction_differ(
    items: str, events: str, text: str, tmp_path: Path
) -> None:
    loaded = _pair(tmp_path, [items], [events], ("csv", "csv"))
    assert loaded.events == [("u", text, 1)]


@pytest.mark.parametrize("items", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("events", ["csv", "jsonl", "parquet"])
@settings(max_examples=8)
@given(ids=st.lists(st.integers(0, 2**53 - 1) | st.sampled_from(["A\xa0", " é", "7.00", "B", "\tC", "D  "]), min_size=1,
                    max_size=6, unique_by=id_text))  # fmt: skip
def test_an_id_is_the_same_in_every_format_and_type(
    items: str, events: str, ids: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whole numbers are written as floats on the side of the events, as pandas does beside a gap."""
    numbers = all(isinstance(one, int) for one in ids)
    sent = [float(one) if isinstance(one, int) else one for one in ids] if numbers else list(map(str, ids))
    loaded = _pair(
        tmp_path_factory.mktemp("tables"), ids if numbers else list(map(str, ids)), sent, (items, events)
    )
    assert sorted(item for _, item, _ in loaded.events) == sorted(map(id_text, ids))
    assert loaded.dropped == {}


@pytest.mark.parametrize("kind", WRITERS)
def test_when_no_item_matches_the_error_shows_one_id_of_each_side(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name no item alike: the item '1193' there, 'ml_1193' here") as error:
        _pair(tmp_path, ["ml_1193"], [1193], ("csv", kind))
    assert "--items-id" in (error.value.hint or "")


def test_missing_ids_are_counted_in_every_format(tmp_path: Path) -> None:
    for kind, nothing in (("csv", ""), ("jsonl", None), ("parquet", None)):
        loaded = _pair(tmp_path / kind, ["A", "B"], ["A", nothing], ("csv", kind))
        assert len(loaded.events) == 1
        assert sum(loaded.dropped.values()) == 1


def test_ids_that_a_float_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'item_id' holds the id 1.2e\+18 as a float") as error:
        _pair(tmp_path, ["A"], pa.array([1.2e18, None]), ("csv", "parquet"))
    assert "Int64" in (error.value.hint or "")


def test_a_list_is_no_id(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"the column 'item_id' holds values of type list<.*>, not one value a row"
    ):
        _pair(tmp_path, ["A"], pa.array([["A"]]), ("csv", "parquet"))


# ---- Formats, told by content


@pytest.fixture
def expected(tmp_path: Path) -> raw.Loaded:
    """What the base tables hold, read as CSV."""
    folder = tmp_path / "expected"
    loaded = _load(_csv(folder / "clicks.csv", _clicks()), _csv(folder / "items.csv", _items()))
    assert len(loaded.events) == len(CLICKS)
    return loaded


@pytest.mark.parametrize(("name", "kind"), [
    ("clicks.pq", "parquet"), ("clicks.snappy.parquet", "parquet"), ("part-0000", "parquet"), ("clicks.dat", "parquet"),
    ("clicks.json", "jsonl"), ("clicks.ndjson.gz", "jsonl"), ("clicks", "jsonl"), ("clicks.txt", "csv"),
    ("clicks.csv.gz", "csv"), ("clicks", "csv"),
])  # fmt: skip
@pytest.mark.parametrize("reads", ["csv", "json", "parquet"])
def test_a_file_is_what_it_holds_whatever_its_name_and_the_sources_name(
    name: str, kind: str, reads: str, expected: raw.Loaded, tmp_path: Path
) -> None:
    clicks = WRITERS[kind](tmp_path / name, _clicks())
    items = _json(tmp_path / "items.jsonl", _items())
    loaded = raw.load(reads, Path("nowhere"), interactions=clicks, items=items, time="ts")
    assert (loaded.events, loaded.times, loaded.items) == (expected.events, expected.times, expected.items)


def _parts(folder: Path, kind: str, packed: bool = False) -> Path:
    """The clicks as three part files and one without rows, among what Spark puts beside them."""
    suffix = f"{kind}.gz" if packed else kind
    for place in range(3):
        rows = _clicks(CLICKS[place * 80 : place * 80 + 80])
        WRITERS[kind](folder / f"part-{place:05}-c000.{suffix}", rows)
    raw.put(folder, "_SUCCESS", b"")
    raw.put(folder, ".part-00000-c000.crc", b"crc")
    raw.put(folder, "part-00003-c000.csv", b"")
    return folder


@pytest.mark.parametrize(
    ("kind", "packed"), [("parquet", False), ("csv", False), ("csv", True), ("jsonl", True)]
)
@pytest.mark.parametrize("time", ["ts", None])
def test_a_folder_of_parts_is_one_table_in_the_order_of_their_names(
    kind: str, packed: bool, time: str | None, expected: raw.Loaded, tmp_path: Path
) -> None:
    items = _csv(tmp_path / "items.csv", _items())
    loaded = _load(_parts(tmp_path / "clicks.parquet", kind, packed), items, time=time)
    assert loaded.events == expected.events
    assert loaded.items == expected.items
    assert loaded.dropped == {}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("most", [10, 80, 100, 1_000])
def test_max_rows_counts_over_all_parts(kind: str, most: int, tmp_path: Path) -> None:
    items = _csv(tmp_path / "items.csv", _items())
    clicks = _parts(tmp_path / "clicks", kind)
    loaded = raw.load("csv", Path("nowhere"), most, interactions=clicks, items=items, time="ts")
    assert sorted(loaded.events) == sorted((user, item, 1) for user, item, _ in CLICKS[:most])


def test_a_raw_folder_may_hold_tables_of_any_format_and_folders_of_parts(
    expected: raw.Loaded, tmp_path: Path
) -> None:
    _parts(tmp_path / "interactions.parquet", "parquet")
    _json(tmp_path / "items.jsonl.gz", _items())
    assert raw.load("parquet", tmp_path, time="ts").events == expected.events
    with pytest.raises(DataError, match=r"holds no table items: looked for items\.csv, .* items\.json"):
        (tmp_path / "items.jsonl.gz").unlink()
        raw.load("parquet", tmp_path, time="ts")


def test_amazons_layout_of_2023_goes_through(tmp_path: Path) -> None:
    reviews = [{"rating": float(1 + place % 5), "title": "Nice", "text": 'So "good"\n!', "images": [], "asin": "X",
                "parent_asin": item, "user_id": user, "timestamp": time * 1000, "verified_purchase": True}
               for place, (user, item, time) in enumerate(CLICKS)]  # fmt: skip
    meta = [{"main_category": "All", "title": title, "average_rating": 4.1, "price": None, "images": [{"large": "x"}],
             "details": {"Brand": "b"}, "parent_asin": item} for item, title in TITLES.items()]  # fmt: skip
    names = {"Beauty.jsonl.gz": reviews, "meta_Beauty.jsonl.gz": meta}
    clicks, items = (
        raw.put(tmp_path, name, "\n".join(map(json.dumps, rows))) for name, rows in names.items()
    )
    loaded = _load(clicks, items, item="parent_asin", time="timestamp", rating="rating")
    liked = {(user, item): place % 5 for place, (user, item, _) in enumerate(CLICKS) if place % 5 != 2}
    assert {(user, item): label for user, item, label in loaded.events} == {
        pair: int(stars >= 3) for pair, stars in liked.items()
    }
    assert set(loaded.times) <= {time * 1000 for _, _, time in CLICKS}


def test_a_byte_order_mark_costs_json_no_line(expected: raw.Loaded, tmp_path: Path) -> None:
    lines = _json(tmp_path / "plain.jsonl", _clicks()).read_text()
    for name in ("marked.jsonl", "marked.jsonl.gz"):
        clicks = raw.put(tmp_path, name, "\ufeff" + lines)
        assert _load(clicks, _csv(tmp_path / "items.csv", _items())).events == expected.events


def _wrong_files() -> Iterator[tuple[str, bytes, str]]:
    literal = b"{'reviewerID': u'A1', 'overall': 5.0, 'helpful': [0, None]}\n" * 3
    yield "reviews.json", literal, "lines of Python literals, not JSON: Amazon's files of 2014"
    yield "reviews.json.gz", gzip.compress(literal), "lines of Python literals, not JSON"
    yield "array.json", b'[{"user_id": "u"},\n{"user_id": "v"}]\n', "one JSON array, not JSON lines"
    yield "pretty.json", b'[\n  {\n    "user_id": "u"\n  }\n]\n', "one JSON array"
    yield "object.json", b'{\n  "user_id": "u"\n}\n', "JSON objects that span lines"
    yield "clicks.csv.zst", b"\x28\xb5\x2f\xfd0000", "compressed with zstd"
    yield "clicks.csv", b"PK\x03\x04zip", "a zip or an Excel workbook"
    yield "clicks.feather", b"ARROW1\0\0", "a Feather file"
    yield "clicks.orc", b"ORC\1", "an ORC file"


@pytest.mark.parametrize(
    ("name", "content", "message"), list(_wrong_files()), ids=lambda value: str(value)[:16]
)
@pytest.mark.parametrize("side", ["items", "interactions"])
def test_a_file_of_another_kind_is_an_error_that_names_the_cause(
    side: str, name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    files = {
        "interactions": _csv(tmp_path / "right1.csv", _clicks()),
        "items": _csv(tmp_path / "right2.csv", _items()),
    }
    files[side] = tmp_path / name
    files[side].write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        raw.load("csv", Path("nowhere"), time="ts", **files)
    assert name in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(("inside", "message"), [
    ("_delta_log/0.json", "is a Delta table"), (".hoodie/x", "is a Hudi table"), ("_SUCCESS", "no part with rows"),
])  # fmt: skip
def test_a_folder_that_is_no_plain_table_is_named(inside: str, message: str, tmp_path: Path) -> None:
    raw.put(tmp_path / "table" / Path(inside).parent, Path(inside).name, b"{}")
    with pytest.raises(DataError, match=message):
        open_table(tmp_path / "table")


def test_a_format_that_is_given_is_not_looked_for(tmp_path: Path) -> None:
    odd = raw.put(tmp_path, "odd.json", "user_id,item_id\n")
    assert find_format(odd) == "json"
    assert open_table(odd, "csv").format == "csv"


def test_a_rating_that_means_none_is_left_out_and_counted(tmp_path: Path) -> None:
    clicks = _csv(tmp_path / "clicks.csv", _clicks() | {"stars": [place % 6 for place in range(240)]})
    items = _csv(tmp_path / "items.csv", _items())
    every, told = (_load(clicks, items, rating="stars", rating_none=none) for none in (None, 0.0))
    assert len(every.events) - len(told.events) == 40 == told.dropped[PROBLEMS[6]]
    assert set(every.events) - set(told.events) == {(user, item, 0) for user, item, _ in CLICKS[::6]}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_of_items_alone_is_read_in_every_format(kind: str, tmp_path: Path) -> None:
    """`rbserve items add` and `retire` read it so."""
    rows = {"item_id": [" A1", "A2\xa0"], "title": ["One", "Two"]}
    path = WRITERS[kind](tmp_path / f"new.{kind}", rows)
    assert list(read_items(path, "item_id", "title", Tally())) == [("A1", "One"), ("A2", "Two")]
    assert read_ids(path, "item_id") == ["A1", "A2"]
    numbers = WRITERS[kind](tmp_path / f"numbers.{kind}", {"id": [7.0, 1193.0]})
    assert read_ids(numbers, "id") == ["7", "1193"]


def test_bytes_that_are_not_utf8_in_json_lines_are_counted(tmp_path: Path) -> None:
    clicks = raw.put(
        tmp_path, "clicks.jsonl", b'{"user_id": "\xc3"\n' + _json(tmp_path / "c", _clicks()).read_bytes()
    )
    loaded = _load(clicks, _csv(tmp_path / "items.csv", _items()))
    assert len(loaded.events) == len(CLICKS)
    assert sum(loaded.dropped.values()) == 1


# ---- RecBench's own Parquet


def _recbench(folder: Path, history: str = "history") -> dict[str, Any]:
    """Users with lists of items, labelled rows without a time, in two files, and items: 24 users, 16 items."""
    users = [f"U{user}" for user in range(24)]
    past = [[f"N{(user * 3 + step) % 16}" for step in range(user % 4)] for user in range(24)]
    rows = [
        (users[user], f"N{(user * 5 + step * 7 + 9) % 16}", step % 2)
        for user in range(24)
        for step in range(6)
    ]
    _parquet(
        folder / "users.parquet",
        {"uid": users, history: pa.array(past, pa.list_(pa.string())), "neg": [[]] * 24},
    )
    _parquet(folder / "items.parquet", {"nid": [f"N{item}" for item in range(16)], "title": ["A title"] * 16})
    for name, part in (("finetune", rows[:96]), ("test", rows[96:])):
        columns = zip(("uid", "nid", "click"), zip(*part, strict=True), strict=True)
        _parquet(folder / "rows" / f"{name}.parquet", {key: list(column) for key, column in columns})
    tables = {
        "interactions": folder / "rows",
        "items": folder / "items.parquet",
        "histories": folder / "users.parquet",
    }
    return {"user": "uid", "item": "nid", "label": "click", **tables}


def test_recbenchs_lists_are_the_histories_of_its_rows(tmp_path: Path) -> None:
    reading = _recbench(tmp_path)
    loaded = raw.load("parquet", Path("nowhere"), **reading)
    given: dict[str, list[str]] = {}
    for (user, item, label), time in zip(loaded.events, loaded.times, strict=True):
        if label == GIVEN:
            given.setdefault(user, []).append(item)
            assert time < min(when for (other, _, kind), when in zip(loaded.events, loaded.times, strict=True)
                              if other == user and kind != GIVEN)  # fmt: skip
    assert given == {f"U{user}": [f"N{(user * 3 + step) % 16}" for step in range(user % 4)]
                     for user in range(24) if user % 4}  # fmt: skip
    assert len(loaded.events) == 24 * 6 + sum(map(len, given.values()))


def test_a_data_set_of_recbenchs_files_has_these_histories_and_no_others(tmp_path: Path) -> None:
    read = Reading(**_recbench(tmp_path))
    protocol = protocol_of(find_source("parquet"), {}, read)
    dataset = prepare("parquet", tmp_path / "set", protocol=protocol, reading=read)
    names = dataset.items.ids
    for split in SPLITS:
        rows = dataset.ctr(split)
        for place in range(len(rows)):
            begin, end = rows.histories.offsets[place : place + 2]
            history = [int(names[item][1:]) for item in rows.histories.values[begin:end]]
            assert 1 <= len(history) <= 3
            assert history == [(history[0] + step) % 16 for step in range(len(history))]


def test_lists_that_are_none_and_lists_as_items_are_named(tmp_path: Path) -> None:
    reading = _recbench(tmp_path, "his")
    with pytest.raises(DataError, match="lacks the column 'history'"):
        raw.load("parquet", Path("nowhere"), **reading)
    with pytest.raises(DataError, match=r"'uid' holds string, not lists of items") as error:
        raw.load("parquet", Path("nowhere"), **reading, histories_items="uid")
    assert "--histories-items" in (error.value.hint or "")
    with pytest.raises(DataError, match="not one value a row") as error:
        raw.load("parquet", Path("nowhere"), **reading | {"interactions": tmp_path / "users.parquet", "label": None,
                                                          "item": "his", "item_key": "nid"})  # fmt: skip
    assert "--histories" in (error.value.hint or "")
