"""Several users in one request: each is answered as alone, in their order, or none of them is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbserve.core.types import Scores
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import SlateQuery

Ask = Callable[..., httpx.Response]

ids = st.lists(st.integers(0, 49).map("i{}".format), max_size=5)
slates = st.lists(
    st.fixed_dictionaries({"history": ids, "candidates": ids.filter(bool)}), min_size=1, max_size=12
)


@pytest.fixture(params=[0, 1_000], ids=["thread", "inline"])
def either_way(request: pytest.FixtureRequest, service: Service[SlateQuery, Scores]) -> None:
    service.inline_size = request.param


@pytest.mark.usefixtures("either_way")
def test_each_user_is_scored_as_alone(ask: Ask) -> None:
    @settings(max_examples=25, deadline=None)
    @given(slates)
    def check(users: list[dict[str, Any]]) -> None:
        together = ask("POST", "/v1/score", json=users)
        assert together.status_code == 200
        assert together.json() == [ask("POST", "/v1/score", json=one).json() for one in users]

    check()


def test_each_user_is_recommended_to_as_alone(ask_ranking: Ask) -> None:
    users = [{"history": ["i1"], "k": 3}, {"history": [], "k": 2}, {"history": ["i9", "i2"], "k": 5}]
    together = ask_ranking("POST", "/v1/recommend", json=users).json()
    assert [len(one["items"]) for one in together] == [3, 2, 5]
    assert together == [ask_ranking("POST", "/v1/recommend", json=one).json() for one in users]


def test_no_users_are_no_answers(ask: Ask) -> None:
    answer = ask("POST", "/v1/score", json=[])
    assert (answer.status_code, answer.json()) == (200, [])


GOOD = {"history": ["i1"], "candidates": ["i2"]}


@pytest.mark.parametrize(
    ("bad", "code", "said"),
    [
        ({"history": ["no"], "candidates": ["i2"]}, "unknown_items", "at index 1: history has items that"),
        ({"history": [], "candidates": []}, "empty_candidates", "at index 1: candidates is empty"),
        ({"history": ["i1"] * 31, "candidates": ["i2"]}, "too_many_history", "at index 1: history has 31 items"),
        ({"history": [], "candidates": ["i2"], "model": "x"}, "unknown_model", 'at index 1: there is no model "x"'),
        ({"history": []}, "invalid_request", "Object missing required field `candidates` - at `$[1]`"),
    ],
)  # fmt: skip
def test_one_that_cannot_be_answered_is_named_and_nothing_is_computed(
    ask: Ask, service: Service[SlateQuery, Scores], bad: dict[str, Any], code: str, said: str
) -> None:
    def scored() -> float:
        value = service.telemetry.registry.get_sample_value(
            "rbserve_candidates_scored_total", {"model": "toy"}
        )
        return value or 0.0

    before = scored()
    answer = ask("POST", "/v1/score", json=[GOOD, bad, GOOD])
    assert (answer.status_code >= 400, answer.json()["error"]["code"]) == (True, code)
    assert answer.json()["error"]["message"].startswith(said)
    assert scored() == before


def test_there_may_be_no_more_than_the_limit(ask: Ask) -> None:
    answer = ask("POST", "/v1/score", json=[GOOD] * 101)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "too_many_users")
    assert ask("POST", "/v1/score", json=[GOOD] * 100).status_code == 200
