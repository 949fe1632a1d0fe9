"""HSTU, the hierarchical sequential transduction unit (Zhai et al. 2024, arXiv 2402.17152, equations 1 to 3).

Attention without a softmax: the weights of the items of a history do not sum to one. A block has one product for all it
needs of x, and a gate in place of an MLP.

Shapes: B sequences, T positions, d the width, H heads of C = d / H numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DISTANCE_STD = 0.02


class HstuBlock(nn.Module):
    """x + f2(norm(A V) * U), with U, V, Q, K = SiLU(f1(norm(x))) and A = SiLU(Q K^T + r), causal.

    r is a learnt number for each head and each distance between two positions.
    """

    def __init__(self, dim: int, heads: int, positions: int, dropout: float) -> None:
        """`positions`: the most that a sequence has."""
        super().__init__()
        self.heads = heads
        self.norm, self.mixed_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.parts = nn.Linear(dim, 4 * dim)
        self.output = nn.Linear(dim, dim)
        self.distance = nn.Parameter(DISTANCE_STD * torch.randn(positions, heads))
        self.dropout = nn.Dropout(dropout)

    @property
    def outputs(self) -> tuple[nn.Linear, ...]:
        """The layers whose outputs are added to x."""
        return (self.output,)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs [B, T, d] of x [B, T, d]; position t depends on positions 0 to t."""
        gate, *parts = F.silu(self.parts(self.norm(x))).chunk(4, dim=-1)
        value, query, key = (self._by_head(part) for part in parts)
        scores = query @ key.transpose(-1, -2)  # [B, H, T, T]
        place = torch.ones_like(scores[0, 0, 0]).cumsum(0).long()
        behind = place[:, None] - place
        distances = F.embedding(behind.clamp(min=0), self.distance).permute(2, 0, 1)
        weights = F.silu(scores + distances)
        weights = torch.where(behind >= 0, weights, 0.0)
        mixed = (self.dropout(weights) @ value).transpose(1, 2).reshape(x.shape)
        outputs: Tensor = x + self.dropout(self.output(self.mixed_norm(mixed) * gate))
        return outputs

    def _by_head(self, part: Tensor) -> Tensor:
        """[B, T, d] as [B, H, T, C]."""
        return part.reshape(part.size(0), part.size(1), self.heads, part.size(2) // self.heads).transpose(
            1, 2
        )
