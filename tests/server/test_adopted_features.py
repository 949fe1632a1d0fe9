"""An adopted model answers requests of named features as it scores the requests of its table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from adopted_app import INFER, Adopted, Ask, scores_in_process, scores_of, sent_features, tensors
from numpy.typing import NDArray

from rbserve.server.scoring.adopted import AdoptedScoring
from rbserve.server.scoring.service import Service


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
