"""New versions of a model: they take its place whole and tested, or not at all, and no request sees both."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from versions import scale_embeddings

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.files import digest
from rbserve.core.requests import Request, slate_request
from rbserve.core.types import Scores
from rbserve.data.artifact import ITEMS, Artifact, open_artifact, write_manifest
from rbserve.data.dataset import ItemTable, write_items
from rbserve.data.golden import GoldenAnswer, write_checks
from rbserve.runtimes.opening import open_scorer
from rbserve.server.api.options import Limits
from rbserve.server.observe.telemetry import Telemetry
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import Opening, Reloader, ServedVariant

BODY = {"history": ["i1", "i2"], "candidates": ["i3", "i4"]}
Replace = Callable[..., Artifact]


@pytest.fixture
def served(artifact: Artifact, tmp_path: Path) -> Artifact:
    """A copy of toy, to be replaced."""
    return open_artifact(Path(shutil.copytree(artifact.path, tmp_path / "toy")))


@pytest.fixture
def replace(served: Artifact) -> Replace:
    """Another version in its place: embeddings times `scale`, items in another order, checks that it passes or not."""

    def make(
        scale: float = -1.0, reverse: bool = False, check: float | None = None, **changed: Any
    ) -> Artifact:
        scale_embeddings(served.path / "onnx/fp32.onnx", scale)
        ids = served.items.ids[::-1] if reverse else served.items.ids
        write_items(served.path / ITEMS, ItemTable(list(ids), ["a film"] * len(ids)))
        record = served.manifest.variants["onnx-fp32"]
        files = served.manifest.files
        if check is not None:
            name = "onnx/fp32.checks.json"
            write_checks(served.path / name, [GoldenAnswer([1, 2], [3], [check])], 1e-3)
            record = msgspec.structs.replace(record, checks=name)
            files = files | {name: digest(served.path / name)}
        files = files | {name: digest(served.path / name) for name in (ITEMS, "onnx/fp32.onnx")}
        write_manifest(
            served.path,
            msgspec.structs.replace(served.manifest, files=files, variants={"onnx-fp32": record}, **changed),
        )
        return open_artifact(served.path)

    return make


def opened(served: Artifact) -> tuple[Models, Reloader]:
    opening = Opening([ServedVariant(served.path, "onnx-fp32")])
    models = Models(opening.open(Telemetry()))
    return models, Reloader(models, opening)


def of(artifact: Artifact, history: list[str], candidates: list[str]) -> Scores:
    rows = artifact.items.lookup
    return open_scorer(artifact, "onnx-fp32").score(slate_request(rows(history), rows(candidates)))


def client(models: Models, reloader: Reloader | None = None) -> httpx.AsyncClient:
    async def reload() -> str | None:
        assert reloader
        reason = await asyncio.to_thread(reloader.prepare)
        if reason is None:
            reloader.commit()
        return reason

    app = build_app(models, Limits(), reload=reload if reloader else None)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def test_a_new_version_is_asked_for_by_the_admin_route_and_answers_from_then_on(
    served: Artifact, replace: Replace
) -> None:
    models, reloader = opened(served)

    async def check() -> None:
        async with client(models, reloader) as http:
            before = (await http.get("/v1/models")).json()["models"][0]["version"]
            first = (await http.post("/v1/score", json=BODY)).json()["scores"]
            new = replace(scale=-0.5, reverse=True)
            still = (await http.post("/v1/score", json=BODY)).json()["scores"]
            assert first == still
            told = await http.post("/v1/admin/reload")
            assert told.status_code == 200
            assert told.json()["models"][0]["version"] != before
            after = (await http.post("/v1/score", json=BODY)).json()["scores"]
            expected = of(new, BODY["history"], BODY["candidates"])
            np.testing.assert_allclose([one["score"] for one in after], expected, atol=1e-7)
            assert "/v1/admin/reload" in (await http.get("/openapi.json")).json()["paths"]

    asyncio.run(check())
    assert models.telemetry.registry.get_sample_value("rbserve_reloads_total", {"outcome": "taken"}) == 1


def test_there_is_no_admin_route_unless_it_is_asked_for(served: Artifact) -> None:
    models, _ = opened(served)

    async def check() -> None:
        async with client(models) as http:
            assert (await http.post("/v1/admin/reload")).status_code == 404
            assert "/v1/admin/reload" not in (await http.get("/openapi.json")).json()["paths"]

    asyncio.run(check())


def test_a_version_that_answers_otherwise_than_its_export_changes_nothing(
    served: Artifact, replace: Replace
) -> None:
    models, reloader = opened(served)
    replace(check=7.0)

    async def check() -> None:
        async with client(models, reloader) as http:
            before = (await http.post("/v1/score", json=BODY)).json()
            told = await http.post("/v1/admin/reload")
            assert (told.status_code, told.json()["error"]["code"]) == (409, "reload_refused")
            assert (
                "toy onnx-fp32 answers otherwise than when it was exported" in told.json()["error"]["message"]
            )
            assert (await http.post("/v1/score", json=BODY)).json() == before

    asyncio.run(check())
    assert models.telemetry.registry.get_sample_value("rbserve_reloads_total", {"outcome": "refused"}) == 1


def test_a_server_does_not_start_with_one_either(served: Artifact, replace: Replace) -> None:
    replace(check=7.0)
    with pytest.raises(
        ArtifactError, match="answers otherwise than when it was exported: a score differs by"
    ):
        opened(served)


def test_one_that_passes_is_served(served: Artifact, replace: Replace) -> None:
    models, reloader = opened(served)
    new = replace(scale=0.5)
    score = float(of(new, ["i1", "i2"], ["i3"])[0])
    replace(scale=1.0, check=score)
    assert reloader.prepare() is None
    reloader.commit()
    assert next(iter(models)).warm


def damage(served: Artifact) -> None:
    (served.path / "onnx/fp32.onnx").write_bytes(b"no graph")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damage, "artefact toy is damaged"),
        (lambda served: shutil.rmtree(served.path), "no artefact at"),
        (lambda served: (served.path / "manifest.json").write_text("{"), "is not an artefact manifest"),
        (
            lambda served: write_manifest(
                served.path, msgspec.structs.replace(served.manifest, name="other")
            ),
            "where toy was there is other now, another model",
        ),
    ],
)
def test_what_cannot_be_opened_changes_nothing(
    served: Artifact, spoil: Callable[[Artifact], object], said: str
) -> None:
    models, reloader = opened(served)
    before = list(models)
    spoil(served)
    reason = reloader.prepare()
    assert reason is not None
    assert said in reason
    assert list(models) == before


def test_one_that_was_trained_and_not_exported_says_how_to_export_it(served: Artifact) -> None:
    models, reloader = opened(served)
    write_manifest(served.path, msgspec.structs.replace(served.manifest, variants={}))
    assert reloader.prepare() == (
        f"onnx-fp32 of toy is not exported at {served.path}; "
        f"rbserve export --model {served.path} --precision fp32"
    )
    assert next(iter(models)).items.ids == served.items.ids


def test_the_examples_of_a_model_are_candidates_after_items_were_retired(served: Artifact) -> None:
    models, reloader = opened(served)
    items = served.items
    write_items(served.path / ITEMS, ItemTable(items.ids, items.texts, frozenset({0, 3})))
    files = served.manifest.files | {ITEMS: digest(served.path / ITEMS)}
    write_manifest(served.path, msgspec.structs.replace(served.manifest, files=files))

    async def check() -> None:
        async with client(models, reloader) as http:
            (model,) = (await http.post("/v1/admin/reload")).json()["models"]
            assert model["examples"] == ["i1", "i2", "i4", "i5", "i6"]
            body = {"history": model["examples"][:2], "candidates": model["examples"]}
            assert (await http.post("/v1/score", json=body)).status_code == 200

    asyncio.run(check())


def test_a_request_that_came_before_is_answered_by_what_was_served_then(
    served: Artifact, replace: Replace
) -> None:
    models, reloader = opened(served)
    old = next(iter(models))
    entered, gate = threading.Event(), threading.Event()
    inner = old.work.scorer

    class Gated:
        def score(self, request: Request) -> Scores:
            entered.set()
            assert gate.wait(10)
            scores: Scores = inner.score(request)
            return scores

    old.work.scorer, old.inline_size = Gated(), 0
    expected = of(served, BODY["history"], BODY["candidates"])

    async def check() -> None:
        async with client(models, reloader) as http:
            waiting = [asyncio.create_task(http.post("/v1/score", json=BODY)) for _ in range(3)]
            await asyncio.to_thread(entered.wait, 10)
            replace(reverse=True)
            assert (await http.post("/v1/admin/reload")).status_code == 200
            assert next(iter(models)) is not old
            gate.set()
            for one in waiting:
                scores = [found["score"] for found in (await one).json()["scores"]]
                np.testing.assert_allclose(scores, expected, atol=1e-7)

    asyncio.run(check())


def test_two_models_of_one_name_are_refused(served: Artifact) -> None:
    opening = Opening([ServedVariant(served.path, "onnx-fp32")] * 2)
    with pytest.raises(UsageError, match="two models have the name toy"):
        opening.open(Telemetry())


def test_an_artefact_that_is_as_it_was_goes_on_being_served(served: Artifact, replace: Replace) -> None:
    models, reloader = opened(served)
    before = list(models)
    assert reloader.prepare() is None
    assert reloader.changed == []
    reloader.commit()
    assert all(now is then for now, then in zip(models, before, strict=True)), "with all that it remembers"
    sample = models.telemetry.registry.get_sample_value
    assert sample("rbserve_reloads_total", {"outcome": "unchanged"}) == 1
    replace(scale=0.5)
    assert reloader.prepare() is None
    assert reloader.changed == ["toy"]
