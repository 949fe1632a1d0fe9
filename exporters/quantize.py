"""Graphs with smaller weights. Embeddings, which are looked up and not multiplied, stay in fp32."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbserve.core.artifact import Artifact
from rbserve.exporters.graph import is_large, origin, save

SMALLEST_BLOCK, LARGEST_BLOCK = 32, 128
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


def block_size(features: int, bits: int) -> int:
    """How many of an output's weights share a scale. In 8 bits, large blocks cost little and multiply faster."""
    size = LARGEST_BLOCK if bits == 8 else SMALLEST_BLOCK
    while size > SMALLEST_BLOCK and features % size:
        size //= 2
    return size


def quantise_blocks(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A weight [K, N] in 8 or 4 bits, as MatMulNBits takes it: packed [N, blocks, bytes], and a scale for each block.

    Activations are rounded by blocks too, to 8 bits. Language models have a few activations a hundred times as large
    as the others: one scale for all of a call's, as in `write_int8`, leaves nothing of the small ones (LOG.md).
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=block_size(len(weight), bits), is_symmetric=True, bits=bits
    )
    packed, scales, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(weight)
    return packed, scales.reshape(-1)


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
