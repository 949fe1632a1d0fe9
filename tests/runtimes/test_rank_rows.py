"""Ranking many histories at once is ranking them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.core.types import Items, Scores
from rbserve.data.columns import Ragged
from rbserve.runtimes.evaluate import rank_rows, recommend

N_ITEMS = 12
HISTORIES = st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=5), max_size=15)


class TableRanker:
    """Ranks by a number that depends on the history; of its lists at most `width` places, some without an item."""

    def __init__(self, width: int, gaps: bool) -> None:
        self._width, self._gaps = width, gaps
        self.calls: list[tuple[int, int]] = []

    def top_k(self, history: Items, k: int) -> tuple[Items, Scores]:
        items, scores = self.top_k_batch(history[None], k)
        return items[0][items[0] >= 0], scores[0][items[0] >= 0]

    def top_k_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        self.calls.append(histories.shape)
        scores = np.array(
            [np.random.default_rng([*history, 1]).random(N_ITEMS) for history in histories], np.float32
        )
        items = np.argsort(-scores, axis=1)[:, : self._width].astype(np.int32)
        found = np.take_along_axis(scores, items, axis=1)
        if self._gaps:
            items[:, 1::3] = -1
        return items[:, :k], found[:, :k]


def ragged(histories: list[list[int]]) -> Ragged:
    offsets = np.cumsum([0, *map(len, histories)])
    return Ragged(np.array([item for one in histories for item in one], np.int32), offsets)


@given(HISTORIES, st.integers(1, 15), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(1, 4))
def test_every_row_is_what_one_call_recommends_and_then_minus_one(
    histories: list[list[int]], k: int, width: int, gaps: bool, exclude_seen: bool, batch: int
) -> None:
    rows = ragged(histories)
    ranked = rank_rows(TableRanker(width, gaps), rows, k, batch, exclude_seen)
    assert (ranked.shape, ranked.dtype) == ((len(histories), k), np.int32)
    for row, history in enumerate(histories):
        items, scores = recommend(TableRanker(width, gaps), rows[row], k, exclude_seen)
        assert len(items) == len(scores) <= k
        assert ranked[row].tolist() == items.tolist() + [-1] * (k - len(items))
        if exclude_seen:
            assert not set(items.tolist()) & set(history)


def test_leaving_out_what_was_seen_shortens_no_list_while_there_are_items() -> None:
    items, scores = recommend(TableRanker(N_ITEMS, gaps=False), np.array([0, 1, 2], np.int32), 9, True)
    assert sorted(items.tolist()) == list(range(3, N_ITEMS))
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize(("batch", "calls"), [(10, [(2, 1), (3, 2)]), (2, [(2, 1), (2, 2), (1, 2)])])
def test_histories_of_one_length_share_calls_of_at_most_a_batch(
    batch: int, calls: list[tuple[int, int]]
) -> None:
    ranker = TableRanker(N_ITEMS, gaps=False)
    rank_rows(ranker, ragged([[1, 2], [3], [4, 5], [6], [7, 8]]), 3, batch)
    assert ranker.calls == calls
