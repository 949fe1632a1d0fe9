"""int8 as version 0.1 exported it: dynamic, all activations of a call share a scale. Users have such files."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from rbserve.data.artifact import Artifact, add_variants, open_artifact


def with_old_int8(artifact: Artifact, path: Path) -> Artifact:
    """A copy of an artefact, its int8 graphs and their record as version 0.1 wrote them."""
    copy = open_artifact(shutil.copytree(artifact.path, path))
    record = copy.manifest.variants["onnx-int8"]
    for graph in record.graphs:
        write_old_int8(copy.path / graph.replace("int8", "fp32"), copy.path / graph)
    return add_variants(
        copy, {"onnx-int8": msgspec.structs.replace(record, activation_scales=None, checks=None)}
    )


def write_old_int8(fp32: Path, path: Path) -> None:
    """Weights in 7 bits per output, stacks of matrices (DCNv2's experts) in fp32."""
    graph = onnx.load(fp32).graph
    stacked = {one.name for one in graph.initializer if len(one.dims) > 2}
    excluded = [node.name for node in graph.node if node.op_type == "MatMul" and stacked & set(node.input)]
    with _quiet():
        quantize_dynamic(
            fp32, path, op_types_to_quantize=["MatMul", "Gemm"], nodes_to_exclude=excluded, per_channel=True,
            reduce_range=True, weight_type=QuantType.QInt8)  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that quantize_dynamic logs."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
