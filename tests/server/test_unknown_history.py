"""Unknown ids in a history: refused, or skipped and named in the answer. Candidates stay strict."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from serving import serving

from rbserve.client import Client, ServerError
from rbserve.data.artifact import Artifact
from rbserve.server.api.options import Limits
from rbserve.server.http.requests import RequestError
from rbserve.server.routes.answering import history_rows
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service

Ask = Callable[..., httpx.Response]
SKIP = {"unknown_history": "skip"}


def test_a_request_that_skips_unknown_ids_is_answered_as_if_they_were_not_there(ask: Ask) -> None:
    candidates = ["i3", "i4"]
    known = ask("POST", "/v1/score", json={"history": ["i1", "i2"], "candidates": candidates}).json()
    sent = {"history": ["i1", "new", "i2", "gone", "new"], "candidates": candidates, **SKIP}
    answer = ask("POST", "/v1/score", json=sent)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {**known, "skipped": ["new", "gone"]}
    assert "skipped" not in known


def test_an_id_with_spaces_is_the_id_of_the_table_and_is_no_unknown_one(ask: Ask) -> None:
    plain = ask("POST", "/v1/score", json={"history": ["i1"], "candidates": ["i3"], **SKIP}).json()
    spaced = ask("POST", "/v1/score", json={"history": [" i1", 7], "candidates": ["i3\xa0"], **SKIP}).json()
    assert spaced["scores"][0]["score"] == plain["scores"][0]["score"]
    assert spaced["skipped"] == ["7"]


def test_a_history_without_one_known_id_is_that_of_a_cold_user(ask: Ask) -> None:
    cold = ask("POST", "/v1/score", json={"history": [], "candidates": ["i3"]}).json()
    answer = ask("POST", "/v1/score", json={"history": ["new"], "candidates": ["i3"], **SKIP}).json()
    assert (answer["scores"], answer["skipped"]) == (cold["scores"], ["new"])


def test_nothing_skipped_is_said_too(ask: Ask) -> None:
    answer = ask("POST", "/v1/score", json={"history": ["i1"], "candidates": ["i3"], **SKIP}).json()
    assert answer["skipped"] == []


def test_candidates_stay_strict(ask: Ask) -> None:
    answer = ask("POST", "/v1/score", json={"history": ["new"], "candidates": ["new"], **SKIP})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_items")
    assert answer.json()["error"]["message"].startswith("candidates has items")


def test_a_refusal_says_how_to_skip(ask: Ask) -> None:
    answer = ask("POST", "/v1/score", json={"history": ["new"], "candidates": ["i1"]})
    assert answer.status_code == 422
    assert '"unknown_history": "skip"' in answer.json()["error"]["hint"]


def test_each_user_of_a_list_has_his_own_choice(ask: Ask) -> None:
    skips = {"history": ["new", "i1"], "candidates": ["i3"], **SKIP}
    known = {"history": ["i2"], "candidates": ["i3"]}
    answers = ask("POST", "/v1/score", json=[skips, known]).json()
    assert answers[0]["skipped"] == ["new"]
    assert "skipped" not in answers[1]
    refused = ask("POST", "/v1/score", json=[skips, {**known, "history": ["new"]}])
    assert refused.json()["error"]["message"].startswith("at index 1: history has items")


def test_recommendations_skip_as_well(ask_ranking: Ask) -> None:
    known = ask_ranking("POST", "/v1/recommend", json={"history": ["i1"], "k": 3}).json()
    answer = ask_ranking("POST", "/v1/recommend", json={"history": ["new", "i1"], "k": 3, **SKIP}).json()
    assert answer == {**known, "skipped": ["new"]}


@pytest.mark.parametrize("value", ["drop", "Skip", None, 1])
def test_another_word_is_refused_with_those_that_it_takes(ask: Ask, value: Any) -> None:
    sent = {"history": [], "candidates": ["i3"], "unknown_history": value}
    for body in (sent, [sent]):
        answer = ask("POST", "/v1/score", json=body)
        assert answer.status_code == 422
        assert answer.json()["error"]["message"].endswith("unknown_history`: it takes refuse or skip")


@pytest.mark.parametrize(("server", "request_says", "skips"), [
    ("refuse", "skip", True), ("skip", "refuse", False), ("skip", None, True), ("refuse", None, False),
])  # fmt: skip
def test_the_request_goes_before_the_server(
    service: Service[Any, Any], server: Any, request_says: Any, skips: bool
) -> None:
    limits = Limits(unknown_history=server)
    wanted = msgspec.UNSET if request_says is None else request_says
    if skips:
        found = history_rows(service, ["new", "i1"], wanted, limits)
        assert (found.rows.tolist(), found.skipped) == ([1], ["new"])
    else:
        with pytest.raises(RequestError, match="history has items"):
            history_rows(service, ["new", "i1"], wanted, limits)


def tensors(history: list[str], **more: Any) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "history", "datatype": "BYTES", "shape": [len(history)], "data": history},
            {"name": "candidates", "datatype": "BYTES", "shape": [1], "data": ["i3"]},
        ],
        **more,
    }


def test_the_inference_protocol_takes_it_as_a_parameter(ask: Ask) -> None:
    path = "/v2/models/toy/infer"
    known = ask("POST", path, json=tensors(["i1"])).json()
    answer = ask("POST", path, json=tensors(["new", "i1"], parameters=SKIP)).json()
    assert answer["outputs"] == known["outputs"]
    assert json.loads(answer["parameters"]["skipped"]) == ["new"]
    assert "parameters" not in known
    assert ask("POST", path, json=tensors(["new"])).status_code == 422
    wrong = ask("POST", path, json=tensors(["i1"], parameters={"unknown_history": "drop"}))
    assert (wrong.status_code, "takes refuse or skip" in wrong.json()["error"]) == (400, True)


def test_the_client_skips_and_says_what(artifact: Artifact, listwise: Artifact) -> None:
    with serving(artifact, listwise) as server, Client(server.url) as client:
        assert client.score(["new", "i1"], ["i3"], unknown_history="skip") == client.score(["i1"], ["i3"])
        assert client.skipped == []
        client.recommend(["new", "i1"], k=2, unknown_history="skip")
        assert client.skipped == ["new"]
        with pytest.raises(ServerError, match="history has items"):
            client.score(["new"], ["i3"])


def test_the_page_of_the_interface_has_the_field(models: Models, ask: Ask) -> None:
    del models
    schemas = ask("GET", "/openapi.json").json()["components"]["schemas"]
    assert schemas["ScoreRequest"]["properties"]["unknown_history"]["enum"] == ["refuse", "skip"]
    assert "skipped" in schemas["ScoreResponse"]["properties"]
