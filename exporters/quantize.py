"""Graphs with smaller weights. Embeddings, which are looked up and not multiplied, stay in fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.data.artifact import Artifact
from rbserve.exporters.calibration import Activation, Activations, weighted_products
from rbserve.exporters.graph import origin, save

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

SMALLEST_BLOCK, LARGEST_BLOCK = 32, 128
INT8_PRODUCTS = 4  # onnxruntime's accuracy level for products of 8-bit integers
DOMAIN = "com.microsoft"
SEVEN_BITS = 63
"""The largest weight of 7 bits. On x86 without VNNI the kernel adds two products in 16 bits: 2 x 255 x 63 fits there,
2 x 255 x 127 does not. 7 bits cost no time, and any session, whatever its options, is exact on every processor."""
LEVELS, ZERO_POINT = 127, 128  # of rows that are rounded by their own size

Array = NDArray[Any]
Add = Callable[[str, Array], None]


def write_int8(artifact: Artifact, fp32: Path, path: Path, activations: Activations) -> None:
    """int8: weights with a scale for each output, in SEVEN_BITS; activations with one fixed scale for each product.

    No call looks for the largest of its activations, and what lies outside the range that calibration saw is cut off.
    Where few rows are far larger than the others (`Activation.is_even`), each row has its own scale. Either way a score
    does not depend on what else is in the slate.
    """
    import onnx

    model = onnx.load(fp32)
    quantise_products(model.graph, activations)
    model.opset_import.add(domain=DOMAIN, version=1)
    save(model, path, origin(artifact, "int8"))


def quantise_products(graph: GraphProto, activations: Activations) -> None:
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
    rounded: dict[str, Rounded] = {}
    for node in graph.node:
        if node.output[0] in products:
            given = node.input[0]
            if given not in rounded:
                rounded[given], made = _round(given, activations[given], add)
                nodes.extend(made)
            nodes.extend(
                _product(node, rounded[given], tensors[node.input[1]], biases.get(node.output[0]), add)
            )
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


class Rounded(NamedTuple):
    """The names of a rounded activation, of its scale and of what stands for 0; and of a scale for each row, if any."""

    whole: str
    scale: str
    zero: str
    row_scale: str | None = None


def _round(name: str, activation: Activation, add: Add) -> tuple[Rounded, list[NodeProto]]:
    """Rounds an activation to uint8; where it begins at 0, onnxruntime drops a ReLU before it."""
    from onnx import helper

    if not activation.is_even:
        return Rounded(f"{name}.int8", "one", "zero_point", f"{name}.scale"), round_rows(name, name, add)
    add(f"{name}.scale", np.array(activation.step, np.float32))
    add(f"{name}.zero", np.array(activation.zero, np.uint8))
    rounded = Rounded(f"{name}.uint8", f"{name}.scale", f"{name}.zero")
    return rounded, [helper.make_node("QuantizeLinear", [name, rounded.scale, rounded.zero], [rounded.whole])]


def round_rows(name: str, prefix: str, add: Add) -> list[NodeProto]:
    """Makes `<prefix>.int8` of an activation, each row rounded by its own `<prefix>.scale`."""
    from onnx import helper

    add("smallest", np.array(1e-9, np.float32))
    add("levels", np.array(LEVELS, np.float32))
    add("one", np.array(1, np.float32))
    add("zero_point", np.array(ZERO_POINT, np.uint8))
    add("last_axis", np.array([-1], np.int64))
    return [
        helper.make_node("Abs", [name], [f"{prefix}.abs"]),
        helper.make_node("ReduceMax", [f"{prefix}.abs", "last_axis"], [f"{prefix}.largest"], keepdims=1),
        helper.make_node("Max", [f"{prefix}.largest", "smallest"], [f"{prefix}.above"]),
        helper.make_node("Div", [f"{prefix}.above", "levels"], [f"{prefix}.scale"]),
        helper.make_node("Div", ["levels", f"{prefix}.above"], [f"{prefix}.inverse"]),
        helper.make_node("Mul", [name, f"{prefix}.inverse"], [f"{prefix}.scaled"]),
        helper.make_node("QuantizeLinear", [f"{prefix}.scaled", "one", "zero_point"], [f"{prefix}.int8"]),
    ]


def _product(
    node: NodeProto, rounded: Rounded, tensor: TensorProto, bias_of: tuple[NodeProto, str] | None, add: Add
) -> list[NodeProto]:
    """An integer product in the place of a Gemm, or of a MatMul and the addition of its bias."""
    from onnx import helper, numpy_helper

    weight = numpy_helper.to_array(tensor)
    if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
        weight = weight.T
    whole, scales = quantise_outputs(weight)
    add(f"{tensor.name}.int8", whole)
    add(f"{tensor.name}.scales", scales)
    last, bias = bias_of or (node, node.input[2] if len(node.input) > 2 else "")
    output, given = (
        last.output[0],
        [rounded.whole, f"{tensor.name}.int8", rounded.scale, f"{tensor.name}.scales"],
    )
    name = f"{node.name}.int8"
    if rounded.row_scale is None:
        inputs = [*given, rounded.zero, "", bias]
        return [helper.make_node("MatMulIntegerToFloat", inputs, [output], domain=DOMAIN, name=name)]
    sums, scaled = f"{output}.sums", f"{output}.scaled" if bias else output
    return [
        helper.make_node("MatMulIntegerToFloat", [*given, rounded.zero], [sums], domain=DOMAIN, name=name),
        helper.make_node("Mul", [sums, rounded.row_scale], [scaled]),
        *([helper.make_node("Add", [scaled, bias], [output])] if bias else []),
    ]


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
