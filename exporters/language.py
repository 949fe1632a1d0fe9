"""A language model as one ONNX graph: packed prompts, and the cache of what was read before, to log-odds of a click.

tokens, positions int64[B, L], mask bool[B, L, P + L], read int64[B, N] and past float32[layers, 2, B, H, P, C] go in;
odds float32[B, N] and present float32[layers, 2, B, H, L, C] come out. Reading a prompt at once, a history first and
candidates behind its cache, or candidates apart: all are this graph. Of the head there are the answers' rows alone.

Exporters of whole language models (optimum's) give every candidate a copy of the history's cache and the logits of
every word; what is asked here takes neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from rbserve.core.artifact import Artifact
from rbserve.exporters.graph import Axes, origin, save, trace
from rbserve.models.lm import empty_past
from rbserve.runtime import load_model

INPUTS: Axes = {
    "tokens": {0: "B", 1: "L"},
    "positions": {0: "B", 1: "L"},
    "mask": {0: "B", 1: "L", 2: "P + L"},
    "read": {0: "B", 1: "N"},
    "past": {2: "B", 4: "P"},
}
OUTPUTS: Axes = {"odds": {0: "B", 1: "N"}, "present": {2: "B", 4: "L"}}


def write_fp32(artifact: Artifact, folder: Path) -> list[Path]:
    """Writes the fp32 graph of an artefact into `folder`."""
    path = folder / "fp32.onnx"
    model = load_model(artifact)
    with _traceable():
        graph = trace(model, example(model.language.config), INPUTS, OUTPUTS)
    save(graph, path, origin(artifact, "onnx-fp32"))
    return [path]


@contextmanager
def _traceable() -> Iterator[None]:
    """With a `repeat_interleave` that the exporter can follow: of its own it loses the rank (GLM's positions)."""
    original = torch.Tensor.repeat_interleave

    def repeated(tensor: Tensor, repeats: int, dim: int) -> Tensor:
        assert dim == -1
        return tensor.unsqueeze(-1).expand(*tensor.shape, repeats).flatten(-2)

    torch.Tensor.repeat_interleave = repeated  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.Tensor.repeat_interleave = original  # type: ignore[method-assign]


def example(config: object) -> tuple[Tensor, ...]:
    """Two rows of three tokens behind two, for tracing."""
    layers, two, rows, heads, _, width = empty_past(config, rows=2).shape
    return (
        torch.ones(2, 3, dtype=torch.int64),
        torch.tensor([[2, 3, 4]] * 2),
        torch.ones(2, 3, 5, dtype=torch.bool),
        torch.tensor([[2, 1]] * 2),
        torch.zeros(layers, two, rows, heads, 2, width),
    )
