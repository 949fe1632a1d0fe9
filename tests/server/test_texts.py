"""Items that the data set does not have: a model that reads texts scores them as it would with a row of their own."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from small_backbone import make_backbone

from rbserve.core.errors import UsageError
from rbserve.core.options import with_options
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.models.zoo import find_model
from rbserve.pipeline.items import serving_encoder
from rbserve.runtimes import texts as texts_module
from rbserve.runtimes.texts import VectorTexts, text_scorer
from rbserve.server.api.options import Limits
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import open_service
from rbserve.server.scoring.service import Service
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module", params=["zeroshot-smollm2-135m", "text-minilm-l6"])
def reads(
    request: pytest.FixtureRequest, planted: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service[Any, Any]]:
    """A small language model, asked as it is, or one whose candidates meet the history late."""
    folder = tmp_path_factory.mktemp("reads")
    spec = find_model(request.param)
    options = {"backbone": str(make_backbone("llama", folder / "llama"))}
    if spec.name == "text-minilm-l6":
        options = {"backbone": str(make_backbone("sentence-bert", folder / "bert")), "meet": "1"}
    spec = dataclasses.replace(spec, config=with_options(spec.config, options))
    settings = Settings(batch=8, micro_batch=8, epochs=1, epoch_rows=8)
    artifact = train(spec, planted, folder / spec.name, settings)
    opened = open_service(export(artifact, planted, ["fp32"]), "onnx-fp32", 1)
    opened.warm_up(Limits(max_history=5, max_candidates=4))
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=["dnn-text", "dnn-emb"])
def made_of_content(
    request: pytest.FixtureRequest, planted: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service[Any, Any]]:
    """Items are the mean of their words, or a projection of a vector; scored by onnx-int8."""
    folder = tmp_path_factory.mktemp("content")
    spec = find_model(request.param)
    options = {"dim": "16", "hidden": "32"}
    if request.param == "dnn-emb":
        options["encoder"] = str(make_backbone("sentence-bert", folder / "bert"))
    spec = dataclasses.replace(spec, config=with_options(spec.config, options))
    settings = Settings(batch=500, micro_batch=500, lr=5e-3, epochs=2)
    artifact = export(train(spec, planted, folder / spec.name, settings), planted, ["int8"])
    opened = open_service(artifact, "onnx-int8", 1, encode=serving_encoder(artifact))
    opened.warm_up(Limits(max_history=5, max_candidates=4))
    yield opened
    opened.close()


def test_texts_of_a_language_model_score_like_the_items_that_have_them(reads: Service[Any, Any]) -> None:
    check_texts(reads)


def test_texts_of_content_score_like_the_items_that_have_them(made_of_content: Service[Any, Any]) -> None:
    check_texts(made_of_content)


def check_texts(service: Service[Any, Any]) -> None:
    """In histories and slates, beside ids and without."""
    ids, texts = service.items.ids, service.items.texts
    slate = [ids[5], ids[6], ids[7]]
    plain = scored_by(service, slate, [ids[1], ids[2]]).json()["scores"]
    sent = [{"text": texts[5]}, ids[6], {"text": texts[7], "id": "mine"}]
    for history in (
        [ids[1], {"text": texts[2]}],
        [{"text": texts[1]}, {"text": texts[2]}],
        [ids[1], ids[2]],
    ):
        answer = scored_by(service, sent, history)
        assert answer.status_code == 200, answer.text
        assert [one["item"] for one in answer.json()["scores"]] == [None, ids[6], "mine"]
        scores = [one["score"] for one in answer.json()["scores"]]
        np.testing.assert_allclose(scores, [one["score"] for one in plain], atol=1e-5)
    reranked = asked(service, "/v1/rerank", query=texts[1:3], documents=texts[5:8]).json()["results"]
    by_place = [result["relevance_score"] for result in sorted(reranked, key=lambda result: result["index"])]
    np.testing.assert_allclose(by_place, [candidate["score"] for candidate in plain], atol=1e-5)
    other = scored_by(service, slate, [{"text": "topic3word1 topic3word2"}]).json()["scores"]
    assert other[0]["score"] != plain[0]["score"]


def test_texts_in_a_history_stand_beside_skipped_ids(made_of_content: Service[Any, Any]) -> None:
    service = made_of_content
    history = ["nobody", {"text": service.items.texts[1]}, service.items.ids[2]]
    answer = scored_by(service, [service.items.ids[5]], history, unknown_history="skip").json()
    known = scored_by(service, [service.items.ids[5]], service.items.ids[1:3]).json()
    assert answer["skipped"] == ["nobody"]
    assert answer["scores"][0]["score"] == pytest.approx(known["scores"][0]["score"], abs=1e-5)


def test_what_makes_no_vectors_here_is_said(made_of_content: Service[Any, Any]) -> None:
    work = made_of_content.work
    before = work.texts

    def nothing() -> Any:
        raise UsageError("vectors of texts need torch", "pip install 'rbserve[train]'")

    work.texts = VectorTexts(work.scorer, nothing)
    try:
        answer = scored_by(made_of_content, [{"text": "topic1word1"}])
        assert (answer.status_code, answer.json()["error"]["code"]) == (501, "texts_unavailable")
        assert answer.json()["error"]["hint"] == "pip install 'rbserve[train]'"
    finally:
        work.texts = before


def test_no_more_vectors_are_kept_than_the_limit(
    made_of_content: Service[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts_module, "KEPT_TEXTS", 3)
    texts = made_of_content.work.texts
    assert isinstance(texts, VectorTexts)
    for begin in range(0, 8, 2):
        words = [f"topic{begin % 4}word{begin + place}" for place in range(4)]
        assert scored_by(made_of_content, [{"text": word} for word in words]).status_code == 200
        assert [*texts._kept] == words[-3:]


def test_a_graph_of_an_earlier_version_says_how_to_read_texts(
    made_of_content: Service[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_of_content.work.scorer, "takes_vectors", False)
    why = text_scorer(made_of_content.work.scorer, lambda: pytest.fail("asked"), lambda: pytest.fail("asked"))
    assert isinstance(why, str)
    assert "rbserve export" in why


def scored_by(
    service: Service[Any, Any], candidates: list[Any], history: list[Any] | None = None, **more: Any
) -> httpx.Response:
    seen = service.items.names(np.array([1, 2], np.int32)) if history is None else history
    return asked(service, "/v1/score", history=seen, candidates=candidates, **more)


def asked(service: Service[Any, Any], path: str, **body: Any) -> httpx.Response:
    app = build_app(Models([service]), Limits(max_text=100))

    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            return await http.post(path, json=body)

    return asyncio.run(once())


def test_a_text_scores_like_the_item_that_has_it_beside_ids(reads: Service[Any, Any]) -> None:
    (item,), text = reads.items.names(np.array([5], np.int32)), reads.items.texts[5]
    alone = scored_by(reads, [item]).json()["scores"]
    answer = scored_by(reads, [{"text": "topic3word1"}, item, {"text": text, "id": "mine"}])
    assert answer.status_code == 200, answer.text
    scored = answer.json()["scores"]
    assert [one["item"] for one in scored] == [None, item, "mine"]
    assert scored[1]["score"] == pytest.approx(alone[0]["score"], abs=1e-6)
    assert scored[2]["score"] == pytest.approx(alone[0]["score"], abs=1e-6)
    assert scored[0]["score"] != scored[1]["score"]


def test_the_id_of_a_text_may_be_a_number_as_any_id(reads: Service[Any, Any]) -> None:
    answer = scored_by(reads, [{"text": "red", "id": sent} for sent in (7, 7.0, "7")])
    assert answer.status_code == 200, answer.text
    assert [candidate["item"] for candidate in answer.json()["scores"]] == ["7", "7", "7"]


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b\xa0"])
def test_a_blank_text_is_no_item_as_in_a_file_of_items(reads: Service[Any, Any], text: str) -> None:
    item = reads.items.ids[5]
    for candidates, history in (([item, {"text": text}], None), ([item], [{"text": text}])):
        answer = scored_by(reads, candidates, history)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "empty_text")
        assert "a new item has no text" in answer.json()["error"]["message"]


def test_what_cannot_be_read_is_told(reads: Service[Any, Any], ask: Ask) -> None:
    long = scored_by(reads, [{"text": "x" * 101}])
    assert (long.status_code, long.json()["error"]["code"]) == (422, "text_too_long")
    assert scored_by(reads, [{"text": "a", "title": "b"}]).status_code == 422
    history = scored_by(reads, [{"text": "a"}], [{"text": "x" * 101}])
    assert history.json()["error"]["code"] == "text_too_long"
    assert scored_by(reads, [{"text": "a"}, "nobody"]).json()["error"]["code"] == "unknown_items"
    refused = ask("POST", "/v1/score", json={"history": [], "candidates": [{"text": "a film"}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "no_texts")
    assert "toy scores no new items" in refused.json()["error"]["message"]
    seen = ask("POST", "/v1/score", json={"history": [{"text": "a film"}], "candidates": ["i1"]})
    assert seen.json()["error"]["code"] == "no_texts"
