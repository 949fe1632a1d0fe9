"""POST /v1/rerank: documents in the order of their relevance, of models that read texts; one clear refusal else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import Ask
from test_client import listening

from rbserve.client import Client, ServerError
from rbserve.core.requests import Request, Signature, TensorSpec
from rbserve.core.types import Observe, Scores
from rbserve.data.artifact import Artifact
from rbserve.server.api.openapi import openapi
from rbserve.server.api.options import Limits
from rbserve.server.routes.app import build_app
from rbserve.server.routes.rerank import best_first
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import open_service
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Scoring

DOCUMENTS = ["cat", "hot soup", "hot noodle soup", "noodle"]
QUERY = "hot noodle soup"


class SharedWords:
    """A model whose score is the share of a document's words that the history has."""

    def score(
        self,
        history: Sequence[int | str],
        candidates: Sequence[int | str],
        entries: Request,
        observe: Observe,
    ) -> Scores:
        assert not entries
        observe("forward")
        seen = {word for text in history for word in str(text).split()}
        return np.array([_share(str(text).split(), seen) for text in candidates], np.float32)


def _share(words: Sequence[str], seen: set[str]) -> float:
    return sum(word in seen for word in words) / max(3, len(words))


@pytest.fixture
def reads(service: Service[Any, Any]) -> Service[Any, Any]:
    """A service whose model reads texts."""
    service.work.texts = SharedWords()
    return service


@pytest.fixture
def rerank(reads: Service[Any, Any], ask: Ask) -> Ask:
    """Sends one body to the route."""
    del reads
    return lambda **body: ask("POST", "/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS} | body)


def test_documents_come_back_best_first_with_their_places(rerank: Ask) -> None:
    answer = rerank()
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model"], body["variant"]) == ("toy", "onnx-fp32")
    assert [result["index"] for result in body["results"]] == [2, 1, 3, 0]
    assert [result["relevance_score"] for result in body["results"]] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert all("document" not in result for result in body["results"])


def test_only_the_best_come_back_with_their_texts_where_that_is_asked_for(rerank: Ask) -> None:
    documents = [{"text": text, "id": place, "url": "http://x"} for place, text in enumerate(DOCUMENTS)]
    results = rerank(documents=documents, top_n=2, return_documents=True).json()["results"]
    assert [result["document"] for result in results] == [{"text": "hot noodle soup"}, {"text": "hot soup"}]
    assert len(rerank(top_n=99).json()["results"]) == 4


def test_a_list_of_texts_is_the_history_of_a_user(rerank: Ask) -> None:
    one = rerank(query=["hot", "noodle soup"]).json()["results"]
    assert one == rerank(query=QUERY).json()["results"]
    nobody = rerank(query=[]).json()["results"]
    assert [result["index"] for result in nobody] == [0, 1, 2, 3]


def test_equal_scores_stay_in_the_order_sent() -> None:
    scores = np.array([0.5, 0.7, 0.5, 0.7, 0.1], np.float32)
    assert [result.index for result in best_first(scores, None, None)] == [1, 3, 0, 2, 4]


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"documents": []}, "empty_documents", "at least one"),
        ({"documents": ["a"] * 41}, "too_many_documents", "41 items, the limit is 40"),
        ({"documents": ["a", " \t"]}, "empty_text", "documents has a blank text"),
        ({"documents": ["x" * 2001]}, "text_too_long", "2001 characters, the limit is 2000"),
        ({"query": ""}, "empty_text", "query has a blank text"),
        ({"query": ["a"] * 31}, "too_many_query", "31 items"),
        ({"query": 7}, "invalid_request", "query"),
        ({"documents": [{"title": "a"}]}, "invalid_request", "text"),
        ({"top_n": 0}, "invalid_request", "top_n"),
        ({"topn": 1}, "invalid_request", "topn"),
    ],
)
def test_what_cannot_be_answered_is_told(rerank: Ask, body: dict[str, Any], code: str, message: str) -> None:
    answer = rerank(**body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)
    assert message in answer.json()["error"]["message"]


