"""Sequential models as ONNX graphs: SASRec, HSTU and item neighbours as one, SID-SASRec as two.

SASRec's graph takes histories int32[B, T] and k and returns the k best items and their scores: encoder, product with
the item table and top k. One initializer holds the table for the look-up of the history and for the product. It is
declared an input with a default, so that onnxruntime does not pack a second copy of it: a million items of width 64
then take 244 MB instead of 488, and 14 ms a user instead of 10. Where items have vectors of texts, the table has the
finished vectors and each item a bias; neighbours that are counted have their rows in the graph too.

SID-SASRec's graphs are driven by the beam search: prefill takes tokens int32[B, T] and returns logits and the prefix
cache; step takes one more token of each beam with both caches and returns logits and the longer suffix cache
(`models/sasrec.py` has the shapes).

The graph of item neighbours takes and returns what SASRec's does. So does that of a model that predicts all codes at
once, which takes the code tokens of all items with each call as well: items come and go without a change of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rbserve.data.artifact import Artifact
from rbserve.exporters.graph import ALL_SCORES, append_top_k, origin, save, trace
from rbserve.exporters.item_table import BIASES, OF_NEIGHBOURS, RANKED_TABLE
from rbserve.exporters.layers import traceable
from rbserve.models.itemknn import ItemKnn
from rbserve.models.sasrec import ParallelSasRec, SasRec, SequentialModel, SidSasRec
from rbserve.runtimes.onnx import ITEM_CODES
from rbserve.runtimes.torch import load_model

if TYPE_CHECKING:
    from onnx import ModelProto

EXAMPLE_USERS, EXAMPLE_TOKENS, EXAMPLE_BEAMS, EXAMPLE_ITEMS = 2, 4, 3, 5


class _Encode(nn.Module):
    def __init__(self, model: SasRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, histories: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        hidden = self.model.transformer.last(histories)
        if self.model.neighbours is None:
            return hidden
        return hidden, self.model.neighbours(histories)


class _CodeScores(nn.Module):
    def __init__(self, model: ParallelSasRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, histories: Tensor, codes: Tensor) -> Tensor:
        return self.model.scores(histories, codes)


class _Prefill(nn.Module):
    def __init__(self, model: SidSasRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.prefill(tokens)


class _Step(nn.Module):
    def __init__(self, model: SidSasRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, prefix: Tensor, suffix: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.step(tokens, prefix, suffix)


def write_fp32(artifact: Artifact, folder: Path) -> list[Path]:
    """Writes the fp32 graphs of an artefact into `folder`, in the order in which they run."""
    return write_graphs(load_model(artifact), folder, origin(artifact, "fp32"))


def write_graphs(model: SequentialModel | ItemKnn, folder: Path, origin: Mapping[str, str]) -> list[Path]:
    """Writes the fp32 graphs of a model into `folder`, in the order in which they run."""
    paths = []
    for name, graph in _graphs(model):
        paths.append(folder / name)
        save(graph, paths[-1], origin)
    return paths


def _graphs(model: SequentialModel | ItemKnn) -> Iterator[tuple[str, ModelProto]]:
    """The graphs of a model with their files' names."""
    if isinstance(model, ItemKnn):
        return _adding(model)
    if isinstance(model, ParallelSasRec):
        return _parallel(model)
    return _generating(model) if isinstance(model, SidSasRec) else _scoring(model.folded())


def _adding(model: ItemKnn) -> Iterator[tuple[str, ModelProto]]:
    histories = _tokens(EXAMPLE_USERS, EXAMPLE_TOKENS)
    graph = trace(model, (histories,), {"histories": {0: "B", 1: "T"}}, {ALL_SCORES: {0: "B"}})
    append_top_k(graph, model.n_items)
    yield "fp32.onnx", graph


def _parallel(model: ParallelSasRec) -> Iterator[tuple[str, ModelProto]]:
    codes = _tokens(model.config.levels, EXAMPLE_ITEMS)
    graph = trace(
        _CodeScores(model), (_tokens(EXAMPLE_USERS, EXAMPLE_TOKENS), codes),
        {"histories": {0: "B", 1: "T"}, ITEM_CODES: {1: "n"}}, {ALL_SCORES: {0: "B", 1: "n"}})  # fmt: skip
    append_top_k(graph)
    yield "fp32.onnx", graph


def _scoring(model: SasRec) -> Iterator[tuple[str, ModelProto]]:
    outputs = {"hidden": {0: "B"}}
    if model.neighbours is not None:
        outputs[OF_NEIGHBOURS] = {0: "B"}
    with traceable(model):
        graph = trace(
            _Encode(model), (_tokens(EXAMPLE_USERS, EXAMPLE_TOKENS),),
            {"histories": {0: "B", 1: "T"}}, outputs)  # fmt: skip
    _append_scores(graph, model)
    yield "fp32.onnx", graph


def _append_scores(graph_model: ModelProto, model: SasRec) -> None:
    """Appends scores = hidden @ table^T + biases and the best k to a graph of the user's vector `hidden`.

    What the graph has of neighbours is added.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = graph_model.graph
    table = next(tensor for tensor in graph.initializer if tensor.name == RANKED_TABLE)
    terms = ["hidden", table.name]
    if model.biases is not None:
        terms.append(BIASES)
        graph.initializer.append(numpy_helper.from_array(model.biases.numpy(), BIASES))
    of_table = ALL_SCORES if model.neighbours is None else "table_scores"
    graph.node.append(helper.make_node("Gemm", terms, [of_table], "score", transB=1))
    if model.neighbours is not None:
        graph.node.append(helper.make_node("Add", [of_table, OF_NEIGHBOURS], [ALL_SCORES], "add_neighbours"))
    graph.input.append(helper.make_tensor_value_info(table.name, TensorProto.FLOAT, list(table.dims)))
    append_top_k(graph_model, model.n_items)


def _generating(model: SidSasRec) -> Iterator[tuple[str, ModelProto]]:
    tokens = _tokens(EXAMPLE_USERS, EXAMPLE_TOKENS)
    yield "fp32.prefill.onnx", trace(
        _Prefill(model), (tokens,),
        {"tokens": {0: "B", 1: "T"}}, {"logits": {0: "B"}, "prefix": {2: "B", 4: "T1"}})  # fmt: skip
    with torch.no_grad():
        prefix = model.prefill(tokens)[1]
    layers, two, users, heads, _, width = prefix.shape
    suffix = prefix.new_zeros((layers, two, users, EXAMPLE_BEAMS, heads, 1, width))
    yield "fp32.step.onnx", trace(
        _Step(model), (_tokens(EXAMPLE_USERS, EXAMPLE_BEAMS), prefix, suffix),
        {
            "tokens": {0: "B", 1: "W"}, "prefix": {2: "B", 4: "T1"},
            "suffix": {2: "B", 3: "W", 5: "S"},
        },
        {"logits": {0: "B", 1: "W"}, "longer_suffix": {2: "B", 3: "W", 5: "S1"}})  # fmt: skip


def _tokens(rows: int, columns: int) -> Tensor:
    return torch.zeros((rows, columns), dtype=torch.int32)
