"""Baselines against brute force."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, Dataset, SeqSplit
from rbserve.runs.baselines import ALL_LIKES, LAST_LIKES, baselines, popularity_ranks

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
    """What baselines read of a data set: its items, and the splits of one task."""

    items: range
    splits: dict[str, Any]

    def ctr(self, split: str) -> Any:
        return self.splits[split]

    seqrec = ctr


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
    made = baselines(cast("Dataset", Rows(range(20), {"train": SEQUENCES, "valid": valid})), test)
    counted = [NEW, NEW, 18] if form == LAST_LIKES else [NEW, NEW, 18, *OLD * 3]
    counts = np.bincount(counted, minlength=20)
    ranks = [int((counts >= counts[target]).sum()) for target in test.targets]
    assert made.forms == {"popularity": form}
    assert made.figures["popularity"]["recall@10"] == np.mean([rank <= 10 for rank in ranks])


@pytest.mark.parametrize(("liked", "form"), [(NEW, LAST_LIKES), (0, ALL_LIKES)])
def test_popularity_of_clicks_has_the_form_that_is_stronger_on_validation(liked: int, form: str) -> None:
    valid = pairs([(3, liked, 1, []), (3, NEW - liked, 0, [])])
    test = pairs([(4, 0, 1, []), (4, NEW, 0, [])])
    made = baselines(cast("Dataset", Rows(range(20), {"train": PAIRS, "valid": valid})), test)
    assert made.forms == {"popularity": form}
    # Users 0 and 1 clicked NEW twice; each of three users' longest histories holds item 0 once.
    assert made.figures["popularity"]["auc"] == (0.0 if form == LAST_LIKES else 1.0)


def test_without_a_row_that_judges_them_popularity_keeps_the_form_of_its_task() -> None:
    nothing = sequences([])
    made = baselines(cast("Dataset", Rows(range(20), {"train": SEQUENCES, "valid": nothing})), SEQUENCES)
    assert made.forms == {"popularity": ALL_LIKES}
    one_label = pairs([(3, 0, 1, [])])
    made = baselines(cast("Dataset", Rows(range(20), {"train": PAIRS, "valid": one_label})), PAIRS)
    assert made.forms == {"popularity": LAST_LIKES}


def test_popularity_counts_the_training_split_alone(planted: Dataset) -> None:
    train, test = planted.seqrec("train"), planted.seqrec("test")
    made = baselines(planted, test)
    counts = [0] * len(planted.items)
    for row in range(len(train)):
        history = train.histories[row].tolist() if made.forms["popularity"] == ALL_LIKES else []
        for item in (*history, int(train.targets[row])):
            counts[item] += 1
    hits = [sum(one >= counts[target] for one in counts) <= 10 for target in test.targets]
    assert made.figures["popularity"]["recall@10"] == pytest.approx(np.mean(hits))
