"""The front against brute force."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.core.errors import UsageError
from rbserve.profilers.compare.front import nondominated, overlap
from rbserve.stats.metrics import Direction

DIRECTIONS: list[Direction] = ["lower", "higher"]
# Few distinct values: ties and equal rows are what a front gets wrong.
ROWS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=12)


def brute_force(rows: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[bool]:
    """The definition, row by row."""
    signed = [[x if way == "higher" else -x for x, way in zip(row, directions, strict=True)] for row in rows]
    return [
        not any(all(b >= a for a, b in zip(row, other, strict=True)) and other != row for other in signed)
        for row in signed
    ]


@given(ROWS, st.lists(st.sampled_from(DIRECTIONS), min_size=2, max_size=2))
def test_the_front_is_what_no_other_row_beats_in_any_direction(
    rows: list[tuple[int, int]], directions: list[Direction]
) -> None:
    assert nondominated(rows, directions) == brute_force(rows, directions)


def test_equal_rows_are_on_the_front_together() -> None:
    assert nondominated([(1.0, 0.7), (1.0, 0.7), (2.0, 0.7)], ["lower", "higher"]) == [True, True, False]


def test_no_rows_have_no_front() -> None:
    assert nondominated([], ["lower", "higher"]) == []


def test_a_missing_moocore_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moocore", None)
    with pytest.raises(UsageError) as caught:
        nondominated([(1.0, 0.7)], ["lower", "higher"])
    assert caught.value.hint == "pip install 'rbserve[report]'"


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((0, 1), (1, 2), True), ((0, 1), (1.1, 2), False), ((1.1, 2), (0, 1), False), (None, (0, 1), True)],
)
def test_intervals_overlap_when_they_share_a_value_or_one_is_unknown(
    a: tuple[float, float] | None, b: tuple[float, float] | None, expected: bool
) -> None:
    assert overlap(a, b) is expected
