"""Every source from its owner's layout: exact events, no row lost, and clear errors."""

from __future__ import annotations

import gzip
import json
import re
import threading
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import raw_layouts as raw
from hypothesis import example, given, settings
from hypothesis import strategies as st
from raw_layouts import LAYOUTS, Event, load

from rbserve.core.errors import DataError, RbserveError, UsageError
from rbserve.data.dataset import SPLITS, open_dataset
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.source import NEITHER
from rbserve.train.datasets.sources import SOURCES, find_source, prepare, protocol_of
from rbserve.train.datasets.workspace import PROBLEMS, Workspace
from rbserve.train.protocol.sampling import GIVEN
from rbserve.train.protocol.tally import Tally

FIELDS, EMPTY, NO_TIME, NO_LABEL = (PROBLEMS[number] for number in (1, 2, 3, 4))
NOT_UTF8 = "row that is not UTF-8"
NO_TEXT = "item without text or not in the item file"
READING: dict[str, dict[str, Any]] = {"csv": raw.CSV, "json": raw.CSV}

EVENTS = [
    Event("U2", "N10", True, 0), Event("U10", "N2", True, 0), Event("U2", "N2", False, 1),
    Event("U2", "N30", True, 2), Event("U10", "N10", False, 3), Event("U10", "N30", True, 4),
]  # fmt: skip
TEXTS = {"N30": "Thirty", "N10": 'Ten, "in quotes"', "N2": "Zwei €"}


def _folder(layout: str, folder: Path, rows: list[str] | None = None, **how: Any) -> Path:
    """EVENTS in a layout, or the given lines."""
    texts = TEXTS | (raw.GIVEN_NEWS if layout == "mind" else {})
    lines = [raw.item_line(layout, item, text) for item, text in texts.items()]
    return raw.write(layout, folder, raw.event_lines(layout, EVENTS) if rows is None else rows, lines, **how)


def _load(layout: str, folder: Path, **reading: Any) -> raw.Loaded:
    return load(raw.source_of(layout), folder, **READING.get(layout, {}), **reading)


def _fingerprint(layout: str, folder: Path, out: Path) -> str:
    reading = Reading(**READING.get(layout, {}))
    return prepare(raw.source_of(layout), out, folder, reading=reading).fingerprint


# ---- Exact events


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_source_reads_its_owners_layout(layout: str, tmp_path: Path) -> None:
    loaded = _load(layout, _folder(layout, tmp_path))
    # ids are numbered by length, then alphabet: numbers stand in their order
    expected = [
        (event.user, event.item, int(event.liked))
        for event in sorted(EVENTS, key=lambda one: (len(one.user), one.user, one.day))
        if event.liked or LAYOUTS[layout].dislikes
    ]
    given = [(user, item, GIVEN) for user in ("U2", "U10") for item in raw.GIVEN_NEWS if layout == "mind"]
    assert [event for event in loaded.events if event[2] == GIVEN] == given
    assert [event for event in loaded.events if event[2] != GIVEN] == expected
    texts = TEXTS | (raw.GIVEN_NEWS if layout == "mind" else {})
    assert loaded.items == dict(sorted(texts.items(), key=lambda one: (len(one[0]), one[0])))
    assert loaded.dropped == loaded.repaired == {}


