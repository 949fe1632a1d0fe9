"""The second look: its figures equal a naive count, and each check fails alone when its rule is broken."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console
from small_dataset import build

from rbserve.cli.integrity_tables import integrity_tables
from rbserve.core.errors import DataError
from rbserve.core.files import digest
from rbserve.data import columns
from rbserve.data.dataset import NEVER, SPLITS, Dataset, ItemTable, open_dataset
from rbserve.data.integrity import (
    CHECKS,
    OF_HISTORIES,
    STARTS_TOGETHER,
    TABLE_2,
    TABLE_2_LINES,
    inspect,
    shared_start,
)
from rbserve.data.integrity_report import IntegrityReport
from rbserve.pipeline.data import _tell_times
from rbserve.train.datasets import synthetic
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import Interactions
from rbserve.train.protocol.tally import Tally

USERS, ITEMS, EVENTS, HISTORY = 80, 60, 12, 5


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users with different numbers of events; some texts have no word that the vocabulary knows."""
    rng = np.random.default_rng(7)
    met = [rng.permutation(ITEMS)[: rng.integers(3, EVENTS + 1)] for _ in range(USERS)]
    events = Interactions(
        np.repeat(np.arange(USERS, dtype=np.int32), [len(items) for items in met]),
        np.concatenate(met).astype(np.int32),
        rng.integers(0, 2, sum(map(len, met))).astype(np.int8),
        np.concatenate([np.sort(rng.integers(0, 9, len(items))) for items in met]),
    )
    texts = ["" if item % 10 == 0 else f"story w{item % 4}" for item in range(ITEMS)]
    tally = Tally(
        Counter({"item without text or not in the item file": 30, "row [odd]": 2}),
        Counter({"byte order mark": 1, "line with NUL characters": 4}),
    )
    path = tmp_path_factory.mktemp("data") / "small"
    return build(
        path,
        "synthetic",
        events,
        ItemTable([f"i{i}" for i in range(ITEMS)], texts),
        Protocol(history=HISTORY, rows_per_label=3),
        tally,
    )


