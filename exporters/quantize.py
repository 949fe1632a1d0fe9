"""Dynamic int8: weights per output channel, activations per call, embeddings left in fp32."""

from __future__ import annotations

import logging
from pathlib import Path

from rbserve.core.artifact import Artifact
from rbserve.exporters.graph import is_large, origin, save


def write_int8(artifact: Artifact, fp32: Path, path: Path) -> None:
    """Quantises the matrix products of the graph at `fp32` and writes the result to `path`.

    Weights keep to 7 bits (`reduce_range`): on CPUs with AVX2 but no VNNI the kernel adds two products in
    16 bits, which 8-bit weights overflow. It costs nothing in time and scores are the same on every CPU.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(fp32)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a pre-processing step that changes nothing here
    try:
        quantize_dynamic(
            fp32,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=_stacked_products(graph),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=is_large(graph),
        )
    finally:
        root.setLevel(level)
    save(onnx.load(path), path, origin(artifact, "onnx-int8"))


def _stacked_products(graph: object) -> list[str]:
    """Products with a weight of more than two dimensions (DCNv2's experts): per-channel kernels refuse them."""
    import onnx

    assert isinstance(graph, onnx.ModelProto)
    stacked = {one.name for one in graph.graph.initializer if len(one.dims) > 2}
    return [node.name for node in graph.graph.node if node.op_type == "MatMul" and stacked & set(node.input)]
