"""A trained click-prediction model as an ONNX graph: score(history[T], candidates[N]), both lengths dynamic.

A model that reads fields takes their tensors too (`core/fields.py`). The graph holds the table of finished item
vectors, whatever they are made of, and computes the user's part once for the whole slate. Its metadata names its model
and data, so that a misplaced file can be recognised.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rbserve.core.requests import CANDIDATES, HISTORY
from rbserve.data.artifact import Artifact
from rbserve.exporters.graph import Axes, origin, save, trace
from rbserve.exporters.layers import traceable
from rbserve.models.ctr_base import CtrModel
from rbserve.models.item_language import HistoryState, ItemLanguage
from rbserve.runtimes.onnx import PAST, READ_PAST, READ_USER, SCORES, USER
from rbserve.runtimes.torch import load_model

if TYPE_CHECKING:
    from onnx import ModelProto

TRACED_HISTORY = 3
TRACED_CANDIDATES = 2


class _BehindForward(torch.nn.Module):
    """A model whose `forward` is `score_behind`."""

    def __init__(self, model: ItemLanguage) -> None:
        super().__init__()
        self.model = model
        self.tensors = model.fields.tensors if model.fields else []

    def forward(
        self,
        history: torch.Tensor,
        candidates: torch.Tensor,
        past: torch.Tensor,
        user: torch.Tensor,
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        of_fields = dict(zip(self.tensors, tensors, strict=True))
        scores, state = self.model.score_behind(HistoryState(past, user), history, candidates, of_fields)
        return scores, *state


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
    model = load_model(artifact).folded()
    fields = artifact.layout.tensors
    rows = (
        torch.zeros(TRACED_HISTORY, dtype=torch.int32),
        torch.zeros(TRACED_CANDIDATES, dtype=torch.int32),
    )
    tensors = tuple(
        torch.zeros(TRACED_CANDIDATES if per_candidate else 1, columns, dtype=getattr(torch, dtype))
        for dtype, columns, per_candidate in fields.values()
    )
    axes = {name: {0: "N"} if per_candidate else {} for name, (_, _, per_candidate) in fields.items()}
    inputs = {HISTORY: {0: "T"}, CANDIDATES: {0: "N"}}
    if isinstance(model, ItemLanguage):
        graph = _trace_behind(model, rows, tensors, inputs, axes)
    else:
        graph = trace(_ScoreForward(model), (*rows, *tensors), {**inputs, **axes}, {SCORES: {0: "N"}})
    save(graph, path, origin(artifact, "fp32"))
    return [path]


def _trace_behind(
    model: ItemLanguage,
    rows: tuple[torch.Tensor, ...],
    tensors: tuple[torch.Tensor, ...],
    inputs: Axes,
    axes: Axes,
) -> ModelProto:
    """The graph of a model that reads items as tokens, with the state of an empty history as a default."""
    from onnx import numpy_helper

    with torch.inference_mode():
        state = model.start_state()
    with traceable(model):
        graph = trace(
            _BehindForward(model), (*rows, *state, *tensors),
            {**inputs, PAST: {4: "P"}, USER: {}, **axes},
            {SCORES: {0: "N"}, READ_PAST: {4: "read"}, READ_USER: {}})  # fmt: skip
    for name, tensor in zip((PAST, USER), state, strict=True):
        graph.graph.initializer.append(numpy_helper.from_array(tensor.numpy(), name))
    return graph
