"""Sizes that are the same in every call become constants: a small call is then its products, not arithmetic on sizes.

transformers asks each layer for sizes, a handful of nodes at a time, of which each costs about as much as a small
product. Here a graph is run on a few requests of unlike sizes, and what they have in common is written into it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rbserve.exporters.graph import names_read, save
from rbserve.runtimes.session import open_session

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

COPIED, INFERRED = 0, -1
"""In the shape of a Reshape: the size that the input has at this place; what is left."""
SIZES = {"Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4), "ConstantOfShape": (0,)}
"""The inputs that say sizes, by the type of the node."""
Array = NDArray[Any]


def fix_shapes(model: ModelProto, requests: Sequence[Mapping[str, Array]]) -> None:
    """Replaces computed sizes that are the same in all requests by constants, in place.

    The requests are inputs of the graph in which every size that may vary does, and no two are alike. The shape of a
    Reshape becomes constant where each size is the same, is the input's own at the same place, or is the only one left.
    """
    from onnx import numpy_helper

    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    reshapes = [node for node in graph.node if node.op_type == "Reshape" and node.input[1] in makers]
    sizes = _sizes(graph.node, makers)
    seen = _observed(model, requests, [*sizes, *dict.fromkeys(node.input[0] for node in reshapes)])
    constants: dict[str, Array] = {}
    for node in reshapes:
        shape = _constant_shape(
            [values[node.input[1]] for values in seen], [values[node.input[0]].shape for values in seen]
        )
        if shape is not None:
            node.input[1] = f"{node.output[0]}.shape"
            constants[node.input[1]] = np.array(shape, np.int64)
    for name in sizes:
        first, *others = (values[name] for values in seen)
        if all(np.array_equal(first, other) for other in others):
            constants[name] = first
    nodes = [node for node in graph.node if node.output[0] not in constants]
    del graph.node[:]
    graph.node.extend(nodes)
    _remove_unread(model)
    read = names_read(graph)
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items() if name in read
    )


def _sizes(nodes: Sequence[NodeProto], makers: Mapping[str, NodeProto]) -> list[str]:
    """The names of the tensors that sizes are computed with, from the question for a shape on."""
    sizes: dict[str, None] = {}
    waiting = [
        node.input[place]
        for node in nodes
        for place in SIZES.get(node.op_type, ())
        if place < len(node.input)
    ]
    while waiting:
        name = waiting.pop()
        if name in sizes or name not in makers:
            continue
        sizes[name] = None
        if makers[name].op_type != "Shape":
            waiting.extend(makers[name].input)
    return list(sizes)


def _observed(
    model: ModelProto, requests: Sequence[Mapping[str, Array]], names: Sequence[str]
) -> list[dict[str, Array]]:
    """The named tensors of each request."""
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    watched.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in outputs
    )
    with tempfile.TemporaryDirectory(prefix="rbserve-sizes-") as folder:
        path = Path(folder) / "watched.onnx"
        save(watched, path, {}, check=False)
        session = open_session(path, threads=1)
        return [dict(zip(names, session.run(list(names), request), strict=True)) for request in requests]


def _constant_shape(shapes: Sequence[Array], before: Sequence[tuple[int, ...]]) -> list[int] | None:
    """The shape of a Reshape as constants, from those of several calls and of its inputs; None where there is none."""
    shape: list[int | None] = []
    for place, values in enumerate(zip(*shapes, strict=True)):
        if len(set(values)) == 1:
            shape.append(int(values[0]))
        elif all(
            place < len(sizes) and sizes[place] == value for sizes, value in zip(before, values, strict=True)
        ):
            shape.append(COPIED)
        else:
            shape.append(None)
    if shape.count(None) + shape.count(INFERRED) > 1:
        return None
    return [INFERRED if size is None else size for size in shape]


def _remove_unread(model: ModelProto) -> None:
    """Removes nodes whose outputs nothing reads, in place."""
    graph, outputs = model.graph, {output.name for output in model.graph.output}
    while True:
        read = names_read(graph) | outputs
        nodes = [node for node in graph.node if set(node.output) & read]
        if len(nodes) == len(graph.node):
            return
        del graph.node[:]
        graph.node.extend(nodes)
