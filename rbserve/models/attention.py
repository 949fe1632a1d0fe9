"""Click prediction that reads a history item by item, beyond the paper: DIN, BST and HSTU.

A model reads a history once (`read`) and meets it with any number of candidates (`meet`), which do not see each other.
What a candidate finds there, s, goes into an MLP over [u; t; s; u ⊙ t] and the vectors of fields: u is the user's
vector without the candidate, t the candidate's.
Shapes: U histories, S places of a history (T items and, of BST and HSTU, a start before the oldest), K candidates of a
history, H heads of C = d / H numbers. The newest item is the last; in a batch shorter histories have gaps before them.
U is taken by `len`, which is a constant in an exported graph: it reads one history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbserve.models.configs import (
    BstEmbConfig,
    DinEmbConfig,
    HistoryConfig,
    HstuEmbConfig,
    LayeredHistoryConfig,
)
from rbserve.models.ctr_base import CtrModel
from rbserve.models.fields import Fields
from rbserve.models.items import ItemEncoder
from rbserve.models.layers import PairMlp, hidden_layers

INIT_STD = 0.02
UNSEEN = -1e9
"""Added to the score of a place that is not looked at: its weight becomes exactly 0, in softmax and in SiLU."""


Memory = tuple[Tensor, Tensor]
"""What a layer's candidates look at: keys and values [U, H, S, C] or, of DIN, two tensors [U, T, .]."""


class HistoryReading(NamedTuple):
    """Histories that were read: the users' vectors [U, d], and a memory for each layer."""

    user: Tensor
    memories: list[Memory]
    unseen: Tensor | None = None  # [U, 1, 1, S]: 0, and UNSEEN for gaps; None where there are none


