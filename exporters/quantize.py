"""Graphs with smaller weights. Embeddings, which are looked up and not multiplied, stay in fp32."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbserve.core.artifact import Artifact
from rbserve.exporters.graph import is_large, origin, save

BLOCK = 32
INT8_PRODUCTS = 4  # onnxruntime's accuracy level for products of 8-bit integers


def write_int8(artifact: Artifact, fp32: Path, path: Path) -> None:
    """Dynamic int8: weights per output channel, activations per call.

    Weights keep to 7 bits (`reduce_range`): on CPUs with AVX2 but no VNNI the kernel adds two products in
    16 bits, which 8-bit weights overflow. It costs nothing in time and scores are the same on every CPU.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(fp32)
    with _quiet():  # it recommends a pre-processing step that changes nothing here
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
    save(onnx.load(path), path, origin(artifact, "onnx-int8"))


def write_blocks(artifact: Artifact, fp32: Path, path: Path, bits: int) -> None:
    """Weights in `bits` bits, with a scale for each 32 of a column; activations are rounded by blocks, to 8 bits.

    Language models have a few activations a hundred times as large as the others: one scale for all of a call's, as
    in `write_int8`, leaves nothing of the small ones (LOG.md).
    """
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=INT8_PRODUCTS, bits=bits
    )
    with _quiet():
        quantiser = MatMulNBitsQuantizer(onnx.load(fp32), algo_config=config)
        quantiser.process()
    save(quantiser.model.model, path, origin(artifact, f"onnx-int{bits}"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the messages of libraries that log by the root logger's level."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _stacked_products(graph: object) -> list[str]:
    """Products with a weight of more than two dimensions (DCNv2's experts): per-channel kernels refuse them."""
    import onnx

    assert isinstance(graph, onnx.ModelProto)
    stacked = {one.name for one in graph.graph.initializer if len(one.dims) > 2}
    return [node.name for node in graph.graph.node if node.op_type == "MatMul" and stacked & set(node.input)]
