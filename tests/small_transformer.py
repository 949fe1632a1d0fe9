"""A small causal transformer over code tokens, and the plainest way to let a beam search step it."""

from __future__ import annotations

from typing import Any

import torch


class Transformer(torch.nn.Module):
    """A causal transformer over code tokens, with random weights."""

    def __init__(self, vocabulary: int, dim: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = torch.nn.Embedding(vocabulary, dim), torch.nn.Embedding(64, dim)
        layer = torch.nn.TransformerEncoderLayer(dim, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = torch.nn.Linear(dim, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        mask = torch.nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.tokens(tokens) + self.places(torch.arange(length))
        return self.head(self.encoder(hidden, mask=mask, is_causal=True))


class Reencoding:
    """A stepper that encodes every beam's whole sequence anew. The cache is the sequences, int64[B, w, T]."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def prefill(self, prompts: Any) -> tuple[Any, Any]:
        sequences = torch.from_numpy(prompts).long()[:, None]
        return self.encode(sequences)[:, 0], sequences

    def step(self, tokens: Any, parents: Any, cache: Any) -> tuple[Any, Any]:
        user = torch.arange(len(tokens))[:, None]
        taken = torch.from_numpy(tokens).long()[:, :, None]
        sequences = torch.cat([cache[user, torch.from_numpy(parents).long()], taken], dim=2)
        return self.encode(sequences), sequences

    def encode(self, sequences: torch.Tensor) -> Any:
        return self.model(sequences.flatten(0, 1))[:, -1].unflatten(0, sequences.shape[:2]).numpy()
