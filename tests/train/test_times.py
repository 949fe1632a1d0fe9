"""Times as people write them: read where there is one way to read them, never guessed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import raw_layouts as raw

from rbserve.core.errors import DataError
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.sources import prepare
from rbserve.train.datasets.workspace import PROBLEMS

MOMENT = datetime(2024, 5, 13, 16, 30, 5, tzinfo=UTC)
WRITTEN = {
    "2024-05-13 16:30:05": 0, "2024-05-13T16:30:05Z": 0, "2024-05-13T18:30:05+02:00": 0, "2024/05/13 16:30:05": 0,
    "2024-05-13 04:30:05 PM": 0, "13 May 2024 16:30:05": 0, "May 13, 2024 4:30:05 PM": 0, "May 13 2024 16:30:05": 0,
    "13-May-2024 16:30:05": 0, "13.05.2024 16:30:05": 0, "Mon, 13 May 2024 16:30:05 GMT": 0,
    "Mon, 13 May 2024 09:30:05 -0700": 0, "Mon May 13 16:30:05 2024": 0, "Mon May 13 09:30:05 -0700 2024": 0,
    "13/May/2024:09:30:05 -0700": 0, "13.05.2024 16:30": 5, "13 May 2024": 59_405, "2024.05.13": 59_405,
}  # fmt: skip
"""Ways of writing MOMENT, and by how many seconds they are earlier than it."""


def _load(folder: Path, times: list[str]) -> raw.Loaded:
    rows = "".join(f'u,{item},"{time}"\n' for item, time in enumerate(times))
    raw.put(folder, "interactions.csv", f"user_id,item_id,at\n{rows}")
    raw.put(folder, "items.csv", "item_id,title\n" + "".join(f"{item},t\n" for item in range(len(times))))
    return raw.load("csv", folder, time="at")


def test_dates_may_be_written_in_several_ways_side_by_side(tmp_path: Path) -> None:
    loaded = _load(tmp_path, list(WRITTEN))
    assert loaded.dropped == {}
    start = int(MOMENT.timestamp())
    expected = sorted((start - earlier) * 1_000_000 for earlier in WRITTEN.values())
    assert loaded.times == expected


@pytest.mark.parametrize("way", ["%m/%d/%Y", "%d/%m/%Y", "%m/%d/%Y %H:%M", "%d/%m/%Y %I:%M:%S %p"])
def test_the_order_of_day_and_month_is_that_which_fits_every_row(way: str, tmp_path: Path) -> None:
    days = [datetime(2024, 5, 1, tzinfo=UTC) + timedelta(days=day) for day in range(40)]
    loaded = _load(tmp_path, [day.strftime(way) for day in days])
    assert loaded.times == [int(day.timestamp()) * 1_000_000 for day in days]


@pytest.mark.parametrize("times", [["05/06/2024", "06/05/2024"], ["05/13/2024", "13/05/2024"]])
def test_an_order_of_day_and_month_that_cannot_be_known_is_no_time(times: list[str], tmp_path: Path) -> None:
    loaded = _load(tmp_path, [*times, "2024-05-01", "2024-05-02", "2024-05-03"])
    assert loaded.dropped == {PROBLEMS[3]: 2}
    assert len(loaded.events) == 3


def test_numbers_among_dates_are_no_dates(tmp_path: Path) -> None:
    zone = timezone(timedelta(hours=8))
    times = [MOMENT.astimezone(zone).isoformat(), "1715617805", "20240513", "2024-05-13 16:30:05"]
    loaded = _load(tmp_path, times * 2 + times[:1])
    assert loaded.dropped == {PROBLEMS[3]: 4}
    assert set(loaded.times) == {int(MOMENT.timestamp()) * 1_000_000}


def test_a_column_whose_day_and_month_cannot_be_told_apart_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"'at' .* holds no time: day and month .* cannot be told apart"
    ) as error:
        _load(tmp_path, ["05/06/2024", "06/05/2024", "07/05/2024"])
    assert "2024-06-05" in (error.value.hint or "")


def test_seconds_among_milliseconds_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = [str(1_700_000_000 + step) for step in range(10)]
    _load(tmp_path, seconds)
    assert capsys.readouterr().err == ""
    _load(tmp_path, [time + "000" * (place % 2) for place, time in enumerate(seconds)])
    (line,) = capsys.readouterr().err.splitlines()
    assert "5 rows look like seconds (1700000000 to 1700000008)" in line
    assert "5 rows look like milliseconds (1700000001000 to 1700000009000)" in line


def test_a_number_among_dates_is_told_what_the_column_was_read_as(tmp_path: Path) -> None:
    rows = [f"u{row % 10},{row},{1_700_000_003 if row % 9 == 0 else '2024-05-01'}" for row in range(90)]
    raw.put(tmp_path, "interactions.csv", "\n".join(["user_id,item_id,at", *rows, ""]))
    raw.put(tmp_path, "items.csv", "item_id,title\n" + "".join(f"{item},t\n" for item in range(90)))
    with pytest.raises(DataError, match="time '1700000003'") as error:
        prepare("csv", tmp_path / "sets" / "t", tmp_path, reading=Reading(time="at"))
    assert "'at' is read as dates, as most of its rows are" in (error.value.hint or "")
