"""The waterfall of stages, by a clock that follows a script and by stages that spin for a known time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rbserve.core.requests import Request, slate_of, slate_request
from rbserve.core.types import Items, Observe, Scores, StagedRanker, StagedScorer
from rbserve.data.columns import Ragged
from rbserve.data.dataset import ItemTable
from rbserve.models.prompts import Packed, Pieces, Prompts
from rbserve.profilers.timing.calls import Exercise, list_wise, pair_wise
from rbserve.profilers.timing.stages import time_stages
from rbserve.runtimes.language import LanguageScorer
from rbserve.runtimes.ranking import ScoringRanker

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

    def score(self, request: Request) -> Scores:
        return self.score_staged(request, str)

    def score_staged(self, request: Request, observe: Observe) -> Scores:
        history, candidates = slate_of(request)
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


@pytest.mark.alone
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


class Silent:
    """A language model that answers nothing, of any size, at once."""

    takes_parts = False

    def __call__(self, packed: Packed, past: Any | None, cached: bool) -> tuple[Scores, Any]:
        return np.zeros(packed.read.shape, np.float32), (past, cached)

    def head_of(self, cache: Any, length: int) -> Any:
        return cache, length

    def joined(self, cache: Any, more: Any) -> Any:
        return cache, more


@pytest.mark.parametrize(
    ("shared", "candidates", "stages"),
    [
        (True, 2, ["prompt", "prefill", "probabilities"]),
        (True, 6, ["prompt", "prefill", "prompt", "candidates", "probabilities"]),
        (False, 2, ["prompt", "candidates", "probabilities"]),
    ],
)
def test_a_language_model_tells_prompt_prefill_and_the_candidates_that_did_not_fit_behind_it(
    shared: bool, candidates: int, stages: list[str]
) -> None:
    """Items of 36 tokens: a history of one and four candidates fill a call."""
    pieces = Pieces(
        schema=1, start=[1], numbers=[[2]], candidate=[3], answer=[4], max_tokens=512, read_from_end=0, shared=shared,
        causal=True, yes=1, vocabulary=10,
    )  # fmt: skip
    prompts = Prompts(pieces, Ragged(np.ones(360, np.int32), 36 * np.arange(11)))
    scorer = LanguageScorer(Silent(), prompts)
    assert isinstance(scorer, StagedScorer)
    heard: list[str] = []
    slate = np.arange(candidates, dtype=np.int32)
    scores = scorer.score_staged(slate_request(np.array([3], np.int32), slate), heard.append)
    assert heard == stages
    np.testing.assert_array_equal(scores, scorer.score(slate_request(np.array([3], np.int32), slate)))


def test_a_ranker_that_asks_a_prompt_tells_of_it_and_one_that_generates_nothing_says_so() -> None:
    def best(asked: list[Items], k: int) -> tuple[Items, Scores]:
        assert len(asked) == 1
        return np.arange(k, dtype=np.int32)[None], np.zeros((1, k), np.float32)

    ranker = ScoringRanker(best, 5, prompts=lambda histories: [histories])
    assert isinstance(ranker, StagedRanker)
    assert not ranker.generates
    heard: list[str] = []
    items, _ = ranker.top_k_staged(HISTORIES[0], 3, heard.append)
    assert heard == ["prompt", "forward"]
    assert items.tolist() == [0, 1, 2]