@pytest.fixture(scope="module")
def periods(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The data set of a split by time, with users who have rows in several splits."""
    rng = np.random.default_rng(3)
    users, items, times = (rng.integers(most, size=1_500) for most in (40, ITEMS, 300))
    labels = rng.integers(0, 2, 1_500)
    events = Interactions(users.astype(np.int32), items.astype(np.int32), labels.astype(np.int8), times)
    table = ItemTable([f"i{i}" for i in range(ITEMS)], ["story"] * ITEMS)
    path = tmp_path_factory.mktemp("data") / "periods"
    return build(path, "made", events, table, Protocol(history=HISTORY, split="time"))


@pytest.fixture
def copy(small: Dataset, tmp_path: Path) -> Path:
    """A copy whose files a test may spoil."""
    return Path(shutil.copytree(small.path, tmp_path / "small"))


def _spoil(path: Path, name: str, index: int, value: int) -> None:
    """Changes one value of a column, and the manifest with it: the file looks as if it were written so."""
    column = np.lib.format.open_memmap(path / f"{name}.npy", mode="r+")
    column[index] = value
    column.flush()
    _seal(path, name)


def _seal(path: Path, name: str) -> None:
    manifest = msgspec.json.decode((path / "manifest.json").read_bytes())
    manifest["files"][f"{name}.npy"] = msgspec.to_builtins(digest(path / f"{name}.npy"))
    (path / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def _rows(dataset: Dataset, folder: str) -> list[dict[str, Any]]:
    """The rows of a split as Python values, with `item` for what is recommended and where their history begins."""
    task = folder.split("/")[0]
    names = {
        "user": "user",
        "item": "candidate" if task == "ctr" else "target",
        "time": "time",
        "newest": "newest",
    }
    if task == "ctr":
        names["label"] = "label"
    values = {key: dataset.column(folder, name).tolist() for key, name in names.items()}
    offsets = dataset.column(folder, "history.offsets").tolist()
    items = dataset.column(folder, "history.values").tolist()
    return [
        {key: column[row] for key, column in values.items()}
        | {"row": row, "begin": offsets[row], "end": offsets[row + 1],
           "history": items[offsets[row] : offsets[row + 1]]}
        for row in range(len(offsets) - 1)
    ]  # fmt: skip


def _failed(report: IntegrityReport) -> dict[str, int]:
    return {check.name: check.violations for check in report.checks if check.passed is False}


def _text(report: IntegrityReport, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in integrity_tables(report):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_check_of_an_untouched_data_set_passes(small: Dataset, planted: Dataset) -> None:
    for dataset in (small, planted):
        report = inspect(dataset)
        assert report.ok
        assert [check.passed for check in report.checks] == [True] * (len(CHECKS) - 1)
        assert all(check.checked > 0 and not check.detail for check in report.checks)


def test_the_figures_of_splits_equal_a_naive_count(small: Dataset) -> None:
    report = inspect(small)
    assert [(figures.task, figures.split) for figures in report.splits] == [
        (task, split) for task in ("ctr", "seqrec") for split in SPLITS
    ]
    for figures in report.splits:
        rows = _rows(small, f"{figures.task}/{figures.split}")
        lengths = [len(row["history"]) for row in rows]
        users = {row["user"] for row in rows}
        longest = HISTORY if figures.task == "ctr" else HISTORY - 1
        assert (figures.rows, figures.users) == (len(rows), len(users))
        assert figures.items == len({item for row in rows for item in [row["item"], *row["history"]]})
        assert figures.rows_per_user == len(rows) / len(users)
        assert figures.history_lengths == [lengths.count(length) for length in range(longest + 1)]
        assert figures.history_mean == pytest.approx(sum(lengths) / len(rows))
        assert figures.empty == lengths.count(0) / len(rows)
        assert figures.full == lengths.count(longest) / len(rows)
        if figures.task == "ctr":
            assert figures.positives == sum(row["label"] for row in rows)
            assert figures.positive_rate == figures.positives / len(rows)
        else:
            assert figures.positives is figures.positive_rate is None


def test_sizes_and_texts_are_shares_of_what_they_say(small: Dataset) -> None:
    report = inspect(small)
    source = small.manifest.counts["source"]
    assert report.sizes == source
    assert report.positive_rate == source["positives"] / source["interactions"]
    with_words = sum(len(small.tokens[item]) > 0 for item in range(ITEMS))
    assert 0 < with_words < ITEMS
    assert (report.text.items, report.text.items_with_words) == (ITEMS, with_words)
    assert report.text.items_with_words_rate == with_words / ITEMS
    assert report.text.interactions_with_text == source["interactions"] / (source["interactions"] + 30)
    assert report.text.vocabulary == len(small.words)


def test_what_was_lost_stands_apart_from_what_the_protocol_left_out(small: Dataset) -> None:
    report, dropped = inspect(small), small.manifest.dropped
    assert list(report.lost.reasons.items()) == [
        ("item without text or not in the item file", 30), ("row [odd]", 2)]  # fmt: skip
    assert report.lost.total == 32
    assert list(report.repaired.reasons) == ["line with NUL characters", "byte order mark"]
    assert all(reason.startswith(("ctr:", "seqrec:")) for reason in report.left_out.reasons)
    assert list(report.left_out.reasons.values()) == sorted(report.left_out.reasons.values(), reverse=True)
    assert report.lost.reasons | report.left_out.reasons == dropped
    assert report.lost.total + report.left_out.total == sum(dropped.values())


def test_the_papers_finetune_set_is_train_and_valid_together(small: Dataset) -> None:
    lines = {line.what: line for line in inspect(small, "Good.").table_2}
    assert [line.paper for line in lines.values()] == list(TABLE_2["Good."])
    for what in TABLE_2_LINES:
        task, stage, figure = what.split()
        rows = [row for split in (["test"] if stage == "test" else ["train", "valid"])
                for row in _rows(small, f"{task}/{split}")]  # fmt: skip
        here = {
            "rows": len(rows),
            "users": len({row["user"] for row in rows}),
            "items": len({item for row in rows for item in [row["item"], *row["history"]]}),
        }[figure]
        assert (lines[what].here, lines[what].ratio) == (here, here / lines[what].paper)


def _same_user_in_train_and_test(dataset: Dataset) -> tuple[str, int, int]:
    return "seqrec/test/user", 0, _rows(dataset, "seqrec/train")[3]["user"]


def _candidate_in_its_history(dataset: Dataset) -> tuple[str, int, int]:
    row = next(row for row in _rows(dataset, "ctr/train") if row["history"])
    return "ctr/train/history.values", row["end"] - 1, row["item"]


def _target_in_its_history(dataset: Dataset) -> tuple[str, int, int]:
    row = _rows(dataset, "seqrec/valid")[-1]
    return "seqrec/valid/history.values", row["begin"], row["item"]


def _history_of_the_same_moment(dataset: Dataset) -> tuple[str, int, int]:
    row = next(row for row in _rows(dataset, "ctr/test") if row["history"])
    return "ctr/test/newest", row["row"], row["time"]


def _history_after_the_target(dataset: Dataset) -> tuple[str, int, int]:
    return "seqrec/test/newest", 1, _rows(dataset, "seqrec/test")[1]["time"] + 1


def _history_without_a_time(dataset: Dataset) -> tuple[str, int, int]:
    return "seqrec/test/newest", 0, NEVER


def _item_beyond_the_table(dataset: Dataset) -> tuple[str, int, int]:
    return "ctr/train/history.values", 3, ITEMS


def _negative_candidate(dataset: Dataset) -> tuple[str, int, int]:
    return "ctr/valid/candidate", 1, -1


def _falling_offset(dataset: Dataset) -> tuple[str, int, int]:
    row = _rows(dataset, "ctr/train")[5]
    return "ctr/train/history.offsets", 5, row["end"] + 1


def _values_left_over(dataset: Dataset) -> tuple[str, int, int]:
    row = next(row for row in reversed(_rows(dataset, "seqrec/train")))
    return "seqrec/train/history.offsets", row["row"] + 1, row["end"] - 1


def _candidate_twice(dataset: Dataset) -> tuple[str, int, int]:
    rows = [row for row in _rows(dataset, "ctr/train") if not row["label"]]
    one, other = next((one, other) for one in rows for other in rows
                      if one["user"] == other["user"] and one["row"] < other["row"])  # fmt: skip
    return "ctr/train/candidate", other["row"], one["item"]


def _only_like_disliked(dataset: Dataset) -> tuple[str, int, int]:
    likes = [row for row in _rows(dataset, "ctr/train") if row["label"]]
    by_user = Counter(row["user"] for row in likes)
    return "ctr/train/label", next(row["row"] for row in likes if by_user[row["user"]] == 1), 0


def _history_longer_than_asked(dataset: Dataset, task: str = "ctr") -> tuple[str, int, int]:
    """The first item of the next history is added to a full one."""
    rows = _rows(dataset, f"{task}/train")
    full = max(len(row["history"]) for row in rows)
    row = next(row for row, after in pairwise(rows)
               if len(row["history"]) == full and len(after["history"]) > 1
               and after["history"][0] not in [row["item"], *row["history"]])  # fmt: skip
    return f"{task}/train/history.offsets", row["row"] + 1, row["end"] + 1


def _sequence_longer_than_asked(dataset: Dataset) -> tuple[str, int, int]:
    return _history_longer_than_asked(dataset, "seqrec")


def _item_twice(dataset: Dataset) -> tuple[str, int, int]:
    row = next(row for row in _rows(dataset, "ctr/train") if len(row["history"]) > 2)
    return "ctr/train/history.values", row["begin"], row["history"][-1]


def _two_sequences(dataset: Dataset) -> tuple[str, int, int]:
    return "seqrec/train/user", 0, _rows(dataset, "seqrec/train")[7]["user"]


SPOILT: list[tuple[str, Callable[[Dataset], tuple[str, int, int]]]] = [
    ("user-disjoint", _same_user_in_train_and_test),
    ("candidate-unseen", _candidate_in_its_history),
    ("candidate-unseen", _target_in_its_history),
    ("history-earlier", _history_of_the_same_moment),
    ("history-earlier", _history_after_the_target),
    ("history-earlier", _history_without_a_time),
    ("in-bounds", _item_beyond_the_table),
    ("in-bounds", _negative_candidate),
    ("in-bounds", _falling_offset),
    ("in-bounds", _values_left_over),
    ("pairs-once", _candidate_twice),
    ("both-labels", _only_like_disliked),
    ("history-length", _history_longer_than_asked),
    ("history-length", _sequence_longer_than_asked),
    ("items-once", _item_twice),
    ("one-sequence", _two_sequences),
]


@pytest.mark.parametrize(("name", "change"), SPOILT, ids=lambda value: getattr(value, "__name__", value))
def test_one_wrong_value_fails_exactly_its_check(
    name: str, change: Callable[[Dataset], tuple[str, int, int]], small: Dataset, copy: Path
) -> None:
    column, index, value = change(small)
    _spoil(copy, column, index, value)
    report = inspect(open_dataset(copy))
    assert not report.ok
    assert _failed(report) == {name: 1}
    check = next(check for check in report.checks if check.name == name)
    folder = column.rpartition("/")[0]
    assert check.detail in (f"{folder}: 1", f"{folder.split('/')[0]}: 1")


def test_every_check_of_a_split_by_time_passes_and_none_is_about_users_in_one_split(periods: Dataset) -> None:
    report = inspect(periods)
    assert [check.name for check in report.checks if check.passed] == [
        name for name in CHECKS if name != "user-disjoint"
    ]
    users = [set(periods.column(f"ctr/{split}", "user").tolist()) for split in SPLITS]
    assert users[0] & users[1] & users[2]


@pytest.mark.parametrize(("split", "later"), [("train", "valid"), ("valid", "test"), ("train", "test")])
@pytest.mark.parametrize("task", ["ctr", "seqrec"])
def test_a_row_at_the_time_of_a_later_period_is_found(
    task: str, split: str, later: str, periods: Dataset, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(periods.path, tmp_path / "copy"))
    begins = int(periods.column(f"{task}/{later}", "time").min())
    _spoil(copy, f"{task}/{split}/time", 3, begins)
    report = inspect(open_dataset(copy))
    assert _failed(report)["periods-apart"] >= 1
    assert f"{task}/{split}: 1" in next(
        check.detail for check in report.checks if check.name == "periods-apart"
    )


def test_a_sequence_of_a_split_by_time_holds_nothing_of_the_targets_own_time(
    periods: Dataset, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(periods.path, tmp_path / "copy"))
    _spoil(copy, "seqrec/test/newest", 0, _rows(periods, "seqrec/test")[0]["time"])
    assert _failed(inspect(open_dataset(copy))) == {"history-earlier": 1}


def test_a_sequence_may_hold_items_of_the_targets_own_time(small: Dataset, copy: Path) -> None:
    _spoil(copy, "seqrec/test/newest", 0, _rows(small, "seqrec/test")[0]["time"])
    assert inspect(open_dataset(copy)).ok


def test_broken_offsets_leave_the_checks_of_histories_unmade_but_not_the_others(
    small: Dataset, copy: Path
) -> None:
    _spoil(copy, *_falling_offset(small))
    report = inspect(open_dataset(copy))
    unmade = [check for check in report.checks if check.passed is None]
    assert {check.name for check in unmade} == set(OF_HISTORIES)
    assert all("broken in ctr/train" in check.detail for check in unmade)
    assert (report.splits[0].history_mean, report.splits[0].history_lengths) == (None, [])
    assert report.splits[1] == inspect(small).splits[1]
    assert "not made" in _text(report)


def test_a_check_counts_every_violation_in_every_split(small: Dataset, copy: Path) -> None:
    for split in SPLITS:
        for row in (0, 2):
            _spoil(copy, f"seqrec/{split}/newest", row, 99)
    check = {check.name: check for check in inspect(open_dataset(copy)).checks}["history-earlier"]
    assert (check.violations, check.detail) == (6, "seqrec/train: 2, seqrec/valid: 2, seqrec/test: 2")


@pytest.mark.parametrize("size", [5, 64])
def test_blocks_of_any_size_find_the_same(
    size: int, small: Dataset, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _, change in SPOILT:
        if change not in (_falling_offset, _values_left_over):
            _spoil(copy, *change(small))
    whole = inspect(open_dataset(copy), "CDs")
    assert len(_failed(whole)) == len(CHECKS) - 1  # all but that of periods
    monkeypatch.setattr(columns, "BLOCK", size)
    assert inspect(open_dataset(copy), "CDs") == whole


def test_times_that_are_places_in_each_users_order_are_told_from_moments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = synthetic.Planted(users=150, items=40, topics=4, events_per_user=30)
    places, items = synthetic.read(sizes, Counter())
    begins = np.random.default_rng(0).integers(10_000, size=sizes.users)
    moments = replace(places, times=places.times + begins[places.users])
    by_places, by_moments = (
        build(tmp_path / name, "synthetic", events, items, Protocol(split="time"))
        for name, events in (("places", places), ("moments", moments))
    )
    ordered, timed = shared_start(by_places), shared_start(by_moments)
    assert ordered is not None
    assert timed is not None
    assert ordered > 2 * STARTS_TOGETHER > 10 * timed
    _tell_times(by_moments)
    assert capsys.readouterr().err == ""
    _tell_times(by_places)
    assert "begin at one moment: the times of this source look like places" in capsys.readouterr().err


def test_of_few_users_it_is_not_asked_whether_they_begin_together(small: Dataset) -> None:
    assert shared_start(small) is None


def test_files_that_are_not_the_manifests_are_refused(copy: Path) -> None:
    file = copy / "ctr" / "test" / "time.npy"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DataError, match="is damaged"):
        inspect(open_dataset(copy))
    (copy / "items.parquet").unlink()
    with pytest.raises(DataError, match=r"items\.parquet is missing"):
        inspect(open_dataset(copy))


def test_columns_of_different_lengths_are_refused(copy: Path) -> None:
    file = copy / "ctr" / "test" / "time.npy"
    np.save(file, np.load(file)[:-1])
    _seal(copy, "ctr/test/time")
    with pytest.raises(DataError, match="columns of ctr/test differ in length"):
        inspect(open_dataset(copy))


def test_the_report_reads_back_from_json(small: Dataset) -> None:
    report = inspect(small, "MIND")
    assert msgspec.json.decode(msgspec.json.encode(report), type=IntegrityReport) == report


def test_what_people_see_has_the_verdict_the_figures_and_the_paper(small: Dataset) -> None:
    report = inspect(small, "Micro.")
    text = _text(report)
    figures = report.splits[0]
    for part in (
        "small: sound, 9 of 9 checks passed",
        f"{report.sizes['interactions']:,} interactions of {report.sizes['users']} users",
        f"{figures.rows:,}",
        f"{figures.positive_rate:.1%}",
        "30  item without text or not in the item file",
        "2  row [odd]",
        "RecBench, Table 2: Micro.",
        "18,841",
        "█",
    ):
        assert part in text
    assert "FAILED" not in text
    assert "Table 2" not in _text(inspect(small))


def test_what_people_see_names_the_failed_check_and_where(small: Dataset, copy: Path) -> None:
    _spoil(copy, *_two_sequences(small))
    text = _text(inspect(open_dataset(copy)))
    assert "NOT SOUND, 1 of 9 checks failed" in text
    failed = [line for line in text.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert "every seqrec user has one row in a split (seqrec/train: 1)" in failed[0]
