"""The item table of a graph: a request can bring its own, and `items add` appends rows to it.

Graphs of groups B and C look item vectors up in one initializer. It is declared an input with a default, so that a
call can pass a small table instead: the vectors of new texts. A graph that ranks has a table too, a bias for each item
and the number of items. Appending rows needs no torch and traces nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError
from rbserve.data.artifact import Artifact
from rbserve.exporters.graph import N_ITEMS, origin, save
from rbserve.runtimes.item_vectors import NEIGHBOUR_ROWS, with_zero_rows
from rbserve.runtimes.onnx import ITEM_TABLE

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

RANKED_TABLE = "model.transformer.token_embedding.weight"
"""The item table of a graph that ranks."""
BIASES = "item_biases"
"""The items' biases, float32[n], in a graph that ranks with them."""
OF_NEIGHBOURS = "neighbour_scores"
"""What neighbours add to the scores, float32[B, n], in a graph that ranks with them."""
COUNTED_ROWS = tuple(f"model.{name}" for name in NEIGHBOUR_ROWS)
"""The rows of items in such a graph, to which new items add zeros."""


def declare_table(artifact: Artifact, precision: str, path: Path) -> None:
    """Declares the item table of a graph file an input with a default, in place."""
    import onnx

    graph = onnx.load(path)
    _declare(graph, _table(graph, path))
    save(graph, path, origin(artifact, precision))


def append_rows(
    artifact: Artifact,
    precision: str,
    source: Path,
    target: Path,
    vectors: NDArray[np.float32],
    biases: NDArray[np.float32] | None = None,
) -> None:
    """Writes the graph `source` to `target` with vectors float32[K, d] appended to its item table.

    `biases` float32[K] are those of the items in a graph that ranks. Raises ArtifactError if the graph has no item
    table with a row for each item of the artefact.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(source)
    table = _table(graph, source)
    rows = numpy_helper.to_array(table)
    if len(rows) != len(artifact.items):
        raise _no_table(source, f"{len(rows)} rows for {len(artifact.items)} items")
    table.CopyFrom(numpy_helper.from_array(np.concatenate([rows, vectors.astype(rows.dtype)]), table.name))
    for tensor in graph.graph.initializer:
        if tensor.name == BIASES and biases is not None:
            grown = np.concatenate([numpy_helper.to_array(tensor), biases])
        elif tensor.name in COUNTED_ROWS:
            grown = with_zero_rows(numpy_helper.to_array(tensor), len(vectors))
        elif tensor.name == N_ITEMS:
            grown = numpy_helper.to_array(tensor) + len(vectors)
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(grown, tensor.name))
    _declare(graph, table)
    known = {entry.key for entry in graph.metadata_props}  # a graph of version 0.1 keeps its rounding
    save(graph, target, {key: value for key, value in origin(artifact, precision).items() if key in known})


def _table(graph: ModelProto, path: Path) -> TensorProto:
    for tensor in graph.graph.initializer:
        if tensor.name in (ITEM_TABLE, RANKED_TABLE):
            return tensor
    raise _no_table(path, "no such initializer")


def _declare(graph: ModelProto, table: TensorProto) -> None:
    from onnx import helper

    known = [value for value in graph.graph.input if value.name != table.name]
    del graph.graph.input[:]
    graph.graph.input.extend(known)
    described = helper.make_tensor_value_info(table.name, table.data_type, ["items", table.dims[1]])
    graph.graph.input.append(described)


def _no_table(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"the item table of {path} cannot be changed: {why}", "rbserve export writes the graph anew"
    )
