"""The routes, called in-process: what they answer, and how they refuse."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rbserve.core.errors import ArtifactError
from rbserve.core.requests import Request, slate_of
from rbserve.core.tasks import CTR
from rbserve.core.types import Items, Scores
from rbserve.data.artifact import Artifact
from rbserve.server.api.openapi import openapi
from rbserve.server.api.options import Limits
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Scoring, SlateQuery

Ask = Callable[..., httpx.Response]
Connect = Callable[[], httpx.AsyncClient]
ScoreService = Service[SlateQuery, Scores]


def slate(history: list[str], candidates: list[str]) -> dict[str, Any]:
    return {"json": {"history": history, "candidates": candidates}}


def raw(body: bytes, content_type: str = "application/json") -> dict[str, Any]:
    return {"content": body, "headers": {"content-type": content_type}}


def expected(service: ScoreService, history: list[str], candidates: list[str]) -> list[float]:
    scores = service.work(SlateQuery(service.items.lookup(history), service.items.lookup(candidates)))
    return [float(score) for score in scores]


def metric(ask: Ask, name: str, **labels: str) -> float:
    """The value of one sample of /metrics, 0 when it is absent."""
    for family in text_string_to_metric_families(ask("GET", "/metrics").text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


class GatedScorer:
    """Scores zeros, once the test opens the gate."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.gate = threading.Event()

    def score(self, request: Request) -> Scores:
        _, candidates = slate_of(request)
        self.entered.set()
        assert self.gate.wait(10)
        return np.zeros(len(candidates), np.float32)


class OddScorer:
    """Does what a broken model might."""

    def __init__(self, answer: Callable[[Items], Scores]) -> None:
        self._answer = answer

    def score(self, request: Request) -> Scores:
        _, candidates = slate_of(request)
        return self._answer(candidates)


@pytest.mark.parametrize("history", [["i1", "i2"], ["i3"], []])
def test_the_answer_holds_the_scorers_exact_scores_in_the_order_sent(
    ask: Ask, service: ScoreService, history: list[str]
) -> None:
    candidates = ["i9", "i0", "i49", "i9"]
    answer = ask("POST", "/v1/score", **slate(history, candidates))
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model"], body["variant"]) == ("toy", "onnx-fp32")
    assert [scored["item"] for scored in body["scores"]] == candidates
    assert [scored["score"] for scored in body["scores"]] == expected(service, history, candidates)


@pytest.mark.parametrize("inline_size", [0, 5, 40], ids=["thread", "both", "loop"])
def test_concurrent_requests_get_their_own_answers(
    connect: Connect, service: ScoreService, inline_size: int
) -> None:
    service.inline_size = inline_size
    random = np.random.default_rng(inline_size)

    def ids(fewest: int) -> list[str]:
        return [f"i{row}" for row in random.integers(0, 50, random.integers(fewest, 12))]

    slates = [(ids(0), ids(1)) for _ in range(60)]

    async def everything() -> list[httpx.Response]:
        async with connect() as http:
            return await asyncio.gather(*(http.post("/v1/score", **slate(*asked)) for asked in slates))

    for (history, candidates), answer in zip(slates, asyncio.run(everything()), strict=True):
        pairs = [(scored["item"], scored["score"]) for scored in answer.json()["scores"]]
        assert pairs == list(zip(candidates, expected(service, history, candidates), strict=True))


@pytest.mark.parametrize(
    ("options", "status", "code", "said"),
    [
        (slate([], []), 422, "empty_candidates", "candidates is empty"),
        (slate([], ["i2", "no"]), 422, "unknown_items", 'candidates has items that data set tiny does not'),
        (slate(["?"], ["i2"]), 422, "unknown_items", 'history has items that data set tiny does not: "?"'),
        (slate([], [f"x{n}" for n in range(9)]), 422, "unknown_items", '"x3", "x4" and 4 more'),
        (slate([], ["i1"] * 41), 422, "too_many_candidates", "candidates has 41 items, the limit is 40"),
        (slate(["i1"] * 31, ["i1"]), 422, "too_many_history", "history has 31 items, the limit is 30"),
        (slate([1, 2.0], ["i1"]), 422, "unknown_items", 'does not: "1", "2"'),  # type: ignore[list-item]
        (slate([True], ["i1"]), 422, "invalid_request", "got `bool` - at `$.history[0]`"),  # type: ignore[list-item]
        (slate([None], ["i1"]), 422, "invalid_request", "got `null` - at `$.history[0]`"),  # type: ignore[list-item]
        ({"json": {"history": []}}, 422, "invalid_request", "missing required field `candidates`"),
        ({"json": {"history": [], "candidates": "i1"}}, 422, "invalid_request", "at `$.candidates`"),
        ({"json": {"history": [], "candidates": [], "k": 3}}, 422, "invalid_request", "unknown field `k`"),
        ({"json": [1]}, 422, "invalid_request", "Expected `object`, got `int` - at `$[0]`"),
        ({"json": 1}, 422, "invalid_request", "Expected `object | array`, got `int`"),
        (raw(b'{"history": ["i1"'), 400, "invalid_json", "the body is not JSON"),
        (raw(b""), 400, "invalid_json", "the body is not JSON"),
        (raw(b'{"history": [], "candidates": ["\xff"]}'), 400, "invalid_json", "utf-8"),
        (raw(b"history=i1", "text/plain"), 415, "unsupported_media_type", 'the body is "text/plain"'),
        ({"content": b"{}"}, 415, "unsupported_media_type", "no content type is given"),
        (raw(b" " * 10_001), 413, "body_too_large", "larger than 10000 bytes"),
    ],
)  # fmt: skip
def test_bad_requests_get_one_clear_message(
    ask: Ask, options: dict[str, Any], status: int, code: str, said: str
) -> None:
    answer = ask("POST", "/v1/score", **options)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["code"] == code
    assert said in error["message"]
    assert "\n" not in error["message"]


