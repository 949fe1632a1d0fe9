"""Baselines against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.core.columns import Ragged
from rbserve.core.dataset import Dataset, SeqSplit
from rbserve.profilers.accuracy import baselines, popularity_ranks

COUNTS = st.lists(st.integers(0, 3), min_size=6, max_size=6)
ITEM = st.integers(0, 5)


@given(COUNTS, st.lists(st.tuples(ITEM, st.lists(ITEM, max_size=4)), max_size=5), st.booleans())
def test_a_target_stands_behind_all_items_as_popular_that_are_not_left_out(
    counts: list[int], rows: list[tuple[int, list[int]]], exclude_seen: bool
) -> None:
    histories = [history for _, history in rows]
    values = np.array([item for history in histories for item in history], np.int32)
    test = SeqSplit(
        np.arange(len(rows), dtype=np.int32),
        np.array([target for target, _ in rows], np.int32),
        Ragged(values, np.cumsum([0, *map(len, histories)])),
    )
    expected = []
    for target, history in rows:
        left = set(range(6)) - (set(history) if exclude_seen else set())
        ahead = sum(counts[item] >= counts[target] for item in left)
        expected.append(ahead if target in left else 0)
    assert popularity_ranks(np.array(counts), test, exclude_seen).tolist() == expected


def test_popularity_counts_targets_and_histories_of_the_training_split_alone(planted: Dataset) -> None:
    train, test = planted.seqrec("train"), planted.seqrec("test")
    counts = [0] * len(planted.items)
    for row in range(len(train)):
        for item in (*train.histories[row].tolist(), int(train.targets[row])):
            counts[item] += 1
    hits = [sum(one >= counts[target] for one in counts) <= 10 for target in test.targets]
    assert baselines(planted, planted.seqrec("test"))["popularity"]["recall@10"] == pytest.approx(
        np.mean(hits)
    )
