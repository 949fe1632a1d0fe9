"""Graphs that get their weights from a file, one tensor at a time.

A language model is traced over weights that take no memory, and the graph is then filled: what memory never holds as
a whole is exported too, in fp32 or with weights in 8 or 4 bits.
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
from rbserve.exporters.tokenwise import Plan, Rounding, TokenwiseProducts

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ALIGNMENT = 4096  # of a tensor in the data file: it can be mapped
SMALLEST = 1024  # bytes; smaller tensors stay in the graph's file
FEWEST = 16  # rows and columns of a weight that is worth rounding

Array = NDArray[Any]


def weightless(shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors of these shapes that all lie on one number: a model with them can be traced, and takes no memory."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


def shapes_of(path: Path) -> dict[str, torch.Size]:
    """The shapes of a safetensors file's tensors."""
    with safe_open(path, framework="pt") as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def trace_without_weights(
    model: nn.Module, example: tuple[Tensor, ...], inputs: Axes, outputs: Axes
) -> ModelProto:
    """The graph of a model in which its parameters are inputs, called as the module calls them."""
    names = [name for name, _ in model.named_parameters()]
    weights = [parameter.detach() for parameter in model.parameters()]
    return trace(
        _Called(model, names, len(example)), (*example, *weights), {**inputs, **{name: {} for name in names}}, outputs
    )  # fmt: skip


class _Called(nn.Module):
    """A model, not registered as a part, that is called with its parameters as arguments."""

    def __init__(self, model: nn.Module, names: list[str], inputs: int) -> None:
        super().__init__()
        self._call: Callable[..., Any] = model.eval().__call__
        self._owners = [(model.get_submodule(name.rpartition(".")[0]), name) for name in names]
        self._inputs = inputs

    def forward(self, *arguments: Tensor) -> Any:
        """What the model makes of its inputs, which come before its parameters."""
        for (owner, name), weight in zip(self._owners, arguments[self._inputs :], strict=True):
            owner._parameters[name.rpartition(".")[2]] = weight  # type: ignore[assignment]
        return self._call(*arguments[: self._inputs])


def fill(
    graph: ModelProto, weights: Path, name_in_file: Callable[[str], str], data: Path, bits: int, plan: Plan
) -> None:
    """Gives a graph made by `trace_without_weights` its weights, from a safetensors file.

    Of 32 bits all are as they are. Of 8, products that are planned are `TokenwiseProducts`; the others, and all of 4
    bits, have weights in blocks (`quantise_blocks`); what is looked up and not multiplied is kept in 16 bits. Where
    there are more than LARGEST bytes of fp32 they go into the file `data`.
    """
    with safe_open(weights, framework="pt") as file:
        parameters = {
            one.name: name_in_file(one.name) for one in graph.graph.input
            if name_in_file(one.name) in file.keys()  # noqa: SIM118
        }  # fmt: skip
        total = sum(4 * int(np.prod(file.get_slice(name).get_shape())) for name in parameters.values())
        uses = _uses(graph, parameters)
        with _writing(graph, data if total > LARGEST else None) as add:
            placing = _Placing(add, bits)
            for parameter, name in parameters.items():
                array = file.get_tensor(name).float().numpy()
                placing.place(parameter, array, uses[parameter], plan.get(name))
    nodes = [*placing.nodes(graph.graph.node)]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    gone = set(parameters)
    kept = [one for one in graph.graph.input if one.name not in gone]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    if bits < 32:
        graph.opset_import.add(domain=DOMAIN, version=1)


class _Use(NamedTuple):
    """A node that takes a parameter, and those that take what a transposition made of it."""

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
    """Gives parameters to the nodes that use them, and collects what comes in the place of nodes, by their id."""

    def __init__(self, add: Callable[[str, Array], None], bits: int) -> None:
        self._add, self._bits, self._tokenwise = add, bits, TokenwiseProducts(add)
        self._instead: dict[int, list[NodeProto]] = {}

    def place(self, name: str, array: Array, uses: list[_Use], rounding: Rounding | None) -> None:
        """One parameter, as each of the nodes takes it that use it."""
        plain = False
        for node, products in uses:
            if node.op_type == "Transpose":  # of a linear layer
                self._instead[id(node)] = []
                for product in products:
                    self._multiply(product, f"{name}.T", array.T, rounding)
            elif node.op_type == "Gemm" and node.input[1] == name and self._is_rounded(array):
                self._multiply(node, f"{name}.T", array.T, rounding)  # one over two dimensions
            elif node.op_type == "Gather" and self._bits < 32:
                self._look_up_halves(node, name, array)
            else:
                plain = True
        if plain:
            self._add(name, array)

    def nodes(self, old: Iterable[NodeProto]) -> Iterator[NodeProto]:
        """The nodes of a graph that had `old`, once all parameters have their place."""
        return self._tokenwise.ordered(new for node in old for new in self._instead.get(id(node), (node,)))

    def _is_rounded(self, array: Array) -> bool:
        return self._bits < 32 and min(array.shape) >= FEWEST

    def _multiply(self, product: NodeProto, name: str, weight: Array, rounding: Rounding | None) -> None:
        """A product with a weight [K, N], and an addition where it had one."""
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
            made = self._tokenwise.nodes(product, name, weight, rounding.smooth)
        else:
            made = [self._in_blocks(product, name, weight)]
        if bias:
            made.append(helper.make_node("Add", [product.output[0], bias], [output]))
        self._instead[id(product)] = made

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
        """Rows of a table in 16 bits, and only what was looked up in 32."""
        from onnx import TensorProto, helper

        half, found = f"{name}.half", node.output[0]
        self._add(half, array.astype(np.float16))
        node.input[0], node.output[0] = half, f"{found}.half"
        self._instead[id(node)] = [
            node, helper.make_node("Cast", [f"{found}.half"], [found], to=TensorProto.FLOAT)
        ]  # fmt: skip


@contextmanager
def _writing(graph: ModelProto, data: Path | None) -> Iterator[Callable[[str, Array], None]]:
    """A function that gives the graph a tensor, once: in itself, or, if it is not small, in a file beside it."""
    from onnx import TensorProto, numpy_helper

    there: set[str] = set()

    def add_inside(name: str, array: Array) -> None:
        if name not in there:
            graph.graph.initializer.append(numpy_helper.from_array(array, name))
        there.add(name)

    if data is None:
        yield add_inside
        return
    with data.open("wb") as file:

        def add(name: str, array: Array) -> None:
            if array.nbytes < SMALLEST or name in there:
                add_inside(name, array)
                return
            there.add(name)
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
