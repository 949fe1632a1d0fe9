"""The building blocks of the CTR models, over two sides: a user u and an item t.

Shapes: `user` is [B, l] (one user per item) or [1, l] (one user, a slate of items); `item` is [B, r]. Without fields
beside history and candidate both are one vector, l = r = d; with fields, several side by side.
Blocks that take both broadcast, so whatever depends on the user alone is computed once for a whole slate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def join(user: Tensor, item: Tensor, alike: bool) -> Tensor:
    """x = [u; t], [B, l + r], for equations that need the whole vector; a single user is repeated.

    `alike`: l = r, which makes a smaller graph.
    """
    return torch.cat([user.expand_as(item) if alike else user.expand(item.size(0), -1), item], dim=-1)


class PairLinear(nn.Module):
    """W [a; b] + bias, computed as W_a a + W_b b + bias: [a; b] is never made, and either may broadcast.

    Starts from the very weights nn.Linear(left + right, outputs) would draw.
    """

    def __init__(self, left: int, right: int, outputs: int) -> None:
        super().__init__()
        whole = nn.Linear(left + right, outputs)
        self.left = nn.Linear(left, outputs, bias=False)
        self.right = nn.Linear(right, outputs)
        with torch.no_grad():
            self.left.weight.copy_(whole.weight[:, :left])
            self.right.weight.copy_(whole.weight[:, left:])
            self.right.bias.copy_(whole.bias)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        outputs: Tensor = self.left(left) + self.right(right)
        return outputs


def hidden_layers(inputs: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear, ReLU, Dropout for each width: [B, inputs] -> [B, widths[-1]]."""
    layers: list[nn.Module] = []
    for before, after in pairwise([inputs, *widths]):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


class PairMlp(nn.Module):
    """The hidden layers of an MLP over [a; b]: -> [B, widths[-1]]."""

    def __init__(self, left: int, right: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.first = PairLinear(left, right, widths[0])
        self.activation = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))
        self.rest = hidden_layers(widths[0], widths[1:], dropout)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        hidden: Tensor = self.rest(self.activation(self.first(left, right)))
        return hidden


class VectorCross(nn.Module):
    """DCN (Wang et al. 2017, eq. 3): x_{l+1} = x0 (w_l · x_l) + b_l + x_l, with w_l a vector."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Linear(features, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        crossed: Tensor = x0 * self.weight(x) + self.bias + x
        return crossed


class MatrixCross(nn.Module):
    """DCNv2 (Wang et al. 2021, eq. 1): x_{l+1} = x0 ⊙ (W_l x_l + b_l) + x_l."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        crossed: Tensor = x0 * self.linear(x) + x
        return crossed


class GatedCross(nn.Module):
    """GDCN (Wang et al. 2023): x_{l+1} = x0 ⊙ (W_c x_l + b) ⊙ σ(W_g x_l) + x_l."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)
        self.gate = nn.Linear(features, features, bias=False)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        crossed: Tensor = x0 * self.linear(x) * torch.sigmoid(self.gate(x)) + x
        return crossed


class CrossNetwork(nn.Module):
    """Cross layers one after the other, x0 = [u; t]: [B, features] -> [B, features]."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer in self.layers:
            x = layer(x0, x)
        return x


