"""A trained click-prediction model as an ONNX graph: score(history[T], candidates[N]), both lengths dynamic.

A model that reads fields takes their tensors too (`core/fields.py`). The graph holds the table of finished item
vectors, whatever they are made of, and computes the user's part once for the whole slate. Its metadata names its model
and data, so that a misplaced file can be recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rbserve.core.fields import Layout
from rbserve.core.requests import CANDIDATES, HISTORY
from rbserve.data.artifact import Artifact
from rbserve.exporters.graph import Axes, origin, save, trace
from rbserve.exporters.known_shapes import fix_shapes
from rbserve.exporters.layers import traceable
from rbserve.models.ctr_base import CtrModel
from rbserve.models.item_language import HistoryState, ItemLanguage
from rbserve.runtimes.onnx import PAST, PAST_PLACES, READ_PAST, READ_USER, SCORES, USER
from rbserve.runtimes.torch import load_model

if TYPE_CHECKING:
    from onnx import ModelProto

TRACED_HISTORY = 3
TRACED_CANDIDATES = 2
UNLIKE = ((3, 5, 1), (7, 2, 9), (0, 1, 4), (2, 0, 2), (29, 23, 13))
"""Items of a history, candidates, and places read before, by which sizes that never change are found."""


class _Traced(torch.nn.Module):
    """A model for the exporter, which traces `forward`; the tensors of its fields come last."""

    def __init__(self, model: CtrModel) -> None:
        super().__init__()
        self.model = model
        self.tensors = model.fields.tensors if model.fields else []


class _BehindForward(_Traced):
    """A model whose `forward` is `score_behind`."""

    model: ItemLanguage

    def forward(
        self,
        past: torch.Tensor,
        user: torch.Tensor,
        history: torch.Tensor,
        candidates: torch.Tensor,
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        of_fields = dict(zip(self.tensors, tensors, strict=True))
        scores, state = self.model.score_behind(HistoryState(past, user), history, candidates, of_fields)
        return scores, *state


class _ScoreForward(_Traced):
    """A model whose `forward` is `score`."""

    def forward(
        self, history: torch.Tensor, candidates: torch.Tensor, *tensors: torch.Tensor
    ) -> torch.Tensor:
        return self.model.score(history, candidates, dict(zip(self.tensors, tensors, strict=True)))


def write_fp32(artifact: Artifact, folder: Path) -> list[Path]:
    """Writes the fp32 graph of an artefact into `folder`."""
    path = folder / "fp32.onnx"
    model, layout = load_model(artifact).folded(), artifact.layout
    request = _request(layout, TRACED_HISTORY, TRACED_CANDIDATES)
    axes = {HISTORY: {0: "T"}, CANDIDATES: {0: "N"}} | {
        name: {0: "N"} if per_candidate else {} for name, (_, _, per_candidate) in layout.tensors.items()
    }
    if isinstance(model, ItemLanguage):
        graph = _trace_behind(model, layout, request, axes)
    else:
        graph = trace(_ScoreForward(model), tuple(request.values()), axes, {SCORES: {0: "N"}})
    save(graph, path, origin(artifact, "fp32"))
    return [path]


def _request(layout: Layout, items: int, candidates: int) -> dict[str, torch.Tensor]:
    """Inputs of a graph, zeros, by name, in the order of its inputs."""
    return {
        HISTORY: torch.zeros(items, dtype=torch.int32),
        CANDIDATES: torch.zeros(candidates, dtype=torch.int32),
        **{
            name: torch.zeros(candidates if per_candidate else 1, columns, dtype=getattr(torch, dtype))
            for name, (dtype, columns, per_candidate) in layout.tensors.items()
        },
    }


def _trace_behind(
    model: ItemLanguage, layout: Layout, request: Mapping[str, torch.Tensor], axes: Axes
) -> ModelProto:
    """The graph of a model that reads items as tokens, with the state of an empty history as a default."""
    from onnx import numpy_helper

    with torch.inference_mode():
        state = model.start_state()
    history, candidates, *tensors = request.values()
    with traceable(model):
        graph = trace(
            _BehindForward(model), (*state, history, candidates, *tensors),
            {PAST: {PAST_PLACES: "P"}, USER: {}, **axes},
            {SCORES: {0: "N"}, READ_PAST: {PAST_PLACES: "read"}, READ_USER: {}})  # fmt: skip
    fix_shapes(graph, [
        {
            **{name: tensor.numpy() for name, tensor in _request(layout, items, slate).items()},
            PAST: state.past.repeat_interleave(known, PAST_PLACES).numpy(), USER: state.user.numpy(),
        }
        for items, slate, known in UNLIKE
    ])  # fmt: skip
    for name, tensor in zip((PAST, USER), state, strict=True):
        graph.graph.initializer.append(numpy_helper.from_array(tensor.numpy(), name))
    return graph
