"""The waterfall of stages, by a clock that follows a script and by stages that spin for a known time."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from rbserve.core.dataset import ItemTable
from rbserve.core.types import Items, Observe, Scores
from rbserve.profilers.calls import Exercise, list_wise, pair_wise
from rbserve.profilers.stages import time_stages

ITEMS = ItemTable(["a", "b", "c", "d"], ["", "", "", ""])
HISTORIES = [np.array([0, 1], np.int32), np.array([2], np.int32)]


class Script:
    """A clock that moves only where a call says what it does: 3 to begin, 5 a step, 2 at the end."""

    def __init__(self) -> None:
        self.now = 0
        self.made: list[tuple[bool, int]] = []

    def clock(self) -> int:
        return self.now

    def call(self, steps: int, observe: Callable[[str], None] = str) -> None:
        self.made.append((observe is not str, steps))
        for stage, taken in (("prefill", 3), *[("step", 5)] * steps):
            self.now += taken
            observe(stage)
        self.now += 2

    def exercise(self, *steps: int) -> Exercise:
        return Exercise(self.call, [(one,) for one in steps], self.call)


def test_stages_add_up_to_the_observed_calls_and_the_end_of_a_call_is_rest() -> None:
    script = Script()
    found = time_stages(script.exercise(2, 4), calls=3, seconds=1, clock=script.clock)
    assert found.stages_ns == {"prefill": 9, "step": 40, "rest": 6}
    assert found.observed_ns == found.unobserved_ns == [15, 25, 15]


def test_every_observed_call_has_an_unobserved_twin_and_the_order_turns_around() -> None:
    script = Script()
    time_stages(script.exercise(2, 4), calls=3, seconds=1, clock=script.clock)
    assert script.made == [(True, 2), (False, 2), (False, 4), (True, 4), (True, 2), (False, 2)]


def test_observing_ends_when_its_seconds_are_spent_but_not_before_one_pair() -> None:
    script = Script()
    time_stages(script.exercise(1), calls=9, seconds=0, clock=script.clock)
    assert script.made == [(True, 1), (False, 1)]


def spin(milliseconds: float) -> None:
    end = time.process_time_ns() + milliseconds * 1e6
    while time.process_time_ns() < end:
        pass


class SpinningScorer:
    """A scorer whose stages take 1, 4 and 2 ms."""

    def score(self, history: Items, candidates: Items) -> Scores:
        return self.score_staged(history, candidates, str)

    def score_staged(self, history: Items, candidates: Items, observe: Observe) -> Scores:
        assert len(history)
        for stage, taken in (("prompt", 1), ("prefill", 4), ("candidates", 2)):
            spin(taken)
            observe(stage)
        return np.zeros(len(candidates), np.float32)


class Ranker:
    """Ranks the items as they are numbered; has no stages of its own."""

    def top_k(self, history: Items, k: int) -> tuple[Items, Scores]:
        assert history.dtype == np.int32
        return np.arange(4, dtype=np.int32)[:k], np.zeros(min(k, 4), np.float32)

    def top_k_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        raise NotImplementedError


def test_the_parts_of_a_spinning_call_have_their_known_sizes_and_make_up_the_whole() -> None:
    exercise = pair_wise(SpinningScorer(), HISTORIES, HISTORIES, ITEMS)
    # By the process's own time: what the machine does beside it is no part of the truth that is known here.
    found = time_stages(exercise, calls=20, seconds=5, clock=time.process_time_ns)
    assert list(found.stages_ns) == ["lookup", "prompt", "prefill", "candidates", "rest"]
    assert sum(found.stages_ns.values()) == sum(found.observed_ns)
    for stage, milliseconds in (("prompt", 1), ("prefill", 4), ("candidates", 2)):
        assert found.stages_ns[stage] == pytest.approx(20 * milliseconds * 1e6, rel=0.03)
    ratios = np.divide(found.observed_ns, found.unobserved_ns)
    assert np.median(ratios) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("exclude_seen", "stages"),
    [
        (False, ["lookup", "forward", "names", "rest"]),
        (True, ["lookup", "forward", "exclude_seen", "names", "rest"]),
    ],
)
def test_a_ranking_without_stages_of_its_own_has_those_around_it(
    exclude_seen: bool, stages: list[str]
) -> None:
    exercise = list_wise(Ranker(), HISTORIES, 2, exclude_seen, ITEMS)
    heard: list[str] = []
    request = exercise.requests[0]
    names, scores = exercise.observed(*request, heard.append)  # type: ignore[misc]
    assert [*heard, "rest"] == stages
    assert names == (["c", "d"] if exclude_seen else ["a", "b"])
    unobserved_names, unobserved = exercise.call(*request)  # type: ignore[misc]
    assert unobserved_names == names
    np.testing.assert_array_equal(unobserved, scores)
