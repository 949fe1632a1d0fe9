"""A language model as one ONNX graph: packed prompts, and the cache of what was read before, to answers.

tokens, positions int64[B, L], mask bool[B, L, P + L], read int64[B, N] and past float32[layers, 2, B, H, P, C] go in;
present float32[layers, 2, B, H, L, C] comes out, and answers: log-odds float32[B, N] of a click, or logits
float32[B, N, K] of codes. Reading a prompt at once, a history first and candidates behind its cache, candidates
apart, or beams token by token: all are this graph. A model with a head for the catalogue gives its best k items; one
that keeps no cache has neither past nor present.

Exporters of whole language models (optimum's) give every candidate a copy of the history's cache and the logits of
every word; what is asked here takes neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rbserve.core.artifact import Artifact
from rbserve.exporters.graph import ALL_SCORES, Axes, append_top_k, origin, save, trace
from rbserve.models.drivers import architecture_of
from rbserve.models.lm import Answers, ItemScores, LanguageModel, empty_past
from rbserve.runtime import load_model

INPUTS: Axes = {
    "tokens": {0: "B", 1: "L"},
    "positions": {0: "B", 1: "L"},
    "mask": {0: "B", 1: "L", 2: "P + L"},
    "read": {0: "B", 1: "N"},
    "past": {2: "B", 4: "P"},
}
OUTPUTS: Axes = {"answers": {0: "B", 1: "N"}, "present": {2: "B", 4: "L"}}


def write_fp32(artifact: Artifact, folder: Path) -> list[Path]:
    """Writes the fp32 graph of an artefact into `folder`."""
    path = folder / "fp32.onnx"
    model = load_model(artifact)
    config = model.language.config if artifact.manifest.task == "ctr" else model.config
    items = len(artifact.items) if artifact.manifest.config_kind == "seq-p5" else 0
    write_graph(model, config, path, origin(artifact, "onnx-fp32"), items)
    return [path]


def write_graph(model: nn.Module, config: Any, path: Path, origin: Mapping[str, str], items: int = 0) -> None:
    """Writes the graph of a model over a base of transformers' `config`; `items` of a head for the catalogue."""
    tokens, positions, mask, read, past = example(config)
    with _traceable():
        once = {name: axes for name, axes in INPUTS.items() if name != "past"}
        own = mask[:, :, : tokens.size(1)]
        if items:
            asked = (tokens, positions, own, read[:, :1])
            graph = trace(ItemScores(cast(LanguageModel, model)), asked, once, {ALL_SCORES: {0: "B"}})
            append_top_k(graph, items)
        elif architecture_of(config).reads == "encoder-decoder":
            answers = {"answers": OUTPUTS["answers"]}
            graph = trace(Answers(model), (tokens, positions, own, read), once, answers)
        else:
            graph = trace(model, (tokens, positions, mask, read, past), INPUTS, OUTPUTS)
    save(graph, path, origin)


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
