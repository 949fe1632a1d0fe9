"""Graphs with smaller weights. Embeddings, which are looked up and not multiplied, stay in fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.artifact import Artifact
from rbserve.exporters.calibration import Ranges, weighted_products
from rbserve.exporters.graph import origin, save

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

SMALLEST_BLOCK, LARGEST_BLOCK = 32, 128
INT8_PRODUCTS = 4  # onnxruntime's accuracy level for products of 8-bit integers
DOMAIN = "com.microsoft"
SEVEN_BITS = 63
"""The largest weight of 7 bits. On x86 without VNNI the kernel adds two products in 16 bits: 2 x 255 x 63 fits there,
2 x 255 x 127 does not. 7 bits cost no time, and any session, whatever its options, is exact on every processor."""

Array = NDArray[Any]
Add = Callable[[str, Array], None]


def write_int8(artifact: Artifact, fp32: Path, path: Path, ranges: Ranges) -> None:
    """int8: weights with a scale for each output, activations with one for each product, fixed by `ranges`.

    A score does not depend on what else is in the slate, and no call looks for the largest of its activations. What
    lies outside its range is cut off. Weights keep to SEVEN_BITS.
    """
    import onnx

    model = onnx.load(fp32)
    quantise_products(model.graph, ranges)
    model.opset_import.add(domain=DOMAIN, version=1)
    save(model, path, origin(artifact, "onnx-int8"))


def quantise_products(graph: GraphProto, ranges: Ranges) -> None:
    """Puts integer products in the place of `weighted_products`; an input that several of them take is rounded once."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    added: dict[str, TensorProto] = {}

    def add(name: str, array: Array) -> None:
        if name not in added:
            added[name] = numpy_helper.from_array(array, name)

    products = {node.output[0]: node for node in weighted_products(graph)}
    biases = _biases(graph, products, tensors)
    joined = {addition.output[0] for addition, _ in biases.values()}
    nodes: list[NodeProto] = []
    rounded: set[str] = set()
    for node in graph.node:
        if node.output[0] in products:
            if node.input[0] not in rounded:
                nodes.append(_rounding(node.input[0], ranges[node.input[0]], add))
            rounded.add(node.input[0])
            nodes.append(_product(node, tensors[node.input[1]], biases.get(node.output[0]), add))
        elif node.output[0] not in joined:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *added.values()])


def _biases(
    graph: GraphProto, products: Mapping[str, NodeProto], tensors: Mapping[str, TensorProto]
) -> dict[str, tuple[NodeProto, str]]:
    """By the output of a MatMul, the addition of a bias that alone follows it, and that bias's name."""
    takers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    biases = {}
    for output, product in products.items():
        match takers.get(output, []):
            case [addition] if addition.op_type == "Add" and product.op_type == "MatMul":
                (other,) = (name for name in addition.input if name != output)
                if other in tensors and [*tensors[other].dims] == [tensors[product.input[1]].dims[1]]:
                    biases[output] = addition, other
    return biases


def _rounding(name: str, bounds: tuple[float, float], add: Add) -> NodeProto:
    """Rounds an activation to uint8; where it begins at 0, onnxruntime drops a ReLU before it."""
    from onnx import helper

    low, high = bounds
    scale = max(high - low, 1e-9) / 255
    add(f"{name}.scale", np.array(scale, np.float32))
    add(f"{name}.zero", np.array(round(-low / scale), np.uint8))
    return helper.make_node("QuantizeLinear", [name, f"{name}.scale", f"{name}.zero"], [f"{name}.uint8"])


def _product(
    node: NodeProto, tensor: TensorProto, bias_of: tuple[NodeProto, str] | None, add: Add
) -> NodeProto:
    """An integer product in the place of a Gemm, or of a MatMul and the addition of its bias."""
    from onnx import helper, numpy_helper

    weight, given = numpy_helper.to_array(tensor), node.input[0]
    if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
        weight = weight.T
    whole, scales = quantise_outputs(weight)
    add(f"{tensor.name}.int8", whole)
    add(f"{tensor.name}.scales", scales)
    last, bias = bias_of or (node, node.input[2] if len(node.input) > 2 else "")
    return helper.make_node(
        "MatMulIntegerToFloat",
        [f"{given}.uint8", f"{tensor.name}.int8", f"{given}.scale", f"{tensor.name}.scales", f"{given}.zero", "", bias],
        [last.output[0]], domain=DOMAIN, name=f"{node.name}.int8")  # fmt: skip


def quantise_outputs(weight: Array) -> tuple[Array, Array]:
    """A weight [K, N] in 7 bits: int8[K, N] and the scales float32[N] of its outputs."""
    scales = np.maximum(np.abs(weight).max(axis=0), 1e-9) / SEVEN_BITS
    return np.ascontiguousarray(np.rint(weight / scales).astype(np.int8)), scales.astype(np.float32)


def block_size(features: int, bits: int) -> int:
    """How many of an output's weights share a scale. In 8 bits, large blocks cost little and multiply faster."""
    size = LARGEST_BLOCK if bits == 8 else SMALLEST_BLOCK
    while size > SMALLEST_BLOCK and features % size:
        size //= 2
    return size


def quantise_blocks(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A weight [K, N] in 8 or 4 bits, as MatMulNBits takes it: packed [N, blocks, bytes], and a scale for each block.

    Activations are rounded by blocks too, to 8 bits. Language models have a few activations a hundred times as large
    as the others: one scale for all of a product's, as in `write_int8`, leaves nothing of the small ones (LOG.md).
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
