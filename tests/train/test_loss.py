"""How much of a user's files may be lost before `prepare` asks, and that nothing is left behind when it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import raw_layouts as raw

from rbserve.core.errors import DataError
from rbserve.core.loss import MOST_LOST
from rbserve.data.dataset import Dataset
from rbserve.train.datasets.loss import check_loss
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.raw_file import LOST_LETTERS, NUL
from rbserve.train.datasets.sources import find_source, prepare, protocol_of
from rbserve.train.protocol.tally import Tally

CLICKS = [(f"u{user}", f"A{(7 * user + 5 * step) % 30:02}", str(1_700_000_000 + 100 * user + step))
          for user in range(40) for step in range(6)]  # fmt: skip
ITEMS = [(f"A{item:02}", f"Title {item}") for item in range(30)]


def _tables(
    folder: Path, clicks: list[Any] = CLICKS, items: list[Any] = ITEMS, encoding: str = "utf-8"
) -> Path:
    for name, header, rows in (
        ("interactions", "user_id,item_id,ts", clicks),
        ("items", "item_id,title", items),
    ):
        text = "\n".join([header, *(row if isinstance(row, str) else ",".join(row) for row in rows), ""])
        raw.put(
            folder,
            f"{name}.csv",
            text.encode("utf-8" if name != "items" and encoding == "utf-16" else encoding),
        )
    return folder


def _prepare(folder: Path, **options: Any) -> Dataset:
    reading = Reading(**{"time": "ts", **options})
    protocol = protocol_of(find_source("csv"), reading=reading)
    return prepare("csv", folder / "sets" / "t", folder, protocol, reading=reading)


def _refused(folder: Path, message: str, hint: str, **options: Any) -> None:
    with pytest.raises(DataError, match=message) as error:
        _prepare(folder, **options)
    assert "\n" not in error.value.message
    assert hint in (error.value.hint or "")
    assert "--allow-loss" in (error.value.hint or "")
    assert not (folder / "sets").exists() or list((folder / "sets").iterdir()) == []
    assert _prepare(folder, allow_loss=True, **options).manifest.counts


@pytest.mark.parametrize("most", [0, 1])
def test_a_twentieth_may_be_lost_and_no_row_more(most: int) -> None:
    tally = Tally()
    tally.dropped["row whose time is none"] = int(MOST_LOST * 240) + most
    reasons = ("row whose time is none", "row whose label is none")
    if not most:
        check_loss("clicks.csv", 240, reasons, tally, lambda _: "")
        return
    with pytest.raises(
        DataError, match=r"clicks\.csv: 13 of 240 rows \(5\.4%\) would be lost: 13 rows without a time"
    ):
        check_loss("clicks.csv", 240, reasons, tally, lambda _: "")


def test_times_that_are_none_are_shown(tmp_path: Path) -> None:
    clicks = [
        (user, item, "the day after" if row % 3 == 0 else time)
        for row, (user, item, time) in enumerate(CLICKS)
    ]
    _refused(_tables(tmp_path, clicks), r"interactions\.csv: 80 of 240 rows \(33\.3%\) .* for example user 'u0', "
             "item 'A00', time 'the day after'", "one way")  # fmt: skip


@pytest.mark.parametrize(("column", "reason", "example"), [(0, "row without user or item", "item 'A00'"),
                                                           (1, "row without user or item", "user 'u0'")])  # fmt: skip
def test_rows_without_user_or_item_are_shown(column: int, reason: str, example: str, tmp_path: Path) -> None:
    clicks = [tuple("" if place == column and row % 9 == 0 else value for place, value in enumerate(click))
              for row, click in enumerate(CLICKS)]  # fmt: skip
    _refused(
        _tables(tmp_path, clicks),
        f"27 {reason.replace('row', 'rows')}, for example .*{example}",
        "--allow-loss",
    )


def test_labels_that_are_none_are_shown(tmp_path: Path) -> None:
    rows = [
        (user, item, "perhaps" if place % 5 == 0 else str(place % 2))
        for place, (user, item, _) in enumerate(CLICKS)
    ]
    _refused(_tables(tmp_path, rows), "48 rows without a label that can be read, for .*label 'perhaps'", "1 or 0,",
             label="ts", time=None)  # fmt: skip


def test_rows_of_another_width_are_shown_with_their_line(tmp_path: Path) -> None:
    clicks = [",".join(click) + (",x" if place % 4 == 0 else "") for place, click in enumerate(CLICKS)]
    _refused(
        _tables(tmp_path, clicks), "60 rows with another number of fields.*u0,A00,1700000000,x", "--delimiter"
    )


def test_rows_of_items_that_the_items_table_lacks_are_lost_from_own_tables(tmp_path: Path) -> None:
    _refused(
        _tables(tmp_path, items=ITEMS[:20]),
        "80 rows whose item has no text or is not in .*, for example item 'A20'",
        "--items-id",
    )


def test_ratings_that_say_neither_and_repeated_rows_are_not_lost(tmp_path: Path) -> None:
    clicks = [(user, item, str(1 + place % 5)) for place, (user, item, _) in enumerate(CLICKS)]
    manifest = _prepare(_tables(tmp_path, [*clicks, *clicks]), rating="ts", time=None).manifest
    assert manifest.dropped["rating that is neither liked nor disliked"] == 96
    assert manifest.dropped["repeated item of a user"] > 100


@pytest.mark.parametrize("encoding", ["gbk", "utf-16", "utf-16-le"])
def test_titles_of_another_encoding_are_refused_or_read_never_mended(encoding: str, tmp_path: Path) -> None:
    items = [(item, f"标题 {item}") for item, _ in ITEMS]
    _tables(tmp_path, items=items, encoding=encoding)
    if encoding == "gbk":
        _refused(
            tmp_path,
            f"the items table .*: 30 of 30 rows .* 30 {LOST_LETTERS}, for example line 2",
            "--encoding",
        )
    elif encoding == "utf-16-le":
        with pytest.raises(DataError):
            _prepare(tmp_path)
    assert "标题 A07" in _prepare(tmp_path, encoding=None if encoding == "utf-16" else encoding).items.texts


def test_utf_16_without_a_mark_is_named(tmp_path: Path) -> None:
    _tables(tmp_path, encoding="utf-16-le")
    with pytest.raises(DataError, match=f"the items table .*: .*{NUL.replace('line', 'lines')}") as error:
        _prepare(tmp_path)
    assert "--encoding utf-16-le" in (error.value.hint or "")


def test_json_lines_are_held_to_the_same_share(tmp_path: Path) -> None:
    folder = raw.example("cds", tmp_path / "raw")
    path = folder / "CDs_and_Vinyl.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[::4]:
        row["unixReviewTime"] = "yesterday"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"rows without a time .* for example .*unixReviewTime 'yesterday'"):
        prepare("cds", tmp_path / "sets" / "cds", folder)
    assert prepare("cds", tmp_path / "sets" / "cds", folder, reading=Reading(allow_loss=True)).manifest.counts


def test_labels_that_are_words_are_told_by_how_labels_are_written(tmp_path: Path) -> None:
    rows = [
        f"{','.join(click)},{'click' if place % 6 == 0 else place % 2}" for place, click in enumerate(CLICKS)
    ]
    _tables(tmp_path)
    raw.put(tmp_path, "interactions.csv", "\n".join(["user_id,item_id,ts,label", *rows, ""]))
    _refused(tmp_path, "40 rows without a label that can be read", "1 or 0, true or false", label="label")
    with pytest.raises(DataError) as error:
        _prepare(tmp_path, label="label")
    assert "times" not in (error.value.hint or "")


@pytest.mark.parametrize("missing", [False, True])
def test_items_with_a_blank_text_are_told_from_items_that_are_not_there(
    missing: bool, tmp_path: Path
) -> None:
    items = [(item, "" if place < 8 else text) for place, (item, text) in enumerate(ITEMS)]
    folder = _tables(tmp_path, items=items[:-4] if missing else items)
    _refused(folder, "rows whose item has no text .*, for example item 'A00'", "8 items without text:")
    with pytest.raises(DataError) as error:
        _prepare(folder)
    assert ("--items-id" in (error.value.hint or "")) == missing


def test_commas_in_titles_without_quotation_marks_are_the_item_tables_fault(tmp_path: Path) -> None:
    folder = _tables(tmp_path, items=[f"{item},red lamp, nice" for item, _ in ITEMS])
    with pytest.raises(
        DataError, match=r"items\.csv has no usable row: 30 item rows .* A00,red lamp"
    ) as error:
        _prepare(folder)
    assert "quote" in (error.value.hint or "")
    assert "--delimiter" in (error.value.hint or "")


@pytest.mark.parametrize("days", [1, 2])
def test_clicks_of_one_day_are_no_history_of_each_other_and_the_error_says_so(
    days: int, tmp_path: Path
) -> None:
    dates = ["2024-05-01", "2024-05-02"]
    clicks = [(user, item, dates[int(time) % days if user == "u0" else 0]) for user, item, time in CLICKS]
    folder = _tables(tmp_path, clicks)
    with pytest.raises(DataError, match=r"too few .* of the events have the same time") as error:
        _prepare(folder)
    assert "leave --time out" in (error.value.hint or "")
    assert _prepare(folder, time=None).manifest.counts
