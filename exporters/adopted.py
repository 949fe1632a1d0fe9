"""Graphs of a model that was made elsewhere in lower precision, made of its own fp32 graph."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.requests import Request
from rbserve.core.types import Scorer
from rbserve.core.variants import DEFAULT_SERVED
from rbserve.data.artifact import Artifact
from rbserve.data.request_set import RequestSet
from rbserve.exporters.calibration import (
    REQUESTS,
    SLATE,
    ActivationRecorder,
    Activations,
    TokenActivation,
    weighted_products,
)
from rbserve.exporters.graph import origin, save
from rbserve.exporters.quantize import DOMAIN, quantise_products
from rbserve.exporters.request_parity import draw_requests
from rbserve.runtimes.adopted import AdoptedScorer
from rbserve.runtimes.onnx import exported_scorer
from rbserve.runtimes.session import open_session, simplify_graph

if TYPE_CHECKING:
    from onnx import ModelProto

SEED = 0
CONVOLUTION = "Conv"
OLDEST_OPSET = 10
"""The first opset that can round an activation."""
ROUNDING, NEWEST_OPSET = "QuantizeLinear", 27
"""The newest opset whose rounding onnxruntime 1.32 computes; in later ones its own operator of that name is taken."""

Writer = Callable[[Artifact, RequestSet, Path, Path], None]


def find_unchanged(artifact: Artifact) -> dict[str, str]:
    """The precisions that would change nothing in a model, each with the reason; they are not exported."""
    if DEFAULT_SERVED not in artifact.manifest.variants:
        return dict.fromkeys(("fp32", *WRITERS), "it has no ONNX graph")
    with tempfile.TemporaryDirectory(prefix="rbserve-adopt-") as folder:
        model = _open(_simplified(artifact, Path(folder)))
        reasons = {precision: reason_of(model) for precision, reason_of in REASONS.items()}
    return {precision: reason for precision, reason in reasons.items() if reason is not None}


def _nothing_for_int8(model: ModelProto) -> str | None:
    operators = sorted({node.op_type for node in model.graph.node})
    if opset_of(model) < OLDEST_OPSET:
        return f"its opset {opset_of(model)} is older than {OLDEST_OPSET}, the first one with integers"
    if any(weighted_products(model.graph)) or CONVOLUTION in operators:
        return None
    return f"it has no products by constant matrices (its operators: {', '.join(operators)})"


def _nothing_for_fp16(model: ModelProto) -> str | None:
    if any(tensor.data_type == tensor.FLOAT for tensor in model.graph.initializer):
        return None
    return "it has no weights in 32 bits beside those of trees and linear models of scikit-learn"


REASONS: Mapping[str, Callable[[ModelProto], str | None]] = {
    "int8": _nothing_for_int8,
    "fp16": _nothing_for_fp16,
}
"""Why a precision would change nothing in a graph, None where it changes it."""


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators that a graph uses; 0 where it uses none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def write_graphs(
    artifact: Artifact, requests: RequestSet, folder: Path, precisions: Sequence[str]
) -> dict[str, list[Path]]:
    """The graph of each precision: in fp32 as it came, others written into `folder`."""
    fp32 = artifact.file(artifact.manifest.variants[DEFAULT_SERVED].file)
    graphs = {
        precision: fp32 if precision == "fp32" else folder / f"{precision}.onnx" for precision in precisions
    }
    for precision, path in graphs.items():
        if precision in WRITERS:
            WRITERS[precision](artifact, requests, _simplified(artifact, folder), path)
    return {precision: [path] for precision, path in graphs.items()}


def _simplified(artifact: Artifact, folder: Path) -> Path:
    """The fp32 graph as onnxruntime simplifies it, which shows the constants that products are by."""
    files = [artifact.file(name) for name in artifact.manifest.variants[DEFAULT_SERVED].files]
    simple = folder / "simple.onnx"
    if not simple.exists():
        simplify_graph(files[0], simple)
    return simple


def write_int8(artifact: Artifact, requests: RequestSet, simple: Path, path: Path) -> None:
    """Rounds products by constant matrices as those of the zoo's models; of a graph without any, its convolutions."""
    model = _open(simple)
    if any(weighted_products(model.graph)):
        _round_products(artifact, requests, simple, model)
    else:
        model = _round_convolutions(artifact, requests, simple, path)
    _save(artifact, model, path, "int8")


