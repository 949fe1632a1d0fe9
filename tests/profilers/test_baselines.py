"""Baselines against brute force."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.core.tasks import CTR, SEQREC
from rbserve.data.columns import Ragged
from rbserve.data.dataset import SPLITS, CtrSplit, Dataset, SeqSplit
from rbserve.runs import popularity
from rbserve.runs.baselines import Baselines, baselines
from rbserve.runs.popularity import (
    ALL_LIKES,
    LAST_LIKES,
    TimedRows,
    counts_within,
    day_length,
    list_forms,
    popularity_ranks,
)
from rbserve.stats.pairwise import auc

COUNTS = st.lists(st.integers(0, 3), min_size=6, max_size=6)
ITEM = st.integers(0, 5)


@given(COUNTS, st.lists(st.tuples(ITEM, st.lists(ITEM, max_size=4)), max_size=5), st.booleans())
def test_a_target_stands_behind_all_items_as_popular_that_are_not_left_out(
    counts: list[int], rows: list[tuple[int, list[int]]], exclude_seen: bool
) -> None:
    test = sequences(rows)
    expected = []
    for target, history in rows:
        left = set(range(6)) - (set(history) if exclude_seen else set())
        ahead = sum(counts[item] >= counts[target] for item in left)
        expected.append(ahead if target in left else 0)
    assert popularity_ranks(np.array(counts, float), test, exclude_seen).tolist() == expected


class Rows(NamedTuple):
    """What baselines read of a data set: its items, its splits by task and name, and their columns."""

    items: range
    splits: dict[str, Any]
    columns: dict[str, Any]

    def rows(self, task: str, split: str) -> Any:
        return self.splits[f"{task}/{split}"]

    def column(self, folder: str, name: str) -> Any:
        return self.columns[f"{folder}/{name}"]


def made(
    task: str, train: Any, valid: Any, test: Any, times: dict[str, list[int]] | None = None, **options: Any
) -> Baselines:
    """The baselines of a data set of twenty items with these splits; without times, rows are in order."""
    splits = {f"{task}/{name}": rows for name, rows in (("train", train), ("valid", valid), ("test", test))}
    columns = {
        f"{folder}/time": np.array((times or {}).get(folder.partition("/")[2], range(len(rows))), np.int64)
        for folder, rows in splits.items()
    }
    return baselines(cast("Dataset", Rows(range(20), splits, columns)), task, **options)


def sequences(rows: list[tuple[int, list[int]]]) -> SeqSplit:
    """A sequence a user: (target, history)."""
    targets = np.array([target for target, _ in rows], np.int32)
    return SeqSplit(np.arange(len(rows), dtype=np.int32), targets, ragged([history for _, history in rows]))


def pairs(rows: list[tuple[int, int, int, list[int]]]) -> CtrSplit:
    """Labelled rows: (user, candidate, label, history)."""
    users, candidates, labels = (np.array(column, np.int32) for column in list(zip(*rows, strict=True))[:3])
    return CtrSplit(users, candidates, labels.astype(np.int8), ragged([row[3] for row in rows]))


def ragged(histories: list[list[int]]) -> Ragged:
    values = np.array([item for history in histories for item in history], np.int32)
    return Ragged(values, np.cumsum([0, *map(len, histories)]))


# Training users like 0 and 1 for long, and 19 at last. Twenty items: a list of ten does not hold all.
OLD, NEW = [*range(12)], 19
SEQUENCES = sequences([(NEW, OLD), (NEW, OLD), (18, OLD)])
PAIRS = pairs([(0, NEW, 1, OLD), (1, NEW, 1, OLD), (1, 5, 0, OLD[:3]), (2, 18, 1, OLD), (2, 4, 0, OLD[:1])])


@pytest.mark.parametrize(("liked", "form"), [(NEW, LAST_LIKES), (0, ALL_LIKES)])
def test_popularity_of_rankings_has_the_form_that_is_stronger_on_validation(liked: int, form: str) -> None:
    valid = sequences([(liked, [])] * 3)
    test = sequences([(0, []), (NEW, []), (NEW, [])])
    known = made(SEQREC.name, SEQUENCES, valid, test)
    counted = [NEW, NEW, 18] if form == LAST_LIKES else [NEW, NEW, 18, *OLD * 3]
    counts = np.bincount(counted, minlength=20)
    ranks = [int((counts >= counts[target]).sum()) for target in test.targets]
    assert known.forms == {"popularity": form}
    assert known.answers["popularity"].tolist() == ranks
    assert known.figures["popularity"]["recall@10"] == np.mean([rank <= 10 for rank in ranks])


@pytest.mark.parametrize(("liked", "form"), [(NEW, LAST_LIKES), (0, ALL_LIKES)])
def test_popularity_of_clicks_has_the_form_that_is_stronger_on_validation(liked: int, form: str) -> None:
    valid = pairs([(3, liked, 1, []), (3, NEW - liked, 0, [])])
    test = pairs([(4, 0, 1, []), (4, NEW, 0, [])])
    known = made(CTR.name, PAIRS, valid, test)
    assert known.forms == {"popularity": form}
    # Users 0 and 1 clicked NEW twice; each of three users' longest histories holds item 0 once.
    assert known.figures["popularity"]["auc"] == (0.0 if form == LAST_LIKES else 1.0)


def test_without_a_row_that_judges_them_popularity_keeps_the_form_of_its_task() -> None:
    assert made(SEQREC.name, SEQUENCES, sequences([]), SEQUENCES).forms == {"popularity": ALL_LIKES}
    one_label = pairs([(3, 0, 1, [])])
    assert made(CTR.name, PAIRS, one_label, PAIRS).forms == {"popularity": LAST_LIKES}


def test_popularity_counts_the_training_split_alone(planted: Dataset) -> None:
    train, test = planted.seqrec("train"), planted.seqrec("test")
    known = baselines(planted, SEQREC.name)
    counts = [0] * len(planted.items)
    for row in range(len(train)):
        history = train.histories[row].tolist() if known.forms["popularity"] == ALL_LIKES else []
        for item in (*history, int(train.targets[row])):
            counts[item] += 1
    hits = [sum(count >= counts[target] for count in counts) <= 10 for target in test.targets]
    assert known.figures["popularity"]["recall@10"] == pytest.approx(np.mean(hits))


def test_labels_of_test_rows_change_no_answer_and_a_part_of_the_rows_has_its_own(planted: Dataset) -> None:
    test = planted.ctr("test")
    whole = baselines(planted, CTR.name)
    other = Rows(
        cast("range", planted.items),
        {"ctr/train": planted.ctr("train"), "ctr/valid": planted.ctr("valid"), "ctr/test": flipped(test)},
        {f"ctr/{split}/time": planted.column(f"ctr/{split}", "time") for split in SPLITS},
    )
    without = baselines(cast("Dataset", other), CTR.name)
    part = baselines(planted, CTR.name, np.arange(5, 50))
    for name, answers in whole.answers.items():
        assert without.answers[name].tolist() == answers.tolist()
        assert part.answers[name].tolist() == answers[5:50].tolist()
        assert whole.figures[name]["auc"] == auc(test.labels, answers)
        assert without.figures[name]["auc"] == pytest.approx(1 - whole.figures[name]["auc"])


def flipped(rows: CtrSplit) -> CtrSplit:
    return CtrSplit(rows.users, rows.candidates, 1 - rows.labels, rows.histories)


def test_another_baseline_is_judged_on_the_rows_that_are_judged() -> None:
    test = pairs([(4, 0, 1, []), (4, 1, 0, []), (5, 2, 1, []), (5, 3, 0, [])])
    scores = np.array([0.1, 0.9, 0.8, 0.3])
    known = made(CTR.name, PAIRS, PAIRS, test, further={"gbdt on counts": scores})
    assert known.figures["gbdt on counts"]["auc"] == 0.25
    last = made(CTR.name, PAIRS, PAIRS, test, further={"gbdt on counts": scores}, rows=np.array([2, 3]))
    assert last.answers["gbdt on counts"].tolist() == [0.8, 0.3]
    assert last.figures["gbdt on counts"]["auc"] == 1.0
    assert "gbdt on counts" not in last.forms


# ---- Windows ----

DAY = 86_400
NOW = 1_700_000_000
EVENT = st.tuples(ITEM, st.integers(0, 1), st.integers(0, 12))
EVENTS = st.lists(EVENT, max_size=12)


@given(EVENTS, EVENTS, st.integers(1, 15), st.booleans(), st.integers(1, 20))
def test_a_window_counts_what_happened_in_it_before_the_row_whatever_fits_in_memory(
    train: list[tuple[int, int, int]],
    rows: list[tuple[int, int, int]],
    width: int,
    liked: bool,
    block: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(popularity, "BLOCK", block)
        counts = counts_within(timed_pairs(train), [width, 99], timed_pairs(rows), liked)[width]
    end = max((time for _, _, time in train), default=99) + 1
    assert counts.tolist() == [
        sum(
            item == asked and min(time, end) - width <= when < min(time, end) and (label == 1 or not liked)
            for item, label, when in train
        )
        for asked, _, time in rows
    ]


def timed_pairs(rows: list[tuple[int, int, int]]) -> TimedRows:
    """Rows of (item, label, time)."""
    items, labels, times = (np.array([row[field] for row in rows], np.int64) for field in range(3))
    split = CtrSplit(
        np.arange(len(rows), dtype=np.int32),
        items.astype(np.int32),
        labels.astype(np.int8),
        ragged([[] for _ in rows]),
    )
    return TimedRows(split, times)


TIMED_ROW = st.tuples(ITEM, st.lists(ITEM, max_size=3), st.integers(0, 40))


@given(st.lists(TIMED_ROW, min_size=1, max_size=12), st.lists(TIMED_ROW, max_size=12), st.booleans())
def test_a_list_ranks_by_the_counts_of_its_own_moment(
    train: list[tuple[int, list[int], int]], rows: list[tuple[int, list[int], int]], exclude_seen: bool
) -> None:
    known = list_forms(timed_sequences(train), 6, exclude_seen)
    ranks = known["likes of the last 7 days"](timed_sequences(rows))
    end = max(day for _, _, day in train) * DAY + 1
    expected = []
    for target, history, day in rows:
        until = min(day * DAY, end)
        happened = [item for item, _, when in train if until - 7 * DAY <= when * DAY < until]
        counts = np.bincount(np.array(happened, int), minlength=6).astype(float)
        (rank,) = popularity_ranks(counts, sequences([(target, history)]), exclude_seen)
        expected.append(rank)
    assert ranks.tolist() == expected


def timed_sequences(rows: list[tuple[int, list[int], int]]) -> TimedRows:
    """Rows of (target, history, day)."""
    times = NOW + DAY * np.array([day for *_, day in rows], np.int64)
    return TimedRows(sequences([(target, history) for target, history, _ in rows]), times)


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_times_since_1970_are_told_with_their_unit_from_places_in_a_file(unit: int) -> None:
    times = (NOW + np.arange(0, 10**7, 1000)) * unit
    assert day_length(times) == DAY * unit
    assert day_length(np.append(times, 0)) == DAY * unit
    assert day_length(np.arange(1000) * unit) is None
    assert day_length(np.array([], np.int64)) is None


def test_a_window_is_the_form_where_validation_says_so() -> None:
    """Item 1 was liked by many long ago, item 2 by a few these days."""
    train = pairs([*[(user, 1, 1, []) for user in range(9)], (10, 2, 1, []), (11, 2, 1, []), (12, 1, 0, [])])
    rows = pairs([(20, 2, 1, []), (20, 1, 0, [])])
    times = {
        "train": [NOW - 200 * DAY] * 9 + [NOW - 3 * DAY] * 2 + [NOW - 60],
        "valid": [NOW] * 2,
        "test": [NOW] * 2,
    }
    known = made(CTR.name, train, rows, rows, times=times)
    assert known.forms["popularity"] == "likes of the last 7 days"
    assert known.answers["popularity"].tolist() == [2.0, 0.0]
    ordered = made(CTR.name, train, rows, rows)
    assert ordered.forms["popularity"] == LAST_LIKES
