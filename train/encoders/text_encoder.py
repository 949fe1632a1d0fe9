"""Frozen language models as text encoders: encoders and decoders, by the mean or the last of their hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.models.depth import shortened
from rbserve.models.drivers import read_config
from rbserve.models.item_tower import POOLINGS
from rbserve.models.rqvae_config import Pooling
from rbserve.train.encoders.backbone import load_tokenizer, loading

Vectors = NDArray[np.float32]

BATCH_TOKENS = 8_192
"""Tokens, padding included, that run through the model at once."""


class TextEncoder:
    """A language model in eval mode and fp32, with its tokeniser."""

    def __init__(self, folder: Path, pooling: Pooling, max_tokens: int, layers: int | None = None) -> None:
        """Texts are cut at `max_tokens`, or at the length that the model reads if that is less.

        With `layers` only that many of the model's first layers are run.
        """
        self._tokenizer, self._model = _load(folder, layers)
        self._pooling = pooling
        self._max_tokens = min(max_tokens, self._tokenizer.model_max_length)
        self._pad = self._tokenizer.pad_token_id or 0  # any token: the mask hides it

    @property
    def width(self) -> int:
        """D, the width of a vector."""
        return int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors float32[N, D] of N texts; zero for a text without tokens. Texts of similar length run together."""
        tokens = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]
        vectors = np.zeros((len(texts), self.width), np.float32)
        with torch.inference_mode():
            for rows in _batches([len(ids) for ids in tokens]):
                ids, mask = _padded([tokens[row] for row in rows], self._pad)
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                vectors[rows] = POOLINGS[self._pooling](hidden.float(), mask).numpy()
        return vectors


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Batches of rows that have tokens, shortest first, of at most BATCH_TOKENS with padding."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[row] > BATCH_TOKENS:
            yield batch
            batch = []
        if lengths[row]:
            batch.append(row)
    if batch:
        yield batch


def _padded(tokens: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, int64[B, L], padded on the right: a token's position does not depend on its neighbours."""
    rows = [torch.tensor(ids) for ids in tokens]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids, mask


def _load(folder: Path, layers: int | None) -> tuple[Any, Any]:
    """Tokeniser and model, with its first `layers` layers if so many are asked for."""
    from transformers import AutoModel

    with torch.random.fork_rng(), loading(folder):  # a head that the files lack is drawn at random
        config = read_config(folder) if layers is None else shortened(read_config(folder), layers)
        model = AutoModel.from_pretrained(folder, config=config, local_files_only=True, dtype=torch.float32)
    return load_tokenizer(folder), model.eval()
