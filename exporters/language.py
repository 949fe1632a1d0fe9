"""A language model as one ONNX graph, from packed prompts and a prefix cache to answers.

Inputs: tokens and positions int64[B, L], mask bool[B, L, P + L], read int64[B, N], past float32[layers, 2, B, H, P, C].
Outputs: present float32[layers, 2, B, H, L, C] and answers: log-odds float32[B, N] of a click, or logits
float32[B, N, K] of codes. The one graph reads a prompt at once, a history before its candidates, candidates apart, or
beams token by token. A model with a head for the catalogue returns its best k items, and so does one that predicts all
codes at once, which takes the code tokens of all items; a model that keeps no cache has neither past nor present.

A decoder of `part_attention.ARCHITECTURES` that predicts clicks reads prompts part by part, without a mask: tokens and
positions int64[L], own int64[N, S], place int64[L], read int64[N] (`PackedParts`) and past to answers and present.

An encoder whose candidates meet the history late has two graphs: `early`, from tokens, positions and mask bool[B, L, L]
to states float32[B, L, d], and `late`, from states, mask, read and past to present and answers.

Exporters of whole language models (optimum's) copy the history's cache for every candidate and compute the logits of
every word; this graph does neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from rbserve.core.requests import slate_request
from rbserve.core.tasks import TASKS
from rbserve.data.artifact import WEIGHTS, Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.graph import ALL_SCORES, Axes, append_top_k, data_file, origin, save
from rbserve.exporters.layers import fused_rotary, traceable
from rbserve.exporters.parity import reference_variant
from rbserve.exporters.tokenwise import Plan, Recorder, Rounding
from rbserve.exporters.weights import fill, shapes_of, trace_without_weights, weightless
from rbserve.models.configs import SeqP5Config, SeqParallelConfig
from rbserve.models.drivers import architecture_of
from rbserve.models.lm import (
    Answers,
    ClickModel,
    EarlyLayers,
    ItemScoreHead,
    LanguageModel,
    LateLayers,
    empty_past,
)
from rbserve.models.part_attention import ARCHITECTURES, PartAnswers, turned
from rbserve.models.part_packing import pack_parts
from rbserve.runtimes.contents import artifact_config
from rbserve.runtimes.onnx import ITEM_CODES
from rbserve.runtimes.torch import backbone_config, load_model, rebuild_model, torch_ranker, torch_scorer

if TYPE_CHECKING:
    from onnx import ModelProto

INPUTS: Axes = {
    "tokens": {0: "B", 1: "L"},
    "positions": {0: "B", 1: "L"},
    "mask": {0: "B", 1: "L", 2: "P + L"},
    "read": {0: "B", 1: "N"},
    "past": {2: "B", 4: "P"},
}
PART_INPUTS: Axes = {
    "tokens": {0: "L"},
    "positions": {0: "L"},
    "own": {0: "N", 1: "S"},
    "place": {0: "L"},
    "read": {0: "N"},
    "past": {4: "P"},
}
PART_OUTPUTS: Axes = {"answers": {1: "N"}, "present": {4: "L"}}
OUTPUTS: Axes = {"answers": {0: "B", 1: "N"}, "present": {2: "B", 4: "L"}}
STATES: Axes = {"states": {0: "B", 1: "L"}}
OWN_MASK: Axes = {"mask": {0: "B", 1: "L", 2: "L"}}
UNPLANNED: Plan = {}
PLANNED = 16  # requests that a rounding plan is made from
BITS = {"fp32": 32, "int8": 8, "int4": 4}
EXAMPLE_ITEMS = 5


class Catalogue(NamedTuple):
    """The items that a graph ranks: `items`, each an output of the head, or any number of items by `levels` codes."""

    items: int | None = None
    levels: int = 0


def write(artifact: Artifact, folder: Path, precision: str, plan: Plan = UNPLANNED) -> list[Path]:
    """Writes the graphs of an artefact in a precision of BITS into `folder`, in the order in which they run.

    `plan` says which int8 products are rounded by token, and how. Memory holds one weight at a time.
    """
    weights, path = artifact.file(WEIGHTS), folder / f"{precision}.onnx"
    config = backbone_config(artifact)
    model = rebuild_model(artifact, config, weightless(shapes_of(weights)))
    metadata = origin(artifact, precision)
    if isinstance(model, ClickModel) and model.language.meet:
        return write_halves(model, weights, folder, precision, metadata, plan)
    write_graph(model, config, weights, path, metadata, BITS[precision], _catalogue(artifact), plan)
    return [path]


def _catalogue(artifact: Artifact) -> Catalogue | None:
    """The items that an artefact's graph ranks; None where it returns answers."""
    config = artifact_config(artifact)
    if isinstance(config, SeqP5Config):
        return Catalogue(items=len(artifact.items))
    return Catalogue(levels=config.levels) if isinstance(config, SeqParallelConfig) else None


def write_halves(
    model: ClickModel, weights: Path, folder: Path, precision: str, origin: Mapping[str, str],
    plan: Plan = UNPLANNED,
) -> list[Path]:  # fmt: skip
    """Writes the graphs of the layers before and behind the one where candidates meet the history."""
    paths = []
    with traceable(model):
        for half, graph in (("early", _early_graph(model)), ("late", _late_graph(model))):
            path = folder / f"{precision}.{half}.onnx"
            fill(graph, weights, _name_in_file, data_file(path), BITS[precision], plan)
            save(graph, path, origin)
            paths.append(path)
    return paths


def _early_graph(model: ClickModel) -> ModelProto:
    tokens, positions, mask, _, _ = example(model)
    inputs = {"tokens": INPUTS["tokens"], "positions": INPUTS["positions"], **OWN_MASK}
    return trace_without_weights(
        EarlyLayers(model), (tokens, positions, mask[:, :, : tokens.size(1)]), inputs, STATES
    )