def test_every_source_with_files_has_a_layout_here() -> None:
    read = {name for name, source in SOURCES.items() if source.load is not None}
    assert read == {raw.source_of(layout) for layout in LAYOUTS} | {"parquet"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gzip_windows_line_ends_and_a_byte_order_mark_change_nothing(layout: str, tmp_path: Path) -> None:
    plain = _load(layout, _folder(layout, tmp_path / "plain"))
    for name, how in {"crlf": {"end": "\r\n"}, "bom": {"mark": True}}.items():
        other = _load(layout, _folder(layout, tmp_path / name, **how))
        assert (other.events, other.times, other.items) == (plain.events, plain.times, plain.items), name
    one = raw.example(layout, tmp_path / "raw")
    all_at_once = raw.example(layout, tmp_path / "raw-gz", gz=True, end="\r\n", mark=True)
    prints = [_fingerprint(layout, folder, tmp_path / "sets" / folder.name) for folder in (one, all_at_once)]
    assert prints[0] == prints[1]


@pytest.mark.parametrize("layout", ["goodbooks", "goodreads"])
def test_gzip_is_told_by_its_first_bytes(layout: str, tmp_path: Path) -> None:
    name = LAYOUTS[layout].events
    plain = _load(layout, _folder(layout, tmp_path / "plain"))
    content = (tmp_path / "plain" / name).read_bytes()
    _folder(layout, tmp_path / "other", gz=True)
    (tmp_path / "other" / f"{name}.gz").write_bytes(content)  # unpacked, but not renamed
    assert _load(layout, tmp_path / "other").events == plain.events
    _folder(layout, tmp_path / "third")
    (tmp_path / "third" / name).write_bytes(gzip.compress(content))
    assert _load(layout, tmp_path / "third").events == plain.events


@pytest.mark.parametrize("layout", ["goodbooks", "goodreads"])
def test_signs_of_patterns_and_partitions_in_a_path_mean_nothing(layout: str, tmp_path: Path) -> None:
    folder = tmp_path / "it's [1] *?" / "line=7" / "user_id=3"
    assert len(_load(layout, _folder(layout, folder)).events) == len(EVENTS)


def test_each_reason_has_its_own_count(tmp_path: Path) -> None:
    rows = ["1,10,5,5", "1,10,2,6", "", "1,2,3,7", "2,10,good,8", "2,10,,8", "2,99,5,9", ",10,5,9", "2,,5,9",
            "2,10,5", "2,10,5,1,1", "2,10,5,noon", "2,10,5,", f"2,{'x' * 2_000_000},5,1"]  # fmt: skip
    text = "\n".join(["user_id,item_id,stars,at", *rows, ""]).encode() + b"4,\xff,5,1\n4,\0,5,1"
    raw.put(tmp_path, "interactions.csv", text)
    raw.put(tmp_path, "items.csv", "item_id,title\n10,Ten\n2,Two\n10,Ten again\n,x\n11,\n12,a,b\n")
    loaded = load("csv", tmp_path, rating="stars", time="at")
    assert loaded.events == [("1", "10", 1), ("1", "10", 0)]
    assert loaded.items == {"2": "Two", "10": "Ten"}
    assert loaded.dropped == {
        NEITHER: 1, NO_LABEL: 2, NO_TEXT: 2, EMPTY: 3, FIELDS: 2, NO_TIME: 2, NOT_UTF8: 1,
        "duplicate item": 1, "item without id": 1, "item without text": 1,
        "item row with another number of fields": 1,
    }  # fmt: skip


def test_a_line_with_two_faults_counts_once(tmp_path: Path) -> None:
    text = b'user_id,item_id\n"1",2\n1,"\xff",3,4\n1,"\xff",3\n1,2\n'
    raw.put(tmp_path, "interactions.csv", text)
    raw.put(tmp_path, "items.csv", "item_id,title\n2,Two\n")
    loaded = load("csv", tmp_path)
    assert len(loaded.events) == 2
    assert sum(loaded.dropped.values()) == 2


# ---- MIND


def _mind(folder: Path, behaviours: list[str], news: int = 20) -> raw.Loaded:
    lines = [raw.item_line("mind", f"N{number}", f"News {number}") for number in range(news)]
    return load("mind", raw.write("mind", folder, behaviours, lines))


MORNING = datetime(2019, 11, 12, 0, 5, 9)


def test_the_given_history_precedes_the_impressions(tmp_path: Path) -> None:
    later, after = MORNING + timedelta(hours=13), MORNING + timedelta(days=3)
    loaded = _mind(tmp_path, [
        raw.impression("U1", later, "N7 N3 N5", "N1-0 N2-1"),
        raw.impression("U1", MORNING, "N7 N3 N5", "N4-1"),
        raw.impression("U1", after, "N9 N8", "N6-0"),  # not the first impression's: MIND repeats one history
        raw.impression("U2", MORNING, "", "N1-1"),
    ])  # fmt: skip
    assert loaded.events == [
        ("U1", "N7", GIVEN), ("U1", "N3", GIVEN), ("U1", "N5", GIVEN), ("U1", "N4", 1),
        ("U1", "N1", 0), ("U1", "N2", 1), ("U1", "N6", 0), ("U2", "N1", 1),
    ]  # fmt: skip
    start = int(MORNING.replace(tzinfo=UTC).timestamp())
    assert loaded.times[:4] == [start - 3, start - 2, start - 1, start]  # 12:05:09 AM is five past midnight
    assert loaded.times[4:7] == [start + 13 * 3600] * 2 + [start + 72 * 3600]
    assert loaded.dropped == {}


def test_candidates_that_are_none_and_news_without_a_row_are_counted(tmp_path: Path) -> None:
    row = raw.impression("U1", MORNING, "N1  N77", "N2-1  N3-2 N4 -1 N88-0 N5-0")
    loaded = _mind(
        tmp_path, [row, raw.impression("U1", MORNING, "", ""), "1\tU1\t31/31/2019 1:00:00 PM\t\tN6-1"]
    )
    assert loaded.events == [("U1", "N1", GIVEN), ("U1", "N5", 0), ("U1", "N2", 1)] or loaded.events == [
        ("U1", "N1", GIVEN), ("U1", "N2", 1), ("U1", "N5", 0)]  # fmt: skip
    assert loaded.dropped == {EMPTY: 4, NO_TEXT: 2, NO_TIME: 1}


def _every_row(path: Path) -> list[tuple[str, str, int, list[str]]]:
    """Raw user and item ids of all click-prediction rows, their labels and histories."""
    dataset = open_dataset(path)
    table = pq.read_table(path / "users.parquet")
    users = dict(zip(table["user"].to_pylist(), table["user_id"].to_pylist(), strict=True))
    names = dataset.items.ids
    return [
        (users[int(user)], names[item], int(label), [names[one] for one in split.histories[row]])
        for split in map(dataset.ctr, SPLITS)
        for row, (user, item, label) in enumerate(zip(split.users, split.candidates, split.labels, strict=True))
    ]  # fmt: skip


def test_a_candidate_of_the_given_history_is_no_row_and_of_conflicting_impressions_the_first_counts(
    tmp_path: Path,
) -> None:
    behaviours = []
    for user in range(12):
        shown = ("N1-1 N5-1 N6-0", "N5-0 N7-1 N6-1", "N7-0 N8-0 N1-0")
        behaviours += [
            raw.impression(f"U{user}", MORNING + timedelta(hours=hour), "N1 N2", candidates)
            for hour, candidates in enumerate(shown)
        ]
    news = [raw.item_line("mind", f"N{number}", f"News {number}") for number in range(1, 9)]
    raw.write("mind", tmp_path / "raw", behaviours, news)
    dataset = prepare("mind", tmp_path / "mind", tmp_path / "raw")
    rows = _every_row(tmp_path / "mind")
    assert {row[0] for row in rows} == {f"U{user}" for user in range(12)}
    expected = {("N5", 1), ("N6", 0), ("N7", 1), ("N8", 0)}
    for user in range(12):
        assert {row[1:3] for row in rows if row[0] == f"U{user}"} == expected
    assert all(history == ["N1", "N2"] for _, _, _, history in rows)
    assert dataset.manifest.dropped["repeated item of a user"] == 12 * 5


def test_the_official_zip_and_its_folders_are_read_as_they_are(tmp_path: Path) -> None:
    plain = raw.example("mind", tmp_path / "plain")
    expected = _fingerprint("mind", plain, tmp_path / "0")
    places = [raw.zip_mind(tmp_path / "zip" / "MINDsmall_train.zip", plain).parent,
              raw.zip_mind(tmp_path / "MINDlarge_train.zip", plain, inside=""),
              raw.example("mind", tmp_path / "nested" / "train").parent,
              raw.example("mind", tmp_path / "unpacked" / "MINDsmall_train").parent]  # fmt: skip
    for number, place in enumerate(places, 1):
        assert _fingerprint("mind", place, tmp_path / str(number)) == expected
    assert not (tmp_path / "zip" / "unpacked").exists()


def test_a_broken_zip_and_one_of_something_else_are_named(tmp_path: Path) -> None:
    raw.put(tmp_path / "one", "MINDsmall_train.zip", b"PK\x03\x04 and no more")
    with zipfile.ZipFile(tmp_path / "MINDsmall_train.zip", "w") as archive:
        archive.writestr("MINDsmall_train/news.tsv", "")
    for place, message in ((tmp_path / "one", "no readable zip"), (tmp_path, r"holds no behaviors\.tsv")):
        with pytest.raises(DataError, match=rf"MINDsmall_train\.zip.* {message}") as error:
            load("mind", place)
        assert error.value.hint


# ---- The other owners' quirks


def test_articles_keep_the_zeros_before_their_numbers_and_max_rows_takes_the_first(tmp_path: Path) -> None:
    rows = [
        raw.event_line("hm", Event(f"{number % 3:064x}", f"010877501{number}", True, number))
        for number in range(9)
    ]
    texts = [
        raw.item_line("hm", f"010877501{number}", f'Top "{number}", in\r\ntwo lines') for number in range(9)
    ]
    raw.write("hm", tmp_path, rows, texts)
    loaded = load("hm", tmp_path, max_rows=4)
    assert sorted(item for _, item, _ in loaded.events) == [f"010877501{number}" for number in range(4)]
    assert loaded.items["0108775018"] == 'Top "8", in two lines'
    assert sum(loaded.dropped.values()) == 0
    assert len(load("hm", tmp_path).events) == 9


def test_the_option_max_rows_takes_the_first_rows_as_if_the_others_were_not_there(tmp_path: Path) -> None:
    events, texts = raw.crowd()
    items = [raw.item_line("goodbooks", item, text) for item, text in texts.items()]
    rows = raw.event_lines("goodbooks", events)
    raw.write("goodbooks", tmp_path / "all", rows, items)
    raw.write("goodbooks", tmp_path / "first", rows[:150], items)
    protocol = protocol_of(find_source("goodbooks"), {"max_rows": 150})
    one = prepare("goodbooks", tmp_path / "one", tmp_path / "all", protocol)
    other = prepare("goodbooks", tmp_path / "other", tmp_path / "first")
    assert one.fingerprint == other.fingerprint
    assert one.manifest.counts["source"]["interactions"] == 150


def test_sequences_and_pairs_of_microlens_give_the_same_rows(tmp_path: Path) -> None:
    """Their times differ, places in one and milliseconds in the other; what was watched and in which order do not."""
    for layout in ("microlens", "microlens-csv"):
        prepare("microlens", tmp_path / layout, raw.example(layout, tmp_path / "raw" / layout))
    for read in (_every_row, _sequences):
        rows = read(tmp_path / "microlens")
        assert rows == read(tmp_path / "microlens-csv")
        assert rows


def test_of_microlens_the_file_with_times_alone_is_split_by_time(tmp_path: Path) -> None:
    protocol = protocol_of(SOURCES["microlens"], {"split": "time"})
    sequences, pairs = (raw.example(layout, tmp_path / layout) for layout in ("microlens", "microlens-csv"))
    with pytest.raises(UsageError, match=r"pairs\.tsv has an order of rows and no times"):
        prepare("microlens", tmp_path / "made", sequences, protocol)
    made = prepare("microlens", tmp_path / "made", pairs, protocol)
    begins = [int(made.column(f"seqrec/{split}", "time").min()) for split in SPLITS]
    assert begins == sorted(set(begins))


def _sequences(path: Path) -> list[tuple[str, list[str], str]]:
    """Histories and targets of all sequences, by split."""
    dataset = open_dataset(path)
    names = dataset.items.ids
    return [
        (name, [names[one] for one in split.histories[row]], names[split.targets[row]])
        for name in SPLITS
        for split in [dataset.seqrec(name)]  # type: ignore[arg-type]
        for row in range(len(split))
    ]


def test_microlens_lines_end_as_its_owner_ends_them_and_users_without_videos_are_counted(
    tmp_path: Path,
) -> None:
    raw.put(tmp_path, "MicroLens-50k_pairs.tsv", "1\t30 2 10\r\n2\t\r\n3\r\n2\t 10  2 \r\n4\t2\t10\r\n")
    raw.put(tmp_path, "MicroLens-50k_titles.csv", '2,"Two, three"\r\n10,Ten\r\n30,Thirty\r\n')
    loaded = load("microlens", tmp_path)
    assert loaded.events == [("1", "30", 1), ("1", "2", 1), ("1", "10", 1), ("2", "10", 1), ("2", "2", 1)]
    assert loaded.times == [1, 2, 3, 1, 2]
    assert loaded.items == {"2": "Two, three", "10": "Ten", "30": "Thirty"}  # no header, none lost
    assert loaded.dropped == {EMPTY: 1, FIELDS: 2}


def test_microlens_pairs_need_no_header(tmp_path: Path) -> None:
    raw.put(tmp_path, "MicroLens-100k_pairs.csv", "1,30,300\n1,2,100\n1,10,200\n")
    raw.put(tmp_path, "MicroLens-100k_titles.csv", "item,title\n2,Two\n10,Ten\n30,Thirty\n")
    assert [item for _, item, _ in load("microlens", tmp_path).events] == ["2", "10", "30"]
    raw.put(tmp_path, "MicroLens-100k_pairs.csv", "1,30\n")
    with pytest.raises(DataError, match=r"pairs\.csv has 2 columns"):
        load("microlens", tmp_path)


def test_dates_of_other_clocks_stand_in_their_true_order(tmp_path: Path) -> None:
    dates = {"1": "Fri Sep 08 10:44:24 -0700 2017", "2": "Fri Sep 08 17:44:23 +0000 2017",
             "3": "Fri Sep 08 22:44:26 +0500 2017", "4": "Sat Sep 09 00:00:00 -0800 2017",
             "5": "Sat Sep 09 07:59:59 +0000 2017", "6": "the day after", "7": ""}  # fmt: skip
    rows = [json.dumps({"user_id": "u", "book_id": book, "is_read": True, "date_added": when})
            for book, when in dates.items()]  # fmt: skip
    rows.append(
        '{"user_id": "u", "book_id": "1", "is_read": null, "date_added": "Fri Sep 08 10:44:24 -0700 2017"}'
    )
    raw.write("goodreads", tmp_path, rows, [raw.item_line("goodreads", book, "A book") for book in dates])
    loaded = load("goodreads", tmp_path)
    assert [item for _, item, _ in loaded.events] == ["2", "1", "3", "5", "4"]
    assert loaded.times[1] == datetime(2017, 9, 8, 17, 44, 24, tzinfo=UTC).timestamp()
    assert loaded.dropped == {NO_TIME: 2, NO_LABEL: 1}


def test_a_book_that_is_on_a_shelf_unread_is_a_dislike(tmp_path: Path) -> None:
    when = datetime(2017, 9, 8, tzinfo=UTC)
    rows = [json.dumps(raw.shelved("u", book, book == "1", when)) for book in ("1", "2")]
    raw.write(
        "goodreads", tmp_path, rows, [raw.item_line("goodreads", book, "A book") for book in ("1", "2")]
    )
    assert sorted(load("goodreads", tmp_path).events) == [("u", "1", 1), ("u", "2", 0)]


@pytest.mark.parametrize("name", ["CDs_and_Vinyl.json", "CDs_and_Vinyl_5.json.gz"])
def test_three_stars_say_neither_and_titles_that_are_pages_are_dropped(name: str, tmp_path: Path) -> None:
    stars = [5.0, 4.0, 3.0, 2.0, 1.0, "4.0", None, "NaN"]
    rows = [
        json.dumps(raw.review("A1", f"B{place}", rating, 100 + place)) for place, rating in enumerate(stars)
    ]  # type: ignore[arg-type]
    titles = [raw.item_line("cds", f"B{place}", "Fish &amp; <b>Chips</b>") for place in range(len(stars))]
    titles.append(raw.item_line("cds", "B9", '<span id="x" class="a-size-medium'))
    raw.put(tmp_path, name, "\n".join(rows))
    raw.put(tmp_path, "meta_CDs_and_Vinyl.json", "\n".join(titles))
    loaded = load("cds", tmp_path)
    assert loaded.events == [
        ("A1", "B0", 1),
        ("A1", "B1", 1),
        ("A1", "B3", 0),
        ("A1", "B4", 0),
        ("A1", "B5", 1),
    ]
    assert loaded.times == [100, 101, 103, 104, 105]
    assert set(loaded.items.values()) == {"Fish & Chips"}
    assert loaded.dropped == {NEITHER: 1, NO_LABEL: 2, "item text is HTML rubbish": 1}


def test_the_order_of_goodbooks_file_is_the_order_of_time(tmp_path: Path) -> None:
    rows = [f"{user},{book},5" for user, book in ((7, 3), (7, 1), (5, 2), (7, 2), (5, 1))]
    raw.write("goodbooks", tmp_path, [rows[0], "", rows[1], "7,1", *rows[2:]],
              [raw.item_line("goodbooks", str(book), "A book") for book in (1, 2, 3)])  # fmt: skip
    loaded = load("goodbooks", tmp_path)
    assert [event[:2] for event in loaded.events] == [
        ("5", "2"),
        ("5", "1"),
        ("7", "3"),
        ("7", "1"),
        ("7", "2"),
    ]
    assert loaded.dropped == {FIELDS: 1}


def test_the_order_of_a_long_file_survives_several_threads(tmp_path: Path) -> None:
    rows = 100_000
    raw.put(tmp_path, "interactions.csv", "user_id,item_id\n" + "".join(f"u,{row}\n" for row in range(rows)))
    raw.put(tmp_path, "items.csv", "item_id,title\n" + "".join(f"{row},t\n" for row in range(rows)))
    loaded = load("csv", tmp_path)
    assert [int(item) for _, item, _ in loaded.events] == list(range(rows))


# ---- A user's own tables


def _tables(folder: Path, interactions: str | bytes, items: str = "item_id,title\na,A\nb,B\nc,C\n") -> Path:
    raw.put(folder, "interactions.csv", interactions)
    raw.put(folder, "items.csv", items)
    return folder


def test_labels_ratings_and_neither(tmp_path: Path) -> None:
    rows = [
        ("1", "5"),
        ("0", "1"),
        ("true", "4.0"),
        ("False", "2.5"),
        ("1.0", "x"),
        ("0.0", ""),
        ("2", "-1"),
        ("", "3"),
    ]
    text = "user_id,item_id,label,stars\n" + "".join(f"u,a,{label},{stars}\n" for label, stars in rows)
    _tables(tmp_path, text)
    labelled = load("csv", tmp_path, label="label")
    assert [label for _, _, label in labelled.events] == [1, 0, 1, 0, 1, 0]
    assert labelled.dropped == {NO_LABEL: 2}
    rated = load("csv", tmp_path, rating="stars")
    assert [label for _, _, label in rated.events] == [1, 0, 1, 0]
    assert rated.dropped == {NEITHER: 2, NO_LABEL: 2}
    bounds = load("csv", tmp_path, rating="stars", like_from=2.5, dislike_to=0.0)
    assert [label for _, _, label in bounds.events] == [1, 1, 1, 0, 1]
    assert [label for _, _, label in load("csv", tmp_path).events] == [1] * 8
    with pytest.raises(UsageError, match="either --label or --rating"):
        load("csv", tmp_path, label="label", rating="stars")


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (("300", "100", "200"), "bca"),
        (("-3", "-1", "-2"), "acb"),
        (("9007199254740993", "9007199254740992", "9007199254740994"), "bac"),
        (("3.5", "3.25", "3.375"), "bca"),
        (("1.7e9", "1.6e9", "1.65e9"), "bca"),
        (("2024-05-03", "2024-05-01", "2024-05-02"), "bca"),
        (("2024-05-01 12:30:01", "2024-05-01 12:30:00", "2024-05-01 12:30:00.5"), "bca"),
        (("2024-05-01T12:30:00Z", "2024-05-01T13:30:00+02:00", "2024-05-01T12:00:00Z"), "bca"),
    ],
)  # fmt: skip
def test_times_are_numbers_or_dates(times: tuple[str, ...], order: str, tmp_path: Path) -> None:
    rows = "".join(f"u,{item},{time}\n" for item, time in zip("abc", times, strict=True))
    loaded = load("csv", _tables(tmp_path, f"user_id,item_id,when\n{rows}"), time="when")
    assert "".join(item for _, item, _ in loaded.events) == order


