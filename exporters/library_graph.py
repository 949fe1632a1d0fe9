"""The ONNX graph of a library's model: one input, one output, held against the library on rows at its thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rbserve.core.errors import first_line
from rbserve.core.requests import SLATE
from rbserve.core.types import Vectors
from rbserve.exporters.library_models import FEATURES, LibraryModel
from rbserve.runtimes.session import open_session

ROWS = 1_000
SEED = 2024
ROUNDING = 1e-4
"""How far a score may be from the library's, by its size (at least 1): sums in float32 of hundreds of trees."""
AS_ZERO = 1e-30
"""LightGBM takes numbers up to 1e-35 as 0."""
MOST_OTHER = 0.05
"""The share of rows that score otherwise above which a graph is no graph of the model."""


class Graph(NamedTuple):
    """A graph's file, the name of its output, and how many columns that has."""

    path: Path
    output: str
    width: int


def make_graph(model: LibraryModel, path: Path) -> tuple[Graph | None, list[str]]:
    """Writes the graph of a model, if there is one that scores like it; and a line for each thing to know of it."""
    try:
        converted = model.graph()
    except Exception as error:  # noqa: BLE001  (each converter has its own)
        reason = first_line(error)[:200]
        return None, [f"no ONNX graph, only the library: the converter does not know this model ({reason})"]
    output = _keep_scores(converted, model.width)
    path.write_bytes(converted.SerializeToString())
    graph = Graph(path, output, _width_of(path, output, model.width))
    other, largest = _differences(model, graph, converted)
    if other > MOST_OTHER:
        path.unlink()
        return None, [
            "no ONNX graph, only the library: the converter makes one that scores otherwise "
            f"(by up to {largest:.2g}, {other:.1%} of {ROWS:,} rows at the model's thresholds)"
        ]
    return graph, [f"the ONNX graph {_describe(other, largest)}"] if other else []


def _describe(other: float, largest: float) -> str:
    return (
        f"scores otherwise than the library in {other:.1%} of {ROWS:,} rows at the model's thresholds, "
        f"by up to {largest:.2g}: use the native variant where that matters"
    )


def _keep_scores(model: Any, width: int) -> str:
    """Leaves a graph the input FEATURES float32[N, k] and its scores alone; their name."""
    from onnx import TensorProto, helper

    graph = model.graph
    output = _original(graph, graph.output[-1].name)
    nodes = _needed(graph, output)
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.input.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [SLATE, width]))
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [SLATE, None]))
    domains = {entry.domain: entry.version for entry in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*entry) for entry in domains.items())
    return output


def _original(graph: Any, name: str) -> str:
    """The tensor that another one is a copy of: converters add ZipMap, Identity and a product by 1."""
    from onnx import numpy_helper

    ones = {
        tensor.name
        for tensor in graph.initializer
        if (numpy_helper.to_array(tensor) == 1).tolist() in (True, [True])
    }
    producers = {output: node for node in graph.node for output in node.output}
    while node := producers.get(name):
        factors = [factor for factor in node.input if factor not in ones]
        if node.op_type not in ("ZipMap", "Identity", "Mul") or len(factors) > 1:
            break
        name = factors[0]
    return name


def _needed(graph: Any, output: str) -> list[Any]:
    """The nodes that an output depends on, in their order."""
    wanted, nodes = {output}, list[Any]()
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.append(node)
    return nodes[::-1]


def _width_of(path: Path, output: str, features: int) -> int:
    """How many columns a graph's output has, once it is written down in the file; 0 of a vector."""
    import onnx

    scores = open_session(path, 1).run([output], {FEATURES: np.zeros((3, features), np.float32)})[0]
    model = onnx.load(path)
    shape = model.graph.output[0].type.tensor_type.shape
    if scores.ndim == 1:
        del shape.dim[1:]
    else:
        shape.dim[1].dim_value = scores.shape[1]
    path.write_bytes(model.SerializeToString())
    return int(scores.shape[1]) if scores.ndim > 1 else 0


def _differences(model: LibraryModel, graph: Graph, converted: Any) -> tuple[float, float]:
    """The share of rows that the graph scores otherwise than the library, and the largest difference."""
    rows = threshold_rows(converted.graph, model.width)
    scores = open_session(graph.path, 1).run([graph.output], {FEATURES: rows})[0]
    scores = scores[:, 1] if graph.width == 2 else scores.reshape(-1)
    reference = np.asarray(model.function(rows), np.float64)
    difference = np.abs(scores - reference)
    other = ~(difference <= ROUNDING * np.maximum(1.0, np.abs(reference)))  # not a number: otherwise
    return float(other.mean()), float(np.nanmax(difference, initial=0.0))


def threshold_rows(graph: Any, width: int) -> Vectors:
    """Rows float32[ROWS, k]: values that the trees of a graph compare with, those beside them, zeros and others."""
    rng = np.random.default_rng(SEED)
    rows = rng.normal(size=(ROWS, width)).astype(np.float32)
    for feature, near in _near_thresholds(graph).items():
        if feature < width:  # others are made of the input, within the model
            rows[:, feature] = rng.choice(near, ROWS)
    rows[np.abs(rows) <= AS_ZERO] = 0
    return rows


def _near_thresholds(graph: Any) -> dict[int, Vectors]:
    """Of each feature that trees compare: their thresholds and the numbers beside those; of a category, its numbers."""
    from onnx import helper

    near: dict[int, Vectors] = {}
    for node in graph.node:
        if not node.op_type.startswith("TreeEnsemble"):
            continue
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        modes, features = np.array(attributes["nodes_modes"]), np.array(attributes["nodes_featureids"])
        values = np.array(attributes["nodes_values"], np.float32)
        for feature in np.unique(features[modes != b"LEAF"]).tolist():
            own = (features == feature) & (modes != b"LEAF")
            near[feature] = np.unique(values[own])
            if not (modes[own] == b"BRANCH_EQ").any():
                near[feature] = _with_neighbours(near[feature])
    return near


def _with_neighbours(thresholds: Vectors) -> Vectors:
    """Thresholds, the next numbers below and above, the middles between them, and 0."""
    sides = [np.nextafter(thresholds, np.float32(side)) for side in (-np.inf, np.inf)]
    middles = (thresholds[:-1] + thresholds[1:]) / 2
    return np.concatenate([thresholds, *sides, middles, np.zeros(1, np.float32)])
