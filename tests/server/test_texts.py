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

from rbserve.core.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.models.configs import with_options
from rbserve.models.zoo import find_model
from rbserve.server.app import build_app
from rbserve.server.models import Models
from rbserve.server.reload import open_service
from rbserve.server.schema import Limits
from rbserve.server.service import Service
from rbserve.train.fit import train
from rbserve.train.loop import Settings

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def reads(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service[Any, Any]]:
    """A small language model, asked as it is."""
    folder = tmp_path_factory.mktemp("reads")
    spec = find_model("zeroshot-smollm2-135m")
    config = with_options(spec.config, {"backbone": str(make_backbone("llama", folder / "llama"))})
    artifact = train(dataclasses.replace(spec, config=config), planted, folder / spec.name, Settings())
    opened = open_service(export(artifact, planted, ["fp32"]), "onnx-fp32", 1)
    opened.warm_up(Limits(max_history=5, max_candidates=4))
    yield opened
    opened.close()


def scored_by(service: Service[Any, Any], candidates: list[Any]) -> httpx.Response:
    app = build_app(Models([service]), Limits(max_text=100))

    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            history = service.items.names(np.array([1, 2], np.int32))
            return await http.post("/v1/score", json={"history": history, "candidates": candidates})

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


def test_what_cannot_be_read_is_told(reads: Service[Any, Any], ask: Ask) -> None:
    long = scored_by(reads, [{"text": "x" * 101}])
    assert (long.status_code, long.json()["error"]["code"]) == (422, "text_too_long")
    assert scored_by(reads, [{"text": "a", "title": "b"}]).status_code == 422
    assert scored_by(reads, [{"text": "a"}, "nobody"]).json()["error"]["code"] == "unknown_items"
    refused = ask("POST", "/v1/score", json={"history": [], "candidates": [{"text": "a film"}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "no_texts")
    assert "toy scores no new items" in refused.json()["error"]["message"]
