"""Graphs that are traced without weights and then filled from a safetensors file, one tensor at a time.

A language model that does not fit into memory can be exported this way, in fp32 or with weights of 8 or 4 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from rbserve.exporters.graph import LARGEST, Axes, trace
from rbserve.exporters.quantize import DOMAIN, INT8_PRODUCTS, block_size, quantise_blocks
from rbserve.exporters.tokenwise import Plan, Rounding, TokenwiseProducts, merge_scales

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ALIGNMENT = 4096  # of a tensor in the data file, so that it can be memory-mapped
SMALLEST = 1024  # bytes; smaller tensors stay in the graph's file
FEWEST = 16  # rows and columns of a weight that is rounded; smaller ones stay in fp32

Array = NDArray[Any]


def weightless(shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors of these shapes that take no memory (views of one number), to trace a model with."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


def shapes_of(path: Path) -> dict[str, torch.Size]:
    """The shapes of a safetensors file's tensors."""
    with safe_open(path, framework="pt") as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def trace_without_weights(
    model: nn.Module, example: tuple[Tensor, ...], inputs: Axes, outputs: Axes
) -> ModelProto:
    """The graph of a model whose parameters are inputs, named as in the module."""
    names = [name for name, _ in model.named_parameters()]
    weights = [parameter.detach() for parameter in model.parameters()]
    return trace(
        _Called(model, names, len(example)), (*example, *weights), {**inputs, **{name: {} for name in names}}, outputs
    )  # fmt: skip


class _Called(nn.Module):
    """Calls a model, not registered as a submodule, with its parameters as arguments."""

    def __init__(self, model: nn.Module, names: list[str], inputs: int) -> None:
        super().__init__()
        self._call: Callable[..., Any] = model.eval().__call__
        self._owners = [(model.get_submodule(name.rpartition(".")[0]), name) for name in names]
        self._inputs = inputs

    def forward(self, *arguments: Tensor) -> Any:
        """The model's outputs; `arguments` are its inputs and then its parameters."""
        for (owner, name), weight in zip(self._owners, arguments[self._inputs :], strict=True):
            owner._parameters[name.rpartition(".")[2]] = weight  # type: ignore[assignment]
        return self._call(*arguments[: self._inputs])


def fill(
    graph: ModelProto, weights: Path, name_in_file: Callable[[str], str], data: Path, bits: int, plan: Plan,
    flat: bool = False,
) -> None:  # fmt: skip
    """Fills a graph of `trace_without_weights` with the weights of a safetensors file.

    In 32 bits all weights are copied that a node takes. In 8 bits the products in `plan` become `TokenwiseProducts`;
    the others, and all in 4 bits, have weights in blocks (`quantise_blocks`). Rounded graphs keep embeddings in 16
    bits. More than LARGEST bytes of fp32 weights go into the file `data`.
    """
    with safe_open(weights, framework="pt") as file:
        parameters = {
            entry.name: name_in_file(entry.name) for entry in graph.graph.input
            if name_in_file(entry.name) in file.keys()  # noqa: SIM118
        }  # fmt: skip
        uses = _uses(graph, parameters)
        total = sum(
            4 * int(np.prod(file.get_slice(name).get_shape()))
            for key, name in parameters.items()
            if uses[key]
        )
        with _writing(graph, data if total > LARGEST else None) as add:
            placing = _Placing(add, bits, flat)
            for parameter, name in parameters.items():
                if uses[parameter]:
                    array = file.get_tensor(name).float().numpy()
                    placing.place(parameter, array, uses[parameter], plan.get(name))
    nodes = [*placing.nodes(graph.graph.node)]
    if flat:
        nodes = merge_scales(nodes)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    inputs = [entry for entry in graph.graph.input if entry.name not in parameters]
    del graph.graph.input[:]
    graph.graph.input.extend(inputs)
    if bits < 32 and all(opset.domain != DOMAIN for opset in graph.opset_import):
        graph.opset_import.add(domain=DOMAIN, version=1)


class _Use(NamedTuple):
    """A node that takes a parameter; if it transposes it, the nodes that take the result."""

    node: NodeProto
    products: list[NodeProto]


def _uses(graph: ModelProto, parameters: Mapping[str, str]) -> dict[str, list[_Use]]:
    takers: dict[str, list[NodeProto]] = {}
    for node in graph.graph.node:
        for name in dict.fromkeys(node.input):
            takers.setdefault(name, []).append(node)
    return {
        parameter: [
            _Use(node, takers.get(node.output[0], []) if node.op_type == "Transpose" else [])
            for node in takers.get(parameter, [])
        ]
        for parameter in parameters
    }


