"""The forms of an item: a vector of its own (group A), of its words (B), of a language model (C), or two of them.

An item encoder turns item numbers into vectors. Groups B and C make them of an item's *content*, so they also
have vectors for items that are not in the table, and for those that training never saw (section 3.1).
Shapes: n items of the table, d the width of an item vector, D that of a language model's, K items at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbserve.models.configs import CtrConfig, EmbeddingItems, TextItems
from rbserve.models.item_tower import ItemTower

ITEMS = "item_embedding."
"""Where the item encoder stands in a model's weights."""
EMBEDDING_STD = 1e-2


class ItemEncoder(nn.Module):
    """Item numbers to vectors: int[K] -> [K, d]."""

    n_items: int

    def distinct(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [U, d] of the U different items of int[K], and the row int64[K] each item has among them.

        A popular item stands in a batch hundreds of times, and is computed once.
        """
        unique, rows = torch.unique(items, return_inverse=True)
        return self(unique), rows

    def all_vectors(self) -> Tensor:
        """The vectors [n, d] of the whole table."""
        vectors: Tensor = self(torch.arange(self.n_items))
        return vectors

    @classmethod
    def like(cls, weights: Mapping[str, Tensor], config: CtrConfig) -> Self:
        """An encoder of the sizes of the one whose state `weights` is; their values are still to be loaded."""
        raise NotImplementedError


class IdItems(nn.Embedding, ItemEncoder):
    """Group A: an item is its number, and has a vector of its own."""

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__(n_items, dim)
        nn.init.normal_(self.weight, std=EMBEDDING_STD)
        self.n_items = n_items

    def blank(self, unseen: Tensor) -> None:
        """Gives the items marked in bool[n] the zero vector: items of which nothing is known.

        Training never changes them, since they occur in no training row. All of them score alike for a user,
        as an item without a past should; a random vector would score at random.
        """
        with torch.no_grad():
            self.weight[unseen] = 0

    def distinct(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """The table itself: there is nothing to compute."""
        return self.weight, items

    @classmethod
    def like(cls, weights: Mapping[str, Tensor], config: CtrConfig) -> Self:
        del config
        return cls(*weights["weight"].shape)

    @classmethod
    def of(cls, vectors: Tensor) -> Self:
        """Items whose vectors are given, [n, d]."""
        items = cls(*vectors.shape)
        items.weight = nn.Parameter(vectors, requires_grad=False)
        return items


class WordItems(ItemEncoder):
    """Group B (eq. 4): an item is the mean of its words' trainable embeddings; the zero vector without words.

    Item i's words are values[offsets[i]:offsets[i + 1]], as numbers from 0 to n_words - 1.
    """

    values: Tensor
    offsets: Tensor

    def __init__(self, values: Tensor, offsets: Tensor, n_words: int, dim: int) -> None:
        """values: int32[total]; offsets: int64[n + 1]."""
        super().__init__()
        self.n_items = len(offsets) - 1
        self.register_buffer("values", values)
        self.register_buffer("offsets", offsets)
        self.words = nn.Embedding(n_words, dim)
        nn.init.normal_(self.words.weight, std=EMBEDDING_STD)

    def forward(self, items: Tensor) -> Tensor:
        begin, end = self.offsets[items], self.offsets[items + 1]
        lengths = end - begin
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        positions = torch.repeat_interleave(begin - offsets[:-1], lengths)
        positions += torch.arange(len(positions), device=positions.device)
        words = self.values[positions].long()
        return F.embedding_bag(words, self.words.weight, offsets, mode="mean", include_last_offset=True)

    @classmethod
    def like(cls, weights: Mapping[str, Tensor], config: CtrConfig) -> Self:
        del config
        n_words, dim = weights["words.weight"].shape
        return cls(torch.empty_like(weights["values"]), torch.zeros_like(weights["offsets"]), n_words, dim)


class VectorItems(ItemEncoder):
    """Group C (eq. 5): an item is a projection of its text's vector from a frozen language model.

    Those vectors are brought to mean 0 and deviation 1 in each of their D dimensions first: sentence encoders put
    all texts into a narrow cone, and a projection of what they have in common tells no item from another.

    With a `tower` vectors are made anew in training, so that it learns; in eval mode the table is read, which
    `read_texts` fills.
    """

    vectors: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, vectors: Tensor, dim: int, tuned: bool, hidden: int = 0) -> None:
        """vectors: float32[n, D]. `tuned` says whether they are trained themselves.

        `hidden` is the width of a layer of SiLU before the projection; 0: none.
        """
        super().__init__()
        self.n_items = len(vectors)
        deviation, center = torch.std_mean(vectors, dim=0, correction=0)
        self.register_buffer("center", center)
        self.register_buffer("scale", deviation.clamp(min=1e-6).reciprocal())
        start = (vectors - self.center) * self.scale
        if tuned:
            self.vectors = nn.Parameter(start)
        else:
            self.register_buffer("vectors", start)
        self.hidden = nn.Linear(vectors.size(1), hidden) if hidden else None
        self.projection = nn.Linear(hidden or vectors.size(1), dim)
        self.tower: ItemTower | None = None

    def forward(self, items: Tensor) -> Tensor:
        made = self.vectors[items] if self.tower is None or not self.training else self._by_tower(items)
        return self.project(made)

    @torch.no_grad()
    def read_texts(self, items: Tensor) -> None:
        """Makes the vectors of items int64[K] in the table those that the tower makes of their texts."""
        self.vectors[items] = self._by_tower(items)

    def _by_tower(self, items: Tensor) -> Tensor:
        """The tower's vectors [K, D], standardised as the table was before training."""
        assert self.tower is not None
        read: Tensor = self.tower(items)
        return (read - self.center) * self.scale

    def project(self, vectors: Tensor) -> Tensor:
        """Item vectors [K, d] of standardised vectors [K, D]."""
        projected: Tensor = self.projection(F.silu(self.hidden(vectors)) if self.hidden else vectors)
        return projected

    @classmethod
    def like(cls, weights: Mapping[str, Tensor], config: CtrConfig) -> Self:
        assert isinstance(config, EmbeddingItems)
        hidden = len(weights.get("hidden.bias", ()))
        return cls(torch.zeros_like(weights["vectors"]), config.dim, config.vectors == "tuned", hidden)


class OwnAndTextItems(VectorItems):
    """Beyond the paper: an item is the sum of a vector of its own and a projection of its text's vector.

    Of an item that training never saw the projection is left: its own vector is zero (`IdItems.blank`).
    """

    def __init__(self, vectors: Tensor, dim: int, std: float = EMBEDDING_STD) -> None:
        """vectors: float32[n, D]. Both parts start with a deviation of about `std`."""
        super().__init__(vectors, dim, tuned=False)
        self.own = IdItems(len(vectors), dim)
        nn.init.normal_(self.own.weight, std=std)
        nn.init.normal_(self.projection.weight, std=std * vectors.size(1) ** -0.5)
        nn.init.zeros_(self.projection.bias)

    def forward(self, items: Tensor) -> Tensor:
        own: Tensor = self.own(items)
        return own + super().forward(items)

    @classmethod
    def of_sizes(cls, vectors: Tensor, dim: int) -> Self:
        """An encoder for as many items as `vectors` [n, D] has rows; its values are still to be loaded."""
        return cls(torch.zeros_like(vectors), dim)


def items_like(config: CtrConfig, weights: Mapping[str, Tensor]) -> ItemEncoder:
    """The encoder of `config`'s item form, with the sizes of the one whose state `weights` is."""
    if isinstance(config, TextItems):
        return WordItems.like(weights, config)
    if isinstance(config, EmbeddingItems):
        return VectorItems.like(weights, config)
    return IdItems.like(weights, config)
