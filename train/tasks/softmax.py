"""Cross-entropy over a whole catalogue (eq. 7) without its logits in memory, and over a pool of items.

P predicted positions and n items have P x n logits: 17 million in a batch of MicroLens, of which autograd keeps
several copies. The gradient of -log softmax is softmax minus one at the label, so the forward pass can compute it for
a piece of the positions at a time and keep only sums (Hsu et al. 2024, Liger Kernel, on GPUs). A piece's logits are
no larger than the item table, and stay in the processor's cache if the table does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def softmax_loss(hidden: Tensor, items: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(hidden [P, d] @ items [n, d]^T)[labels int64[P]], summed over P; products in autocast's type."""
    device = hidden.device.type
    low = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if low else hidden.dtype
    loss: Tensor = _SoftmaxLoss.apply(hidden, items, labels, dtype)  # type: ignore[no-untyped-call]
    return loss


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, items: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
        low_hidden, low_items = hidden.to(dtype), items.to(dtype)
        to_hidden, to_items = torch.empty_like(hidden), torch.zeros_like(items)
        loss = torch.zeros((), dtype=items.dtype, device=hidden.device)
        at_once = items.size(1)  # as many logits as the table has numbers
        for start in range(0, len(hidden), at_once):
            rows = slice(start, start + at_once)
            place = (torch.arange(len(labels[rows]), device=hidden.device), labels[rows])
            logits = (low_hidden[rows] @ low_items.T).to(items.dtype)
            total = logits.logsumexp(1)
            loss += (total - logits[place]).sum()
            slope = logits.sub_(total[:, None]).exp_()
            slope[place] -= 1
            slope = slope.to(dtype)
            to_hidden[rows] = slope @ low_items
            to_items += slope.T @ low_hidden[rows]
        ctx.save_for_backward(to_hidden, to_items)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_hidden, to_items = ctx.saved_tensors
        return slope * to_hidden, slope * to_items, None, None


def weighted_softmax_loss(
    hidden: Tensor, items: Tensor, bias: Tensor, targets: Tensor, weights: Tensor, log_odds: Tensor
) -> Tensor:
    """Cross-entropy of weighted targets, summed over P positions, with a pool of U items in place of a catalogue.

    hidden [P, d]; items [U, d]; bias [U]; targets int64[P, K], rows of `items`; weights [P, K], of sum 1, are 0 where
    there is no target. Item i stands for exp(log_odds[i]) items of the catalogue, log_odds [U], except where it is a
    target of the position: there it stands for itself.
    """
    logits = (hidden @ items.T).float() + bias
    wanted = logits.gather(1, targets)
    filled = torch.where(weights > 0, targets, targets[:, :1])  # the first is always a target
    total = (logits + log_odds).scatter(1, filled, logits.gather(1, filled)).logsumexp(1)
    return (total - (weights * wanted).sum(1)).sum()
