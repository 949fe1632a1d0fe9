"""A small artefact made without torch, and ways to talk to a server of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from adopted_app import Adopted, asker
from adopted_models import adopt_ranker
from onnx import TensorProto, helper, numpy_helper

from rbserve.core.files import digest
from rbserve.core.types import Scores
from rbserve.data.artifact import (
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
from rbserve.data.dataset import ItemTable, write_items
from rbserve.server.api.options import Limits
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import open_service
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Ranked, SlateQuery, Top

Ask = Callable[..., httpx.Response]
Connect = Callable[[], httpx.AsyncClient]

N_ITEMS = 50
EMBEDDING = 8


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Items i0 to i49, and sigmoid(mean of the history's embeddings . candidate's embedding) as onnx-fp32."""
    path = tmp_path_factory.mktemp("artifacts") / "toy"
    return _write_artifact(path, _scoring_graph(), group="C", task="ctr", config_kind="none", config={})


@pytest.fixture(scope="session")
def listwise(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same items, ranked by sum of the history's embeddings . item's embedding as onnx-fp32."""
    path = tmp_path_factory.mktemp("artifacts") / "rank"
    return _write_artifact(path, _ranking_graph(), group="G", task="seqrec", config_kind="sasrec", config={})


@pytest.fixture
def limits() -> Limits:
    return Limits(max_history=30, max_candidates=40, max_k=60, max_body_bytes=10_000)


@pytest.fixture
def service(artifact: Artifact, limits: Limits) -> Iterator[Service[SlateQuery, Scores]]:
    """The artefact's service, warm."""
    opened = open_service(artifact, "onnx-fp32", threads=1)
    opened.warm_up(limits)
    yield opened
    opened.close()


@pytest.fixture
def ranking(listwise: Artifact, limits: Limits) -> Iterator[Service[Top, Ranked]]:
    """The list-wise artefact's service, warm."""
    opened = open_service(listwise, "onnx-fp32", threads=1)
    opened.warm_up(limits)
    yield opened
    opened.close()


@pytest.fixture
def models(service: Service[SlateQuery, Scores]) -> Models:
    """That one service."""
    return Models([service])


@pytest.fixture
def connect(models: Models, limits: Limits) -> Connect:
    """Makes HTTP clients of the service that see a 500 where the application raises, as real clients do."""
    return _clients(models, limits)


@pytest.fixture
def ask(connect: Connect) -> Ask:
    """Sends one request: ask(method, path, json=...)."""
    return _asker(connect)


@pytest.fixture
def ask_ranking(ranking: Service[Top, Ranked], limits: Limits) -> Ask:
    """Sends one request to the list-wise service."""
    return _asker(_clients(Models([ranking]), limits))


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small cross-encoder of transformers, adopted."""
    from adopted import write_requests
    from small_reranker import make_reranker

    from rbserve.core.adoption import AdoptOptions
    from rbserve.exporters.adopt.adopt import adopt

    folder = tmp_path_factory.mktemp("reranker")
    requests = write_requests(
        folder / "pairs",
        {"title": np.array(["topic1word1", "topic2word2 topic2word3", "topic3word1"], object)},
        {"query": np.array(["topic1word3"], object)},
        offsets=np.array([0, 3]),
    )
    return adopt(str(make_reranker(folder / "model")), requests, AdoptOptions(), folder / "small-ce")


@pytest.fixture
def reranker(cross_encoder: Artifact) -> Iterator[Service[Any, Any]]:
    """The cross-encoder's service, warm."""
    opened = open_service(cross_encoder, "onnx-fp32", 1)
    opened.warm_up(Limits(max_candidates=8))
    yield opened
    opened.close()


def _clients(models: Models, limits: Limits) -> Connect:
    app = build_app(models, limits)

    def make() -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    return make


def _asker(connect: Connect) -> Ask:
    def send(method: str, path: str, **options: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            async with connect() as http:
                return await http.request(method, path, **options)

        return asyncio.run(once())

    return send


def _write_artifact(path: Path, graph: onnx.ModelProto, **facts: Any) -> Artifact:
    file = "onnx/fp32.onnx"
    (path / "onnx").mkdir(parents=True)
    onnx.save(graph, path / file)
    write_items(path / ITEMS, ItemTable([f"i{row}" for row in range(N_ITEMS)], ["a film"] * N_ITEMS))
    manifest = ArtifactManifest(
        schema=SCHEMA,
        name=path.name,
        item_form="id",
        dataset=DatasetReference("tiny", "f" * 64),
        training=TrainingRecord(0, {}, 1, 1, "gauc", 0.5, 0.1),
        libraries={},
        files={name: digest(path / name) for name in (ITEMS, file)},
        variants={"onnx-fp32": VariantRecord(file, Parity(1, 0.0, 0.0, None, None, None))},
        **facts,
    )
    write_manifest(path, manifest)
    return open_artifact(path)


def _scoring_graph() -> onnx.ModelProto:
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
    constants = {"rows": np.array([0]), "one": np.float32(1), "column": np.array([1])}
    inputs = {"history": ("int32", ["T"]), "candidates": ("int32", ["N"])}
    return _model(nodes, constants, inputs, {"scores": ("float32", ["N"])})


def _ranking_graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "histories"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "places"], ["users"], keepdims=0),
        helper.make_node("Gemm", ["users", "table"], ["all"], transB=1),
        helper.make_node("Min", ["k", "catalogue"], ["most"]),
        helper.make_node("TopK", ["all", "most"], ["scores", "best"]),
        helper.make_node("Cast", ["best"], ["items"], to=TensorProto.INT32),
    ]
    constants = {"places": np.array([1]), "catalogue": np.array([N_ITEMS])}
    inputs = {"histories": ("int32", ["B", "T"]), "k": ("int64", [1])}
    outputs = {"items": ("int32", ["B", "K"]), "scores": ("float32", ["B", "K"])}
    return _model(nodes, constants, inputs, outputs)


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    inputs: dict[str, tuple[str, list[Any]]],
    outputs: dict[str, tuple[str, list[Any]]],
) -> onnx.ModelProto:
    """A graph over the embeddings of the toy items."""
    table = np.random.default_rng(0).normal(size=(N_ITEMS, EMBEDDING)).astype(np.float32)
    described = [
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
            for name, (kind, shape) in tensors.items()
        ]
        for tensors in (inputs, outputs)
    ]
    values = {"table": table, **constants}
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "toy", *described, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


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
