"""The first layers of a language model over items as tokens, beyond the paper: an item is k tokens, whatever its text.

A token is made of the vector of an item, which is made of its text once, before any request (`items.py`); what the
layers say at a token becomes a vector of the items' width again.
Ideas: MixLM (arXiv 2512.07846) and HLLM (2409.12740), items as tokens made of their texts' vectors.
Shapes: U sequences, L tokens, W the width of the layers, d that of an item vector, P tokens that were read before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rbserve.models.drivers import architecture_of
from rbserve.models.lm import as_decoder, bare


class LanguageLayers(nn.Module):
    """Item vectors to tokens, tokens through the layers, and what they say as vectors of the items' width."""

    def __init__(self, base: nn.Module, dim: int, item_tokens: int = 1, dropout: float = 0.0) -> None:
        """`base`: the layers, a model of transformers without word embeddings (`layers_of`)."""
        super().__init__()
        self.base, self.item_tokens = base, item_tokens
        self.causal = architecture_of(base.config).reads == "decoder"
        self.width = token_width(base.config)
        self.start = nn.Parameter(torch.empty(self.width))
        self.item_norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.token = nn.Linear(dim, item_tokens * self.width)
        self.dropout = nn.Dropout(dropout)
        self.norm, self.answer = nn.LayerNorm(self.width), nn.Linear(self.width, dim)
        self.scale_tokens(1.0)

    @torch.no_grad()
    def scale_tokens(self, deviation: float) -> None:
        """Draws the weights so that tokens have this deviation, that of the words which the layers know."""
        nn.init.normal_(self.start, std=deviation)
        nn.init.normal_(self.token.weight, std=deviation * self.token.in_features**-0.5)
        nn.init.zeros_(self.token.bias)

    def tokens(self, items: Tensor) -> Tensor:
        """The tokens [U, S * k, W] of items [U, S, d]."""
        made: Tensor = self.dropout(self.token(self.item_norm(items)))
        return made.reshape(items.size(0), -1, self.width)

    def forward(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the layers say [U, L, d] at tokens [U, L, W]; their cache [layers, 2, U, H, L, C], empty in training.

        positions int[L] or int[U, L]; mask bool[L, P + L] or bool[U, L, P + L] says what each token attends to; `past`
        is the cache of the P tokens before.
        """
        hidden, present = self.hidden(tokens, positions, mask, past)
        answers: Tensor = self.answer(self.norm(hidden))
        return answers, present

    def hidden(
        self, tokens: Tensor, positions: Tensor, mask: Tensor, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The layers' own hidden states [U, L, W], where `forward` has vectors of the items' width; and the cache."""
        users = tokens.size(0)
        drive = architecture_of(self.base.config).drive
        return drive(self.base, tokens, positions.expand(users, -1), mask.expand(users, -1, -1), past)

    def states_of(self, items: Tensor) -> Tensor:
        """The hidden states [N, W] at the last token of each of items [N, d], read alone behind the start."""
        start = self.start.expand(items.size(0), 1, -1)
        tokens = torch.cat((start, self.tokens(items[:, None])), dim=1)
        place = torch.arange(tokens.size(1), device=tokens.device)
        mask = place <= place[:, None]
        if not self.causal:  # the start sees itself alone
            mask = mask | (place[:, None] > 0)
        return self.hidden(tokens, place, mask)[0][:, -1]


def token_width(config: Any) -> int:
    """The numbers of a token that a model of transformers' `config` reads."""
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def layers_of(config: Any) -> nn.Module:
    """A model of transformers' `config` without word embeddings; its weights are still to be loaded."""
    from accelerate import init_empty_weights
    from transformers import AutoModel

    with init_empty_weights(include_buffers=False):
        base: nn.Module = AutoModel.from_config(as_decoder(config))  # type: ignore[no-untyped-call]
    return without_words(base)


def without_words(base: nn.Module) -> nn.Module:
    """Takes off a model of transformers what items as tokens do not ask: word embeddings, an encoder's pooler."""
    bare(base)
    base.set_input_embeddings(None)  # type: ignore[operator]
    return base