def test_without_a_time_rows_stand_in_time_order_and_a_column_without_times_is_named(tmp_path: Path) -> None:
    _tables(tmp_path, "user_id,item_id,when\nu,c,soon\nu,a,later\nu,b,\n")
    assert [item for _, item, _ in load("csv", tmp_path).events] == ["c", "a", "b"]
    with pytest.raises(DataError, match=r"column 'when' of .*interactions\.csv holds no time") as error:
        load("csv", tmp_path, time="when")
    assert "2024" in (error.value.hint or "")


def test_quoted_fields_hold_delimiters_quotes_and_line_ends(tmp_path: Path) -> None:
    text = ',"user_id","note",item_id\n0,"u, ""1""","two\n lines",a\n1,"u, ""1""","a, b", b \n2,v,"",c\n'
    loaded = load("csv", _tables(tmp_path, text))
    assert loaded.events == [("v", "c", 1), ('u, "1"', "a", 1), ('u, "1"', "b", 1)]
    assert loaded.dropped == {}
    items = 'item_id;title\na;"semi; colon\nand line"\n'
    raw.put(tmp_path, "items.csv", items)
    raw.put(tmp_path, "interactions.csv", 'user_id;item_id\n"x;y";a\n')
    loaded = load("csv", tmp_path, delimiter=";")
    assert (loaded.events, loaded.items) == ([("x;y", "a", 1)], {"a": "semi; colon and line"})