class HistoryModel(CtrModel):
    """A user-item scorer that reads the last `max_history` items of a history one by one."""

    def __init__(self, config: HistoryConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        self.max_history = config.max_history
        self.deep = PairMlp(self.left, self.right + 2 * config.dim, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def read(self, history: Tensor, lengths: Tensor | None = None) -> HistoryReading:
        """Reads histories [U, T, d]; where they are not all of T items, the last lengths[u] are the history."""
        raise NotImplementedError

    def meet(self, reading: HistoryReading, candidates: Tensor) -> Tensor:
        """What candidates [U, K, d] find in the history before them, [U, K, d]."""
        raise NotImplementedError

    def match(self, history: Tensor, lengths: Tensor | None, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The users' vectors [U, d], and what candidates [U, K, d] find in the history before them, [U, K, d].

        Histories [U, T, d]; where they are not all of T items, the last lengths[u] are the history.
        """
        reading = self.read(history, lengths)
        return reading.user, self.meet(reading, candidates)

    def forward(
        self,
        history_values: Tensor,
        history_offsets: Tensor,
        candidates: Tensor,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Logits [B] of a batch, as `CtrModel.forward`. A history of rows that follow each other is read once."""
        recent = last_items(history_values, history_offsets, self.max_history)
        histories, owners = torch.unique_consecutive(recent, dim=0, return_inverse=True)
        there = histories >= 0
        table, rows = self.item_embedding.distinct(torch.cat([histories[there], candidates]))
        items = F.embedding(rows[-len(candidates) :], table)
        history = table.new_zeros(*histories.shape, table.size(1))
        history[there] = F.embedding(rows[: len(rows) - len(candidates)], table)
        places = places_within(owners)
        slates = items.new_zeros(len(histories), int(places.max()) + 1, items.size(1))
        slates[owners, places] = items
        user, matched = self.match(history, there.sum(dim=1), slates)
        return self._answer(user[owners], items, matched[owners, places], tensors)

    def score(
        self, history: Tensor, candidates: Tensor, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Click probabilities [N] of candidates int[N] for the user of history int[T], as `CtrModel.score`."""
        read = self.item_embedding(history[-self.max_history :])
        return torch.sigmoid(self._meet_one(read, self.item_embedding(candidates), tensors))

    def score_vectors(
        self, history: Tensor, candidates: Tensor, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Click probabilities [N] of items with vectors [N, d] for the user of items with vectors [T, d]."""
        return torch.sigmoid(self._meet_one(history[-self.max_history :], candidates, tensors))

    def _meet_one(self, history: Tensor, items: Tensor, tensors: Mapping[str, Tensor] | None) -> Tensor:
        """Logits [N] of items [N, d] for one history [T, d]."""
        user, matched = self.match(history.unsqueeze(0), None, items.unsqueeze(0))
        return self._answer(user, items, matched[0], tensors)

    def _answer(
        self, user: Tensor, item: Tensor, matched: Tensor, tensors: Mapping[str, Tensor] | None
    ) -> Tensor:
        right = torch.cat([matched, user * item], dim=1)
        if self.fields is not None:
            assert tensors is not None
            user, item = self.fields.beside(user, item, tensors)
        logits: Tensor = self.output(self.deep(user, torch.cat([item, right], dim=1)))
        return logits.reshape(-1)


def last_items(values: Tensor, offsets: Tensor, most: int) -> Tensor:
    """The last `most` items of ragged histories, int[B, T], with -1 before those of the shorter ones; T >= 1."""
    begins, ends = offsets[:-1], offsets[1:]
    longest = max(1, min(most, int((ends - begins).max())))
    places = ends[:, None] + torch.arange(-longest, 0, device=values.device)
    none = values.size(0)
    return F.pad(values, (0, 1), value=-1)[torch.where(places >= begins[:, None], places, none)]


def places_within(owners: Tensor) -> Tensor:
    """The place of each row among those of its owner: int64[B] of owners int64[B], which do not decrease."""
    counts = torch.bincount(owners)
    return torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]


class Din(HistoryModel):
    """s = Σ_j a(t, h_j) h_j over the history's items h_j (Zhou et al. 2018, eq. 3); u is their mean.

    a is an MLP of ReLU over [t; h; t - h; t ⊙ h]. t - h is linear in the other two: its weights are part of theirs. The
    weights do not sum to 1 unless `softmax`. u and u ⊙ t stand beside s as in the authors' code.
    """

    def __init__(self, config: DinEmbConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        first, *rest = config.attention_hidden
        self.softmax = config.softmax
        self.of_candidate = nn.Linear(config.dim, first)
        self.of_item = nn.Linear(config.dim, first, bias=False)
        self.of_product = nn.Linear(config.dim, first, bias=False)
        self.unit = nn.Sequential(
            nn.ReLU(), hidden_layers(first, rest, 0.0), nn.Linear(config.attention_hidden[-1], 1)
        )

    def read(self, history: Tensor, lengths: Tensor | None = None) -> HistoryReading:
        """Reads histories: their means, and the part of the unit's first layer that is the items' own."""
        if lengths is None:
            # T stays a tensor, so that an exported graph counts the history it is given.
            count, unseen = torch.ones_like(history[..., :1]).sum(dim=1), None
        else:
            count, unseen = lengths[:, None].to(history.dtype), gaps(history, lengths)
        return HistoryReading(
            history.sum(dim=1) / count.clamp(min=1), [(self.of_item(history), history)], unseen
        )

    def meet(self, reading: HistoryReading, candidates: Tensor) -> Tensor:
        """The weighted sums [U, K, d] of the items for candidates [U, K, d]."""
        seen, history = reading.memories[0]
        products = self.of_product(candidates.unsqueeze(2) * history.unsqueeze(1))  # [U, K, T, ·]
        hidden = self.of_candidate(candidates).unsqueeze(2) + seen.unsqueeze(1) + products
        weights = self.unit(hidden).squeeze(3)  # [U, K, T]
        if self.softmax:
            weights = (weights if reading.unseen is None else weights + reading.unseen.squeeze(1)).softmax(-1)
        matched: Tensor = weights @ history  # gaps are zero vectors
        return matched


class SelfAttention(nn.Module):
    """x + W mix(LN(x)), then x + MLP(LN(x)): a layer of BST, with the norms before the sums and an MLP of ReLU."""

    def __init__(self, config: LayeredHistoryConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.width = config.heads, dim // config.heads
        self.norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.attended = nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(config.dropout)
        start_weights(self, [self.attended, self.down], config.layers)

    def read(self, x: Tensor, unseen: Tensor, last_only: bool) -> tuple[Tensor, Memory]:
        """The outputs for x [U, S, d], and keys and values, each [U, H, S, C]; unseen [., 1, S, S] hides later places.

        With `last_only` the outputs are those of the newest item, [U, 1, d].
        """
        query, key, value = self._project(x)
        if last_only:
            x, query, unseen = x[:, -1:], query[:, :, -1:], unseen[:, :, -1:]
        weights = (query @ key.transpose(2, 3) + unseen).softmax(-1)
        return self._finish(x, self.dropout(weights) @ value), (key, value)

    def meet(self, x: Tensor, memory: Memory, unseen: Tensor | None) -> Tensor:
        """The outputs for candidates x [U, K, d], each of which sees the history and itself."""
        query, own_key, own_value = self._project(x)
        scores = query @ memory[0].transpose(2, 3)  # [U, H, K, S]
        if unseen is not None:
            scores = scores + unseen
        own = (query * own_key).sum(-1, keepdim=True)
        weights = self.dropout(torch.cat([own, scores], dim=-1).softmax(-1))
        mixed = weights[..., :1] * own_value + weights[..., 1:] @ memory[1]
        return self._finish(x, mixed)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, scaled, keys and values of x [U, S, d], each [U, H, S, C]."""
        query, key, value = (
            part.reshape(len(x), -1, self.heads, self.width).transpose(1, 2)
            for part in torch.split(self.query_key_value(self.norm(x)), self.heads * self.width, dim=-1)
        )
        return query * self.width**-0.5, key, value

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(
            self.attended(mixed.transpose(1, 2).reshape(len(x), -1, self.heads * self.width))
        )
        outputs: Tensor = x + self.dropout(self.down(torch.relu(self.up(self.mlp_norm(x)))))
        return outputs


class TransductionUnit(nn.Module):
    """x + W (LN(Σ_j SiLU(q · k_j + b_(i - j)) v_j / P) ⊙ g), [g; v; q; k] = SiLU(W' LN(x)): a layer of HSTU.

    Zhai et al. (2024), eqs. 1 to 3. b has a weight for each distance. P is the number of places of a longest history,
    as in the authors' code, so that a sum tells many items from few.
    """

    behind: Tensor

    def __init__(self, config: LayeredHistoryConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.width = config.heads, dim // config.heads
        self.places = config.max_history + 2
        self.norm, self.mixed_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.gate_value_query_key = nn.Linear(dim, 4 * dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.dropout)
        start_weights(self, [self.output], config.layers)
        self.bias = nn.Parameter(torch.zeros(self.places))
        place = torch.arange(self.places)
        self.register_buffer(
            "behind", (self.places - 1 - place[:, None] + place).clamp(max=self.places - 1), persistent=False
        )

    def read(self, x: Tensor, unseen: Tensor, last_only: bool) -> tuple[Tensor, Memory]:
        """The outputs for x [U, S, d], with `last_only` at the newest item, [U, 1, d]; keys and values [U, H, S, C].

        unseen [., 1, S, S] hides later places.
        """
        gate, value, query, key = self._project(x)
        bias = self.bias[self.behind][: x.size(1), : x.size(1)]
        if last_only:
            x, gate, query = x[:, -1:], gate[:, -1:], query[:, :, -1:]
            unseen, bias = unseen[:, :, -1:], bias[-1:]
        weights = F.silu(query @ key.transpose(2, 3) + bias + unseen)
        return self._finish(x, weights @ value, gate), (key, value)

    def meet(self, x: Tensor, memory: Memory, unseen: Tensor | None) -> Tensor:
        """The outputs for candidates x [U, K, d], each of which sees the history and itself."""
        gate, own_value, query, own_key = self._project(x)
        length = memory[0].size(2)
        scores = query @ memory[0].transpose(2, 3) + self.bias[self.places - 1 - length : -1]
        if unseen is not None:
            scores = scores + unseen
        own = F.silu((query * own_key).sum(-1, keepdim=True) + self.bias[-1])
        return self._finish(x, F.silu(scores) @ memory[1] + own * own_value, gate)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The gate [U, S, d]; values, queries and keys of x [U, S, d], each [U, H, S, C]."""
        joint = F.silu(self.gate_value_query_key(self.norm(x)))
        gate, value, query, key = torch.split(joint, self.heads * self.width, dim=-1)
        value, query, key = (
            part.reshape(len(x), -1, self.heads, self.width).transpose(1, 2) for part in (value, query, key)
        )
        return gate, value, query, key

    def _finish(self, x: Tensor, mixed: Tensor, gate: Tensor) -> Tensor:
        mixed = mixed.transpose(1, 2).reshape(len(x), -1, self.heads * self.width) / self.places
        outputs: Tensor = x + self.dropout(self.output(self.mixed_norm(mixed) * gate))
        return outputs


def start_weights(module: nn.Module, last: list[nn.Linear], layers: int) -> None:
    """Draws the weights of a layer; those of its `last` products so that the sum over layers starts as one (GPT-2)."""
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            nn.init.normal_(linear.weight, std=INIT_STD * ((2 * layers) ** -0.5 if linear in last else 1.0))
            nn.init.zeros_(linear.bias)


def gaps(history: Tensor, lengths: Tensor) -> Tensor:
    """[U, 1, 1, S]: UNSEEN for the places of [U, S, ·] before the last lengths[u], 0 for the others."""
    place = torch.arange(history.size(1), 0, -1, device=history.device)
    return torch.where(place > lengths[:, None], UNSEEN, 0.0)[:, None, None]


class LayeredHistory(HistoryModel):
    """Layers over [start, history, candidate], where a place sees itself and those before it, but no other candidate.

    u is the last layer's output at the newest item, s that at the candidate.
    """

    later: Tensor

    def __init__(
        self, config: LayeredHistoryConfig, items: ItemEncoder, fields: Fields | None, layer: type[nn.Module]
    ) -> None:
        super().__init__(config, items, fields)
        places = config.max_history + 2
        self.start = nn.Parameter(INIT_STD * torch.randn(config.dim))
        self.layers = nn.ModuleList(layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.register_buffer("later", torch.full((places, places), UNSEEN).triu(1), persistent=False)

    def place(self, x: Tensor) -> Tensor:
        """Tells the places of starts and histories [U, S, d] apart, by what is behind them."""
        return x

    def place_candidates(self, x: Tensor) -> Tensor:
        """Tells candidates [U, K, d] from items of the history."""
        return x

    def read(self, history: Tensor, lengths: Tensor | None = None) -> HistoryReading:
        """Reads a start and histories through all layers; of the last one, at the newest item alone."""
        start = self.start.expand(len(history), 1, -1)
        x = torch.cat([start, history], dim=1)
        unseen, hidden = None, self.later[: x.size(1), : x.size(1)][None, None]
        if lengths is not None:
            first = torch.arange(history.size(1), -1, -1, device=x.device) == lengths[:, None]
            x = torch.where(first[..., None], start, x)
            unseen = gaps(x, lengths + 1)
            hidden = hidden + unseen
        x, memories = self.place(x), []
        for number, layer in enumerate(self.layers, start=1):
            x, memory = cast(SelfAttention, layer).read(x, hidden, last_only=number == len(self.layers))
            memories.append(memory)
        return HistoryReading(self.norm(x)[:, 0], memories, unseen)

    def meet(self, reading: HistoryReading, candidates: Tensor) -> Tensor:
        """The outputs [U, K, d] at candidates [U, K, d]."""
        x = self.place_candidates(candidates)
        for layer, memory in zip(self.layers, reading.memories, strict=True):
            x = cast(SelfAttention, layer).meet(x, memory, reading.unseen)
        matched: Tensor = self.norm(x)
        return matched


class Bst(LayeredHistory):
    """A transformer over the history and the candidate (Chen et al. 2019). A place's vector is that of its distance."""

    def __init__(self, config: BstEmbConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields, SelfAttention)
        self.positions = nn.Parameter(INIT_STD * torch.randn(config.max_history + 2, config.dim))
        self.dropout = nn.Dropout(config.dropout)

    def place(self, x: Tensor) -> Tensor:
        """Adds the vectors of the places."""
        behind = self.positions.size(0) - 1
        placed: Tensor = self.dropout(x + self.positions[behind - x.size(1) : behind])
        return placed

    def place_candidates(self, x: Tensor) -> Tensor:
        """Adds the vector of the last place."""
        placed: Tensor = self.dropout(x + self.positions[-1])
        return placed


class Hstu(LayeredHistory):
    """Pointwise attention with gates and relative positions (Zhai et al. 2024), without times; target-aware."""

    def __init__(self, config: HstuEmbConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields, TransductionUnit)