def test_a_long_unknown_id_is_not_echoed_whole(ask: Ask) -> None:
    message = ask("POST", "/v1/score", **slate([], ["x" * 5_000])).json()["error"]["message"]
    assert len(message) < 200


def test_a_body_without_a_length_is_refused_once_it_is_too_large(connect: Connect) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1_000_000:
            sent += 4_000
            yield b" " * 4_000

    async def post() -> httpx.Response:
        async with connect() as http:
            return await http.post("/v1/score", **raw(endless()))  # type: ignore[arg-type]

    answer = asyncio.run(post())
    assert answer.status_code == 413
    assert sent == 12_000


def test_a_charset_after_the_content_type_is_fine(ask: Ask) -> None:
    options = raw(b'{"history": [], "candidates": ["i1"]}', "Application/JSON; charset=utf-8")
    assert ask("POST", "/v1/score", **options).status_code == 200


def test_unknown_paths_and_wrong_methods_get_json_errors(ask: Ask) -> None:
    missing = ask("GET", "/v3/score")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert ask("POST", "/v1/score/").status_code == 404
    wrong = ask("GET", "/v1/score")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert wrong.json()["error"]["hint"] == "it takes POST"


def _raise(candidates: Items) -> Scores:
    raise RuntimeError(f"secret of {len(candidates)}")


@pytest.mark.parametrize("inline_size", [0, 40], ids=["thread", "loop"])
@pytest.mark.parametrize(
    "answer",
    [
        _raise,
        lambda candidates: np.full(len(candidates), np.nan, np.float32),
        lambda _: np.zeros(7, np.float32),
    ],
    ids=["raises", "nan", "wrong length"],
)
def test_a_failing_model_gives_a_500_that_tells_clients_nothing(
    ask: Ask, service: ScoreService, inline_size: int, answer: Callable[[Items], Scores]
) -> None:
    service.work, service.inline_size = Scoring(OddScorer(answer), service.items), inline_size
    for _ in range(2):  # the failure must not leave the scorer locked
        response = ask("POST", "/v1/score", **slate([], ["i1"]))
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"
        assert "secret" not in response.text
    assert metric(ask, "rbserve_requests_total", route="/v1/score", status="500") == 2


def test_ready_only_between_warm_up_and_draining_and_always_live(
    ask: Ask, service: ScoreService, models: Models
) -> None:
    def health() -> list[tuple[int, str]]:
        answers = [ask("GET", f"/v1/health/{name}") for name in ("live", "ready")]
        return [(answer.status_code, answer.json()["status"]) for answer in answers]

    assert health() == [(200, "live"), (200, "ready")]
    service.warm = False
    assert health() == [(200, "live"), (503, "warming")]
    service.warm = models.draining = True
    assert health() == [(200, "live"), (503, "draining")]


def test_health_checks_are_answered_while_a_slow_model_scores(
    connect: Connect, service: ScoreService
) -> None:
    scorer = GatedScorer()
    service.work, service.inline_size = Scoring(scorer, service.items), 0

    async def check() -> None:
        async with connect() as http:
            scoring = asyncio.create_task(http.post("/v1/score", **slate([], ["i1"])))
            await asyncio.to_thread(scorer.entered.wait, 10)
            assert (await http.get("/v1/health/ready")).status_code == 200
            assert not scoring.done()
            scorer.gate.set()
            assert (await scoring).status_code == 200

    asyncio.run(check())