def test_the_first_quotation_mark_may_come_late(tmp_path: Path) -> None:
    text = "user_id,item_id\n" + "u,a\n" * 5_000 + '"x,y",b\n'
    loaded = load("csv", _tables(tmp_path, text))
    assert loaded.events[-1] == ("x,y", "b", 1)
    assert loaded.dropped == {}


def test_an_open_quotation_mark_swallows_no_rows_in_silence(tmp_path: Path) -> None:
    head = 'user_id,item_id\n"u",a\n'
    for rest in ("u,c\n\nu,a\n", "u,c\n" * 50_000):
        _tables(tmp_path, f'{head}u,"b\n{rest}')
        with pytest.raises(
            DataError, match=r"interactions\.csv, line 3: a quotation mark is not closed"
        ) as error:
            load("csv", tmp_path)
        assert "twice" in (error.value.hint or "")
        assert len(load("csv", tmp_path, quotes="literal").events) == 1 + rest.count("u,")


def test_lines_may_end_now_one_way_now_another(tmp_path: Path) -> None:
    for quote in ("", '"'):
        _tables(tmp_path, f"user_id,item_id\n{quote}u{quote},a\r\nu,b\n")
        assert load("csv", tmp_path).events == [("u", "a", 1), ("u", "b", 1)]


