"""The losses of models that predict all codes of the next item at once (`models/code_scores.py`).

- "items": the item that follows against the whole catalogue, by sums of the codes' logits (eq. 7). Paths that no item
  has get no probability, as in conditional beam search.
- "codes": each code that follows against the codes of its level (RPG, Hou et al. 2025, section 3.2). It costs L * K
  products a position instead of n, and gives probability to paths that no item has.

Both train the same sums: what a score lacks of the first probability is a number that all items share.

Shapes: P predicted positions of width d, n items of L codes each from K.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbserve.train.tasks.softmax import softmax_loss


def code_heads_loss(
    hidden: Tensor, heads: nn.Linear, codes: Tensor, items: Tensor, against: Literal["items", "codes"]
) -> Tensor:
    """-log probability of the next items int64[P], summed over P, by the states [P, d] before them.

    `heads` gives logits of L * K code tokens; `codes` int64[L, n] has the tokens of all items.
    """
    if against == "codes":
        return _loss_of_codes(heads(hidden), codes[:, items].T)
    weights = torch.cat((heads.weight, heads.bias[:, None]), dim=1)
    table = F.embedding_bag(
        codes.T.contiguous(), weights, mode="sum"
    )  # sums of the items' codes, biases last
    return softmax_loss(F.pad(hidden, (0, 1), value=1.0), table, items)


def _loss_of_codes(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over positions and levels of logits [P, L * K] and the tokens that follow int64[P, L]."""
    positions, levels = labels.shape
    by_level = logits.float().reshape(positions, levels, -1)
    first = by_level.size(2) * torch.arange(levels, device=labels.device)
    return F.cross_entropy(by_level.flatten(0, 1), (labels - first).flatten(), reduction="sum")