def _late_graph(model: ClickModel) -> ModelProto:
    tokens, _, mask, read, past = example(model)
    states = torch.zeros(*tokens.shape, model.language.config.hidden_size)
    inputs = {**STATES, "mask": INPUTS["mask"], "read": INPUTS["read"], "past": INPUTS["past"]}
    return trace_without_weights(LateLayers(model), (states, mask, read, past), inputs, OUTPUTS)


def _name_in_file(name: str) -> str:
    """The name of a saved weight, by that in a module around the model."""
    return name.removeprefix("model.")


def rounding_plan(artifact: Artifact, dataset: Dataset) -> Plan:
    """How to round the products of an artefact's int8 graph, from PLANNED requests of training users.

    The activations of random weights say nothing: all their products are rounded by token, without smoothing.
    """
    if artifact.is_random:
        names = shapes_of(artifact.file(WEIGHTS))
        return {name: Rounding(None, 0.0) for name, shape in names.items() if len(shape) == 2}
    model = load_model(artifact, reference_variant(artifact))
    recorder = Recorder(model)
    with recorder.listening():
        _answer_requests(artifact, model, dataset)
    return recorder.plan()


def _answer_requests(artifact: Artifact, model: nn.Module, dataset: Dataset) -> None:
    """Answers PLANNED requests of training users, drawn by a fixed seed."""
    rng = np.random.default_rng(0)
    if TASKS[artifact.manifest.task].ranks:
        sequences, ranker = dataset.seqrec("train"), torch_ranker(artifact, model)
        for row in rng.permutation(len(sequences))[:PLANNED]:
            ranker.top_k(sequences.histories[row], 1)
    else:
        clicks, scorer = dataset.ctr("train"), torch_scorer(artifact, model)
        for row in rng.permutation(len(clicks))[:PLANNED]:
            scorer.score(slate_request(clicks.histories[row], clicks.candidates[row : row + 1]))


def write_graph(
    model: nn.Module, config: Any, weights: Path, path: Path, origin: Mapping[str, str], bits: int = 32,
    catalogue: Catalogue | None = None, plan: Plan = UNPLANNED,
) -> None:  # fmt: skip
    """Writes the graph of a model over a base of transformers' `config`, whose weights are in a safetensors file."""
    in_parts = reads_parts(model, config)
    graph = trace_parts(model, bits) if in_parts else trace_graph(model, config, catalogue)
    wrapper = (
        "language." if catalogue else "model."
    )  # before the names of saved weights, in modules around models
    fill(graph, weights, lambda name: name.removeprefix(wrapper), data_file(path), bits, plan, in_parts)
    save(graph, path, origin)


def reads_parts(model: nn.Module, config: Any) -> bool:
    """Whether the graph of a model over a base of transformers' `config` reads prompts part by part."""
    return isinstance(model, ClickModel) and config.model_type in ARCHITECTURES


def trace_parts(model: nn.Module, bits: int) -> ModelProto:
    """The graph, without weights, of a model that is read part by part; in 32 bits all operators are ONNX's own."""
    past = empty_past(model)
    layers, two, rows, heads, _, width = past.shape
    packed = pack_parts([np.ones(3, np.int64), np.ones(2, np.int64)], 2)
    inputs = tuple(torch.from_numpy(array) for array in packed.arrays.values())
    turn = turned if bits == BITS["fp32"] else fused_rotary
    with traceable(model):
        return trace_without_weights(
            PartAnswers(cast(ClickModel, model), turn),
            (*inputs, torch.zeros(layers, two, rows, heads, 2, width)),
            PART_INPUTS,
            PART_OUTPUTS,
        )


def trace_graph(model: nn.Module, config: Any, catalogue: Catalogue | None = None) -> ModelProto:
    """The graph, without weights, of a model over a base of transformers' `config`, which may rank a catalogue."""
    tokens, positions, mask, read, past = example(model)
    with traceable(model):
        uncached = {name: axes for name, axes in INPUTS.items() if name != "past"}
        own_mask = mask[:, :, : tokens.size(1)]
        if catalogue:
            inputs: tuple[Tensor, ...] = (tokens, positions, own_mask, read[:, :1])
            axes: Axes = uncached
            if catalogue.levels:
                inputs = (*inputs, torch.zeros((catalogue.levels, EXAMPLE_ITEMS), dtype=torch.int32))
                axes = {**uncached, ITEM_CODES: {1: "n"}}
            whole = ItemScoreHead(cast(LanguageModel, model))
            graph = trace_without_weights(whole, inputs, axes, {ALL_SCORES: {0: "B", 1: "n"}})
            append_top_k(graph, catalogue.items)
            return graph
        if architecture_of(config).reads == "encoder-decoder":
            answers = {"answers": OUTPUTS["answers"]}
            return trace_without_weights(
                Answers(model), (tokens, positions, own_mask, read), uncached, answers
            )
        return trace_without_weights(model, (tokens, positions, mask, read, past), INPUTS, OUTPUTS)


def example(model: nn.Module) -> tuple[Tensor, ...]:
    """Inputs to trace a model with: two rows of three tokens behind a cache of two."""
    layers, two, rows, heads, _, width = empty_past(model, rows=2).shape
    return (
        torch.ones(2, 3, dtype=torch.int64),
        torch.tensor([[2, 3, 4]] * 2),
        torch.ones(2, 3, 5, dtype=torch.bool),
        torch.tensor([[2, 1]] * 2),
        torch.zeros(layers, two, rows, heads, 2, width),
    )