def test_tabs_are_noticed_and_columns_may_have_any_name(tmp_path: Path) -> None:
    raw.put(tmp_path, "clicks.tsv", 'wer\twas "genau"\twann\tWann\nu\ta, b\t2\t9\nv\tc\t1\t9\n')
    raw.put(tmp_path, "goods.txt.gz", "sku\tname\na, b\tA\nc\tC\n")
    names = {"user": "wer", "item": 'was "genau"', "time": "wann", "item_key": "sku", "text": "name"}
    files = {"interactions": tmp_path / "clicks.tsv", "items": tmp_path / "goods.txt.gz"}
    loaded = load("csv", Path("nowhere"), **files, **names)
    assert loaded.events == [("u", "a, b", 1), ("v", "c", 1)]
    assert loaded.times == [2, 1]


def _parquet(folder: Path, **columns: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    pq.write_table(
        pa.table({"sku": [3, 20, 100], "title": ["Three", None, "Hundred"]}), folder / "items.parquet"
    )
    return folder


@pytest.mark.parametrize(
    ("times", "label"),
    [
        ([30, 10, 20, 40], [True, False, True, None]),
        ([datetime(2024, 5, day, 12) for day in (3, 1, 2, 4)], [1, 0, 1, None]),
        ([datetime(2024, 5, day, tzinfo=UTC) for day in (3, 1, 2, 4)], [1.0, 0.0, 1.0, None]),
        ([date(2024, 5, day) for day in (3, 1, 2, 4)], ["1", "0", "true", ""]),
        ([3.5, 1.5, 2.5, 4.5], [1, 0, 1, 7]),
    ],
)  # fmt: skip
def test_parquet_columns_may_be_numbers_times_and_flags(
    times: list[Any], label: list[Any], tmp_path: Path
) -> None:
    _parquet(tmp_path, customer=[7, 7, 10, 7], sku=[3, 100, 3, 100], at=times, liked=label, other=[[1]] * 4)
    loaded = load("parquet", tmp_path, user="customer", item="sku", time="at", label="liked")
    assert loaded.events == [("7", "100", 0), ("7", "3", 1), ("10", "3", 1)]
    assert loaded.items == {"3": "Three", "100": "Hundred"}
    assert loaded.dropped == {NO_LABEL: 1, "item without text": 1}


def test_parquet_and_csv_give_the_same_data_set(tmp_path: Path) -> None:
    events, texts = raw.crowd()
    prints = {"csv": _fingerprint("csv", raw.example("csv", tmp_path / "csv-raw"), tmp_path / "csv")}
    folder = tmp_path / "parquet-raw"
    folder.mkdir()
    lines = [line.split(",") for line in raw.event_lines("csv", events)]
    user, item, at, liked = (list(column) for column in zip(*lines, strict=True))
    table = pa.table({"user_id": user, "item_id": item, "at": [int(one) for one in at],
                      "liked": [one == "1" for one in liked]})  # fmt: skip
    pq.write_table(table, folder / "interactions.parquet", row_group_size=50)
    pq.write_table(
        pa.table({"item_id": list(texts), "title": list(texts.values())}), folder / "items.parquet"
    )
    reading = Reading(**raw.CSV)  # type: ignore[arg-type]
    prints["parquet"] = prepare("parquet", tmp_path / "parquet", folder, reading=reading).fingerprint
    assert prints["csv"] == prints["parquet"]


# ---- Nothing is lost, whatever the bytes

PIECES = [
    b"\n", b"\r", b"\r\n", b"\n\n \n", b"\0", b"\xff", b"\xc3", b'"', b'""', b",", b"\t", b" ", b"{", b"}", b"[]\n",
    b"\\", b"\xef\xbb\xbf", b"1e999", b"-1", b"\xe2\x80\xa8", b"null", b",,,,\n", b"\t\t\t\t\n",
]  # fmt: skip
DAMAGE = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 9), st.sampled_from(PIECES) | st.binary(max_size=6)),
    min_size=1, max_size=12)  # fmt: skip


