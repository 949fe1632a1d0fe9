"""From a module to an ONNX graph that can be told apart from others."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rbserve import __version__
from rbserve.core.artifact import Artifact

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 17
LARGEST = 1 << 30
Axes = Mapping[str, Mapping[int, str]]


def trace(module: nn.Module, example: tuple[Tensor, ...], path: Path, inputs: Axes, outputs: Axes) -> None:
    """Writes the graph of a module's `forward`, with names and dynamic axes for what goes in and out."""
    import onnx

    with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        traced = Path(folder) / path.name  # the exporter puts large weights beside it, a file each
        # The exporter that builds on torch.export needs one more package and writes a larger graph here.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
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
        save(onnx.load(traced), path)


def save(graph: ModelProto, path: Path) -> None:
    """Writes a graph; weights of more than LARGEST bytes go into `<path>.data`, since protobuf ends at 2 GiB."""
    import onnx

    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)  # it would be appended to
    large = is_large(graph)
    onnx.save_model(graph, path, save_as_external_data=large, location=data.name, size_threshold=1024)


def is_large(graph: ModelProto) -> bool:
    """Whether a graph's weights need a file of their own."""
    return sum(len(weights.raw_data) for weights in graph.graph.initializer) > LARGEST


def describe(path: Path, artifact: Artifact, variant: str) -> None:
    """Writes the origin of a graph into its metadata, and checks the graph."""
    import onnx

    graph = onnx.load(path)
    graph.producer_name, graph.producer_version = "rbserve", __version__
    manifest = artifact.manifest
    del graph.metadata_props[:]
    onnx.helper.set_model_props(
        graph,
        {
            "rbserve.version": __version__,
            "rbserve.model": manifest.name,
            "rbserve.variant": variant,
            "rbserve.dataset": manifest.dataset.name,
            "rbserve.data_fingerprint": manifest.dataset.fingerprint,
        },
    )
    save(graph, path)
    onnx.checker.check_model(path, full_check=True)
