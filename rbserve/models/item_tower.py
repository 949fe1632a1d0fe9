"""An item tower: a language model that reads texts of items and is trained together with the model that scores them.

A table of vectors is made once, and each of its rows learns only from the events of its own item. A tower's weights
learn from the events of all items, so that an item without events has a vector of what was learnt, too.
Idea: the item language model of HLLM (arXiv 2409.12740).
Shapes: B texts of L tokens, padded on the right; D the width of a vector; K items at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rbserve.models.drivers import architecture_of
from rbserve.models.lm import as_decoder, bare
from rbserve.models.rqvae_config import Pooling

PIECE_TOKENS = 4_096
"""Tokens, padding included, that run through the tower at once."""


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over a text's tokens, as in sentence-transformers: [B, L, D] -> [B, D]."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The last token of a text, the only one at which a decoder has read all of it: [B, L, D] -> [B, D]."""
    return hidden[torch.arange(hidden.size(0), device=hidden.device), mask.sum(1) - 1]


POOLINGS: Mapping[Pooling, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "last": _last}
"""From hidden states [B, L, D] and a mask int64[B, L] to vectors [B, D]."""


class TextTower(nn.Module):
    """Vectors of texts: a language model, and the mean or the last of its hidden states."""

    def __init__(self, base: nn.Module, pooling: Pooling) -> None:
        """`base`: a model of transformers that ends in hidden states, an encoder or a decoder (`tower_base`)."""
        super().__init__()
        self.base, self.pooling = base, pooling

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Vectors [B, D] of tokens int64[B, L]; mask int64[B, L] is 1 at tokens, of which each text has one."""
        base: Any = self.base
        architecture = architecture_of(base.config)
        place = torch.ones_like(tokens[0]).cumsum(0) - 1
        seen = (mask > 0)[:, None].expand(-1, tokens.size(1), -1)
        if architecture.reads == "decoder":
            seen = seen & (place <= place[:, None])
        embedded = base.get_input_embeddings()(tokens)
        hidden, _ = architecture.drive(base, embedded, place.expand(tokens.size(0), -1), seen, None)
        return POOLINGS[self.pooling](hidden.float(), mask)


class ItemTower(nn.Module):
    """Vectors of items: a tower over the tokens of their texts; zero for an item without tokens.

    Item i's tokens are values[offsets[i]:offsets[i + 1]].
    """

    values: Tensor
    offsets: Tensor

    def __init__(
        self, text: TextTower, values: Tensor, offsets: Tensor, width: int, recompute: bool = False
    ) -> None:
        """values: int64[total]; offsets: int64[n + 1]; `width` is D.

        `recompute`: activations are computed twice instead of kept, so that training holds those of one piece.
        """
        super().__init__()
        self.text, self.width, self.recompute = text, width, recompute
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        """Vectors [K, D] of items int64[K]; texts of similar length run together."""
        lengths = self.offsets[items + 1] - self.offsets[items]
        order = torch.argsort(lengths, stable=True)
        vectors = [self._read(items[order[piece]]) for piece in pieces_of(lengths[order].tolist())]
        empty = torch.zeros(int((lengths == 0).sum()), self.width, device=self.values.device)
        return torch.cat([empty, *vectors])[torch.argsort(order)]

    def _read(self, items: Tensor) -> Tensor:
        """Vectors [B, D] of items that have tokens."""
        begin, end = self.offsets[items], self.offsets[items + 1]
        place = torch.arange(int((end - begin).max()), device=items.device)
        places = begin[:, None] + place
        mask = places < end[:, None]
        tokens = self.values[torch.where(mask, places, begin[:, None])]
        if self.recompute and torch.is_grad_enabled():
            vectors: Tensor = checkpoint(self.text, tokens, mask.long(), use_reentrant=False)
            return vectors
        return self.text(tokens, mask.long())  # type: ignore[no-any-return]


def pieces_of(lengths: Sequence[int], most: int = PIECE_TOKENS) -> Iterator[slice]:
    """Pieces of texts of rising lengths, at most `most` tokens each with padding; a longer text is alone.

    Texts without tokens, which come first, are in none.
    """
    begin = sum(length == 0 for length in lengths)
    for place in range(begin + 1, len(lengths) + 1):
        if place == len(lengths) or (place + 1 - begin) * lengths[place] > most:
            yield slice(begin, place)
            begin = place


def tower_base(config: Any) -> nn.Module:
    """A model of transformers' `config` for a tower; its weights are still to be loaded."""
    from accelerate import init_empty_weights
    from transformers import AutoModel

    with init_empty_weights(include_buffers=False):
        base: nn.Module = AutoModel.from_config(as_decoder(config))  # type: ignore[no-untyped-call]
    bare(base)
    return base