def test_the_scorer_is_never_entered_twice_at_once(connect: Connect, service: ScoreService) -> None:
    scorer = GatedScorer()
    service.work, service.inline_size = Scoring(scorer, service.items), 1

    async def check() -> None:
        async with connect() as http:
            large = asyncio.create_task(http.post("/v1/score", **slate([], ["i1", "i2"])))
            await asyncio.to_thread(scorer.entered.wait, 10)
            scorer.entered.clear()
            small = asyncio.create_task(http.post("/v1/score", **slate([], ["i1"])))
            await http.get("/v1/health/live")  # the loop is free, though a slate of one may score on it
            assert not scorer.entered.is_set()
            scorer.gate.set()
            assert [(await task).status_code for task in (large, small)] == [200, 200]

    asyncio.run(check())


def test_a_request_cut_off_by_the_end_of_the_drain_is_told_so(
    connect: Connect, service: ScoreService
) -> None:
    scorer = GatedScorer()
    service.work, service.inline_size = Scoring(scorer, service.items), 0

    async def check() -> None:
        async with connect() as http:
            scoring = asyncio.create_task(http.post("/v1/score", **slate([], ["i1"])))
            await asyncio.to_thread(scorer.entered.wait, 10)
            scoring.cancel()
            answer = await scoring
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")

    try:
        asyncio.run(check())
    finally:
        scorer.gate.set()


def test_warm_up_keeps_a_fast_model_on_the_loop_and_a_slow_one_off_it(
    service: ScoreService, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("rbserve.server.scoring.service.perf_counter", lambda: now)

    def takes(seconds_per_item: float) -> int:
        def answer(candidates: Items) -> Scores:
            nonlocal now
            now += seconds_per_item * len(candidates)
            return np.zeros(len(candidates), np.float32)

        service.work, service.inline_size = Scoring(OddScorer(answer), service.items), 0
        service.warm_up(limits)
        return service.inline_size

    assert takes(1e-6) == limits.max_candidates
    assert takes(1e-4) == 8
    assert takes(1.0) == 0


@pytest.mark.parametrize("answer", [_raise, lambda _: np.zeros(0, np.float32)])
def test_warm_up_refuses_a_model_that_cannot_score(
    service: ScoreService, limits: Limits, answer: Callable[[Items], Scores]
) -> None:
    service.work, service.warm = Scoring(OddScorer(answer), service.items), False
    with pytest.raises(ArtifactError, match="toy onnx-fp32 cannot score: ") as raised:
        service.warm_up(limits)
    assert raised.value.hint
    assert not service.warm


def test_models_names_what_is_served(ask: Ask, artifact: Artifact) -> None:
    version = artifact.model_digest[:12]
    assert ask("GET", "/v1/models").json() == {
        "models": [
            {
                "name": "toy",
                "variant": "onnx-fp32",
                "version": version,
                "task": "ctr",
                "dataset": "tiny",
                "fingerprint": "f" * 64,
                "items": 50,
                "measured": [],
                "measured_note": "not profiled",
                "reranks": False,
                "reads_time": False,
                "examples": ["i0", "i1", "i2", "i3", "i4"],
            }
        ]
    }


def test_metrics_count_requests_by_route_and_status_and_what_was_scored(ask: Ask) -> None:
    ask("POST", "/v1/score", **slate(["i1"], ["i2", "i3"]))
    ask("POST", "/v1/score", **slate([], ["i2"]))
    ask("POST", "/v1/score", **slate([], []))
    ask("GET", "/wp-admin")
    ask("GET", "/robots.txt")
    assert metric(ask, "rbserve_requests_total", route="/v1/score", status="200") == 2
    assert metric(ask, "rbserve_requests_total", route="/v1/score", status="422") == 1
    assert metric(ask, "rbserve_requests_total", route="other", status="404") == 2
    assert metric(ask, "rbserve_request_duration_seconds_count", route="/v1/score") == 3
    assert metric(ask, "rbserve_candidates_scored_total", model="toy") == 3
    assert metric(ask, "rbserve_scoring_duration_seconds_count", model="toy") == 2
    assert metric(ask, "process_resident_memory_bytes") > 0


def test_the_openapi_document_describes_every_route_and_these_limits(ask: Ask, limits: Limits) -> None:
    document = ask("GET", "/openapi.json").json()
    assert document == openapi(limits, [CTR])
    for path, operations in document["paths"].items():
        for method in ("get", "post"):
            allowed = ask(method.upper(), path).status_code != 405
            assert allowed == (method in operations), (method, path)
    request = document["components"]["schemas"]["ScoreRequest"]
    assert request["required"] == ["history", "candidates"]
    assert request["additionalProperties"] is False
    assert request["properties"]["candidates"]["minItems"] == 1
    assert request["properties"]["candidates"]["maxItems"] == limits.max_candidates
    assert request["properties"]["history"]["maxItems"] == limits.max_history
    assert references(document) <= {
        f"#/components/schemas/{name}" for name in document["components"]["schemas"]
    }


def references(node: Any) -> set[str]:
    """Every $ref in a JSON document."""
    if isinstance(node, dict):
        here = {node["$ref"]} if "$ref" in node else set()
        return here.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()
