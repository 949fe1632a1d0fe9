"""Numbers of every kind, and those of a library's own variant, go into an adopted model and come back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adopted import small_requests, write_requests
from adopted_app import Adopted, Ask, asker, scores_of, sent_features
from library_models import lightgbm
from onnx import TensorProto, helper, save

from rbserve.core.adoption import AdoptOptions
from rbserve.exporters.adopt.adopt import adopt
from rbserve.runtimes.opening import open_scorer
from rbserve.server.api.options import Limits
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import open_service

KINDS = {
    "FP16": "float16", "FP32": "float32", "FP64": "float64", "INT8": "int8", "INT16": "int16", "INT32": "int32",
    "INT64": "int64", "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Adopted:
    """A model that adds up an input of each kind of numbers and a bias of the request, and gives each back."""
    folder, rng = tmp_path_factory.mktemp("numbers"), np.random.default_rng(2)
    columns = {name: rng.integers(2, size=9).astype(name) for name in KINDS.values()}
    requests = write_requests(
        folder / "all",
        columns,
        {"bias": rng.normal(size=3).astype(np.float32)},
        offsets=np.array([0, 2, 5, 9]),
    )
    onnx_type = {name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in KINDS.values()}
    node = helper.make_node
    nodes = [node("Cast", [name], [f"{name}_cast"], to=TensorProto.FLOAT) for name in KINDS.values()]
    nodes += [node("Identity", [name], [f"{name}_again"]) for name in KINDS.values()]
    nodes.append(node("Sum", [*(f"{name}_cast" for name in KINDS.values()), "bias"], ["scores"]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "numbers",
        [*(value(name, kind, ["N"]) for name, kind in onnx_type.items()), value("bias", TensorProto.FLOAT, [])],
        [value("scores", TensorProto.FLOAT, ["N"]),
         *(value(f"{name}_again", kind, ["N"]) for name, kind in onnx_type.items())],
    )  # fmt: skip
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        folder / "sum.onnx",
    )
    options = AdoptOptions(score="scores", slate_dim="N")
    return adopt(str(folder / "sum.onnx"), requests, options, folder / "sum"), requests


@pytest.fixture
def ask_numbers(numbers: Adopted, limits: Limits) -> Iterator[Ask]:
    """Sends one request to a service of that model."""
    opened = open_service(numbers[0], "onnx-fp32", threads=1)
    opened.warm_up(limits, numbers[0].checks("onnx-fp32"))
    yield asker(Models([opened]), limits)
    opened.close()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_numbers_of_every_kind_go_in_and_out_in_binary_and_in_json(
    numbers: Adopted, ask_numbers: Ask, number: int
) -> None:
    artifact, requests = numbers
    arrays = requests.request(artifact.signature, number)
    kinds = {name: datatype for datatype, name in KINDS.items()} | {"bias": "FP32"}
    described = [
        {"name": name, "datatype": kinds[name], "shape": [*array.shape]} for name, array in arrays.items()
    ]
    in_json = [{**tensor, "data": np.atleast_1d(arrays[tensor["name"]]).tolist()} for tensor in described]
    in_binary = [
        {**tensor, "parameters": {"binary_data_size": arrays[tensor["name"]].nbytes}} for tensor in described
    ]
    head = json.dumps({"inputs": in_binary, "parameters": {"binary_data_output": True}}).encode()
    answer = ask_numbers(
        "POST", "/v2/models/sum/infer", content=b"".join([head, *(array.tobytes() for array in arrays.values())]),
        headers={"inference-header-content-length": str(len(head))},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    binary, tail = json.loads(answer.content[:length])["outputs"], answer.content[length:]
    plain = ask_numbers("POST", "/v2/models/sum/infer", json={"inputs": in_json}).json()["outputs"]
    assert plain[0]["data"] == open_scorer(artifact, "onnx-fp32").score(arrays).tolist()
    for output, same in zip(binary, plain, strict=True):
        name = output["name"].removesuffix("_again")
        dtype = np.dtype("float32" if name == "scores" else name)
        size = output["parameters"]["binary_data_size"]
        sent, tail = np.frombuffer(tail[:size], dtype), tail[size:]
        assert sent.tolist() == same["data"]
        if name != "scores":
            np.testing.assert_array_equal(sent, arrays[name])
    assert not tail


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"int8": [200, 1]}, "input int8 has a number that INT8 cannot hold"),
        ({"uint8": [-1, 1]}, "input uint8 has a number that UINT8 cannot hold"),
        ({"float16": [1e6, 1]}, "input float16 has a number that FP16 cannot hold"),
    ],
)
def test_a_number_that_does_not_fit_its_kind_is_refused(
    numbers: Adopted, ask_numbers: Ask, changed: dict[str, Any], said: str
) -> None:
    arrays = numbers[1].request(numbers[0].signature, 0)
    kinds = {name: datatype for datatype, name in KINDS.items()} | {"bias": "FP32"}
    inputs = [
        {"name": name, "datatype": kinds[name], "shape": [*array.shape] or [1],
         "data": changed.get(name, np.atleast_1d(array).tolist())}
        for name, array in arrays.items()
    ]  # fmt: skip
    refused = ask_numbers("POST", "/v2/models/sum/infer", json={"inputs": inputs})
    assert (refused.status_code, refused.json()["error"]) == (400, said)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"int8": [200, 1]}, "feature int8 has 200: it takes whole numbers from -128 to 127"),
        ({"uint8": [-1, 1]}, "feature uint8 has -1: it takes whole numbers from 0 to 255"),
        ({"float16": [1e6, 1]}, "feature float16 has 1e+06: it takes numbers from -65504 to 65504"),
        ({"float32": [None, 1]}, "Expected `float`, got `null` - at `$.features.float32[0]`"),
    ],
)
def test_a_feature_that_does_not_fit_its_input_is_refused(
    numbers: Adopted, ask_numbers: Ask, changed: dict[str, Any], said: str
) -> None:
    features = {**sent_features(numbers, 0), **changed}
    refused = ask_numbers("POST", "/v1/score", json={"features": features})
    assert (refused.status_code, refused.json()["error"]["message"]) == (422, said)


def test_a_librarys_own_variant_gives_its_scores_alone(tmp_path: Path, limits: Limits) -> None:
    pytest.importorskip("lightgbm")
    requests = small_requests(tmp_path / "clicks")
    artifact = adopt(str(lightgbm(tmp_path).path), requests, AdoptOptions(), tmp_path / "trees")
    opened = open_service(artifact, "native", threads=1)
    opened.warm_up(limits)
    ask = asker(Models([opened]), limits)
    (output,) = ask("GET", "/v2/models/trees").json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [-1])
    arrays = requests.request(artifact.signature, 0)
    (spec,) = artifact.signature.inputs
    array = arrays[spec.name]
    sent = {"name": spec.name, "datatype": "FP32", "shape": [*array.shape], "data": array.tolist()}
    (answer,) = ask("POST", "/v2/models/trees/infer", json={"inputs": [sent]}).json()["outputs"]
    expected = open_scorer(artifact, "native").score(arrays).tolist()
    assert (answer["shape"], answer["data"]) == ([5], expected)
    by_features = ask("POST", "/v1/score", json={"features": sent_features((artifact, requests), 0)})
    assert scores_of(by_features) == expected
    opened.close()
