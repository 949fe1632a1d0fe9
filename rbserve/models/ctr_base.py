"""The base of every model that predicts clicks: items and fields as vectors, scored in a batch, a slate or as vectors.

Shapes as in `ctr.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbserve.models.configs import CtrConfig, DeepFmConfig
from rbserve.models.fields import Fields, Sides
from rbserve.models.items import IdItems, ItemEncoder
from rbserve.models.layers import join


def width_of(config: CtrConfig) -> int:
    """How many numbers the model keeps of an item: DeepFM has a first-order weight beside the embedding."""
    return config.dim + isinstance(config, DeepFmConfig)


class CtrModel(nn.Module):
    """A user-item scorer: looks the two fields up, and leaves their interaction to its subclass."""

    def __init__(self, config: CtrConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__()
        self.config = config
        self.item_embedding = items
        self.fields = fields
        self.sides = fields.sides if fields else Sides()
        self.left, self.right = (count * config.dim for count in self.sides)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        """Logits [N] of items [N, r] for as many users [N, l], or for one user [1, l]."""
        raise NotImplementedError

    def forward(
        self,
        history_values: Tensor,
        history_offsets: Tensor,
        candidates: Tensor,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Logits [B] of a batch whose histories lie end to end: row b's starts at history_offsets[b].

        history_values: int[total]; history_offsets: int64[B + 1], the last one the total; candidates: int[B].
        `tensors` has those of the fields, a row for each row of the batch.
        """
        table, rows = self.item_embedding.distinct(torch.cat([history_values, candidates]))
        history, items = torch.split(rows, [len(history_values), len(candidates)])
        user = F.embedding_bag(history, table, history_offsets, mode="mean", include_last_offset=True)
        return self._interact(user, F.embedding(items, table), tensors)

    def score(
        self, history: Tensor, candidates: Tensor, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Click probabilities [N] of candidates int[N] for the user of history int[T]: what serving runs.

        `tensors` has those of the fields, a row for each candidate, and of the user's one row.
        """
        return torch.sigmoid(self._interact(self._user(history), self.item_embedding(candidates), tensors))

    def _interact(self, user: Tensor, item: Tensor, tensors: Mapping[str, Tensor] | None) -> Tensor:
        if self.fields is not None:
            assert tensors is not None
            user, item = self.fields.beside(user, item, tensors)
        return self.interact(user, item)

    def score_vectors(
        self, history: Tensor, candidates: Tensor, tensors: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Click probabilities [N] of items with vectors [N, d] for the user of items with vectors [T, d].

        `tensors` has those of the fields, as in `score`.
        """
        user = history.sum(dim=0, keepdim=True) / max(len(history), 1)
        return torch.sigmoid(self._interact(user, candidates, tensors))

    def vectors(self, user: Tensor, item: Tensor) -> Tensor:
        """The vectors [N, F, d] of both sides."""
        return join(user, item, self.left == self.right).reshape(-1, sum(self.sides), width_of(self.config))

    def folded(self) -> CtrModel:
        """A model that scores the same from a table of finished item vectors: group A's graph and speed."""
        if isinstance(self.item_embedding, IdItems):
            return self
        with torch.no_grad():
            table = self.item_embedding.all_vectors()
        model = copy.deepcopy(self)
        model.item_embedding = IdItems.of(table)
        return model

    def _user(self, history: Tensor) -> Tensor:
        embeddings: Tensor = self.item_embedding(history)
        # T stays a tensor, so that an exported graph counts the history it is given.
        length = torch.ones_like(history, dtype=embeddings.dtype).sum().clamp(min=1)
        return embeddings.sum(dim=0, keepdim=True) / length