def _damaged(content: bytes, damage: list[tuple[int, int, bytes]]) -> bytes:
    """The content with bytes taken out and others put in at random places."""
    for place, taken, put_in in damage:
        at = place % (len(content) + 1)
        content = content[:at] + put_in + content[at + taken :]
    return content


def _lines(layout: str, content: bytes) -> list[bytes]:
    """What the layout's reader must take for lines: JSON may have any white space between objects."""
    if not LAYOUTS[layout].events_header:
        content = content.removeprefix(b"\xef\xbb\xbf")
    if LAYOUTS[layout].events.endswith((".json", ".jsonl")):
        return [line for line in content.split(b"\n") if line.strip(b" \t\r")]
    return [line for line in content.split(b"\n") if line.strip(b"\r\0")]


def _watched(line: bytes) -> int:
    """How many events a line of MicroLens must give."""
    try:
        fields = line.replace(b"\0", b"").removesuffix(b"\r").decode().split("\t")
    except UnicodeDecodeError:
        return 1
    return len(re.split(" +", fields[1].strip(" "))) if len(fields) == 2 else 1


def _shown_and_given(work: Workspace) -> tuple[int, int, int]:
    """MIND: lines that became rows, their candidates, and the histories of the first impressions."""
    rows = work._rows('select ok, "user", time, history, shown from behaviours')
    shown = sum(len(re.split(" +", shown.strip(" "))) if ok else 1 for ok, _, _, _, shown in rows)
    histories: dict[str, tuple[bool, int, str]] = {}
    for ok, user, time, history, _ in rows:
        if ok and history.strip(" "):
            key = (time is None, time or 0, history.strip(" "))
            histories[user] = min(histories.get(user, key), key)
    return len(rows), shown, sum(len(re.split(" +", history)) for _, _, history in histories.values())


def _error(work: Callable[[], object]) -> RbserveError | None:
    """The one kind of error that may come."""
    try:
        work()
    except RbserveError as error:
        return error
    return None


def _put_in(work: Workspace, layout: str, folder: Path) -> None:
    """Loads a folder and numbers what it holds."""
    source = find_source(raw.source_of(layout))
    assert source.load is not None
    source.load(folder, work, Reading(**READING.get(layout, {})))
    work.number(folder)


