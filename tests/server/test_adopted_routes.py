"""A model that was made elsewhere answers by its own tensors and by named features, as it scores its requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from adopted import small_requests, write_requests
from adopted_models import adopt_ranker
from library_models import lightgbm
from numpy.typing import NDArray
from onnx import TensorProto, helper, save

from rbserve.core.adoption import AdoptOptions
from rbserve.data.artifact import Artifact
from rbserve.data.request_set import RequestSet
from rbserve.exporters.adopt.adopt import adopt
from rbserve.runtimes.opening import open_scorer
from rbserve.server.api.options import Limits
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.adopted import AdoptedScoring
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import open_service
from rbserve.server.scoring.service import Service

Ask = Callable[..., httpx.Response]
Adopted = tuple[Artifact, RequestSet]
INFER = "/v2/models/ranker/infer"


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Adopted:
    """An artefact with inputs of many kinds, and its requests."""
    return adopt_ranker(tmp_path_factory.mktemp("home"))


@pytest.fixture
def ranker(adopted: Adopted, limits: Limits) -> Iterator[Service[Any, Any]]:
    """The service of that artefact, warm."""
    opened = open_service(adopted[0], "onnx-fp32", threads=1)
    opened.warm_up(limits, adopted[0].checks("onnx-fp32"))
    yield opened
    opened.close()


@pytest.fixture
def ask_ranker(ranker: Service[Any, Any], limits: Limits) -> Ask:
    """Sends one request to that service."""
    return asker(Models([ranker]), limits)


@pytest.fixture
def ask_both(ranker: Service[Any, Any], service: Service[Any, Any], limits: Limits) -> Ask:
    """Sends one request to that service, which stands beside a zoo row."""
    return asker(Models([service, ranker]), limits)


def asker(models: Models, limits: Limits) -> Ask:
    app = build_app(models, limits)

    def send(method: str, path: str, **options: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                return await http.request(method, path, **options)

        return asyncio.run(once())

    return send


def sent_features(adopted: Adopted, number: int) -> dict[str, Any]:
    """The named features of a request as JSON has them: null where the table has no number."""
    artifact, requests = adopted
    rows = np.arange(*requests.offsets[number : number + 2])
    named = requests.named_values(artifact.signature.columns, rows, number)
    features: dict[str, Any] = json.loads(msgspec.json.encode(named))
    return features


def scores_in_process(adopted: Adopted, number: int) -> list[float]:
    artifact, requests = adopted
    scores: list[float] = (
        open_scorer(artifact, "onnx-fp32").score(requests.request(artifact.signature, number)).tolist()
    )
    return scores


def scores_of(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [candidate["index"] for candidate in body["scores"]] == [*range(len(body["scores"]))]
    return [candidate["score"] for candidate in body["scores"]]


def test_scores_by_named_features_are_those_of_the_profile_to_the_bit(
    adopted: Adopted, ask_ranker: Ask
) -> None:
    for number in range(len(adopted[1])):
        answer = ask_ranker("POST", "/v1/score", json={"features": sent_features(adopted, number)})
        assert scores_of(answer) == scores_in_process(adopted, number)
        assert (answer.json()["model"], answer.json()["variant"]) == ("ranker", "onnx-fp32")


def test_several_requests_are_a_list_and_the_one_at_fault_is_named(adopted: Adopted, ask_ranker: Ask) -> None:
    bodies = [{"model": "ranker", "features": sent_features(adopted, number)} for number in (0, 5)]
    answers = ask_ranker("POST", "/v1/score", json=bodies).json()
    assert [len(answer["scores"]) for answer in answers] == [1, 6]
    bodies[1]["features"] = {**sent_features(adopted, 5), "age": "old"}
    refused = ask_ranker("POST", "/v1/score", json=bodies)
    assert refused.status_code == 422
    assert refused.json()["error"]["message"].startswith("at index 1: Expected `float`, got `str`")
    assert ask_ranker("POST", "/v1/score", json=[]).json() == []


def test_a_single_value_is_that_of_every_candidate(adopted: Adopted, ask_ranker: Ask) -> None:
    features = sent_features(adopted, 5)
    alike = {**features, "likes": [0.5] * 6, "title": ["red hat"] * 6}
    single = {**features, "likes": 0.5, "title": "red hat"}
    asked = [ask_ranker("POST", "/v1/score", json={"features": sent}) for sent in (alike, single)]
    assert scores_of(asked[0]) == scores_of(asked[1])
    of_one = {name: value[0] if name not in ("age", "history") else value for name, value in features.items()}
    lone = ask_ranker("POST", "/v1/score", json={"features": of_one})
    assert scores_of(lone) == scores_of(ask_ranker("POST", "/v1/score", json={"features": features}))[:1]


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        ({"likse": 1.0}, "unknown_feature", "unknown feature: likse"),
        ({"likes": None}, "invalid_feature", "Expected `float | array`, got `null` - at `$.features.likes`"),
        ({"likes": [1, "a", 2, 3, 4, 5]}, "invalid_feature", "got `str` - at `$.features.likes[1]`"),
        ({"likes": [1, 2]}, "ragged_features", "likes has 2 values and shows has 6"),
        ({"likes": [[1], [2]]}, "invalid_feature", "got `array` - at `$.features.likes[0]`"),
        ({"likes": [1e39] * 6}, "invalid_feature", "feature likes has 1e+39: it takes numbers from"),
        ({"age": [1, 2, 3, 4, 5, 6]}, "invalid_feature", "Expected `float`, got `array`"),
        ({"item": 1.5}, "invalid_feature", "Expected `int | array`, got `float`"),
        ({"item": 10**30}, "invalid_feature", "feature item has a number of more than 64 bits"),
        ({"is_new": 1}, "invalid_feature", "Expected `bool | array`, got `int`"),
        ({"title": [1] * 6}, "invalid_feature", "Expected `str`, got `int` - at `$.features.title[0]`"),
        ({"history": 4}, "invalid_feature", "Expected `array`, got `int` - at `$.features.history`"),
        ({"history": [4, None]}, "invalid_feature", "Expected `int`, got `null` - at `$.features.history[1]`"),
    ],
)  # fmt: skip
def test_features_that_make_no_request_are_refused_by_their_names(
    adopted: Adopted, ask_ranker: Ask, changed: dict[str, Any], code: str, message: str
) -> None:
    refused = ask_ranker("POST", "/v1/score", json={"features": {**sent_features(adopted, 5), **changed}})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, code)
    assert message in refused.json()["error"]["message"]
    assert refused.json()["error"]["hint"]


def test_a_missing_feature_is_named_and_a_misspelt_one_has_the_nearest_name(
    adopted: Adopted, ask_ranker: Ask
) -> None:
    features = sent_features(adopted, 5)
    age = features.pop("age")
    missing = ask_ranker("POST", "/v1/score", json={"features": features}).json()["error"]
    assert missing == {
        "code": "missing_feature", "message": "feature age is missing", "hint": "age: a number, of the whole request",
    }  # fmt: skip
    misspelt = ask_ranker("POST", "/v1/score", json={"features": {**features, "agee": age}}).json()["error"]
    assert misspelt["hint"] == "did you mean age?"


def test_a_slate_that_is_empty_or_too_long_is_refused(adopted: Adopted, ask_ranker: Ask) -> None:
    columns = ("likes", "shows", "item", "title", "is_new")
    one = {name: value[:1] if name in columns else value for name, value in sent_features(adopted, 5).items()}
    for times, code in ((0, "empty_candidates"), (41, "too_many_candidates")):
        features = {name: value * times if name in columns else value for name, value in one.items()}
        refused = ask_ranker("POST", "/v1/score", json={"features": features})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, code)


def test_each_kind_of_model_says_how_it_is_asked(adopted: Adopted, ask_both: Ask) -> None:
    features, items = {"features": sent_features(adopted, 5)}, {"history": ["i1"], "candidates": ["i2"]}
    assert ask_both("POST", "/v1/score", json={"model": "ranker", **features}).status_code == 200
    assert ask_both("POST", "/v1/score", json={"model": "toy", **items}).status_code == 200
    wrong = ask_both("POST", "/v1/score", json={"model": "ranker", **items}).json()["error"]
    assert wrong["code"] == "needs_features"
    assert wrong["message"] == "ranker takes named features, not a history and candidates"
    assert '"likes":[0.0,0.0]' in wrong["hint"]
    wrong = ask_both("POST", "/v1/score", json={"model": "toy", **features}).json()["error"]
    assert wrong["code"] == "no_features"
    assert wrong["message"] == "toy takes no features: it scores items of its catalogue"
    assert ask_both("POST", "/v1/score", json=features).json()["error"]["code"] == "which_model"
    both = ask_both("POST", "/v1/score", json={**features, **items}).json()["error"]["message"]
    assert both.startswith("Object contains unknown field")


def test_a_zoo_row_alone_refuses_features_by_name(adopted: Adopted, ask: Ask) -> None:
    refused = ask("POST", "/v1/score", json={"features": sent_features(adopted, 5)})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "no_features")
    assert ask("POST", "/v1/score", json={"history": ["i1"]}).json()["error"]["message"] == (
        "Object missing required field `candidates`"
    )


def test_a_body_without_features_is_told_what_the_model_takes(ask_ranker: Ask) -> None:
    refused = ask_ranker("POST", "/v1/score", json={"inputs": []}).json()["error"]
    assert refused["code"] == "invalid_request"
    assert refused["hint"].startswith('send {"features":{"likes":[0.0,0.0]')


def test_an_answer_that_is_not_finite_fails_and_the_next_one_does_not(
    adopted: Adopted, ask_ranker: Ask, ranker: Service[Any, Any]
) -> None:
    class Silent:
        def score(self, request: Any) -> NDArray[np.float32]:
            return np.full(len(request["item"]), np.nan, np.float32)

    before, work = ranker.work, ranker.work
    assert isinstance(work, AdoptedScoring)
    ranker.work = replace(work, scorer=Silent())
    body = {"features": sent_features(adopted, 5)}
    refused = ask_ranker("POST", "/v1/score", json=body)
    assert (refused.status_code, refused.json()["error"]["message"]) == (
        422, "ranker has no score for these values: the score of candidate 0 is nan",
    )  # fmt: skip
    ranker.work = before
    assert ask_ranker("POST", "/v1/score", json=body).status_code == 200


@pytest.mark.parametrize("inline_size", [0, 40])
def test_values_that_the_graph_cannot_take_are_the_clients_fault(
    adopted: Adopted, ask_ranker: Ask, ranker: Service[Any, Any], inline_size: int
) -> None:
    ranker.inline_size = inline_size
    features = {**sent_features(adopted, 5), "item": 300}
    refused = ask_ranker("POST", "/v1/score", json={"features": features})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unscorable")
    assert "indices element out of data bounds, idx=300" in refused.json()["error"]["message"]
    refused = ask_ranker("POST", INFER, json=tensors(adopted, 5, item={"data": [300] * 6}))
    assert refused.status_code == 422
    assert "idx=300" in refused.json()["error"]


def test_the_list_of_models_and_the_document_say_what_it_takes(ask_both: Ask) -> None:
    toy, ranker = ask_both("GET", "/v1/models").json()["models"]
    assert "features" not in toy
    assert [feature["name"] for feature in ranker["features"]] == [
        "likes", "shows", "age", "item", "title", "is_new", "history",
    ]  # fmt: skip
    assert ranker["inputs"][0] == {"name": "features", "datatype": "FP32", "shape": [-1, 3]}
    assert scores_of(ask_both("POST", "/v1/score", json={"model": "ranker", "features": ranker["example"]}))
    document = ask_both("GET", "/openapi.json").json()
    body = document["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]
    assert [next(iter(kind.values())) for kind in body["schema"]["anyOf"]] == [
        "#/components/schemas/ScoreRequest", "array", "#/components/schemas/FeatureScoreRequest", "array",
    ]  # fmt: skip
    features = document["components"]["schemas"]["FeatureScoreRequest"]["properties"]["features"]
    assert features["anyOf"] == [{"$ref": "#/components/schemas/Features.ranker"}]
    own = document["components"]["schemas"]["Features.ranker"]
    assert own["properties"]["age"]["type"] == "number"
    assert own["required"] == [feature["name"] for feature in ranker["features"]]


def test_the_example_of_the_document_can_be_sent_as_it_is(ask_ranker: Ask) -> None:
    document = ask_ranker("GET", "/openapi.json").json()
    content = document["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]
    assert len(scores_of(ask_ranker("POST", "/v1/score", json=content["example"]))) == 2
    assert "ScoreRequest" not in document["components"]["schemas"]


def test_metrics_count_its_candidates(adopted: Adopted, ask_ranker: Ask) -> None:
    ask_ranker("POST", "/v1/score", json={"features": sent_features(adopted, 5)})
    assert 'rbserve_candidates_scored_total{model="ranker"} 6.0' in ask_ranker("GET", "/metrics").text


# ---- The Open Inference Protocol ----


def tensors(adopted: Adopted, number: int, **changed: dict[str, Any]) -> dict[str, Any]:
    """A request of the protocol with the model's own tensors, in JSON; some of its fields changed."""
    artifact, requests = adopted
    datatypes = {"float32": "FP32", "int64": "INT64", "str": "BYTES", "bool": "BOOL"}
    arrays = requests.request(artifact.signature, number)
    inputs = [
        {"name": spec.name, "datatype": datatypes[spec.dtype], "shape": [*arrays[spec.name].shape],
         "data": np.nan_to_num(arrays[spec.name]).tolist() if spec.dtype == "float32" else arrays[spec.name].tolist(),
         **changed.get(spec.name, {})}
        for spec in artifact.signature.inputs
    ]  # fmt: skip
    return {"inputs": inputs}


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
