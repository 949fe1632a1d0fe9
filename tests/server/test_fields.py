"""Fields of the user and of the context in requests for scores: what they mean, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from itertools import cycle, islice, pairwise
from typing import Any

import httpx
import numpy as np
import pytest
from adopted_app import asker
from field_dataset import train_with_fields, with_fields
from serving import serving

from rbserve.client import Client, ServerError
from rbserve.core.fields import FIRST, MISSING, UNSEEN
from rbserve.core.requests import row_request, slate_request
from rbserve.core.wire import FieldInfo
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.exporters.export import export
from rbserve.features.coding import text_hash
from rbserve.features.counted import COUNTS
from rbserve.profilers.client.verify import verify
from rbserve.profilers.timing.requests import request_coders, request_values
from rbserve.runtimes.evaluate import score_rows, slate_starts
from rbserve.runtimes.opening import open_scorer
from rbserve.server.api.options import Limits
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import open_service

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def dataset(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return with_fields(planted, tmp_path_factory.mktemp("data") / "withfields")


@pytest.fixture(scope="module")
def model(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small DNN that reads every field, as onnx-fp32."""
    folder = tmp_path_factory.mktemp("artifacts")
    trained = train_with_fields("dnn", dataset, folder / "dnn", "own,likes,shows,together_sum,history_length")
    return export(trained, dataset, precisions=["fp32"])


@pytest.fixture(scope="module")
def ask(model: Artifact) -> Iterator[Ask]:
    service = open_service(model, "onnx-fp32", threads=1)
    limits = Limits(max_history=50, max_candidates=40)
    service.warm_up(limits, model.checks("onnx-fp32"))
    yield asker(Models([service]), limits)
    service.close()


def body(dataset: Dataset, candidates: int = 2, **further: Any) -> dict[str, Any]:
    ids = dataset.items.ids
    return {"history": [*ids[:3]], "candidates": [*ids[5 : 5 + candidates]], **further}


def scores(ask: Ask, request: dict[str, Any]) -> list[float]:
    answer = ask("POST", "/v1/score", json=request)
    assert answer.status_code == 200, answer.text
    return [scored["score"] for scored in answer.json()["scores"]]


def entries(model: Artifact, dataset: Dataset, candidates: int = 2, **columns: Any) -> list[float]:
    """The scores of the same request by its codes, in this process."""
    history, slate = np.arange(3, dtype=np.int32), np.arange(5, 5 + candidates, dtype=np.int32)
    request = {**slate_request(history, slate), **columns}
    return open_scorer(model, "onnx-fp32").score(request).tolist()


def test_fields_are_coded_as_those_of_the_data_set(ask: Ask, model: Artifact, dataset: Dataset) -> None:
    sent = {"user": {"country": "FR", "age": 1.5}, "context": {"hour": [7, 8.25], "page": "home"}}
    known = {
        "user.country": np.array([FIRST + 1]), "user.age": np.array([1.5], np.float32),
        "context.hour": np.array([7, 8.25], np.float32), "context.page": np.array([FIRST]),
    }  # fmt: skip
    assert scores(ask, body(dataset, **sent)) == entries(model, dataset, **known)
    assert scores(ask, body(dataset, **sent)) != scores(ask, body(dataset))


@pytest.mark.parametrize(
    ("sent", "entry", "value"),
    [
        ({"user": {"country": "never seen"}}, "user.country", [UNSEEN]),
        ({"user": {"country": None}}, "user.country", [MISSING]),
        ({"user": {"country": ""}}, "user.country", [MISSING]),
        ({"user": {}}, "user.country", [MISSING]),
        ({"user": {"country": 3.0}}, "user.country", [FIRST + 2]),
        ({"user": {"likes_of": ["blue", "never seen", "red"]}}, "user.likes_of", [[FIRST + 2, UNSEEN]]),
        ({"user": {"likes_of": "green"}}, "user.likes_of", [[FIRST + 1, MISSING]]),
        ({"context": {"page": ["search", None]}}, "context.page", [FIRST + 1, MISSING]),
        ({"context": {"hour": "nan"}}, "context.hour", [np.float32(np.nan)]),
        ({"context": {"hour": None}}, "context.hour", [np.float32(np.nan)]),
        ({"context": {"hour": True}}, "context.hour", [np.float32(1)]),
    ],
)
def test_a_value_never_seen_and_one_that_is_missing_are_no_error(
    ask: Ask, model: Artifact, dataset: Dataset, sent: dict[str, Any], entry: str, value: list[Any]
) -> None:
    assert scores(ask, body(dataset, **sent)) == entries(model, dataset, **{entry: np.array(value)})


