"""The route of models that rank the catalogue: what it answers, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rbserve.core.errors import ArtifactError
from rbserve.core.tasks import SEQREC
from rbserve.core.types import Items, Scores
from rbserve.server.api.openapi import openapi
from rbserve.server.api.options import Limits
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Ranked, Ranking, Top

Ask = Callable[..., httpx.Response]
RankingService = Service[Top, Ranked]


class OddRanker:
    """Does what a broken model might."""

    def __init__(self, answer: Callable[[int], tuple[Items, Scores]]) -> None:
        self._answer = answer

    def top_k(self, history: Items, k: int) -> tuple[Items, Scores]:
        del history
        return self._answer(k)

    def top_k_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        raise NotImplementedError


def asked(history: list[str], **options: Any) -> dict[str, Any]:
    return {"json": {"history": history, **options}}


def everything(service: RankingService, history: list[str]) -> list[tuple[str, float]]:
    """The whole catalogue, as the model ranks it."""
    items, scores = service.work(Top(service.items.lookup(history), len(service.items)))
    return list(zip(service.items.names(items), scores.tolist(), strict=True))


def pairs(answer: httpx.Response) -> list[tuple[str, float]]:
    assert answer.status_code == 200, answer.text
    return [(one["item"], one["score"]) for one in answer.json()["items"]]


@pytest.mark.parametrize("inline_size", [0, 60], ids=["thread", "loop"])
@pytest.mark.parametrize("history", [["i1", "i2"], ["i3"], []])
def test_the_answer_holds_the_rankers_best_items_with_their_exact_scores(
    ask_ranking: Ask, ranking: RankingService, history: list[str], inline_size: int
) -> None:
    ranking.inline_size = inline_size
    answer = ask_ranking("POST", "/v1/recommend", **asked(history, k=7))
    assert (answer.json()["model"], answer.json()["variant"]) == ("rank", "onnx-fp32")
    assert pairs(answer) == everything(ranking, history)[:7]


def test_ten_items_come_back_unless_k_says_otherwise_and_no_more_than_there_are(
    ask_ranking: Ask, ranking: RankingService
) -> None:
    assert len(pairs(ask_ranking("POST", "/v1/recommend", **asked(["i1"])))) == 10
    assert pairs(ask_ranking("POST", "/v1/recommend", **asked(["i1"], k=60))) == everything(ranking, ["i1"])


def test_seen_items_are_left_out_when_asked_and_the_list_stays_as_long(
    ask_ranking: Ask, ranking: RankingService
) -> None:
    history = [name for name, _ in everything(ranking, ["i5", "i6"])[:3]]
    best = [pair for pair in everything(ranking, history) if pair[0] not in history]
    assert pairs(ask_ranking("POST", "/v1/recommend", **asked(history, k=4, exclude_seen=True))) == best[:4]
    seen = {name for name, _ in pairs(ask_ranking("POST", "/v1/recommend", **asked(history, k=50)))}
    assert set(history) <= seen


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (asked(["i1"], k=0), "invalid_request", "Expected `int` >= 1 - at `$.k`"),
        (asked(["i1"], k=61), "k_too_large", "k is 61, the limit is 60"),
        (asked(["i1"], k="3"), "invalid_request", "Expected `int`, got `str` - at `$.k`"),
        (asked(["i1"] * 31), "too_many_history", "history has 31 items, the limit is 30"),
        (asked(["i1", "?"]), "unknown_items", 'history has items that data set tiny does not: "?"'),
        (asked(["i1"], candidates=["i2"]), "invalid_request", "unknown field `candidates`"),
        ({"json": {"k": 3}}, "invalid_request", "missing required field `history`"),
    ],
)
def test_bad_requests_get_one_clear_message(
    ask_ranking: Ask, options: dict[str, Any], code: str, said: str
) -> None:
    answer = ask_ranking("POST", "/v1/recommend", **options)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, code)
    assert said in error["message"]


def test_the_path_of_the_other_task_says_which_one_this_model_has(ask: Ask, ask_ranking: Ask) -> None:
    for one, wrong, right in ((ask, "recommend", "score"), (ask_ranking, "score", "recommend")):
        answer = one("POST", f"/v1/{wrong}", **asked(["i1"]))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (409, "other_task")
        assert f"has no /v1/{wrong}" in error["message"]
        assert error["hint"] == f"POST /v1/{right}"


@pytest.mark.parametrize(
    "answer",
    [
        lambda k: (np.zeros(k, np.int32), np.full(k, np.nan, np.float32)),
        lambda k: (np.zeros(k + 1, np.int32), np.zeros(k + 1, np.float32)),
        lambda k: (np.zeros(k, np.int32), np.zeros(0, np.float32)),
    ],
    ids=["nan", "too many", "unequal"],
)
def test_a_failing_model_gives_a_500_and_does_not_pass_the_warm_up(
    ask_ranking: Ask, ranking: RankingService, limits: Limits, answer: Callable[[int], tuple[Items, Scores]]
) -> None:
    ranking.work = Ranking(OddRanker(answer), ranking.items)
    assert ask_ranking("POST", "/v1/recommend", **asked(["i1"])).json()["error"]["code"] == "internal_error"
    with pytest.raises(ArtifactError, match="rank onnx-fp32 cannot score: "):
        ranking.warm_up(limits)


def test_warm_up_finds_how_many_items_are_found_fast_enough_to_stay_on_the_loop(
    ranking: RankingService, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("rbserve.server.scoring.service.perf_counter", lambda: now)

    def slowly(k: int) -> tuple[Items, Scores]:
        nonlocal now
        now += 1e-4 * k
        return np.zeros(k, np.int32), np.zeros(k, np.float32)

    ranking.work, ranking.inline_size = Ranking(OddRanker(slowly), ranking.items), 0
    ranking.warm_up(limits)
    assert ranking.inline_size == 8


def test_metrics_count_the_items_asked_for(ask_ranking: Ask) -> None:
    ask_ranking("POST", "/v1/recommend", **asked(["i1"], k=7))
    families = text_string_to_metric_families(ask_ranking("GET", "/metrics").text)
    found = {one.name: one.value for family in families for one in family.samples}
    assert found["rbserve_recommendations_asked_total"] == 7
    assert "rbserve_candidates_scored_total" not in found
    assert found["rbserve_scoring_duration_seconds_count"] == 1


def test_models_and_the_openapi_document_show_the_path_that_is_served(
    ask_ranking: Ask, limits: Limits
) -> None:
    assert ask_ranking("GET", "/v1/models").json()["models"][0]["task"] == "seqrec"
    document = ask_ranking("GET", "/openapi.json").json()
    assert document == openapi(limits, [SEQREC])
    assert "/v1/recommend" in document["paths"]
    assert "/v1/score" not in document["paths"]
    k = document["components"]["schemas"]["RecommendRequest"]["properties"]["k"]
    assert (k["minimum"], k["maximum"], k["default"]) == (1, 60, 10)
    assert "ScoreRequest" not in document["components"]["schemas"]
