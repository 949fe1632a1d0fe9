"""Quantised weights: products in 8-bit integers, and weights in blocks of 8 or 4 bits. Embeddings stay in fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.data.artifact import Artifact
from rbserve.exporters.calibration import Activation, Activations, weighted_products
from rbserve.exporters.graph import OPSET, graphs_of, names_read, origin, save

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

SMALLEST_BLOCK, LARGEST_BLOCK = 32, 128
INT8_PRODUCTS = 4  # onnxruntime's accuracy level for products of 8-bit integers
DOMAIN = "com.microsoft"
AXES_AS_INPUT = 18  # the opset since which a reduction takes its axes as an input
SEVEN_BITS = 63
"""The largest weight of 7 bits. On x86 without VNNI the kernel adds two products in 16 bits: 2 x 255 x 63 fits there,
2 x 255 x 127 does not. 7 bits cost no time, and every session is exact on every processor, whatever its options."""
LEVELS, ZERO_POINT = 127, 128  # of rows that have a scale of their own
ONE, MIDDLE, SMALLEST, STEPS, LAST_AXIS = (
    f"rbserve.{name}" for name in ("one", "middle", "smallest", "steps", "last_axis")
)
"""Constants of a rounded graph; no graph of a user has such names."""

Array = NDArray[Any]
Add = Callable[[str, Array], None]


def write_int8(artifact: Artifact, fp32: Path, path: Path, activations: Activations) -> None:
    """Writes the int8 graph of an fp32 graph: weights of 7 bits, a scale for each output; activations of 8 bits.

    An activation has one fixed scale, from calibration; values outside its range are clipped. Where few rows are far
    larger than the others (not `Activation.is_even`), each row has its own scale. Either way a score does not depend on
    the other candidates of the slate.
    """
    import onnx

    model = onnx.load(fp32)
    quantise_products(model.graph, activations)
    model.opset_import.add(domain=DOMAIN, version=1)
    save(model, path, origin(artifact, "int8"))


def quantise_products(graph: GraphProto, activations: Activations, opset: int = OPSET) -> None:
    """Replaces `weighted_products` by integer products, in place; an input of several products is rounded once."""
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
            source = node.input[0]
            if source not in rounded:
                rounded[source], rounding = _round(source, activations[source], add, opset)
                nodes.extend(rounding)
            nodes.extend(
                _product(node, rounded[source], tensors[node.input[1]], biases.get(node.output[0]), add)
            )
        elif node.output[0] not in joined:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = names_read(graph) | {output.name for output in graph.output}
    unchanged = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*unchanged, *added.values()])


def _biases(
    graph: GraphProto, products: Mapping[str, NodeProto], tensors: Mapping[str, TensorProto]
) -> dict[str, tuple[NodeProto, str]]:
    """For each MatMul whose output only a bias is added to: the addition and the bias's name, by that output."""
    takers: dict[str, list[NodeProto]] = {}
    for inner in graphs_of(graph):
        for node in inner.node:
            for name in node.input:
                takers.setdefault(name, []).append(node)
    biases, outputs = {}, {output.name for output in graph.output}
    for output, product in products.items():
        if output in outputs:
            continue
        match takers.get(output, []):
            case [addition] if addition.op_type == "Add" and product.op_type == "MatMul":
                other = next((name for name in addition.input if name != output), "")
                if other in tensors and [*tensors[other].dims] == [tensors[product.input[1]].dims[1]]:
                    biases[output] = addition, other
    return biases


class Rounded(NamedTuple):
    """The tensor names of a rounded activation: its integers, its scale, its zero point and a scale for each row."""

    whole: str
    scale: str
    zero: str
    row_scale: str | None = None


def _round(name: str, activation: Activation, add: Add, opset: int) -> tuple[Rounded, list[NodeProto]]:
    """The nodes that round an activation to uint8. Where its range begins at 0, onnxruntime drops a ReLU before it."""
    from onnx import helper

    if not activation.is_even:
        return Rounded(f"{name}.int8", ONE, MIDDLE, f"{name}.scale"), round_rows(name, name, add, opset)
    add(f"{name}.scale", np.array(activation.step, np.float32))
    add(f"{name}.zero", np.array(activation.zero, np.uint8))
    rounded = Rounded(f"{name}.uint8", f"{name}.scale", f"{name}.zero")
    return rounded, [helper.make_node("QuantizeLinear", [name, rounded.scale, rounded.zero], [rounded.whole])]


