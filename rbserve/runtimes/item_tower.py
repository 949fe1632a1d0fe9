"""Vectors of texts by the tower of an artefact: the encoder that was trained with its model (`models/item_tower.py`).

Where a variant was exported, the tower has a graph, and texts need no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rbserve.core.types import Vectors
from rbserve.data.artifact import TOWER, TOWER_CONFIG, TOWER_GRAPH, TOWER_TOKENIZER, Artifact
from rbserve.runtimes.reranker import calls_of, open_tokenizer
from rbserve.runtimes.session import Session, open_session
from rbserve.runtimes.text_tokens import INPUT_IDS, MASK, TextTokenizer

if TYPE_CHECKING:
    from rbserve.models.item_tower import TextTower

VECTORS = "vectors"
"""The output of a tower's graph."""
MOST_TOKENS = 1_024
"""Tokens of a call at most, padding included; a longer text has a call of its own."""
TowerCall = Callable[[Mapping[str, NDArray[np.int64]]], Vectors]
"""Vectors float32[B, D] of INPUT_IDS and MASK int64[B, L]."""


class TowerEncoder:
    """Vectors of texts: tokens by the `tokenizers` library, then a tower; a text without tokens has the zero vector."""

    def __init__(self, tokenizer: TextTokenizer, call: TowerCall) -> None:
        self._tokenizer, self._call = tokenizer, call

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Vectors float32[K, D] of K texts; those of similar length run together."""
        tokens = self._tokenizer.encode([(text,) for text in texts])
        order = sorted(
            (place for place, own in enumerate(tokens) if len(own)), key=lambda place: len(tokens[place])
        )
        read = [
            self._call(self._tokenizer.padded(call))
            for call in (calls_of([tokens[place] for place in order], MOST_TOKENS) if order else ())
        ]
        if not read:
            read = [self._call(self._tokenizer.padded(self._tokenizer.encode([("a",)])))[:0]]
        vectors = np.zeros((len(texts), read[0].shape[1]), np.float32)
        vectors[order] = np.concatenate(read)
        return vectors


def open_tower(artifact: Artifact, threads: int = 1) -> TowerEncoder:
    """The tower of an artefact, its files verified: its graph, or its torch module where nothing was exported.

    Raises ArtifactError for a damaged file, UsageError without the library that reads its tokeniser.
    """
    tokenizer = TextTokenizer(open_tokenizer(artifact.file(TOWER_TOKENIZER)))
    if TOWER_GRAPH not in artifact.manifest.files:
        return TowerEncoder(tokenizer, torch_tower_call(load_tower(artifact)))
    for record in artifact.manifest.variants.values():
        for name in record.tower:
            artifact.file(name)  # raises where it is not what the manifest says
    return TowerEncoder(tokenizer, graph_call(open_session(artifact.file(TOWER_GRAPH), threads)))


def graph_call(session: Session) -> TowerCall:
    """Runs a tower's graph."""

    def run(arrays: Mapping[str, NDArray[np.int64]]) -> Vectors:
        vectors: Vectors = session.run([VECTORS], {name: arrays[name] for name in (INPUT_IDS, MASK)})[0]
        return vectors

    return run


def torch_tower_call(tower: TextTower) -> TowerCall:
    """Runs a torch module."""
    import torch

    def run(arrays: Mapping[str, NDArray[np.int64]]) -> Vectors:
        with torch.inference_mode():
            vectors: Vectors = tower(*(torch.from_numpy(arrays[name]) for name in (INPUT_IDS, MASK))).numpy()
        return vectors

    return run


def load_tower(artifact: Artifact) -> TextTower:
    """The trained torch module of an artefact's tower, in eval mode."""
    from safetensors.torch import load_file

    from rbserve.models.drivers import read_config
    from rbserve.models.item_tower import TextTower, tower_base

    base = tower_base(read_config(artifact.file(TOWER_CONFIG)))
    tower = TextTower(base, artifact.manifest.config["pooling"])
    tower.load_state_dict(load_file(artifact.file(TOWER)), assign=True)
    return tower.eval()