def _account(layout: str, folder: Path, content: bytes) -> None:
    """Loads `content` as the events of a layout and compares with the lines it has."""
    name, header = LAYOUTS[layout].events, LAYOUTS[layout].events_header
    (folder / name).write_bytes(f"{header}\n".encode() + content if header else content)
    with raw.workspace() as work:
        error = _error(lambda: _put_in(work, layout, folder))
        if error and "no usable row" not in error.message:
            guessed = (
                layout in (*QUOTED, "json") or "JSON" in error.message or "no item alike" in error.message
            )
            assert guessed or content.startswith((b"\xff\xfe", b"\xfe\xff"))
            assert str(folder) in error.message
            return
        found = work.rows + sum(work.tally.dropped.values())
        rows = _lines(layout, content)
        if layout == "mind":
            read, shown, given_events = _shown_and_given(work)
            rejected = work.tally.dropped[FIELDS] + work.tally.dropped[NOT_UTF8]
            assert read + rejected == len(rows)
            assert found == shown + given_events + rejected
        elif layout == "microlens":
            assert found == sum(map(_watched, rows))
        elif layout in QUOTED and b'"' in content:  # a quoted field may hold line ends
            assert found <= len(rows)
        else:
            assert found == len(rows)


QUOTED = ("csv", "hm", "goodbooks", "microlens-csv")