def write_fp16(artifact: Artifact, requests: RequestSet, simple: Path, path: Path) -> None:  # noqa: ARG001
    """Weights and activations in 16 bits, inputs and outputs as they were. Where a processor has no such kernels
    onnxruntime computes them in 32 bits, which takes longer than fp32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    _save(artifact, convert_float_to_float16(_open(simple), keep_io_types=True), path, "fp16")


WRITERS: Mapping[str, Writer] = {"int8": write_int8, "fp16": write_fp16}


def _round_products(artifact: Artifact, requests: RequestSet, simple: Path, model: ModelProto) -> None:
    """Rounds the products of a graph in place."""
    opset = opset_of(model)
    quantise_products(model.graph, _activations(artifact, requests, simple, model), opset)
    if opset > NEWEST_OPSET:
        for node in model.graph.node:
            node.domain = DOMAIN if node.op_type == ROUNDING else node.domain
    if DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.add(domain=DOMAIN, version=1)


def _activations(artifact: Artifact, requests: RequestSet, simple: Path, model: ModelProto) -> Activations:
    """The inputs of a graph's products, recorded on requests; of a reranker none is: its tokens have own scales."""
    if artifact.is_reranker:
        return {node.input[0]: TokenActivation() for node in weighted_products(model.graph)}
    recorder = ActivationRecorder(simple)
    _score_some(artifact, requests, exported_scorer(artifact, [simple], opening=lambda _: recorder))
    return recorder.activations


def _open(path: Path) -> ModelProto:
    """A graph whose constants nobody can replace: some formats list them among the inputs."""
    import onnx

    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def _save(artifact: Artifact, model: ModelProto, path: Path, precision: str) -> None:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    save(model, path, metadata | origin(artifact, precision), check=False)


def _score_some(artifact: Artifact, requests: RequestSet, scorer: Scorer) -> None:
    """Scores up to REQUESTS requests, of at most SLATE candidates each, with a scorer that records what it sees."""
    for number in draw_requests(requests, len(requests.users), np.random.default_rng(SEED))[:REQUESTS]:
        begin, end = requests.offsets[number : number + 2].tolist()
        rows = np.arange(begin, min(end, begin + SLATE))
        scorer.score(requests.request_of(artifact.signature, rows, number))


class InputRecorder:
    """Runs a graph and notes what goes in; afterwards a reader of calibration data for onnxruntime's quantiser."""

    def __init__(self, graph: Path, outputs: Sequence[str]) -> None:
        self._session, self._outputs = open_session(graph, threads=1), outputs
        self._seen: list[Request] = []

    def __call__(self, request: Request) -> list[NDArray[Any]]:
        """The outputs of the graph."""
        self._seen.append(request)
        outputs: list[NDArray[Any]] = self._session.run(self._outputs, request)
        return outputs

    def get_next(self) -> Request | None:
        """The inputs of the next call, None after the last."""
        return self._seen.pop(0) if self._seen else None


def _round_convolutions(artifact: Artifact, requests: RequestSet, simple: Path, path: Path) -> ModelProto:
    """The graph with convolutions in 8 bits, by onnxruntime's own quantiser: one fixed scale for each activation."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static

    recorder = InputRecorder(simple, [output.name for output in artifact.signature.outputs])
    _score_some(artifact, requests, AdoptedScorer(recorder, artifact.signature))
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises on the root logger
    try:
        quantize_static(
            simple,
            path,
            recorder,
            op_types_to_quantize=[CONVOLUTION],
            per_channel=True,
            reduce_range=True,  # exact on processors whose kernel adds two products in 16 bits
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.getLogger().setLevel(level)
    return onnx.load(path)
