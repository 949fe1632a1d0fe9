"""The Open Inference Protocol: the same answers as the routes of our own, in JSON and in binary tensors."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbserve.core.types import Scores
from rbserve.server.api.options import Limits
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Ranked, SlateQuery, Top

Ask = Callable[..., httpx.Response]
SCORE, RANK = "/v2/models/toy/infer", "/v2/models/rank/infer"


def strings(name: str, values: list[str], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": values, **more}


def packed(values: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in values)


def binary(request: dict[str, Any], *tensors: bytes) -> dict[str, Any]:
    head = json.dumps(request).encode()
    return {
        "content": b"".join([head, *tensors]),
        "headers": {"inference-header-content-length": str(len(head))},
    }


def scored(history: list[str], candidates: list[str], **more: Any) -> dict[str, Any]:
    return {"inputs": [strings("history", history), strings("candidates", candidates)], **more}


def test_it_says_what_it_is_and_what_goes_in_and_out(ask: Ask, ask_ranking: Ask) -> None:
    assert ask("GET", "/v2").json()["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "statistics",
    ]
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/toy/ready",
        "/v2/models/toy/versions/1/ready",
    ):
        assert ask("GET", path).status_code == 200
    found = ask("GET", "/v2/models/toy").json()
    assert (found["name"], found["versions"], found["platform"]) == ("toy", ["1"], "rbserve_onnx-fp32")
    assert [(one["name"], one["datatype"], one["shape"]) for one in found["inputs"]] == [
        ("history", "BYTES", [-1]), ("candidates", "BYTES", [-1]),
    ]  # fmt: skip
    assert [one["name"] for one in ask_ranking("GET", "/v2/models/rank").json()["outputs"]] == [
        "items",
        "scores",
    ]


def test_a_model_is_ready_with_its_server(ask: Ask, models: Models) -> None:
    models.draining = True
    for path in ("/v2/health/ready", "/v2/models/toy/ready"):
        assert ask("GET", path).status_code == 503


@pytest.mark.parametrize("path", [SCORE, "/v2/models/toy/versions/1/infer"])
def test_scores_are_those_of_our_own_route(ask: Ask, path: str) -> None:
    own = ask("POST", "/v1/score", json={"history": ["i1", "i2"], "candidates": ["i3", "i4", "i3"]}).json()
    answer = ask("POST", path, json=scored(["i1", "i2"], ["i3", "i4", "i3"], id="seven")).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("toy", "1", "seven")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [3])
    np.testing.assert_allclose(output["data"], [one["score"] for one in own["scores"]], rtol=1e-6)


def test_a_ranking_is_that_of_our_own_route(ask_ranking: Ask) -> None:
    own = ask_ranking("POST", "/v1/recommend", json={"history": ["i1"], "k": 4}).json()["items"]
    k = {"name": "k", "datatype": "INT64", "shape": [1], "data": [4]}
    answer = ask_ranking("POST", RANK, json={"inputs": [k, strings("history", ["i1"])]}).json()
    items, scores = answer["outputs"]
    assert items["data"] == [one["item"] for one in own]
    np.testing.assert_allclose(scores["data"], [one["score"] for one in own], rtol=1e-6)


@settings(max_examples=30)
@given(
    history=st.lists(st.integers(0, 49).map("i{}".format), max_size=12),
    candidates=st.lists(st.integers(0, 49).map("i{}".format), min_size=1, max_size=12),
    in_binary=st.booleans(), out_binary=st.booleans(),
)  # fmt: skip
def test_binary_tensors_say_what_json_says(
    warm: Service[SlateQuery, Scores],
    history: list[str],
    candidates: list[str],
    in_binary: bool,
    out_binary: bool,
) -> None:
    request = scored(history, candidates, parameters={"binary_data_output": out_binary})
    options: dict[str, Any] = {"json": request}
    if in_binary:
        blobs = [packed(history), packed(candidates)]
        for one, blob in zip(request["inputs"], blobs, strict=True):
            del one["data"]
            one["parameters"] = {"binary_data_size": len(blob)}
        options = binary(request, *blobs)
    answer = post(warm, SCORE, **options)
    assert answer.status_code == 200, answer.text
    if out_binary:
        length = int(answer.headers["inference-header-content-length"])
        (output,) = json.loads(answer.content[:length])["outputs"]
        assert output["parameters"] == {"binary_data_size": 4 * len(candidates)}
        found = np.frombuffer(answer.content[length:], "<f4")
    else:
        found = np.array(answer.json()["outputs"][0]["data"], np.float32)
    items = warm.items
    np.testing.assert_allclose(
        found, warm.work(SlateQuery(items.lookup(history), items.lookup(candidates))), rtol=1e-6
    )


def test_items_come_back_in_binary_and_only_what_is_asked_for(ask_ranking: Ask) -> None:
    request = {
        "inputs": [
            strings("history", ["i1"]),
            {"name": "k", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}},
        ],
        "outputs": [{"name": "items", "parameters": {"binary_data": True}}],
    }
    answer = ask_ranking("POST", RANK, **binary(request, struct.pack("<q", 2)))
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert (output["name"], output["shape"]) == ("items", [2])
    best = ask_ranking("POST", "/v1/recommend", json={"history": ["i1"], "k": 2}).json()["items"]
    assert answer.content[length:] == packed([one["item"] for one in best])


@pytest.fixture(scope="module")
def warm(artifact: Any) -> Any:
    from rbserve.server.scoring.reload import open_service

    opened = open_service(artifact, "onnx-fp32", threads=1)
    opened.warm_up(Limits())
    yield opened
    opened.close()


def post(service: Service[Any, Any], path: str, **options: Any) -> httpx.Response:
    app = build_app(Models([service]), Limits())

    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            return await http.post(path, **options)

    return asyncio.run(once())


BAD = [
    ({"json": {"inputs": [strings("history", [])]}}, 400, "input candidates is missing"),
    ({"json": scored([], [])}, 422, "candidates is empty"),
    ({"json": scored([], ["no"])}, 422, 'candidates has items that data set tiny does not: "no"'),
    ({"json": scored([], ["i1"] * 41)}, 422, "candidates has 41 items, the limit is 40"),
    ({"json": {"inputs": [strings("history", []), strings("history", [])]}}, 400, "input history is there twice"),
    ({"json": {"inputs": [strings("user", [])]}}, 400, 'no input "user": toy takes history, candidates'),
    ({"json": {"inputs": [strings("history", [], datatype="FP32")]}}, 400, 'history is "FP32", not BYTES'),
    ({"json": {"inputs": [strings("history", ["i1"], shape=[2])]}}, 400, "shape [2] and 1 values"),
    ({"json": {"inputs": [strings("history", ["i1"], shape=[1, 2])]}}, 400, "values: send shape [1]"),
    ({"json": {"inputs": [strings("history", [5])]}}, 400, "and has the number 5 among its data: send"),  # type: ignore[list-item]
    ({"json": {"inputs": [strings("history", [None])]}}, 400, "has null among its data: send strings, such as"),  # type: ignore[list-item]
    ({"json": {"inputs": [{"name": "history", "datatype": "BYTES", "shape": [1]}]}}, 400,
     "history has no data: send strings, such as"),
    ({"json": scored([], ["i1"], outputs=[{"name": "logits"}])}, 400, 'no output "logits": toy gives scores'),
    ({"json": {"inputs": "history"}}, 422, "Expected `array`"),
    ({"content": b'{"inputs": [{"data": ' + b"[" * 5_000}, 400, "the body is not JSON"),
    ({"content": b'{"parameters": {"a": ' + b"[" * 5_000}, 400, "the body is not JSON"),
    ({"content": b"{"}, 400, "the body is not JSON"),
    ({"content": b"{}", "headers": {"inference-header-content-length": "9"}}, 400, "and the body has 2 bytes"),
    ({"content": b"{}", "headers": {"inference-header-content-length": "x"}}, 400, "and the body has 2 bytes"),
    ({"content": b"{}", "headers": {"content-encoding": "br"}}, 415, 'the body is compressed: "br"'),
    (binary(scored([], ["i1"]), b"more"), 400, "4 bytes follow the last binary input"),
    (binary({"inputs": [strings("history", [], parameters={"binary_data_size": 9})]}, b"12"), 400,
     "input history has 9 bytes, and 2 are there"),
    (binary({"inputs": [strings("history", [], parameters={"binary_data_size": 5})]}, b"\x09\0\0\0a"), 400,
     "history is no list of strings"),
    (binary({"inputs": [strings("history", [], parameters={"binary_data_size": 2})]}, b"\x09\0"), 400,
     "history is no list of strings"),
    (binary({"inputs": [strings("history", [], parameters={"binary_data_size": 5})]}, b"\x01\0\0\0\xff"), 400,
     "history is no list of strings"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "status", "said"), BAD, ids=range(len(BAD)))
def test_bad_requests_get_one_clear_message(
    ask: Ask, options: dict[str, Any], status: int, said: str
) -> None:
    answer = ask("POST", SCORE, **options)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]


def test_the_hint_of_a_malformed_request_allows_no_more_than_is_taken(ask: Ask) -> None:
    assert ask("POST", SCORE, json={"inputs": [5]}).json()["error"].endswith("; ids are strings")


@pytest.mark.parametrize(("k", "status", "said"), [([0], 422, "between 1 and 60"), ([61], 422, "between 1 and 60"),
                                                  ([1, 2], 400, "k has 2 values, not 1")])  # fmt: skip
def test_k_is_one_number_in_its_limits(
    ask_ranking: Ask, ranking: Service[Top, Ranked], k: list[int], status: int, said: str
) -> None:
    tensor = {"name": "k", "datatype": "INT64", "shape": [len(k)], "data": k}
    answer = ask_ranking("POST", RANK, json={"inputs": [strings("history", []), tensor]})
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_a_model_that_is_not_there_is_not_found(ask: Ask) -> None:
    gone, wrong = ask("POST", "/v2/models/gone/infer", json=scored([], ["i1"])), ask("GET", SCORE)
    assert (gone.status_code, wrong.status_code) == (404, 405)
    assert gone.json()["error"] == 'there is no model "gone"; served: toy'
    assert ask("GET", "/v2/models/gone").json() == gone.json()
    for path in ("/v2/models/toy/gone", "/v2/models/", "/v2/gone"):
        assert f'there is nothing at "{path}"' in ask("GET", path).json()["error"]
    assert "it takes POST" in wrong.json()["error"]


def test_what_tritons_tools_ask_for_is_told(ask: Ask, ask_ranking: Ask) -> None:
    config = ask("GET", "/v2/models/toy/config").json()
    assert (config["name"], config["max_batch_size"]) == ("toy", 0)
    assert config["input"][0] == {"name": "history", "data_type": "TYPE_STRING", "dims": [-1]}
    assert (
        ask_ranking("GET", "/v2/models/rank/versions/1/config").json()["input"][1]["data_type"]
        == "TYPE_INT64"
    )
    assert ask("POST", "/v2/repository/index").json() == [
        {"name": "toy", "version": "1", "state": "READY", "reason": ""}
    ]


@pytest.mark.parametrize("inline_size", [0, 40], ids=["thread", "loop"])
def test_statistics_count_what_was_answered(
    ask: Ask, service: Service[SlateQuery, Scores], inline_size: int
) -> None:
    service.inline_size = inline_size
    (before,) = ask("GET", "/v2/models/stats").json()["model_stats"]
    assert (before["inference_count"], before["execution_count"]) == (0, 0)
    for _ in range(3):
        ask("POST", "/v1/score", json={"history": ["i1"], "candidates": ["i2"]})
    (after,) = ask("GET", "/v2/models/toy/stats").json()["model_stats"]
    assert (after["name"], after["inference_count"], after["execution_count"]) == ("toy", 3, 3)
    inside = after["inference_stats"]
    assert inside["success"]["ns"] >= inside["compute_infer"]["ns"] > 0
    assert (inside["queue"]["ns"] > 0) == (inline_size == 0)
    stations = ("success", "queue", "compute_input", "compute_infer", "compute_output")
    assert [inside[one]["count"] for one in stations] == [3] * 5  # or perf_analyzer takes them for lost


def test_null_says_as_much_as_a_field_that_is_not_there(ask: Ask) -> None:
    """open-inference-openapi and others serialise every optional field."""
    request = scored(["i1"], ["i3"])
    plain = ask("POST", SCORE, json=request).json()
    for tensor in request["inputs"]:
        tensor["parameters"] = None
    nulls = request | {"id": None, "parameters": None, "outputs": None}
    assert ask("POST", SCORE, json=nulls).json() == plain
    outputs = [{"name": "scores", "parameters": None}]
    assert ask("POST", SCORE, json=nulls | {"outputs": outputs}).json() == plain
    assert "id" not in plain


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([1, 2], ["i3", "i4"]),
        ([2, 1], ["i3", "i4"]),
        ([1, 2], [["i3", "i4"]]),
        ([2, 1], [["i3"], ["i4"]]),
        ([1, 2, 1], [[["i3"], ["i4"]]]),
    ],
)
def test_a_batch_of_one_and_nested_data_are_the_values_they_hold(
    ask: Ask, shape: list[int], data: list[Any]
) -> None:
    plain = scored(["i1"], ["i3", "i4"])
    shaped = scored(["i1"], ["i3", "i4"])
    shaped["inputs"][1] |= {"shape": shape, "data": data}
    assert ask("POST", SCORE, json=shaped).json() == ask("POST", SCORE, json=plain).json()


def test_a_batch_of_one_may_be_binary_and_ask_for_items(ask: Ask, ask_ranking: Ask) -> None:
    history = {"name": "history", "datatype": "BYTES", "shape": [1, 1], "data": [["i1"]]}
    k = {"name": "k", "datatype": "INT64", "shape": [1, 1], "data": [[4]]}
    assert ask_ranking("POST", RANK, json={"inputs": [history, k]}).json()["outputs"][0]["shape"] == [4]
    blob = packed(["i3", "i4"])
    candidates = {
        "name": "candidates", "datatype": "BYTES", "shape": [2, 1],
        "parameters": {"binary_data_size": len(blob)},
    }  # fmt: skip
    answer = ask("POST", SCORE, **binary({"inputs": [history, candidates]}, blob))
    assert answer.json()["outputs"][0]["shape"] == [2]


@pytest.mark.parametrize(
    ("shape", "data", "said"),
    [
        ([2, 2], ["i3", "i4"], "has shape [2, 2] and 2 values: send shape [2]"),
        ([1], ["i3", "i4"], "has shape [1] and 2 values: send shape [2]"),
        ([-1, -2], ["i3", "i4"], "send shape [2]"),
        ([2], [["i3"], ["i4"]], "is BYTES, and has a list among its data"),
        (
            [2, 2],
            [["i1"], ["i2", "i3", "i4"]],
            "not nested as its shape [2, 2] has it: send its N values in one",
        ),
        ([2, 1], [["i3"], "i4"], "not nested as its shape"),
        ([1, 2], [["i3"], ["i4"]], "not nested as its shape"),
        ([1] * 9 + [2], ["i3", "i4"], "send shape [2]"),
    ],
)
def test_sizes_that_do_not_agree_are_told_with_what_to_send(
    ask: Ask, shape: list[int], data: list[Any], said: str
) -> None:
    request = scored(["i1"], [])
    request["inputs"][1] |= {"shape": shape, "data": data}
    answer = ask("POST", SCORE, json=request)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
