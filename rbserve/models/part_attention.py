"""Decoders that read packed prompts part by part: how a decoder that predicts clicks is exported to ONNX.

Attention of a token has two summands. The tokens of all parts attend to the whole cache, so that the query heads that
share keys, of all tokens, are rows of one product without a mask. And a token attends to its own part. Each summand is
a softmax over its own keys; with their log-sum-exp a and b, the softmax over all keys is s(a - b) times the one and
s(b - a) times the other, where s is the logistic function. The scores are those of whole prompts, but for rounding.

In the last layer only the tokens where answers are read have queries; the others have keys and values alone.

Shapes: L tokens of N parts of at most S, after P in the cache; G groups of R heads of C numbers that share keys; Q
queries; width d.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rbserve.models.lm import ClickModel

ARCHITECTURES = ("llama", "mistral", "qwen2")
"""Architectures, by transformers' names, whose layers can be read part by part."""
SMALLEST = 1e-30
Turn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What `turned` does."""


class PartAnswers(nn.Module):
    """A model that predicts clicks, read part by part."""

    def __init__(self, model: ClickModel, turn: Turn | None = None) -> None:
        """`turn` gives queries and keys their positions; `turned` by default."""
        super().__init__()
        self.model, self._turn = model, turn or turned

    def forward(
        self, tokens: Tensor, positions: Tensor, own: Tensor, place: Tensor, read: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-odds [1, N] of the parts' answers, and the cache [layers, 2, 1, G, L, C] of the tokens.

        The inputs are those of `PackedParts`, and the cache [layers, 2, 1, G, P, C] of the tokens before.
        """
        language = self.model.language
        packed = positions, own, place, read
        hidden, present = read_parts(language.base, language.embed(tokens), *packed, past, self._turn)
        return self.model.odds(language.head(language.transform(hidden)))[None], present


class Queries(NamedTuple):
    """Which tokens have queries, and what they attend to in their own part.

    rows int[N * K]: the queries of each part, as rows of all queries, or None where these are in this order. bias
    [., K, 1, S] hides keys. places int[Q]: where each query stands among those rows, or None likewise.
    """

    sizes: tuple[int, int]
    rows: Tensor | None
    bias: Tensor
    places: Tensor | None


def read_parts(
    base: Any, embedded: Tensor, positions: Tensor, own: Tensor, place: Tensor, read: Tensor, past: Tensor,
    turn: Turn,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Hidden states [N, d] where each part is read, and the cache [layers, 2, 1, G, L, C] of tokens [L, d].

    `base` is a model of transformers, of one of ARCHITECTURES.
    """
    first = base.layers[0].self_attn
    angles = tuple(part[0][:, None] for part in base.rotary_emb(embedded, positions[None]))  # [L, 1, C] each
    scaled_angles = tuple(part * first.scaling for part in angles)
    every, answering = part_queries(own, place, read, embedded)
    hidden, states, last = embedded, [], len(base.layers) - 1
    for number, (layer, before) in enumerate(zip(base.layers, past.unbind(0), strict=True)):
        attention, width = layer.self_attn, layer.self_attn.head_dim
        normed = layer.input_layernorm(hidden)
        key, value = (_by_heads(part, normed, width) for part in (attention.k_proj, attention.v_proj))
        key, value = turn(key, *angles).transpose(0, 1), value.transpose(0, 1)
        states.append(torch.stack((key, value)))
        queries = every
        if number == last:
            queries, hidden, normed = answering, hidden[read], normed[read]
            scaled_angles = tuple(part[read] for part in scaled_angles)
        query = turn(_by_heads(attention.q_proj, normed, width), *scaled_angles)
        attended = attend(query, key[:, own], value[:, own], before[:, 0], queries)
        hidden = hidden + attention.o_proj(attended)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return base.norm(hidden), torch.stack(states).unsqueeze(2)


def attend(query: Tensor, keys: Tensor, values: Tensor, before: Tensor, queries: Queries) -> Tensor:
    """Attention [Q, H * C] of queries [Q, H, C], scaled, to the cache [2, G, P, C] and to their own part.

    keys, values: those of each part, [G, N, S, C].
    """
    groups, width = int(keys.size(0)), int(keys.size(3))  # constants in a graph
    heads = int(query.size(1)) // groups
    parts, longest = queries.sizes
    together = query.reshape(-1, groups, heads * width).transpose(0, 1)
    scores = together.reshape(groups, -1, width) @ before[0].transpose(-1, -2)
    weights = scores.softmax(-1)
    of_cache, size_of_cache = weights @ before[1], _log_sum_exp(scores, weights)
    own = together if queries.rows is None else together[:, queries.rows]
    scores = own.reshape(groups, parts, -1, width) @ keys.transpose(-1, -2)  # [G, N, K * R, S]
    scores = (scores.reshape(groups, parts, -1, heads, longest) + queries.bias).reshape(
        groups, parts, -1, longest
    )
    weights = scores.softmax(-1)
    of_part = (weights @ values).reshape(groups, -1, heads * width)
    size_of_part = _log_sum_exp(scores, weights).reshape(groups, -1, heads)
    if queries.places is not None:
        of_part, size_of_part = of_part[:, queries.places], size_of_part[:, queries.places]
    of_part = of_part.reshape(groups, -1, width)
    share = (size_of_cache - size_of_part.reshape(groups, -1, 1)).sigmoid()
    attended = of_part + share * (of_cache - of_part)
    return attended.reshape(groups, -1, heads * width).transpose(0, 1).reshape(-1, groups * heads * width)


def _log_sum_exp(scores: Tensor, weights: Tensor) -> Tensor:
    """[..., 1] of scores [..., S] whose softmax is `weights`; minus infinity of no scores, in ONNX.

    The largest weight is one over the sum of exp(score - largest score).
    """
    return scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).clamp(min=SMALLEST).log()


def part_queries(own: Tensor, place: Tensor, read: Tensor, like: Tensor) -> tuple[Queries, Queries]:
    """The queries of all tokens, and those of the tokens that are read."""
    parts, longest = own.shape
    step = torch.arange(longest, device=own.device)
    at = place[read] % longest
    hidden, seen = like.new_full((), torch.finfo(like.dtype).min), like.new_zeros(())
    return (
        Queries(
            (parts, longest), own.reshape(-1), torch.where(step > step[:, None], hidden, seen)[:, None], place
        ),
        Queries((parts, longest), None, torch.where(step > at[:, None], hidden, seen)[:, None, None], None),
    )


def _by_heads(product: nn.Linear, states: Tensor, width: int) -> Tensor:
    """The product of states [L, d] as [L, H, C], by sizes that are constants in a graph."""
    heads: Tensor = product(states).reshape(-1, product.out_features // width, width)
    return heads


def turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """States [L, H, C] with rotary positions (Su et al. 2021), as transformers pairs their numbers."""
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat((-second, first), -1) * sin
