"""The nine id-based CTR models of the paper's group A (section 3.1), over two fields.

u is the mean of the history items' embeddings, zero for an empty history; t is the candidate's embedding.
Each model says only how the two interact; training, profiling and export share that one definition.
Shapes: B rows of a batch, T items of history, N candidates of a slate, d the embedding width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbserve.models.configs import (
    AutoIntConfig,
    CtrConfig,
    DcnConfig,
    DcnV2Config,
    DeepFmConfig,
    DnnConfig,
    FinalMlpConfig,
    GdcnConfig,
    MaskNetConfig,
    PnnConfig,
)
from rbserve.models.layers import (
    BilinearFusion,
    CrossNetwork,
    FieldGate,
    GatedCross,
    MaskBlock,
    MatrixCross,
    MixtureCrossNetwork,
    PairAttention,
    PairLinear,
    PairMlp,
    ParallelCross,
    StackedCross,
    VectorCross,
    hidden_layers,
    join,
)

EMBEDDING_STD = 1e-2


def build(config: CtrConfig, n_items: int) -> CtrModel:
    """A freshly initialised model of `config`'s architecture, for items 0 to n_items - 1."""
    return MODULES[type(config)](config, n_items)


class CtrModel(nn.Module):
    """A user-item scorer: looks the two fields up, and leaves their interaction to its subclass."""

    def __init__(self, config: CtrConfig, n_items: int, width: int | None = None) -> None:
        """`width` is the embedding's, where a model keeps more than `config.dim` numbers an item."""
        super().__init__()
        self.config = config
        self.item_embedding = nn.Embedding(n_items, width or config.dim)
        nn.init.normal_(self.item_embedding.weight, std=EMBEDDING_STD)

    def blank_items(self, unseen: Tensor) -> None:
        """Gives the items marked in bool[n_items] the zero vector: items of which nothing is known.

        Training never changes them, since they occur in no training row. All of them score alike for a user,
        as an item without a past should; a random vector would score at random.
        """
        with torch.no_grad():
            self.item_embedding.weight[unseen] = 0

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        """Logits [N] of items [N, d] for as many users [N, d], or for one user [1, d]."""
        raise NotImplementedError

    def forward(self, history_values: Tensor, history_offsets: Tensor, candidates: Tensor) -> Tensor:
        """Logits [B] of a batch whose histories lie end to end: row b's starts at history_offsets[b].

        history_values: int[total]; history_offsets: int64[B + 1], the last one the total; candidates: int[B].
        """
        user = F.embedding_bag(
            history_values,
            self.item_embedding.weight,
            history_offsets,
            mode="mean",
            include_last_offset=True,
        )
        return self.interact(user, self.item_embedding(candidates))

    def score(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Click probabilities [N] of candidates int[N] for the user of history int[T]: what serving runs."""
        return torch.sigmoid(self.interact(self._user(history), self.item_embedding(candidates)))

    def _user(self, history: Tensor) -> Tensor:
        embeddings: Tensor = self.item_embedding(history)
        # T stays a tensor, so that an exported graph counts the history it is given.
        length = torch.ones_like(history, dtype=embeddings.dtype).sum().clamp(min=1)
        return embeddings.sum(dim=0, keepdim=True) / length


class Dnn(CtrModel):
    """MLP([u; t]) (Covington et al. 2016)."""

    def __init__(self, config: DnnConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.deep = PairMlp(config.dim, config.dim, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.output(self.deep(user, item))
        return logits.reshape(-1)


class Pnn(CtrModel):
    """MLP([u; t; <u, t>]): the inner-product variant (Qu et al. 2016)."""

    def __init__(self, config: PnnConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.deep = PairMlp(config.dim, config.dim + 1, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        product = (user * item).sum(-1, keepdim=True)
        logits: Tensor = self.output(self.deep(user, torch.cat([item, product], dim=-1)))
        return logits.reshape(-1)


class DeepFm(CtrModel):
    """linear + ½ Σ_d[(Σe)² - Σe²] + MLP([u; t]) (Guo et al. 2017); of two fields the middle term is <u, t>.

    The embedding's last column is an item's first-order weight, so the mean that makes u makes the user's.
    It starts at 0. The linear term's bias is the MLP's last one.
    """

    def __init__(self, config: DeepFmConfig, n_items: int) -> None:
        super().__init__(config, n_items, width=config.dim + 1)
        nn.init.zeros_(self.item_embedding.weight[:, -1])
        self.deep = PairMlp(config.dim, config.dim, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        linear = user[:, -1] + item[:, -1]
        user, item = user[:, :-1], item[:, :-1]
        logits: Tensor = self.output(self.deep(user, item))
        return linear + (user * item).sum(-1) + logits.reshape(-1)


class Dcn(CtrModel):
    """fc([cross; MLP]) with vector cross layers (Wang et al. 2017)."""

    def __init__(self, config: DcnConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        cross = CrossNetwork([VectorCross(2 * config.dim) for _ in range(config.cross_layers)])
        self.head = ParallelCross(cross, config.dim, config.hidden, config.dropout)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.head(user, item)
        return logits


class DcnV2(CtrModel):
    """Cross layers of full matrices or low-rank experts, beside or below an MLP (Wang et al. 2021)."""

    def __init__(self, config: DcnV2Config, n_items: int) -> None:
        super().__init__(config, n_items)
        structure = ParallelCross if config.structure == "parallel" else StackedCross
        self.head = structure(_dcnv2_cross(config), config.dim, config.hidden, config.dropout)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.head(user, item)
        return logits


def _dcnv2_cross(config: DcnV2Config) -> nn.Module:
    features = 2 * config.dim
    if config.mix:
        return MixtureCrossNetwork(features, config.cross_layers, config.rank, config.experts)
    return CrossNetwork([MatrixCross(features) for _ in range(config.cross_layers)])


class MaskNet(CtrModel):
    """Mask blocks over the layer-normalised fields (Wang et al. 2021).

    serial: fc(block_L(… block_1([LN(u); LN(t)]))). parallel: fc(MLP of every block's output side by side).
    """

    def __init__(self, config: MaskNetConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.serial = config.structure == "serial"
        self.norm_user, self.norm_item = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.blocks = nn.ModuleList(
            MaskBlock(config.dim, inputs, outputs, config.reduction_ratio, config.dropout)
            for inputs, outputs in _mask_block_widths(config)
        )
        if not self.serial:
            self.deep = hidden_layers(config.blocks * config.block_dim, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        hidden = join(self.norm_user(user), self.norm_item(item))
        if self.serial:
            for block in self.blocks:
                hidden = block(user, item, hidden)
        else:
            hidden = self.deep(torch.cat([block(user, item, hidden) for block in self.blocks], dim=-1))
        logits: Tensor = self.output(hidden)
        return logits.reshape(-1)


def _mask_block_widths(config: MaskNetConfig) -> list[tuple[int, int]]:
    if config.structure == "serial":
        return list(pairwise([2 * config.dim, *config.hidden]))
    return [(2 * config.dim, config.block_dim)] * config.blocks


class FinalMlp(CtrModel):
    """Two MLP streams with feature gates, fused bilinearly (Mao et al. 2023).

    The gates' contexts are what that paper proposes, user features for one stream and item features for the
    other; with two fields, that is u and t themselves.
    """

    def __init__(self, config: FinalMlpConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.gates = config.gates
        if config.gates:
            self.user_gate = FieldGate(config.dim, config.gate_hidden)
            self.item_gate = FieldGate(config.dim, config.gate_hidden)
        self.first_stream = PairMlp(config.dim, config.dim, config.hidden, config.dropout)
        self.second_stream = PairMlp(config.dim, config.dim, config.second_hidden, config.dropout)
        self.fusion = BilinearFusion(config.hidden[-1], config.second_hidden[-1], config.heads)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        first = self.user_gate(user, user, item) if self.gates else (user, item)
        second = self.item_gate(item, user, item) if self.gates else (user, item)
        logits: Tensor = self.fusion(self.first_stream(*first), self.second_stream(*second))
        return logits


class AutoInt(CtrModel):
    """fc(self-attention over the fields) + MLP([u; t]) (Song et al. 2019, with its DNN: AutoInt+)."""

    def __init__(self, config: AutoIntConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        widths = pairwise([config.dim] + [config.attention_dim] * config.attention_layers)
        self.attention = nn.ModuleList(
            PairAttention(inputs, outputs, config.heads, config.dropout) for inputs, outputs in widths
        )
        self.attention_output = PairLinear(config.attention_dim, config.attention_dim, 1)
        self.deep = PairMlp(config.dim, config.dim, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        attended = user, item
        for layer in self.attention:
            attended = layer(*attended)
        logits: Tensor = self.attention_output(*attended) + self.output(self.deep(user, item))
        return logits.reshape(-1)


class Gdcn(CtrModel):
    """Gated cross layers beside (GDCN-P) or below (GDCN-S) an MLP (Wang et al. 2023)."""

    def __init__(self, config: GdcnConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        cross = CrossNetwork([GatedCross(2 * config.dim) for _ in range(config.cross_layers)])
        structure = ParallelCross if config.structure == "parallel" else StackedCross
        self.head = structure(cross, config.dim, config.hidden, config.dropout)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.head(user, item)
        return logits


MODULES: dict[type[CtrConfig], type[CtrModel]] = {
    DnnConfig: Dnn,
    PnnConfig: Pnn,
    DeepFmConfig: DeepFm,
    DcnConfig: Dcn,
    DcnV2Config: DcnV2,
    MaskNetConfig: MaskNet,
    FinalMlpConfig: FinalMlp,
    AutoIntConfig: AutoInt,
    GdcnConfig: Gdcn,
}
