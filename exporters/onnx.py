"""A trained CTR model as an ONNX graph: score(history[T], candidates[N]), both lengths dynamic.

The graph holds the item table and computes the user's part once for the whole slate. Its metadata says
which model and data it came from, so that a file that has gone astray can be told.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from rbserve import __version__
from rbserve.core.artifact import Artifact
from rbserve.models.ctr import CtrModel
from rbserve.runtime import load_model

OPSET = 17
TRACED_HISTORY = 3
TRACED_CANDIDATES = 2


class _Score(torch.nn.Module):
    """The `score` of a model as a `forward`, which is what the exporter traces."""

    def __init__(self, model: CtrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, history: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        return self.model.score(history, candidates)


def write_fp32(artifact: Artifact, path: Path) -> None:
    """Writes the fp32 graph of an artefact to `path`."""
    import onnx

    example = (
        torch.zeros(TRACED_HISTORY, dtype=torch.int32),
        torch.zeros(TRACED_CANDIDATES, dtype=torch.int32),
    )
    with warnings.catch_warnings():
        # The exporter that builds on torch.export needs one more package and writes a larger graph here.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(
            _Score(load_model(artifact)).eval(),
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["history", "candidates"],
            output_names=["scores"],
            dynamic_axes={"history": {0: "T"}, "candidates": {0: "N"}, "scores": {0: "N"}},
        )
    graph = onnx.load(path)
    describe(graph, artifact, "onnx-fp32")
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)


def describe(graph: object, artifact: Artifact, variant: str) -> None:
    """Writes the origin of a graph into its metadata, replacing what was there."""
    import onnx

    assert isinstance(graph, onnx.ModelProto)
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
