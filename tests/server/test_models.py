"""Several models behind one port: a request reaches the one that it names, and each has a queue of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbserve.core.requests import Request, slate_of
from rbserve.core.types import Scores
from rbserve.data.artifact import Artifact, open_artifact, write_manifest
from rbserve.server.api.options import Limits
from rbserve.server.observe.telemetry import Telemetry
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import open_service
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Scoring, SlateQuery

Services = list[Service[Any, Any]]


def renamed(artifact: Artifact, path: Path, name: str) -> Artifact:
    shutil.copytree(artifact.path, path)
    write_manifest(path, msgspec.structs.replace(artifact.manifest, name=name))
    return open_artifact(path)


@pytest.fixture(scope="module")
def services(
    artifact: Artifact, listwise: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """toy and other score, rank ranks."""
    other = renamed(artifact, tmp_path_factory.mktemp("artifacts") / "other", "other")
    telemetry = Telemetry()
    opened = [open_service(one, "onnx-fp32", 1, 0, telemetry) for one in (artifact, other, listwise)]
    honest = opened[1].work.scorer

    class Negated:
        def score(self, request: Request) -> Scores:
            return -honest.score(request)

    opened[1].work = Scoring(Negated(), artifact.items)
    for one in opened:
        one.warm_up(Limits())
    yield opened
    for one in opened:
        one.close()


def ask(services: Services, *requests: tuple[str, dict[str, Any]]) -> list[httpx.Response]:
    """All requests at once; GET where there is no body."""
    app = build_app(Models(services), Limits())

    async def everything() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await asyncio.gather(
                *(http.post(path, json=body) if body else http.get(path) for path, body in requests)
            )

    return asyncio.run(everything())


ids = st.lists(st.integers(0, 49).map("i{}".format), max_size=8)
requests = st.one_of(
    st.tuples(st.sampled_from(["toy", "other"]), ids, ids.filter(bool)),
    st.tuples(st.just("rank"), ids, st.integers(1, 9)),
)  # fmt: skip


@settings(max_examples=40)
@given(asked=st.lists(requests, min_size=1, max_size=60), inline=st.booleans())
def test_requests_of_all_kinds_at_once_get_what_they_asked_for(
    services: Services, asked: list[tuple[str, list[str], Any]], inline: bool
) -> None:
    by_name = {one.model: one for one in services}
    for one in services:
        one.inline_size = 1_000 if inline else 0
    bodies = [
        ("/v1/recommend" if name == "rank" else "/v1/score",
         {"model": name, "history": history, "k" if name == "rank" else "candidates": what})
        for name, history, what in asked
    ]  # fmt: skip
    for (name, history, what), answer in zip(asked, ask(services, *bodies), strict=True):
        service = by_name[name]
        rows, body = service.items.lookup(history), answer.json()
        assert (answer.status_code, body["model"]) == (200, name)
        if name == "rank":
            found, scores = service.work.ranker.top_k(rows, what)
            names, given_back = service.items.names(found), body["items"]
        else:
            names, given_back = what, body["scores"]
            scores = service.work(SlateQuery(rows, service.items.lookup(what)))
        assert [one["item"] for one in given_back] == names
        np.testing.assert_allclose([one["score"] for one in given_back], scores, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "said"),
    [
        ("/v1/score", {"candidates": ["i1"]}, 422, "which_model", "several models do this: toy, other"),
        ("/v1/score", {"candidates": ["i1"], "model": "rank"}, 409, "other_task", "rank has no /v1/score"),
        ("/v1/score", {"candidates": ["i1"], "model": "gone"}, 404, "unknown_model", 'there is no model "gone"'),
        ("/v1/recommend", {"model": "toy"}, 409, "other_task", "toy has no /v1/recommend"),
        ("/v1/score", {"candidates": ["i1"], "model": 5}, 422, "invalid_request", "Expected `str`"),
    ],
)  # fmt: skip
def test_a_request_that_names_no_model_of_its_kind_is_told(
    services: Services, path: str, body: dict[str, Any], status: int, code: str, said: str
) -> None:
    (answer,) = ask(services, (path, {"history": [], **body}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert said in answer.json()["error"]["message"]


def test_the_only_model_of_a_kind_need_not_be_named(services: Services) -> None:
    (answer,) = ask(services, ("/v1/recommend", {"history": ["i1"], "k": 2}))
    assert answer.json()["model"] == "rank"


def test_all_are_ready_or_none_is(services: Services) -> None:
    services[1].warm = False
    try:
        (waits,) = ask(services, ("/v1/health/ready", {}))
    finally:
        services[1].warm = True
    (ready,) = ask(services, ("/v1/health/ready", {}))
    assert [(one.status_code, one.json()["status"]) for one in (waits, ready)] == [
        (503, "warming"),
        (200, "ready"),
    ]


def test_the_document_and_the_list_have_all_of_them(services: Services) -> None:
    document, models = ask(services, ("/openapi.json", {}), ("/v1/models", {}))
    assert {"/v1/score", "/v1/recommend"} <= document.json()["paths"].keys()
    assert [one["name"] for one in models.json()["models"]] == ["toy", "other", "rank"]
    for path in ("/v1/score", "/v1/recommend"):
        assert "409" in document.json()["paths"][path]["post"]["responses"], "a model of the other kind"


def test_a_model_that_is_busy_keeps_no_other_waiting(services: Services) -> None:
    entered, gate = threading.Event(), threading.Event()
    before = dataclasses.replace(services[0])
    toy, other = services[0], services[1]

    class Stuck:
        def score(self, request: Request) -> Scores:
            _, candidates = slate_of(request)
            entered.set()
            assert gate.wait(10)
            return np.zeros(len(candidates), np.float32)

    toy.work, toy.inline_size, other.inline_size = Scoring(Stuck(), toy.items), 0, 0
    app = build_app(Models(services), Limits())

    async def check() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            body = {"history": [], "candidates": ["i1"]}
            stuck = asyncio.create_task(http.post("/v1/score", json=body | {"model": "toy"}))
            await asyncio.to_thread(entered.wait, 10)
            assert (await http.post("/v1/score", json=body | {"model": "other"})).status_code == 200
            assert not stuck.done()
            gate.set()
            assert (await stuck).status_code == 200

    try:
        asyncio.run(check())
    finally:
        gate.set()
        toy.work = before.work