class LowRankExperts(nn.Module):
    """Σ_i g_i U_i tanh(C_i tanh(V_iᵀ x)) + b: every expert of one layer in three products, no loop.

    The V_i side by side are one matrix. So are the U_i: multiplying the experts' inner vectors, weighted by
    their gates, by all U_i at once also sums over the experts.
    """

    def __init__(self, features: int, rank: int, experts: int) -> None:
        super().__init__()
        self.experts, self.rank = experts, rank
        self.down = nn.Linear(features, experts * rank, bias=False)
        self.core = nn.Parameter(torch.empty(experts, rank, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.up = nn.Linear(experts * rank, features)

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        inner = torch.tanh(self.down(x)).reshape(-1, self.experts, self.rank).transpose(0, 1)  # [E, B, r]
        inner = torch.tanh(inner @ self.core).transpose(0, 1) * gates.unsqueeze(-1)  # [B, E, r]
        mixed: Tensor = self.up(inner.flatten(1))
        return mixed


class MixtureCrossNetwork(nn.Module):
    """DCNv2-mix (Wang et al. 2021): x_{l+1} = Σ_i G_i(x_l) x0 ⊙ (U_i tanh(C_i tanh(V_iᵀ x_l)) + b) + x_l.

    G is a softmax over the experts, its weights shared by the layers as in the paper and FuxiCTR. The gates
    sum to one, so b leaves the sum.
    """

    def __init__(self, features: int, layers: int, rank: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(features, experts, bias=False)
        self.layers = nn.ModuleList(LowRankExperts(features, rank, experts) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer in self.layers:
            x = x0 * layer(x, torch.softmax(self.gate(x), dim=-1)) + x
        return x


class ParallelCross(nn.Module):
    """Logits fc([cross([u; t]); MLP([u; t])])."""

    def __init__(
        self, cross: nn.Module, left: int, right: int, widths: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.cross, self.alike = cross, left == right
        self.deep = PairMlp(left, right, widths, dropout)
        self.output = PairLinear(left + right, widths[-1], 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.output(self.cross(join(user, item, self.alike)), self.deep(user, item))
        return logits.reshape(-1)


class StackedCross(nn.Module):
    """Logits fc(MLP(cross([u; t])))."""

    def __init__(
        self, cross: nn.Module, left: int, right: int, widths: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.cross, self.alike = cross, left == right
        self.deep = hidden_layers(left + right, widths, dropout)
        self.output = nn.Linear(widths[-1], 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.output(self.deep(self.cross(join(user, item, self.alike))))
        return logits.reshape(-1)


class MaskBlock(nn.Module):
    """MaskNet (Wang et al. 2021): ReLU(LN(W (W2 ReLU(W1 [u; t]) ⊙ h))), [B, inputs] -> [B, outputs].

    The mask sees the raw embeddings whatever h is. W has no bias: LN brings its own, as in FuxiCTR.
    """

    def __init__(
        self, left: int, right: int, inputs: int, outputs: int, reduction_ratio: float, dropout: float
    ) -> None:
        super().__init__()
        inner = max(1, int(inputs * reduction_ratio))
        self.aggregate = PairLinear(left, right, inner)
        self.project = nn.Linear(inner, inputs)
        self.hidden = nn.Linear(inputs, outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, user: Tensor, item: Tensor, hidden: Tensor) -> Tensor:
        mask = self.project(torch.relu(self.aggregate(user, item)))
        outputs: Tensor = self.dropout(torch.relu(self.norm(self.hidden(mask * hidden))))
        return outputs


class FieldGate(nn.Module):
    """FinalMLP's feature selection (Mao et al. 2023): [u; t] ⊙ 2σ(MLP(context)), as its two sides."""

    def __init__(self, context: int, left: int, right: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.sides = [left, right]
        gates = nn.Linear(widths[-1], left + right)
        self.mlp = nn.Sequential(hidden_layers(context, widths, dropout=0.0), gates)

    def forward(self, context: Tensor, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        gates = 2 * torch.sigmoid(self.mlp(context))
        user_gate, item_gate = torch.split(gates, self.sides, dim=-1)
        return user * user_gate, item * item_gate


class BilinearFusion(nn.Module):
    """FinalMLP's fusion (Mao et al. 2023): w_aᵀa + w_bᵀb + Σ_h a_hᵀ W_h b_h + bias -> [B]."""

    def __init__(self, left: int, right: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = PairLinear(left, right, 1)
        self.bilinear = nn.Parameter(torch.empty(heads, left // heads, right // heads))
        # FuxiCTR's start: Xavier of the weights seen as one column.
        nn.init.normal_(self.bilinear, std=(2 / (self.bilinear.numel() + 1)) ** 0.5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left_heads = left.reshape(-1, self.heads, self.bilinear.size(1)).transpose(0, 1)  # [H, B, left / H]
        crossed = (left_heads @ self.bilinear).transpose(0, 1).flatten(1)  # [B, right]
        logits: Tensor = self.linear(left, right) + (crossed * right).sum(-1, keepdim=True)
        return logits.reshape(-1)


class PairAttention(nn.Module):
    """AutoInt (Song et al. 2019, eqs. 5 to 8): multi-head self-attention over the fields u and t.

    Field i becomes ReLU(concat_h Σ_j softmax_j(Q_i K_jᵀ) V_j + residual_i). Scores are not scaled, and the
    residual is projected only where widths differ, as in FuxiCTR. Of two fields the softmax is σ(s) and
    σ(-s), s = Q_i · (K_u - K_t): the fields stay apart, and a slate's user has its Q, K and V made once.
    """

    def __init__(self, inputs: int, outputs: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.width = heads, outputs
        self.query_key_value = nn.Linear(inputs, 3 * outputs, bias=False)
        self.residual = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        user_query, user_key, user_value = self._project(user)
        item_query, item_key, item_value = self._project(item)
        key, values = user_key - item_key, (user_value, item_value)
        return self._attend(user, user_query, key, values), self._attend(item, item_query, key, values)

    def _project(self, field: Tensor) -> tuple[Tensor, ...]:
        """Q, K and V of one field, each [B, H, D]."""
        parts = torch.split(self.query_key_value(field), self.width, dim=-1)
        return tuple(part.reshape(-1, self.heads, self.width // self.heads) for part in parts)

    def _attend(self, field: Tensor, query: Tensor, key: Tensor, values: tuple[Tensor, Tensor]) -> Tensor:
        score = (query * key).sum(-1, keepdim=True)  # [B, H, 1]
        to_user, to_item = self.dropout(torch.sigmoid(score)), self.dropout(torch.sigmoid(-score))
        attended = to_user * values[0] + to_item * values[1]
        return torch.relu(attended.reshape(-1, self.width) + self.residual(field))


class FieldAttention(nn.Module):
    """`PairAttention` over any number of fields: [., left * inputs] and [B, right * inputs] in, both sides out."""

    def __init__(self, left: int, right: int, inputs: int, outputs: int, heads: int, dropout: float) -> None:
        """`left` and `right` are the numbers of fields of the user's side and of the item's."""
        super().__init__()
        self.left, self.right, self.inputs = left, right, inputs
        self.heads, self.width = heads, outputs
        self.query_key_value = nn.Linear(inputs, 3 * outputs, bias=False)
        self.residual = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """What each field becomes, on its side."""
        count = self.left + self.right
        fields = join(user, item, self.left == self.right).reshape(-1, count, self.inputs)  # [B, F, inputs]
        query, key, value = (
            part.reshape(-1, count, self.heads, self.width // self.heads).transpose(1, 2)
            for part in torch.split(self.query_key_value(fields), self.width, dim=-1)
        )
        weights = self.dropout(torch.softmax(query @ key.transpose(2, 3), dim=-1))  # [B, H, F, F]
        # Every size but the batch's is said: of an empty slate no size can be told from the others.
        attended = (weights @ value).transpose(1, 2).reshape(-1, count, self.width)
        outputs = torch.relu(attended + self.residual(fields)).reshape(-1, count * self.width)
        left, right = torch.split(outputs, [self.left * self.width, self.right * self.width], dim=1)
        return left, right


class SideNorm(nn.LayerNorm):
    """Layer normalisation of each of a side's vectors: [., count * d], with weights of its own for each vector."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__(count * dim)
        self.count, self.dim = count, dim

    def forward(self, side: Tensor) -> Tensor:
        """The side with each of its vectors normalised."""
        if self.count == 1:
            return super().forward(side)
        vectors = F.layer_norm(side.reshape(-1, self.count, self.dim), (self.dim,), eps=self.eps)
        return vectors.flatten(1) * self.weight + self.bias
