"""Directed item neighbours: the score of an item is a sum over the neighbour rows of the history's items.

A row is sparse and of fixed length: the numbers of K neighbours and their weights, which have decay, degree and
freshness in them already. What is left to do for a user is to gather T rows, weigh them by recency, and add them up in
one vector of the catalogue.

Shapes: B users, T items of history, n items of the catalogue, K neighbours an item, H items of history at most.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbserve.models.configs import ItemKnnConfig

PRIOR = 1e-6
"""The score of the most popular item before the history is read: it orders items that no item of the history names."""
FLOOR = 1e-5
"""Added to an item's share of the neighbours' scores, so that it has a logarithm."""


class ItemKnn(nn.Module):
    """Neighbour rows int32[n, K] and float32[n, K], recency float32[H] of places of the history, prior float32[n]."""

    neighbours: Tensor
    weights: Tensor
    recency: Tensor
    prior: Tensor

    def __init__(self, neighbours: Tensor, weights: Tensor, recency: Tensor, prior: Tensor) -> None:
        """A row with fewer than K neighbours is filled up with item 0, whose weight there is 0."""
        super().__init__()
        self.register_buffer("neighbours", neighbours)
        self.register_buffer("weights", weights)
        self.register_buffer("recency", recency)
        self.register_buffer("prior", prior)

    @property
    def n_items(self) -> int:
        """The number of items of the catalogue."""
        return self.prior.size(0)

    def forward(self, histories: Tensor) -> Tensor:
        """Scores [B, n] of every item as the next one after histories int[B, T], oldest first, T at most H."""
        recency = self.recency[self.recency.size(0) - histories.size(1) :]
        items = F.embedding(histories, self.neighbours)  # [B, T, K]
        weights = F.embedding(histories, self.weights) * recency[:, None]
        prior = self.prior.repeat(histories.size(0), 1)
        return prior.scatter_add(1, items.flatten(1).long(), weights.flatten(1))

    def top_k(self, histories: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The best min(k, n) items int64[B, k] and their scores [B, k], best first."""
        scores, items = self(histories).topk(min(k, self.n_items))
        return items, scores


class WeightedNeighbours(nn.Module):
    """What neighbours add to the scores of another model: a weight times the logarithm of an item's share of theirs.

    `weight`, a number, is chosen on validation.
    """

    weight: Tensor

    def __init__(self, items: ItemKnn) -> None:
        super().__init__()
        self.items = items
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, histories: Tensor) -> Tensor:
        """[B, n], after histories int[B, T]."""
        return self.weight * self.log_shares(histories)

    def log_shares(self, histories: Tensor) -> Tensor:
        """log(s_i / sum_j s_j + FLOOR) [B, n] with the neighbours' scores s, after histories int[B, T]."""
        scores: Tensor = self.items(histories)
        return (scores / scores.sum(1, keepdim=True).clamp(min=PRIOR) + FLOOR).log()


def without_neighbours(n_items: int, neighbours: int, max_history: int) -> ItemKnn:
    """A model whose neighbours are still to be counted: `neighbours` of each item at most, all with weight 0."""
    width = min(neighbours, n_items)
    return ItemKnn(
        torch.zeros((n_items, width), dtype=torch.int32),
        torch.zeros((n_items, width)),
        recency_weights(1.0, max_history),
        torch.zeros(n_items),
    )


def recency_weights(recency: float, max_history: int) -> Tensor:
    """The weights float32[max_history] of the places of a history, oldest first; the last item's is 1."""
    return recency ** torch.arange(max_history - 1, -1, -1, dtype=torch.float64).to(torch.float32)


def rebuild(config: ItemKnnConfig, weights: Mapping[str, Tensor]) -> ItemKnn:
    """The model whose state `weights` is; KeyError or RuntimeError where they are not those of `config`."""
    model = ItemKnn(*(weights[name] for name in ("neighbours", "weights", "recency", "prior")))
    if model.recency.size(0) != config.max_history:
        raise RuntimeError(f"recency has {model.recency.size(0)} places, not {config.max_history}")
    return model
