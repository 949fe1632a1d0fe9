"""An adopted model answers requests of its own tensors by the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

import pytest
from adopted_app import INFER, Adopted, Ask, scores_in_process, tensors


def test_the_protocol_has_the_tensors_of_the_graph(ask_ranker: Ask) -> None:
    metadata = ask_ranker("GET", "/v2/models/ranker").json()
    assert [(one["name"], one["datatype"], one["shape"]) for one in metadata["inputs"]] == [
        ("features", "FP32", [-1, 3]), ("item", "INT64", [-1]), ("title", "BYTES", [-1]), ("is_new", "BOOL", [-1]),
        ("history", "INT64", [-1]),
    ]  # fmt: skip
    assert [(one["name"], one["datatype"], one["shape"]) for one in metadata["outputs"]] == [
        ("scores", "FP32", [-1]), ("titles", "BYTES", [-1]), ("is_old", "BOOL", [-1]), ("length", "INT64", []),
    ]  # fmt: skip
    config = ask_ranker("GET", "/v2/models/ranker/config").json()
    assert [one["data_type"] for one in config["input"]] == [
        "TYPE_FP32", "TYPE_INT64", "TYPE_STRING", "TYPE_BOOL", "TYPE_INT64",
    ]  # fmt: skip


def test_every_output_of_the_graph_comes_back(adopted: Adopted, ask_ranker: Ask) -> None:
    request = tensors(adopted, 5)
    outputs = {one["name"]: one for one in ask_ranker("POST", INFER, json=request).json()["outputs"]}
    assert outputs["scores"]["data"] == scores_in_process(adopted, 5)
    assert outputs["titles"]["data"] == request["inputs"][2]["data"]
    assert outputs["is_old"]["data"] == [not value for value in request["inputs"][3]["data"]]
    assert (outputs["length"]["shape"], outputs["length"]["data"]) == ([], [2])
    chosen = ask_ranker("POST", INFER, json={**request, "outputs": [{"name": "titles"}]}).json()["outputs"]
    assert [one["name"] for one in chosen] == ["titles"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"item": {"shape": [3], "data": [1, 2, 3]}}, "input features has 6 candidates, and input item has 3"),
        ({"features": {"shape": [9, 2]}}, "input features has shape [9, 2], not [-1, 3]"),
        ({"features": {"shape": [18]}}, "input features has shape [18], not [-1, 3]"),
        ({"features": {"shape": [5, 3]}}, "input features has shape [5, 3] and 18 values"),
        ({"features": {"datatype": "FP64"}}, 'input features is "FP64", not FP32'),
        ({"features": {"data": [1e39] * 18}}, "input features has a number that FP32 cannot hold"),
        ({"item": {"data": [2**70] * 6}}, "input item has a number that INT64 cannot hold"),
        ({"item": {"data": [True] * 6}}, "input item is INT64, and has true among its data: send whole numbers"),
        ({"is_new": {"data": [1] * 6}}, "input is_new is BOOL, and has the number 1 among its data: send truth values"),
        ({"title": {"data": [1] * 6}}, "input title is BYTES, and has the number 1 among its data: send strings"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_the_signature_are_refused(
    adopted: Adopted, ask_ranker: Ask, changed: dict[str, Any], said: str
) -> None:
    refused = ask_ranker("POST", INFER, json=tensors(adopted, 5, **changed))
    assert refused.status_code == 400
    assert said in refused.json()["error"]


def test_no_candidates_and_too_many_are_refused_in_tensors_as_well(adopted: Adopted, ask_ranker: Ask) -> None:
    for size, said in (
        (0, "the request has no candidates"),
        (41, "the request has 41 candidates, the limit is 40"),
    ):
        changed = {
            "features": {"shape": [size, 3], "data": [0.5] * 3 * size}, "item": {"shape": [size], "data": [1] * size},
            "title": {"shape": [size], "data": ["a"] * size}, "is_new": {"shape": [size], "data": [True] * size},
        }  # fmt: skip
        refused = ask_ranker("POST", INFER, json=tensors(adopted, 5, **changed))
        assert refused.status_code == 422
        assert said in refused.json()["error"]