def test_an_unknown_model_is_refused_and_no_json_too(rerank: Ask, ask: Ask) -> None:
    answer = rerank(model="rerank-v3.5")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_model")
    assert rerank(model="toy").status_code == 200
    no_json = ask("POST", "/v1/rerank", content=b"{", headers={"content-type": "application/json"})
    assert no_json.json()["error"]["code"] == "invalid_json"
    assert ask("GET", "/v1/rerank").status_code == 405


def test_models_that_read_no_texts_say_so(ask: Ask, ask_ranking: Ask) -> None:
    for send, why in (
        (ask, "it reads no texts of items"),
        (ask_ranking, "it ranks the items of its catalogue"),
    ):
        answer = send("POST", "/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "no_texts")
        assert why in answer.json()["error"]["message"]
        assert "/v1/rerank" not in send("GET", "/openapi.json").json()["paths"]


def test_the_only_model_that_reads_texts_need_not_be_named(
    reads: Service[Any, Any], ranking: Service[Any, Any]
) -> None:
    app = build_app(Models([ranking, reads]), Limits())

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            return await http.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS})

    answer = asyncio.run(send())
    assert (answer.status_code, answer.json()["model"]) == (200, "toy")


def test_the_openapi_document_has_the_route_and_its_limits(limits: Limits, rerank: Ask, ask: Ask) -> None:
    del rerank
    document = ask("GET", "/openapi.json").json()
    operation = document["paths"]["/v1/rerank"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    request = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert request["properties"]["documents"]["maxItems"] == limits.max_candidates
    assert {"422", "503", "504"} <= operation["responses"].keys()
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert ask("POST", "/v1/rerank", json=example).status_code == 200
    assert "/v1/rerank" not in openapi(limits, [])["paths"]


def test_the_client_returns_places_and_scores(artifact: Artifact) -> None:
    service = open_service(artifact, "onnx-fp32", 1)
    assert isinstance(service.work, Scoring)
    service.work.texts = SharedWords()
    with listening(service) as url, Client(url) as client:
        (place, score), *_ = client.rerank(QUERY, DOCUMENTS)
        assert (place, score) == (2, pytest.approx(1))
        assert [place for place, _ in client.rerank(["hot", "noodle"], DOCUMENTS, top_n=2)] == [2, 1]
        with pytest.raises(ServerError, match="blank text"):
            client.rerank("", DOCUMENTS)


def test_an_adopted_reranker_orders_documents_as_its_scorer_does(reranker: Service[Any, Any]) -> None:
    documents = [f"topic{number % 4}word{number}" for number in range(8)]
    request = {"query": np.array("topic1word3", object), "document": np.array(documents, object)}
    expected = reranker.work.scorer.score(request)
    with listening(reranker) as url, Client(url) as client:
        results = client.rerank("topic1word3", documents)
        assert [place for place, _ in results] == np.argsort(-expected, kind="stable").tolist()
        assert [score for _, score in results] == pytest.approx(sorted(expected, reverse=True), abs=1e-6)
        assert client.rerank(["topic1word3"], documents) == results
        for query in ([], ["a", "b"]):
            with pytest.raises(ServerError, match="one text as the query") as refusal:
                client.rerank(query, documents)
            assert (refusal.value.status, refusal.value.code) == (422, "invalid_query")


@pytest.mark.parametrize(
    ("inputs", "pair"),
    [
        ([("q", "str", []), ("d", "str", ["N"])], ("q", "d")),
        ([("d", "str", ["N"]), ("q", "str", [])], ("q", "d")),
        ([("q", "str", ["N"]), ("d", "str", ["N"])], None),
        ([("q", "str", []), ("d", "str", ["N", 2])], None),
        ([("q", "str", []), ("d", "float32", ["N"])], None),
        ([("d", "str", ["N"])], None),
    ],
)
def test_a_model_of_a_query_and_documents_is_known_by_its_inputs(
    inputs: list[tuple[str, str, list[Any]]], pair: tuple[str, str] | None
) -> None:
    signature = Signature([TensorSpec(*spec) for spec in inputs], [], "scores")
    assert signature.text_pair == pair