def test_the_value_of_a_hashed_field_may_be_given_as_its_hash(
    ask: Ask, model: Artifact, dataset: Dataset
) -> None:
    town = FIRST + text_hash("Ulm") % 5
    words = [FIRST + text_hash(word) % 7 for word in ("red", "shoes")]
    known = entries(
        model, dataset, **{"user.town": np.array([town]), "context.words": np.array([words, [MISSING] * 2])}
    )
    by_text = {"user": {"town": "Ulm"}, "context": {"words": [["red", "shoes"], []]}}
    by_hash = {
        "user": {"town": {"hash": town}}, "context": {"words": [[{"hash": word} for word in words], []]}
    }  # fmt: skip
    assert scores(ask, body(dataset, **by_text)) == scores(ask, body(dataset, **by_hash)) == known
    assert scores(ask, body(dataset)) != known


@pytest.mark.parametrize(
    ("sent", "code", "part"),
    [
        ({"user": {"city": "X"}}, "unknown_field", "no field user.city"),
        ({"user": {"hour": 7}}, "unknown_field", "it reads user.country"),
        ({"context": {"price": 7}}, "unknown_field", "no field context.price"),
        ({"context": {"hour": "soon"}}, "invalid_field", "takes a number, not 'soon'"),
        ({"context": {"hour": 1e39}}, "invalid_field", "takes a number, not 1e+39"),
        ({"context": {"hour": [1, 2, 3]}}, "invalid_field", "3 values, and the request has 2 candidates"),
        ({"context": {"hour": []}}, "invalid_field", "0 values, and the request has 2 candidates"),
        ({"context": {"hour": [1, [2]]}}, "invalid_field", "takes a number, not [2]"),
        ({"user": {"country": ["DE", "FR"]}}, "invalid_field", "takes one value"),
        ({"user": {"age": {"years": 3}}}, "invalid_request", "$.user"),
        ({"user": "DE"}, "invalid_request", "$.user"),
        ({"user": {"town": {"hash": 7}}}, "invalid_field", 'takes hashes from 2 to 6, not {"hash": 7}'),
        ({"user": {"town": {"hash": True}}}, "invalid_request", "$.user"),
        ({"user": {"country": {"hash": 3}}}, "invalid_field", 'takes one value, not {"hash": 3}'),
        ({"user": {"age": {"hash": 3}}}, "invalid_field", 'takes a number, not {"hash": 3}'),
        ({"context": {"words": ["red", {"hash": 3}]}}, "invalid_field", "takes hashes from 2 to 8"),
        ({"time": 7}, "unknown_field", "time"),
        ({"time": "now"}, "invalid_request", "$.time"),
    ],
)
def test_a_field_that_the_model_cannot_take_is_refused_in_one_line(
    ask: Ask, dataset: Dataset, sent: dict[str, Any], code: str, part: str
) -> None:
    answer = ask("POST", "/v1/score", json=body(dataset, **sent))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, code)
    assert part in f"{error['message']} {error.get('hint', '')}"
    assert "\n" not in error["message"]