class _Placing:
    """Adds parameters to a graph and collects the nodes that replace their users, by the id of the replaced node."""

    def __init__(self, add: Callable[[str, Array], None], bits: int, flat: bool) -> None:
        self._add, self._bits, self._tokenwise = add, bits, TokenwiseProducts(add, flat)
        self._instead: dict[int, list[NodeProto]] = {}

    def place(self, name: str, array: Array, uses: list[_Use], rounding: Rounding | None) -> None:
        """Adds one parameter in the form that each of its users needs."""
        plain = False
        for node, products in uses:
            if node.op_type == "Transpose":  # of a linear layer
                self._instead[id(node)] = []
                for product in products:
                    self._multiply(product, f"{name}.T", array.T, rounding)
            elif node.op_type == "Gemm" and node.input[1] == name and self._is_rounded(array):
                self._multiply(node, f"{name}.T", array.T, rounding)  # a linear layer over two dimensions
            elif node.op_type == "Gather" and self._bits < 32:
                self._look_up_halves(node, name, array)
            else:
                plain = True
        if plain:
            self._add(name, array)

    def nodes(self, old: Iterable[NodeProto]) -> Iterator[NodeProto]:
        """The nodes of a graph that had the nodes `old`, after all parameters were placed."""
        return self._tokenwise.ordered(new for node in old for new in self._instead.get(id(node), (node,)))

    def _is_rounded(self, array: Array) -> bool:
        return self._bits < 32 and min(array.shape) >= FEWEST

    def _multiply(self, product: NodeProto, name: str, weight: Array, rounding: Rounding | None) -> None:
        """Replaces a product with a weight [K, N], and the addition of its bias if it has one."""
        from onnx import helper

        weight = np.ascontiguousarray(weight)
        if not self._is_rounded(weight):
            self._add(name, weight)
            product.input[1] = name
            return
        output = product.output[0]
        bias = product.input[2] if product.op_type == "Gemm" else None
        if bias:
            product.output[0] = f"{output}.product"
        if self._bits == 8 and rounding:
            nodes = self._tokenwise.nodes(product, name, weight, rounding.smooth)
        else:
            nodes = [self._in_blocks(product, name, weight)]
        if bias:
            nodes.append(helper.make_node("Add", [product.output[0], bias], [output]))
        self._instead[id(product)] = nodes

    def _in_blocks(self, product: NodeProto, name: str, weight: Array) -> NodeProto:
        from onnx import helper

        bits = self._bits
        packed, scales = quantise_blocks(weight, bits)
        self._add(f"{name}.int{bits}", packed)
        self._add(f"{name}.scales", scales)
        rows, columns = weight.shape
        return helper.make_node(
            "MatMulNBits", [product.input[0], f"{name}.int{bits}", f"{name}.scales"], [product.output[0]],
            name=f"{product.name}.int{bits}", domain=DOMAIN,
            K=rows, N=columns, bits=bits, block_size=block_size(rows, bits), accuracy_level=INT8_PRODUCTS)  # fmt: skip

    def _look_up_halves(self, node: NodeProto, name: str, array: Array) -> None:
        """Looks rows up in a table of 16 bits and casts only those rows to 32."""
        from onnx import TensorProto, helper

        half, output = f"{name}.half", node.output[0]
        self._add(half, array.astype(np.float16))
        node.input[0], node.output[0] = half, f"{output}.half"
        cast = helper.make_node("Cast", [f"{output}.half"], [output], to=TensorProto.FLOAT)
        self._instead[id(node)] = [node, cast]


@contextmanager
def _writing(graph: ModelProto, data: Path | None) -> Iterator[Callable[[str, Array], None]]:
    """Yields a function that adds a tensor to the graph once: inside it or, unless it is small, in the file `data`."""
    from onnx import TensorProto, numpy_helper

    added: set[str] = set()

    def add_inside(name: str, array: Array) -> None:
        if name not in added:
            graph.graph.initializer.append(numpy_helper.from_array(array, name))
        added.add(name)

    if data is None:
        yield add_inside
        return
    with data.open("wb") as file:

        def add(name: str, array: Array) -> None:
            if array.nbytes < SMALLEST or name in added:
                add_inside(name, array)
                return
            added.add(name)
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            tensor = numpy_helper.from_array(array[:0], name)
            tensor.ClearField("raw_data")
            del tensor.dims[:]
            tensor.dims.extend(array.shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", file.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            array.tofile(file)
            graph.graph.initializer.append(tensor)

        yield add
