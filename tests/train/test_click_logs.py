"""Logs of clicks in the official layouts of Criteo and Avazu: their rows, codes and times, and files that are wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click_lines import (
    AVAZU_HEADER,
    CLICKED,
    avazu_lines,
    criteo_line,
    criteo_lines,
    write_log,
)

from rbserve.core.errors import DataError, RbserveError, UsageError
from rbserve.core.fields import FIRST, MISSING, UNSEEN
from rbserve.data.dataset import NEVER, SPLITS, Dataset
from rbserve.data.integrity import inspect
from rbserve.features.coding import text_hash
from rbserve.train.datasets.log_splits import divided
from rbserve.train.datasets.loss import NO_LABEL, NO_TIME
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.sources import find_source, prepare, protocol_of

NARROW = "row with another number of fields, or no JSON object"


def _prepared(
    folder: Path,
    source: str,
    lines: list[str],
    name: str = "log",
    min_count: int = 2,
    most_values: int = 1_000,
    **chosen: Any,
) -> Dataset:
    file = write_log(folder / name, [AVAZU_HEADER, *lines] if source == "avazu" else lines)
    protocol = protocol_of(find_source(source), chosen)
    return prepare(
        source,
        folder / "data" / source,
        file,
        protocol,
        reading=Reading(min_count_value=min_count, most_values=most_values),
    )


def _field(dataset: Dataset, name: str, split: str = "train") -> np.ndarray:
    return np.array(dataset.ctr(split).extras[f"context.{name}"])  # type: ignore[arg-type]


def _code(dataset: Dataset, name: str, value: str) -> int:
    spec = next(spec for spec in dataset.manifest.fields if spec.name == name)
    return FIRST + dataset.field_values(spec).index(value)


# ---- Rows


def test_rows_are_divided_in_the_order_of_the_file_and_stand_alone(tmp_path: Path) -> None:
    lines = criteo_lines(200)
    dataset = _prepared(tmp_path, "criteo", lines)
    labels = [int(line[0]) for line in lines]
    read = [dataset.ctr(split) for split in SPLITS]
    assert [len(split) for split in read] == [160, 20, 20]
    assert [label for split in read for label in split.labels.tolist()] == labels
    assert [user for split in read for user in split.users.tolist()] == [*range(200)]
    assert dataset.items.ids == ["ad"]
    for split, rows in zip(SPLITS, read, strict=True):
        assert not rows.candidates.any()
        assert not len(rows.histories.values)
        assert set(dataset.column(f"ctr/{split}", "newest").tolist()) == {NEVER}
        assert len(dataset.seqrec(split)) == 0


def test_every_column_of_criteo_is_a_field_of_the_context(tmp_path: Path) -> None:
    fields = _prepared(tmp_path, "criteo", criteo_lines(100)).manifest.fields
    assert [spec.name for spec in fields] == [
        *(f"I{place}" for place in range(1, 14)),
        *(f"C{place}" for place in range(1, 27)),
    ]
    assert {spec.scope for spec in fields} == {"context"}
    assert [spec.kind for spec in fields] == ["number"] * 13 + ["category"] * 26


def test_known_rows_have_their_values(tmp_path: Path) -> None:
    rows = [
        criteo_line(1, [-2, "", 7], ["aa", "b", "rare"]),
        criteo_line(0, ["", -1, 0], ["aa", "", ""]),
        criteo_line(1, [3, 1, 5], ["00e1", "b", ""]),
        criteo_line(0, [], ["00e1", "b", ""]),
        criteo_line(0, [], ["aa", "b", ""]),
    ]
    test = [criteo_line(1, [9], ["new", "b", "aa"]) for _ in range(2)]
    dataset = _prepared(tmp_path, "criteo", rows + test, ctr_test_rows=1, valid_users=0.17)
    np.testing.assert_array_equal(_field(dataset, "I1"), np.float32([-2, np.nan, 3, np.nan, np.nan]))
    np.testing.assert_array_equal(_field(dataset, "I2"), np.float32([np.nan, -1, 1, np.nan, np.nan]))
    frequent, other = FIRST, FIRST + 1
    assert _field(dataset, "C1").tolist() == [frequent, frequent, other, other, frequent]
    assert _field(dataset, "C2").tolist() == [FIRST, MISSING, FIRST, FIRST, FIRST]
    assert _field(dataset, "C3").tolist() == [UNSEEN, MISSING, MISSING, MISSING, MISSING], (
        "one row is too few"
    )
    assert _field(dataset, "C4").tolist() == [MISSING] * 5
    assert [_field(dataset, name, "test").tolist() for name in ("I1", "C1", "C3")] == [
        [9],
        [UNSEEN],
        [UNSEEN],
    ]


def test_a_vocabulary_has_no_value_of_validation_and_test_rows(tmp_path: Path) -> None:
    lines = [criteo_line(row % 2, [], [f"v{row // 2}"]) for row in range(200)]
    dataset = _prepared(tmp_path, "criteo", lines)
    (first,) = (spec for spec in dataset.manifest.fields if spec.name == "C1")
    assert sorted(dataset.field_values(first)) == sorted(f"v{value}" for value in range(80))
    assert {*_field(dataset, "C1", "valid"), *_field(dataset, "C1", "test")} == {UNSEEN}


def test_a_value_needs_as_many_training_rows_as_asked_for(tmp_path: Path) -> None:
    lines = [criteo_line(row % 2, [], ["often" if row % 4 else "seldom"]) for row in range(40)]
    dataset = _prepared(tmp_path, "criteo", lines, min_count=9)
    (first,) = (spec for spec in dataset.manifest.fields if spec.name == "C1")
    assert dataset.field_values(first) == ["often"]
    assert _field(dataset, "C1")[:4].tolist() == [UNSEEN, FIRST, FIRST, FIRST]


def test_too_many_values_become_hashes(tmp_path: Path) -> None:
    lines = [criteo_line(row % 2, [], [f"v{row % 20}", "" if row % 3 else "x"]) for row in range(100)]
    dataset = _prepared(tmp_path, "criteo", lines, most_values=10)
    specs = {spec.name: spec for spec in dataset.manifest.fields}
    assert specs["C1"].hashed
    assert specs["C1"].size == FIRST + 10
    assert not specs["C2"].hashed
    expected = [FIRST + text_hash(f"v{row % 20}") % 10 for row in range(80)]
    assert _field(dataset, "C1").tolist() == expected


def test_avazu_has_hour_and_weekday_of_its_times(tmp_path: Path) -> None:
    dataset = _prepared(tmp_path, "avazu", avazu_lines(400))
    begin = datetime(2014, 10, 21, tzinfo=UTC).timestamp()
    times = np.concatenate([dataset.column(f"ctr/{split}", "time") for split in SPLITS])
    assert times.tolist() == [begin + 3600 * (row // 10) for row in range(400)]
    values = {spec.name: dataset.field_values(spec) for spec in dataset.manifest.fields}
    hours = [values["hour"][code - FIRST] for code in _field(dataset, "hour")]
    days = [values["weekday"][code - FIRST] for code in _field(dataset, "weekday")]
    assert hours == [str(row // 10 % 24) for row in range(320)]
    assert days == [str(2 + row // 240) for row in range(320)], "the 21st was a Tuesday"
    assert "id" not in values
    assert values["C20"] == ["-1"]


def test_an_hour_is_in_one_split(tmp_path: Path) -> None:
    dataset = _prepared(tmp_path, "avazu", avazu_lines(400, hours=7))
    times = [set(dataset.column(f"ctr/{split}", "time").tolist()) for split in SPLITS]
    assert [len(own) for own in times] == [5, 1, 1]
    assert not times[0] & times[1]
    assert not times[1] & times[2]


def test_given_numbers_of_rows_are_the_last_ones(tmp_path: Path) -> None:
    dataset = _prepared(tmp_path, "criteo", criteo_lines(200), ctr_test_rows=30, ctr_finetune_rows=100)
    users = [dataset.ctr(split).users for split in SPLITS]
    assert [(own[0], own[-1]) for own in users] == [(70, 158), (159, 169), (170, 199)]


def test_parts_cover_all_rows_at_every_length() -> None:
    protocol = protocol_of(find_source("criteo"))
    for length in (10, 99, 100, 1_001):
        parts = divided(np.arange(length), protocol, Path("x"))
        assert parts["train"].start == 0
        assert parts["train"].stop == parts["valid"].start
        assert parts["valid"].stop == parts["test"].start
        assert parts["test"].stop == length


@pytest.mark.parametrize("source", ["criteo", "avazu"])
def test_gzip_changes_nothing(tmp_path: Path, source: str) -> None:
    lines = criteo_lines(100) if source == "criteo" else avazu_lines(100)
    (tmp_path / "packed").mkdir()
    plain = _prepared(tmp_path, source, lines)
    packed = _prepared(tmp_path / "packed", source, lines, "log.gz")
    assert plain.fingerprint == packed.fingerprint


def test_a_folder_is_looked_into(tmp_path: Path) -> None:
    write_log(tmp_path / "train.txt.gz", criteo_lines(100))
    reading = Reading(min_count_value=2)
    assert len(prepare("criteo", tmp_path / "data" / "criteo", tmp_path, reading=reading).ctr("train")) == 80


def test_the_check_of_the_files_finds_them_sound(tmp_path: Path) -> None:
    for source, lines in {"criteo": criteo_lines(200), "avazu": avazu_lines(200)}.items():
        report = inspect(_prepared(tmp_path, source, lines))
        assert report.ok
        assert all(check.passed for check in report.checks)
        assert "both-labels" not in [check.name for check in report.checks]


# ---- Rows and files that are wrong


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    lines = criteo_lines(200)
    lines[20:20] = [criteo_line(1, width=39), criteo_line("", [1]), criteo_line(2, [1])]
    lines[90] = criteo_line(1, ["many"], [CLICKED])
    dataset = _prepared(tmp_path, "criteo", lines)
    assert dataset.manifest.dropped == {NARROW: 1, NO_LABEL: 2}
    assert dataset.manifest.repaired == {"value of I1 that is no number, taken as missing": 1}
    assert dataset.manifest.counts["source"]["interactions"] == 200
    assert np.isnan(_field(dataset, "I1")[87])


def test_a_row_without_an_hour_is_counted(tmp_path: Path) -> None:
    lines = avazu_lines(200)
    lines[3] = lines[3].replace(",14102100,", ",2014102100,")
    dataset = _prepared(tmp_path, "avazu", lines)
    assert dataset.manifest.dropped == {NO_TIME: 1}
    assert len(np.concatenate([dataset.ctr(split).labels for split in SPLITS])) == 199


TEN = criteo_lines(10)
WRONG = {
    "a header": ("criteo", ["\t".join(["label", *(f"x{place}" for place in range(39))]), *TEN],
                 "begins with a header (label, x0, x1, …)"),
    "no labels": ("criteo", [line.partition("\t")[2] for line in TEN], "has 39 of 40 columns"),
    "commas": ("criteo", [line.replace("\t", ",") for line in TEN], "has 1 of 40 columns"),
    "other labels": ("criteo", [f"{line[0].replace('0', '-1')}{line[1:]}" for line in TEN],
                     "rows without a label that can be read, for example '-1'"),
    "no numbers": ("criteo", [criteo_line(1, ["x"]) for _ in TEN], "values of I1 are no numbers, for example 'x'"),
    "few rows": ("criteo", TEN[:2], "none are left for"),
    "nothing": ("criteo", [], "is empty"),
    "no header": ("avazu", avazu_lines(10), "lacks the column 'click'"),
    "one hour": ("avazu", [AVAZU_HEADER, *avazu_lines(10, hours=1)], "has 10 rows of 1 times: none are left for"),
    "disorder": ("avazu", [AVAZU_HEADER, *avazu_lines(10)[::-1]], "row 2 is earlier than the one before it"),
    "other hours": ("avazu", [AVAZU_HEADER, *(line.replace(",1410", ",2014-10-") for line in avazu_lines(10))],
                    "rows without a time that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_told_in_one_line(wrong: str, tmp_path: Path) -> None:
    source, lines, expected = WRONG[wrong]
    file = write_log(tmp_path / "file", lines)
    with pytest.raises(DataError) as caught:
        prepare(source, tmp_path / "data" / "log", file)
    assert expected in caught.value.message
    assert str(file) in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert [path for path in tmp_path.rglob("*") if path != file] in ([], [tmp_path / "data"])


@pytest.mark.parametrize(
    ("chosen", "said"),
    [({"split": "users"}, "no users to divide"), ({"negatives": 2}, "no option negatives")],
)
def test_options_about_users_are_refused(chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        protocol_of(find_source("avazu"), chosen)


def test_without_a_file_the_error_names_it() -> None:
    with pytest.raises(RbserveError, match="criteo is not fetched") as caught:
        prepare("criteo", Path("nowhere"))
    assert "train.txt" in (caught.value.hint or "")
