"""From a module to an ONNX graph that can be told apart from others."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from rbserve import __version__
from rbserve.core.artifact import Artifact

OPSET = 17
Axes = Mapping[str, Mapping[int, str]]


def trace(module: nn.Module, example: tuple[Tensor, ...], path: Path, inputs: Axes, outputs: Axes) -> None:
    """Writes the graph of a module's `forward`, with names and dynamic axes for what goes in and out."""
    with warnings.catch_warnings():
        # The exporter that builds on torch.export needs one more package and writes a larger graph here.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in {**inputs, **outputs}.items()},
        )


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
    onnx.save(graph, path)
    onnx.checker.check_model(path, full_check=True)
