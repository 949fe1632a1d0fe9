"""Tables of requests in three formats and two layouts become request sets; bad ones are refused in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import DataError, RbserveError, UsageError
from rbserve.core.requests import SLATE, TEXT, Signature, TensorSpec
from rbserve.data import csv_table, json_table, table_files
from rbserve.data.request_set import RequestSet
from rbserve.data.request_table import describe, write_request_set

Rows = Sequence[Mapping[str, Any]]


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist([*rows]), path)


def write_json(path: Path, rows: Rows) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            )


WRITERS = {"parquet": write_parquet, "jsonl": write_json, "csv": write_csv}


def read(tmp_path: Path, rows: Rows, form: str = "parquet", **options: Any) -> RequestSet:
    WRITERS[form](tmp_path / f"table.{form}", rows)
    return write_request_set(
        tmp_path / f"table.{form}", tmp_path / "data" / form, AdoptOptions(**options), form
    )


CANDIDATES: Rows = [
    {
        "query": f"q{row // 3}", "user": f"u{row // 6}", "clicked": row % 2, "price": row / 7, "stock": row * 10**10,
        "new": bool(row % 2), "title": f'a "title", {row} é', "vector": [row * 1.0, 0.5],
        "history": [*range(row // 3)], "names": [f"n{number}" for number in range(row // 3)],
    }
    for row in range(12)
]  # fmt: skip
"""A row a candidate: four requests of three, of two users."""

REQUESTS: Rows = [
    {
        "age": size, "clicked": [number % 3 for number in range(size)], "price": [number / 7 for number in range(size)],
        "vector": [[number * 1.0, size * 1.0] for number in range(size)],
        "title": [f"t{number}" for number in range(size)],
        "history": [7] * (9 - size), "tags": ["a", "b"],
    }
    for size in (3, 1, 5, 2)
]  # fmt: skip
"""A row a request."""

ROLES = {"label": "clicked", "group": "query", "user": "user"}


@pytest.mark.parametrize("form", WRITERS)
def test_rows_of_candidates_become_requests_in_every_format(tmp_path: Path, form: str) -> None:
    requests = read(tmp_path, CANDIDATES, form, **ROLES)
    assert requests.offsets.tolist() == [0, 3, 6, 9, 12]
    assert requests.users.tolist() == [0] * 6 + [1] * 6
    assert requests.labels is not None
    assert requests.labels.tolist() == [row["clicked"] for row in CANDIDATES]
    every = np.arange(12)
    for name in ("price", "stock", "new", "title", "vector"):
        assert requests.column(name).take(every).tolist() == [row[name] for row in CANDIDATES], name
    for name in ("history", "names"):
        assert [requests.column(name).one(number).tolist() for number in range(4)] == [
            row[name] for row in CANDIDATES[::3]
        ]


@pytest.mark.parametrize("form", WRITERS)
def test_rows_of_requests_become_requests_in_every_format(tmp_path: Path, form: str) -> None:
    requests = read(tmp_path, REQUESTS, form, label="clicked")
    assert requests.manifest.labels == "graded"
    assert np.diff(requests.offsets).tolist() == [3, 1, 5, 2]
    assert requests.users.tolist() == [0] * 3 + [1] + [2] * 5 + [3] * 2
    every = np.arange(11)
    for name in ("price", "vector", "title"):
        expected = [value for row in REQUESTS for value in row[name]]
        assert requests.column(name).take(every).tolist() == expected, name
    for name in ("age", "history", "tags"):
        assert [requests.column(name).one(number).tolist() for number in range(4)] == [
            row[name] for row in REQUESTS
        ]


@pytest.mark.parametrize(("rows", "options"), [(CANDIDATES, ROLES), (REQUESTS, {"label": "clicked"})])
def test_a_fingerprint_is_of_the_content_and_not_of_the_format(
    tmp_path: Path, rows: Rows, options: dict[str, str]
) -> None:
    prints = {read(tmp_path, rows, form, **options).fingerprint for form in WRITERS}
    assert len(prints) == 1


@pytest.mark.parametrize("change", ["price", "clicked", "history", "title", "user", "query"])
def test_a_fingerprint_differs_where_a_value_differs(tmp_path: Path, change: str) -> None:
    others: dict[str, Any] = {
        "price": 9.0,
        "clicked": 1,
        "history": [1],
        "title": "b",
        "user": "u9",
        "query": "q9",
    }
    changed = [
        {**row, change: others[change]} if number < 3 else row for number, row in enumerate(CANDIDATES)
    ]
    if change == "query":
        changed = [{**row, "query": "q0"} if number < 6 else row for number, row in enumerate(CANDIDATES)]
        changed = [
            {**row, "history": [], "names": []} if number < 6 else row for number, row in enumerate(changed)
        ]
    before = read(tmp_path, CANDIDATES, **ROLES).fingerprint
    assert read(tmp_path, changed, **ROLES).fingerprint != before


def test_narrow_numbers_have_the_fingerprint_of_wide_ones(tmp_path: Path) -> None:
    prints = []
    for integer, number in ((pa.int8(), pa.float32()), (pa.int64(), pa.float64())):
        table = pa.table({"stock": pa.array([1, 2], integer), "price": pa.array([0.5, 0.25], number)})
        pq.write_table(table, tmp_path / "table.parquet")
        requests = write_request_set(tmp_path / "table.parquet", tmp_path / "data", AdoptOptions(), "data")
        assert requests.column("stock").record.dtype == str(integer)
        prints.append(requests.fingerprint)
    assert prints[0] == prints[1]


def test_the_size_of_the_pieces_that_are_read_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {form: read(tmp_path, CANDIDATES, form, **ROLES).fingerprint for form in WRITERS}
    for module, size in ((table_files, "PIECE_ROWS"), (table_files, "LIST_ROWS")):
        monkeypatch.setattr(module, size, 2)
    for module in (csv_table, json_table):
        monkeypatch.setattr(module, "PIECE_BYTES", 400)
    assert {form: read(tmp_path, CANDIDATES, form, **ROLES).fingerprint for form in WRITERS} == whole


def test_tensors_of_a_request_are_filled_from_a_table(tmp_path: Path) -> None:
    requests = read(tmp_path, CANDIDATES, **ROLES)
    signature = Signature(
        [
            TensorSpec("x", "float32", [SLATE, 3], ["price", "vector"]),
            TensorSpec("title", TEXT, [SLATE, 1], ["title"]),
            TensorSpec("history", "int64", [1, "T"], ["history"]),
        ],
        [TensorSpec("scores", "float32", [SLATE])],
        "scores",
    )
    tensors = requests.request(signature, 2)
    expected = [[row["price"], *row["vector"]] for row in CANDIDATES[6:9]]
    assert np.allclose(tensors["x"], expected)
    assert tensors["title"].tolist() == [[row["title"]] for row in CANDIDATES[6:9]]
    assert tensors["history"].tolist() == [[0, 1]]


def test_columns_keep_the_order_of_the_table(tmp_path: Path) -> None:
    requests = read(tmp_path, [{"z": 1, "a": 2.0, "m": "x"}])
    assert [*requests.manifest.columns] == ["z", "a", "m"]


def test_without_a_group_each_row_is_a_request(tmp_path: Path) -> None:
    requests = read(tmp_path, [{"price": 1.0, "clicked": 0}, {"price": 2.0, "clicked": 1}], label="clicked")
    assert requests.offsets.tolist() == [0, 1, 2]


def test_without_labels_the_most_lists_of_one_length_are_of_candidates(tmp_path: Path) -> None:
    requests = read(tmp_path, [{name: row[name] for name in row if name != "clicked"} for row in REQUESTS])
    scopes = {name: record.scope for name, record in requests.manifest.columns.items()}
    assert [name for name, scope in scopes.items() if scope == "candidate"] == ["price", "vector", "title"]
    assert requests.labels is None
    assert "a row is a request" in "\n".join(describe(requests))


def test_whole_numbers_with_gaps_become_numbers_and_are_counted(tmp_path: Path) -> None:
    rows = [{"stock": 1, "price": 2.5}, {"stock": None, "price": float("nan")}, {"stock": 3, "price": None}]
    for form in WRITERS:
        requests = read(tmp_path, rows, form)
        assert requests.column("stock").record.dtype == "float64"
        stock = requests.column("stock").take(np.arange(3))
        assert np.array_equal(stock, [1, np.nan, 3], equal_nan=True)
        assert requests.manifest.missing == {"stock": 1, "price": 2}
        assert any(note.startswith("stock: 1 missing") for note in requests.manifest.notes)


def test_ids_with_leading_zeros_stay_texts(tmp_path: Path) -> None:
    requests = read(tmp_path, [{"item": "007"}, {"item": "12"}], "csv")
    assert requests.column("item").take(np.arange(2)).tolist() == ["007", "12"]


def test_requests_without_candidates_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"clicked": [], "price": []}, {"clicked": [1], "price": [2.0]}]
    requests = read(tmp_path, rows, label="clicked")
    assert (len(requests), requests.manifest.skipped) == (1, {"requests without candidates": 1})


@pytest.mark.parametrize(
    ("form", "line", "reason"),
    [("csv", "1,2,3\n", "another number of fields"), ("jsonl", '{"clicked": 1,\n', "no JSON object"),
     ("jsonl", "[1, 2]\n", "no JSON object")],
)  # fmt: skip
def test_rows_that_cannot_be_read_are_counted_and_too_many_are_refused(
    tmp_path: Path, form: str, line: str, reason: str
) -> None:
    WRITERS[form](tmp_path / f"table.{form}", [{"clicked": row % 2, "price": row / 3} for row in range(40)])
    with (tmp_path / f"table.{form}").open("a") as file:
        file.write(line)
    options = AdoptOptions(label="clicked")
    requests = write_request_set(tmp_path / f"table.{form}", tmp_path / "data", options, "data")
    assert (len(requests), [*requests.manifest.skipped.values()]) == (40, [1])
    with (tmp_path / f"table.{form}").open("a") as file:
        file.write(line * 2)
    with pytest.raises(DataError, match=f"3 of 43 rows .*{reason}"):
        write_request_set(tmp_path / f"table.{form}", tmp_path / "again", options, "again")
    assert not (tmp_path / "again").exists()


def rows_with(**columns: Sequence[Any]) -> Callable[[Path], None]:
    """Writes a Parquet table of columns beside a column of prices."""
    length = len(next(iter(columns.values())))
    return lambda path: pq.write_table(pa.table({"price": [0.5] * length, **columns}), path)


BAD: dict[str, tuple[Callable[[Path], object], dict[str, str], str]] = {
    "no such column": (rows_with(clicked=[1]), {"label": "clickd"}, "unknown column: clickd"),
    "no label": (rows_with(clicked=[1, None]), {"label": "clicked"}, "label clicked is not there in row 2"),
    "a negative label": (rows_with(clicked=[0, -1]), {"label": "clicked"}, "label clicked is -1 in row 2"),
    "a fraction": (rows_with(clicked=[0.5, 1]), {"label": "clicked"}, "label clicked is 0.5 in row 1"),
    "an infinite label": (rows_with(clicked=[float("inf")]), {"label": "clicked"}, "label clicked is inf in row 1"),
    "a label of text": (rows_with(clicked=["yes"]), {"label": "clicked"}, "label clicked holds texts"),
    "no group": (rows_with(query=["a", None]), {"group": "query"}, "column query has no value in row 2"),
    "no user": (rows_with(user=["a", ""]), {"user": "user"}, "column user has no value in row 2"),
    "a scattered group": (
        rows_with(query=["a", "a", "b", "a"]), {"group": "query"}, "rows of group a do not stand together.* row 4"
    ),
    "a scattered numbered group": (rows_with(query=[3, 5, 3]), {"group": "query"}, "group 3 do not stand together"),
    "lists of candidates that differ": (
        rows_with(query=["a", "a"], tags=[[1], [1, 2]]), {"group": "query"}, "column tags is another one in row 2"
    ),
    "ragged lists of candidates": (
        rows_with(clicked=[[0, 1]], vector=[[[1.0], [1.0, 2.0]]]), {"label": "clicked"}, "column vector have different"
    ),
    "lists of lists in a row of a candidate": (
        rows_with(clicked=[1], deep=[[[1.0]]]), {"label": "clicked"}, "column deep holds lists of lists"
    ),
    "a struct": (rows_with(point=[{"x": 1}]), {}, "column point holds values of type struct"),
    "no column but the label": (
        lambda path: pq.write_table(pa.table({"clicked": [1]}), path), {"label": "clicked"}, "no column beside"
    ),
    "a label that is the group": (rows_with(query=[1]), {"label": "query", "group": "query"}, "cannot be the label"),
    "no rows": (lambda path: pq.write_table(pa.table({"price": pa.array([], pa.float64())}), path), {}, "has no rows"),
    "two columns of one name": (
        lambda path: pq.write_table(pa.table([pa.array([1]), pa.array([2])], ["a", "a"]), path), {}, "two columns a"
    ),
    "no Parquet": (lambda path: path.write_text("price\n1\n"), {}, "cannot read .* as Parquet"),
    "a folder": (lambda path: path.mkdir(), {}, "is a folder"),
    "nothing": (Path, {}, "is not there"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_one_line_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    write, options, message = BAD[case]
    path = tmp_path / "table.parquet"
    write(path)
    with pytest.raises(RbserveError, match=message) as raised:
        write_request_set(path, tmp_path / "data" / "set", AdoptOptions(**options), "set")
    assert "\n" not in raised.value.message
    assert raised.value.hint
    assert not [*(tmp_path / "data").rglob("*")]


BAD_TEXTS = {
    "two columns": ("csv", b"a,b,a\n1,2,3\n", "two columns a"),
    "no line": ("csv", b"", "has no rows"),
    "only names": ("csv", b"a,b\n", "has no rows"),
    "latin-1": ("csv", "a,b\n1,é\n".encode("latin-1"), "cannot read .* as CSV.*UTF8"),
    "two kinds": ("jsonl", b'{"a": 1}\n{"a": "x"}\n', "a. changed from number to string"),
    "no objects": ("jsonl", b"1\n2\n", "2 of 2 rows"),
    "an empty file": ("jsonl", b"", "has no rows"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_a_bad_text_file_is_one_line(tmp_path: Path, case: str) -> None:
    form, content, message = BAD_TEXTS[case]
    path = tmp_path / f"table.{form}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        write_request_set(path, tmp_path / "set", AdoptOptions(), "set")
    assert not (tmp_path / "set").exists()


def test_requests_never_replace_a_prepared_data_set(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text('{"schema": 2, "name": "shop"}')
    write_parquet(tmp_path / "table.parquet", CANDIDATES)
    with pytest.raises(UsageError, match="prepared data set"):
        write_request_set(tmp_path / "table.parquet", tmp_path / "data", AdoptOptions(), "data")
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["manifest.json"]


def test_a_request_set_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    assert len(read(tmp_path, CANDIDATES, **ROLES)) == 4
    assert len(read(tmp_path, CANDIDATES[:6], **ROLES)) == 2
