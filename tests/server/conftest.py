"""A small artefact made without torch, and ways to talk to a server of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rbserve.core.artifact import (
    ITEMS,
    SCHEMA,
    Artifact,
    ArtifactManifest,
    DatasetReference,
    Parity,
    TrainingRecord,
    VariantRecord,
    open_artifact,
    write_manifest,
)
from rbserve.core.dataset import ItemTable, write_items
from rbserve.core.files import digest
from rbserve.server.app import build_app
from rbserve.server.run import open_service
from rbserve.server.schema import Limits
from rbserve.server.service import ScoringService

N_ITEMS = 50
EMBEDDING = 8


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Items i0 to i49, and sigmoid(mean of the history's embeddings . candidate's embedding) as onnx-fp32."""
    path = tmp_path_factory.mktemp("artifacts") / "toy"
    file = "onnx/fp32.onnx"
    (path / "onnx").mkdir(parents=True)
    onnx.save(_graph(), path / file)
    write_items(path / ITEMS, ItemTable([f"i{row}" for row in range(N_ITEMS)], ["a film"] * N_ITEMS))
    manifest = ArtifactManifest(
        schema=SCHEMA,
        name="toy",
        group="C",
        task="ctr",
        item_form="id",
        config_kind="none",
        config={},
        dataset=DatasetReference("tiny", "f" * 64),
        training=TrainingRecord(0, {}, 1, 1, "gauc", 0.5, 0.1),
        libraries={},
        files={name: digest(path / name) for name in (ITEMS, file)},
        variants={"onnx-fp32": VariantRecord(file, Parity(1, 0.0, 0.0, None, None, None))},
    )
    write_manifest(path, manifest)
    return open_artifact(path)


@pytest.fixture
def limits() -> Limits:
    return Limits(max_history=30, max_candidates=40, max_body_bytes=10_000)


@pytest.fixture
def service(artifact: Artifact, limits: Limits) -> Iterator[ScoringService]:
    """The artefact's service, warm."""
    opened = open_service(artifact, "onnx-fp32", threads=1)
    opened.warm_up(limits)
    yield opened
    opened.close()


@pytest.fixture
def connect(service: ScoringService, limits: Limits) -> Callable[[], httpx.AsyncClient]:
    """Makes HTTP clients of the service that see a 500 where the application raises, as real clients do."""
    app = build_app(service, limits)

    def make() -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    return make


@pytest.fixture
def ask(connect: Callable[[], httpx.AsyncClient]) -> Callable[..., httpx.Response]:
    """Sends one request: ask(method, path, json=...)."""

    def send(method: str, path: str, **options: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            async with connect() as http:
                return await http.request(method, path, **options)

        return asyncio.run(once())

    return send


def _graph() -> onnx.ModelProto:
    table = np.random.default_rng(0).normal(size=(N_ITEMS, EMBEDDING)).astype(np.float32)
    constants = {"table": table, "rows": np.array([0]), "one": np.float32(1), "column": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["table", "history"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "rows"], ["total"], keepdims=1),
        helper.make_node("Size", ["history"], ["length"]),
        helper.make_node("Cast", ["length"], ["length_float"], to=TensorProto.FLOAT),
        helper.make_node("Max", ["length_float", "one"], ["divisor"]),
        helper.make_node("Div", ["total", "divisor"], ["user"]),
        helper.make_node("Gather", ["table", "candidates"], ["items"]),
        helper.make_node("Mul", ["items", "user"], ["products"]),
        helper.make_node("ReduceSum", ["products", "column"], ["logits"], keepdims=0),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info("history", TensorProto.INT32, ["T"]),
            helper.make_tensor_value_info("candidates", TensorProto.INT32, ["N"]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