def round_rows(name: str, prefix: str, add: Add, opset: int = OPSET) -> list[NodeProto]:
    """The nodes that round an activation to `<prefix>.int8`, each row by its own `<prefix>.scale`.

    Before opset 18 the axes of a reduction are an attribute.
    """
    from onnx import helper

    add(SMALLEST, np.array(1e-9, np.float32))
    add(STEPS, np.array(LEVELS, np.float32))
    add(ONE, np.array(1, np.float32))
    add(MIDDLE, np.array(ZERO_POINT, np.uint8))
    if opset < AXES_AS_INPUT:
        largest = helper.make_node(
            "ReduceMax", [f"{prefix}.abs"], [f"{prefix}.largest"], keepdims=1, axes=[-1]
        )
    else:
        add(LAST_AXIS, np.array([-1], np.int64))
        largest = helper.make_node(
            "ReduceMax", [f"{prefix}.abs", LAST_AXIS], [f"{prefix}.largest"], keepdims=1
        )
    return [
        helper.make_node("Abs", [name], [f"{prefix}.abs"]),
        largest,
        helper.make_node("Max", [f"{prefix}.largest", SMALLEST], [f"{prefix}.above"]),
        helper.make_node("Div", [f"{prefix}.above", STEPS], [f"{prefix}.scale"]),
        helper.make_node("Div", [STEPS, f"{prefix}.above"], [f"{prefix}.inverse"]),
        helper.make_node("Mul", [name, f"{prefix}.inverse"], [f"{prefix}.scaled"]),
        helper.make_node("QuantizeLinear", [f"{prefix}.scaled", ONE, MIDDLE], [f"{prefix}.int8"]),
    ]


def round_matrix(name: str, prefix: str, add: Add) -> list[NodeProto]:
    """The nodes that round an activation [rows, K] as `round_rows` does, in fewer passes over it.

    QuantizeLinear divides by the scales of the rows itself. It takes them as a vector, for which no other number of
    dimensions would do.
    """
    from onnx import helper, numpy_helper

    add(SMALLEST, np.array(1e-9, np.float32))
    add(STEPS, np.array(LEVELS, np.float32))
    add(ONE, np.array(1, np.float32))
    add(MIDDLE, np.array(ZERO_POINT, np.uint8))
    add(LAST_AXIS, np.array([-1], np.int64))
    middle = numpy_helper.from_array(np.array([ZERO_POINT], np.uint8))
    names = (
        f"{prefix}.{part}"
        for part in ("largest", "smallest", "below", "above", "scale", "scales", "rows", "middles")
    )
    largest, smallest, below, above, scale, scales, rows, middles = names
    return [
        helper.make_node("ReduceMax", [name, LAST_AXIS], [largest], keepdims=1),
        helper.make_node("ReduceMin", [name, LAST_AXIS], [smallest], keepdims=1),
        helper.make_node("Neg", [smallest], [below]),
        helper.make_node("Max", [largest, below, SMALLEST], [above]),
        helper.make_node("Div", [above, STEPS], [scale]),
        helper.make_node("Squeeze", [scale, LAST_AXIS], [scales]),
        helper.make_node("Shape", [scales], [rows]),
        helper.make_node("ConstantOfShape", [rows], [middles], value=middle),
        helper.make_node("QuantizeLinear", [name, scales, middles], [f"{prefix}.int8"], axis=0),
    ]


def _product(
    node: NodeProto, rounded: Rounded, tensor: TensorProto, bias_of: tuple[NodeProto, str] | None, add: Add
) -> list[NodeProto]:
    """The nodes of an integer product that replace a Gemm, or a MatMul and the addition of its bias."""
    from onnx import helper, numpy_helper

    weight = numpy_helper.to_array(tensor)
    if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
        weight = weight.T
    whole, scales = quantise_outputs(weight)
    add(f"{tensor.name}.int8", whole)
    add(f"{tensor.name}.scales", scales)
    last, bias = bias_of or (node, node.input[2] if len(node.input) > 2 else "")
    output, name = last.output[0], f"{node.name}.int8"
    inputs = [rounded.whole, f"{tensor.name}.int8", rounded.scale, f"{tensor.name}.scales", rounded.zero]
    if rounded.row_scale is None:
        with_bias = [*inputs, "", bias]
        return [helper.make_node("MatMulIntegerToFloat", with_bias, [output], domain=DOMAIN, name=name)]
    sums, scaled = f"{output}.sums", f"{output}.scaled" if bias else output
    return [
        helper.make_node("MatMulIntegerToFloat", inputs, [sums], domain=DOMAIN, name=name),
        helper.make_node("Mul", [sums, rounded.row_scale], [scaled]),
        *([helper.make_node("Add", [scaled, bias], [output])] if bias else []),
    ]


def quantise_outputs(weight: Array) -> tuple[Array, Array]:
    """Rounds a weight [K, N] to 7 bits: int8[K, N], and the scales float32[N] of its outputs."""
    scales = np.maximum(np.abs(weight).max(axis=0), 1e-9) / SEVEN_BITS
    return np.ascontiguousarray(np.rint(weight / scales).astype(np.int8)), scales.astype(np.float32)


def block_size(features: int, bits: int) -> int:
    """The number of weights of an output that share a scale; large in 8 bits, where it costs little and is faster."""
    size = LARGEST_BLOCK if bits == 8 else SMALLEST_BLOCK
    while size > SMALLEST_BLOCK and features % size:
        size //= 2
    return size


def quantise_blocks(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Rounds a weight [K, N] to 8 or 4 bits for MatMulNBits: packed [N, blocks, bytes], and a scale for each block.

    The operator rounds activations to 8 bits by blocks as well. Language models have a few activations a hundred times
    as large as the others: one scale for the whole product, as in `write_int8`, rounds the small ones to 0 (LOG.md).
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
