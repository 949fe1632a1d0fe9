"""Traces torch modules into ONNX graphs and saves them with metadata that says which model they compute."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rbserve.core.variants import exported_variant
from rbserve.core.version import __version__
from rbserve.data.artifact import Artifact
from rbserve.runtimes.session import SESSION_OPTIONS

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto
    from torch import Tensor, nn

OPSET = 18
LARGEST = 1 << 27
ALL_SCORES, N_ITEMS = "all_scores", "n_items"
ACTIVATION_SCALES = "rbserve.activation_scales"  # in a graph's metadata
Axes = Mapping[str, Mapping[int, str]]


def trace(module: nn.Module, example: tuple[Tensor, ...], inputs: Axes, outputs: Axes) -> ModelProto:
    """The graph of a module's `forward`, with names and dynamic axes for its inputs and outputs."""
    import onnx
    import torch  # imported here: changing a graph needs no torch

    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="rbserve-trace-") as folder:
        traced = Path(folder) / "traced.onnx"  # the exporter writes large weights beside it
        # The newer exporter, built on torch.export, needs one more package and writes a larger graph.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Constants in the trace are intended; parity on test rows proves that the graph computes the model.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", message="Exporting aten::index operator")
        torch.onnx.export(
            module.eval(),
            example,
            str(traced),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in {**inputs, **outputs}.items()},
        )
        model = onnx.load(traced)
    use_weights_directly(model.graph)
    return model


def use_weights_directly(graph: GraphProto) -> None:
    """Removes the nodes that give a weight a second name, in place: the exporter makes one for a module called twice.

    A product by such a name would not be known as one by a constant (`calibration.weighted_products`).
    """
    weights, outputs = {tensor.name for tensor in graph.initializer}, {output.name for output in graph.output}
    copies = [node for node in graph.node if node.op_type == "Identity" and node.input[0] in weights]
    names = {node.output[0]: node.input[0] for node in copies if node.output[0] not in outputs}
    for inner in graphs_of(graph):
        for node in inner.node:
            node.input[:] = [names.get(name, name) for name in node.input]
    nodes = [node for node in graph.node if node.output[0] not in names]
    del graph.node[:]
    graph.node.extend(nodes)


def append_top_k(model: ModelProto, n_items: int | None = None) -> None:
    """Adds an input k to a graph of ALL_SCORES [B, n_items]; its outputs become the best k items and their scores.

    Without `n_items` a call's scores say how many items there are.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    if n_items is None:
        graph.node.append(helper.make_node("Shape", [ALL_SCORES], [N_ITEMS], "count_items", start=1, end=2))
    else:
        graph.initializer.append(numpy_helper.from_array(np.array([n_items], np.int64), N_ITEMS))
    graph.node.extend(
        [
            helper.make_node("Min", ["k", N_ITEMS], ["k_or_all"], "bound_k"),
            helper.make_node("TopK", [ALL_SCORES, "k_or_all"], ["scores", "places"], "top_k"),
            helper.make_node("Cast", ["places"], ["items"], "item_numbers", to=TensorProto.INT32),
        ]
    )
    del graph.output[:]
    graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, [1]))
    graph.output.extend(
        [
            helper.make_tensor_value_info("items", TensorProto.INT32, ["B", "K"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "K"]),
        ]
    )


def origin(artifact: Artifact, precision: str) -> dict[str, str]:
    """A graph's metadata: its model, variant and data and, of int8 and int4, how its activations are rounded."""
    manifest, scales = artifact.manifest, activation_scales(artifact, precision)
    rounding = {ACTIVATION_SCALES: scales, SESSION_OPTIONS: "none"} if scales else {}
    return rounding | {
        "rbserve.version": __version__,
        "rbserve.model": manifest.name,
        "rbserve.variant": exported_variant(precision),
        "rbserve.dataset": manifest.dataset.name,
        "rbserve.data_fingerprint": manifest.dataset.fingerprint,
    }


def activation_scales(artifact: Artifact, precision: str) -> str | None:
    """The unit of activations that shares a rounding scale: "product", "token" or "block"; None in fp32.

    The scale of a product is fixed at export or, where few rows are far larger than the others, each row has its own.
    A token, or a block of it, has its own. So no score depends on the other rows of a call. Files of version 0.1 do
    not have this record: their language models are as today's; in their other models all activations of a call share a
    scale.
    """
    if precision == "fp32":
        return None
    if artifact.is_reranker:
        return "token"
    if not artifact.is_language_model:
        return "product"
    return {"int8": "token", "int4": "block"}[precision]


def save(graph: ModelProto, path: Path, origin: Mapping[str, str], check: bool = True) -> None:
    """Writes a graph with its origin, and checks the file unless a user's own graph decides what is in it.

    Weights of more than LARGEST bytes go into `<path>.data`: protobuf ends at 2 GiB, and onnxruntime maps that file,
    so that the tables of several worker processes are one copy.
    """
    import onnx

    graph.producer_name, graph.producer_version = "rbserve", __version__
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, dict(origin))
    data, large = data_file(path), is_large(graph)
    if large:
        data.unlink(missing_ok=True)  # onnx would append to it
    onnx.save_model(graph, path, save_as_external_data=large, location=data.name, size_threshold=1024)
    if check:
        onnx.checker.check_model(path, full_check=True)


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and those inside its nodes (branches, loops)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs_of(inner)


def names_read(graph: GraphProto) -> set[str]:
    """The names of all tensors that nodes of a graph read, or give back from a branch or a loop."""
    inner = list(graphs_of(graph))
    read = {name for each in inner for node in each.node for name in node.input}
    return read | {output.name for each in inner[1:] for output in each.output}


def data_file(path: Path) -> Path:
    """The file beside a graph that holds its weights if they are large."""
    return path.with_name(f"{path.name}.data")


def is_large(graph: ModelProto) -> bool:
    """Whether a graph's weights have more than LARGEST bytes and need a file of their own."""
    return sum(len(weights.raw_data) for weights in graph.graph.initializer) > LARGEST
