"""Plain requests are answered where HTTP is parsed, all others by the application; and the bare echo."""

from __future__ import annotations

import httpx
from conftest import Ask
from serving import serving

from rbserve.data.artifact import Artifact

NO_HANDLER = """
from rbserve.server.routes.handlers import Handlers
async def fail(self, request):
    raise ValueError("the application was asked")
Handlers.score = fail
"""
INLINE_OFF = """
from rbserve.server.scoring.service import Service
Service.answer_now = lambda self, query: None
"""
BODY = {"history": ["i1", "i2"], "candidates": ["i3", "i4", "i3"]}


def test_plain_requests_do_not_reach_the_application_on_the_loop_or_through_the_queue(
    artifact: Artifact,
) -> None:
    answers = []
    for before in (NO_HANDLER, NO_HANDLER + INLINE_OFF):
        with serving(artifact, before=before) as server, httpx.Client(base_url=server.url) as client:
            answer = client.post("/v1/score", json=BODY, headers={"x-request-id": "mine"})
            assert (answer.status_code, answer.headers["x-request-id"]) == (200, "mine")
            assert answer.headers["content-type"] == "application/json"
            assert [scored["item"] for scored in answer.json()["scores"]] == BODY["candidates"]
            answers.append(answer.json())
            metrics = client.get("/metrics").text
            assert 'rbserve_requests_total{route="/v1/score",status="200"} 1.0' in metrics
            late = httpx.post(f"{server.url}/v1/score", json=BODY, headers={"x-deadline-ms": "never"})
            assert late.status_code == 500, "what has no answer is the application's"
            assert httpx.post(f"{server.url}/v1/score", json=[BODY]).status_code == 500, (
                "a list is the application's"
            )
    assert answers[0] == answers[1]


def test_the_echo_parses_a_body_and_answers_as_much_without_a_model(ask: Ask) -> None:
    answer = ask("POST", "/v1/echo/v1/score", json=BODY)
    assert answer.status_code == 200
    assert [scored["item"] for scored in answer.json()["scores"]] == BODY["candidates"]
    ranked = ask("POST", "/v1/echo/v1/recommend", json={"history": ["i1"], "k": 7})
    assert len(ranked.json()["items"]) == 7
    features = ask("POST", "/v1/echo/v1/score", json={"features": {"likes": [1, 2, 3], "age": 7}})
    assert len(features.json()["scores"]) == 3
    assert ask("POST", "/v1/echo/v1/score", json={"history": 7}).status_code == 400
    assert ask("POST", "/v1/echo/v1/score", content=b" " * 20_000).status_code == 400
    assert "x-request-id" not in answer.headers, "it stands outside the routes"
    assert ask("POST", "/v1/echo", json=BODY).status_code == 404