def test_a_nan_in_the_body_is_no_json(ask: Ask, dataset: Dataset) -> None:
    sent = json.dumps(body(dataset, context={"hour": math.nan}))
    assert "NaN" in sent
    answer = ask("POST", "/v1/score", content=sent, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_a_request_of_several_users_has_fields_of_each(ask: Ask, dataset: Dataset) -> None:
    several = [body(dataset, user={"country": country}) for country in ("DE", "FR")]
    answers = ask("POST", "/v1/score", json=several).json()
    assert [[scored["score"] for scored in answer["scores"]] for answer in answers] == [
        scores(ask, request) for request in several
    ]
    several[1]["user"] = {"city": "X"}
    assert "at index 1" in ask("POST", "/v1/score", json=several).json()["error"]["message"]


def test_a_model_without_fields_says_so(trained: Artifact, planted: Dataset) -> None:
    service = open_service(trained, "onnx-fp32", threads=1)
    service.warm_up(Limits(max_history=50, max_candidates=40))
    plain = asker(Models([service]), Limits())
    for sent in ({"user": {"country": "DE"}}, {"context": {"hour": 7}}):
        error = plain("POST", "/v1/score", json=body(planted, **sent)).json()["error"]
        assert error["code"] == "unknown_field"
        assert "it reads no fields of the user or the context" in error["hint"]
    assert "fields" not in plain("GET", "/v1/models").json()["models"][0]
    service.close()


def test_the_list_of_models_and_the_document_have_the_fields(ask: Ask) -> None:
    (listed,) = ask("GET", "/v1/models").json()["models"]
    fields = {field["name"]: field for field in listed["fields"]}
    assert (fields["country"]["scope"], fields["country"]["kind"]) == ("user", "category")
    assert fields["hour"]["takes"] == "a number, or a list with one for each candidate"
    assert fields["town"]["takes"] == 'a text or a number, or {"hash": its code} in the place of each text'
    assert fields["price"]["takes"] is fields["likes"]["takes"] is None
    assert listed["reads_time"] is False
    schemas = ask("GET", "/openapi.json").json()["components"]["schemas"]
    assert {"user", "context", "time"} <= schemas["ScoreRequest"]["properties"].keys()


@pytest.fixture(scope="module")
def trees(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Forty trees on every field."""
    pytest.importorskip("lightgbm")
    folder = tmp_path_factory.mktemp("artifacts")
    return train_with_fields("gbdt", dataset, folder / "gbdt", "own," + ",".join(COUNTS))


@pytest.mark.parametrize(("name", "variant"), [("model", "onnx-fp32"), ("trees", "native")])
def test_a_thousand_requests_to_a_server_give_the_scores_of_the_test_rows_to_the_bit(
    request: pytest.FixtureRequest, dataset: Dataset, name: str, variant: str
) -> None:
    """What is judged offline is what is served: no skew between the tables of training and the fields of a request."""
    model, test = request.getfixturevalue(name), dataset.ctr("test")
    judged = score_rows(open_scorer(model, variant), test.histories, test.candidates, test.extras)
    assert len(np.unique(judged)) > len(judged) / 10
    slates = list(pairwise(slate_starts(test.histories, test.extras).tolist()))
    with serving(model, variant=variant) as process, Client(process.url) as client:
        for begin, end in islice(cycle(slates), 1000):
            served = client.score(**score_body(dataset, model, test, begin, end))
            np.testing.assert_array_equal(np.array(served, np.float32), judged[begin:end])


def score_body(dataset: Dataset, model: Artifact, test: CtrSplit, begin: int, end: int) -> dict[str, Any]:
    """Test rows begin to end as what `Client.score` takes."""
    names = {spec.name for spec in model.layout.fields}
    coders = request_coders(dataset, names)
    row = row_request(test.histories[begin], test.candidates[begin:end], test.extras, begin, end)
    fields = request_values(row, coders)
    return {entry: dataset.items.names(row[entry]) for entry in ("history", "candidates")} | fields


def tensor(name: str, datatype: str, values: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": values}


def test_the_open_inference_protocol_has_an_optional_tensor_for_each_field(
    ask: Ask, dataset: Dataset
) -> None:
    path = "/v2/models/dnn"
    listed = {own["name"]: own for own in ask("GET", path).json()["inputs"]}
    assert listed["user.country"] == {"name": "user.country", "datatype": "BYTES", "shape": [1]}
    assert listed["context.hour"] == {"name": "context.hour", "datatype": "FP32", "shape": [-1]}
    configured = {own["name"]: own for own in ask("GET", f"{path}/config").json()["input"]}
    assert configured["context.hour"]["optional"]
    assert "optional" not in configured["history"]
    plain = body(dataset)
    inputs = [tensor(name, "BYTES", plain[name]) for name in ("history", "candidates")]

    def infer(*further: dict[str, Any]) -> httpx.Response:
        return ask("POST", f"{path}/infer", json={"inputs": [*inputs, *further]})

    assert infer().json()["outputs"][0]["data"] == scores(ask, plain)
    sent = [
        tensor("user.country", "BYTES", ["FR"]), tensor("user.likes_of", "BYTES", ["blue|red"]),
        tensor("context.hour", "FP32", [7.5, 8]),
    ]  # fmt: skip
    known = {"user": {"country": "FR", "likes_of": ["blue", "red"]}, "context": {"hour": [7.5, 8]}}
    assert infer(*sent).json()["outputs"][0]["data"] == scores(ask, plain | known)
    assert "3 values" in infer(tensor("context.hour", "FP32", [1, 2, 3])).json()["error"]
    assert "there is no input" in infer(tensor("user.city", "BYTES", ["X"])).json()["error"]


def test_a_row_of_ids_and_fields_reads_no_texts_which_is_said(ask: Ask, dataset: Dataset) -> None:
    request = body(dataset) | {"candidates": [{"text": "topic0word1"}]}
    error = ask("POST", "/v1/score", json=request).json()["error"]
    assert (error["code"], error["message"]) == (
        "no_texts", "dnn scores no new items: it reads no texts of items"
    )  # fmt: skip


def test_a_client_sends_fields_and_lists_them(dataset: Dataset, model: Artifact) -> None:
    with serving(model) as process, Client(process.url) as client:
        assert FieldInfo("hour", "context", "number", client.model().fields[5].takes) in client.model().fields
        ids = dataset.items.ids
        sent = client.score(ids[:2], ids[5:7], user={"country": "DE"}, context={"hour": [1, 2]})
        assert sent != client.score(ids[:2], ids[5:7])
        with pytest.raises(ServerError, match=r"reads no field user\.city"):
            client.score(ids[:2], ids[5:7], user={"city": "X"})


@pytest.mark.parametrize("slate", [1, 8])
def test_verify_sends_the_fields_that_it_scores_in_process(
    model: Artifact, dataset: Dataset, slate: int
) -> None:
    with serving(model) as process:
        verified = verify(model, dataset, process.url, slate, limit=1000, rounds=2)
    assert (verified.verdict, verified.difference) == ("OK", 0)
