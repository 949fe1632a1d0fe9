"""A trained click-prediction model as an ONNX graph: score(history[T], candidates[N]), both lengths dynamic.

A model that reads fields takes their tensors too (`core/fields.py`). The graph holds the table of finished item
vectors, whatever they are made of, and computes the user's part once for the whole slate. Its metadata names its model
and data, so that a misplaced file can be recognised.
"""

from __future__ import annotations

from pathlib import Path

import torch

from rbserve.data.artifact import Artifact
from rbserve.exporters.graph import origin, save, trace
from rbserve.models.ctr_base import CtrModel
from rbserve.runtimes.torch import load_model

TRACED_HISTORY = 3
TRACED_CANDIDATES = 2


class _ScoreForward(torch.nn.Module):
    """A model whose `forward` is `score`, for the exporter, which traces `forward`."""

    def __init__(self, model: CtrModel) -> None:
        super().__init__()
        self.model = model
        self.tensors = model.fields.tensors if model.fields else []

    def forward(
        self, history: torch.Tensor, candidates: torch.Tensor, *tensors: torch.Tensor
    ) -> torch.Tensor:
        return self.model.score(history, candidates, dict(zip(self.tensors, tensors, strict=True)))


def write_fp32(artifact: Artifact, folder: Path) -> list[Path]:
    """Writes the fp32 graph of an artefact into `folder`."""
    path = folder / "fp32.onnx"
    fields = artifact.layout.tensors
    example = (
        torch.zeros(TRACED_HISTORY, dtype=torch.int32),
        torch.zeros(TRACED_CANDIDATES, dtype=torch.int32),
        *(
            torch.zeros(TRACED_CANDIDATES if per_candidate else 1, columns, dtype=getattr(torch, dtype))
            for dtype, columns, per_candidate in fields.values()
        ),
    )
    axes = {name: {0: "N"} if per_candidate else {} for name, (_, _, per_candidate) in fields.items()}
    graph = trace(
        _ScoreForward(load_model(artifact).folded()), example,
        {"history": {0: "T"}, "candidates": {0: "N"}, **axes}, {"scores": {0: "N"}})  # fmt: skip
    save(graph, path, origin(artifact, "fp32"))
    return [path]
