"""The tower of an artefact as an ONNX graph: from the tokens of texts to their vectors, held against the item table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rbserve.core.errors import ParityError
from rbserve.data.artifact import TOWER_GRAPH, TOWER_TOKENIZER, WEIGHTS, Artifact
from rbserve.exporters.graph import data_file, origin, save, trace
from rbserve.exporters.layers import traceable
from rbserve.runtimes.item_tower import VECTORS, TowerEncoder, graph_call, load_tower
from rbserve.runtimes.item_vectors import OF_ITEMS, SAME_ENCODER, open_tensors
from rbserve.runtimes.reranker import open_tokenizer
from rbserve.runtimes.session import open_session
from rbserve.runtimes.text_tokens import INPUT_IDS, MASK, TextTokenizer

COMPARED = 64
"""Items, the first ones with a text, whose vectors are held against the table."""


def write_tower(artifact: Artifact, folder: Path) -> list[Path]:
    """Writes the graph of an artefact's tower, and the file of its weights if they are large, into `folder`.

    Inputs: INPUT_IDS and MASK int64[B, L]; output: VECTORS float32[B, D]. Raises ParityError where it makes other
    vectors of items' texts than the table has.
    """
    path = folder / Path(TOWER_GRAPH).name
    tower = load_tower(artifact)
    tokens = torch.ones(2, 3, dtype=torch.int64)
    axes = {INPUT_IDS: {0: "B", 1: "L"}, MASK: {0: "B", 1: "L"}}
    with traceable(tower):
        graph = trace(tower, (tokens, torch.ones_like(tokens)), axes, {VECTORS: {0: "B"}})
    save(graph, path, origin(artifact, "fp32"))
    _compare(artifact, path)
    return [file for file in (path, data_file(path)) if file.exists()]


def _compare(artifact: Artifact, path: Path) -> None:
    """Raises ParityError where a graph makes other vectors of items' texts than the artefact's table has."""
    rows = [row for row, text in enumerate(artifact.items.texts) if text][:COMPARED]
    tokenizer = TextTokenizer(open_tokenizer(artifact.file(TOWER_TOKENIZER)))
    encoder = TowerEncoder(tokenizer, graph_call(open_session(path, threads=1)))
    with open_tensors(artifact.file(WEIGHTS)) as file:
        center, scale = (file.get_tensor(f"{OF_ITEMS}{name}") for name in ("center", "scale"))
        table = file.get_slice(f"{OF_ITEMS}vectors")
        known = np.concatenate([table[row : row + 1] for row in rows])
    made = (encoder([artifact.items.texts[row] for row in rows]) - center) * scale
    if (difference := float(np.abs(made - known).max())) > SAME_ENCODER:
        raise ParityError(
            f"as a graph, the tower of {artifact.name} makes other vectors of texts than its item table has: "
            f"they differ by up to {difference:.2e} standard deviations",
            "nothing was written; the exported graph does not compute the tower",
        )