class Folders(dict[str, tuple[Path, bytes]]):
    """A folder and the lines of events of every layout; too long to be shown with a failure."""

    def __repr__(self) -> str:
        return "Folders()"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folders whose events a test may overwrite."""
    made = Folders()
    for layout in LAYOUTS:
        folder = _folder(layout, tmp_path_factory.mktemp(layout))
        made[layout] = folder, "\n".join(raw.event_lines(layout, EVENTS * 2)).encode() + b"\n"
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=6)
@given(damage=DAMAGE)
@example(damage=[])
@example(damage=[(1 << 16, 0, b"no line end")])
@example(damage=[(40, 0, b"x" * 2_100_000), (1 << 16, 0, b"y" * 2_100_000)])
def test_every_row_of_a_damaged_file_is_an_event_or_counted(
    layout: str, damage: list[tuple[int, int, bytes]], folders: Folders
) -> None:
    folder, content = folders[layout]
    _account(layout, folder, _damaged(content, damage))


@pytest.mark.parametrize("layout", ["mind", "hm", "microlens", "cds", "csv"])
@settings(max_examples=3)
@given(content=st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))
def test_any_bytes_are_rows_or_an_error_that_names_the_file(
    layout: str, content: bytes, folders: Folders
) -> None:
    folder, _ = folders[layout]
    _account(layout, folder, content)


ITEM_REASONS = (
    "item row with another number of fields", "item row that is no JSON object", "item without id",
    "item text is HTML rubbish", "item without text", "duplicate item",
)  # fmt: skip


@pytest.mark.parametrize("layout", ["mind", "hm", "goodreads", "ml-100k", "csv"])
@settings(max_examples=5)
@given(damage=DAMAGE)
def test_every_item_of_a_damaged_file_is_kept_or_counted(
    layout: str, damage: list[tuple[int, int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = _folder(layout, tmp_path_factory.mktemp(layout))
    name, header = LAYOUTS[layout].items, LAYOUTS[layout].items_header
    content = "\n".join(raw.item_line(layout, item, text) for item, text in TEXTS.items()) * 3
    body = _damaged(content.encode(), damage)
    (folder / name).write_bytes(f"{header}\n".encode() + body if header else body)
    with raw.workspace() as work:
        error = _error(lambda: _put_in(work, layout, folder))
        if error and "no usable row" not in error.message:
            assert layout in ("hm", "csv")  # a quotation mark that is not closed
            assert name in error.message
            return
        found = work.items + sum(work.tally.dropped[reason] for reason in ITEM_REASONS)
        if layout == "goodreads":
            body = body.replace(b"\0", b"").decode(errors="replace").encode()
            records = sum(1 for line in body.split(b"\n") if line.decode().strip())
        else:
            records = sum(1 for line in body.split(b"\n") if line.strip(b"\r\0"))
        assert found == records or (layout in ("hm", "csv") and found <= records and b'"' in body)


@pytest.mark.parametrize("layout", ["mind", "hm", "microlens", "cds", "csv"])
@settings(max_examples=3)
@given(damage=DAMAGE)
def test_damage_that_may_hit_the_header_is_an_rbserve_error_at_most(
    layout: str, damage: list[tuple[int, int, bytes]], folders: Folders
) -> None:
    folder, content = folders[layout]
    header = LAYOUTS[layout].events_header
    whole = f"{header}\n".encode() + content if header else content
    start = [(place % 60, taken, put_in) for place, taken, put_in in damage]
    (folder / LAYOUTS[layout].events).write_bytes(_damaged(whole, start))
    error = _error(lambda: _load(layout, folder))
    assert error is None or str(folder) in error.message


# ---- Mistakes


def _nothing(folder: Path, name: str) -> None:
    folder.joinpath(name).unlink()


def _directory(folder: Path, name: str) -> None:
    _nothing(folder, name)
    folder.joinpath(name).mkdir()


def _empty(folder: Path, name: str) -> None:
    folder.joinpath(name).write_bytes(b"")


def _header_only(folder: Path, name: str) -> None:
    first = folder.joinpath(name).read_bytes().split(b"\n")[0]
    folder.joinpath(name).write_bytes(first + b"\n")


def _truncated(folder: Path, name: str) -> None:
    whole = gzip.compress(folder.joinpath(name).read_bytes() * 50, compresslevel=1)
    folder.joinpath(name).write_bytes(whole[: len(whole) * 2 // 3])


def _truncated_late(folder: Path, name: str) -> None:
    """Cut far behind what is looked at to find the header."""
    head, _, body = folder.joinpath(name).read_bytes().partition(b"\n")
    whole = gzip.compress(head + b"\n" + body * (3_000_000 // len(body)), compresslevel=1)
    folder.joinpath(name).write_bytes(whole[:-3])


def _other_columns(folder: Path, name: str) -> None:
    first, _, rest = folder.joinpath(name).read_bytes().partition(b"\n")
    folder.joinpath(name).write_bytes(re.sub(rb"id", b"key", first) + b"\n" + rest)


BREAK: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "missing": (_nothing, "holds no file|holds no table"),
    "directory": (_directory, "holds no file|holds no table|no part with rows"),
    "empty": (_empty, "is empty|no usable row|holds no time"),
    "header only": (_header_only, "no usable row|holds no time"),
    "truncated": (_truncated, "damaged or truncated|cannot read"),
    "truncated late": (_truncated_late, "damaged or truncated|cannot read"),
    "other columns": (_other_columns, "lacks the column"),
}


NO_HEADER = [layout for layout, files in LAYOUTS.items() if not files.events_header]
FAULTS = [
    (layout, fault)
    for layout in LAYOUTS
    for fault in BREAK
    if not (fault == "header only" and layout in NO_HEADER)
    and not (fault == "other columns" and layout in [*NO_HEADER, "microlens-csv"])
]


@pytest.mark.parametrize(("layout", "fault"), FAULTS)
def test_a_file_that_cannot_be_used_is_named_and_leaves_nothing(
    layout: str, fault: str, tmp_path: Path
) -> None:
    folder, out = raw.example(layout, tmp_path / "raw"), tmp_path / "data" / "set"
    name = LAYOUTS[layout].events
    breaking, message = BREAK[fault]
    breaking(folder, name)
    with pytest.raises(DataError, match=message) as error:
        prepare(raw.source_of(layout), out, folder, reading=Reading(**READING.get(layout, {})))
    assert "\n" not in error.value.message
    assert name.rpartition("_")[2] in error.value.message or "no usable row" in error.value.message
    assert error.value.hint
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


@pytest.mark.parametrize("place", [2, 3, 8, 30, -6, -2])
def test_any_damage_of_a_gzips_start_or_end_is_no_traceback(place: int, tmp_path: Path) -> None:
    folder = raw.example("goodreads", tmp_path, gz=True)
    path = folder / "goodreads_interactions_dedup.json.gz"
    content = bytearray(path.read_bytes())
    content[place] ^= 0x55
    path.write_bytes(content)
    error = _error(lambda: _load("goodreads", folder))
    assert error is None or path.name in error.message


def test_rows_without_use_are_an_error_that_says_why(tmp_path: Path) -> None:
    folder = raw.write(
        "goodbooks", tmp_path, ["1,9,x", "1,9,x", "1"], [raw.item_line("goodbooks", "1", "One")]
    )
    with pytest.raises(DataError, match=f"no usable row: 2 rows without a label .*; 1 {FIELDS}"):
        load("goodbooks", folder)


def test_an_own_table_that_is_missing_or_no_parquet_is_named(tmp_path: Path) -> None:
    items = raw.put(tmp_path, "items.csv", "item_id,title\na,A\n")
    for name, message in (
        ("none.csv", r"no file .*none\.csv"),
        ("none.parquet", r"no file .*none\.parquet"),
    ):
        with pytest.raises(DataError, match=message):
            load("csv", tmp_path, interactions=tmp_path / name, items=items)
    text = raw.put(tmp_path, "text.parquet", "user_id,item_id\n")
    with pytest.raises(DataError, match=r"text\.parquet is no readable Parquet file"):
        load("parquet", tmp_path, interactions=text, items=items)
    with pytest.raises(DataError, match="has parts of several formats"):
        load("csv", tmp_path, interactions=tmp_path, items=items)
    whole = _parquet(tmp_path / "whole", user_id=["u"], item_id=["a"]) / "interactions.parquet"
    with pytest.raises(DataError, match=r"lacks the column 'buyer'; it has: user_id, item_id") as error:
        load("parquet", tmp_path, interactions=whole, items=items, user="buyer")
    assert "column options" in (error.value.hint or "")


def test_tables_that_are_not_named_at_all_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="csv is not fetched") as error:
        prepare("csv", tmp_path / "shop")
    assert "--interactions and --items" in (error.value.hint or "")
    for name, source in SOURCES.items():
        if source.load is not None and source.fetch is None:
            with pytest.raises(UsageError, match="--raw") as error:
                prepare(name, tmp_path / name)
            assert source.needs in (error.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_a_statement_that_does_not_stop_holds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB now and then never ends a statement that was interrupted: Ctrl-C then waited for ever."""
    from rbserve.train.datasets import workspace

    released = threading.Event()

    class Stuck:
        def execute(self, sql: str) -> None:
            del sql
            released.wait(60)

        def query_progress(self) -> float:
            raise KeyboardInterrupt

        def interrupt(self) -> None:
            pass

        def close(self) -> None:
            raise AssertionError("closing would wait for the statement")

    work = workspace.Workspace(tmp_path, 1 << 28, Tally())
    work.close()
    monkeypatch.setattr(workspace, "STOP_S", 0.05)
    work._database = cast("Any", Stuck())
    with pytest.raises(KeyboardInterrupt):
        work._execute("select 1", 1, "rows", None)
    work.close()
    released.set()
