"""The CTR models of the paper's groups A, B and C (section 3.1), over two sides.

u is the mean of the history items' vectors, zero for an empty history; t is the candidate's vector. What an
item's vector is made of is the item encoder's matter (`items.py`). A model that reads fields (`fields.py`) has the
vectors of the user's fields behind u, and those of the item's, the context's and of counts behind t. Each model says
only how the two sides interact; training, profiling and export share that one definition.
Shapes: B rows of a batch, T items of history, N candidates of a slate, d the embedding width; l and r the widths of the
user's side and the item's, both d without fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn

from rbserve.core.fields import Layout
from rbserve.models.attention import Bst, Din, Hstu
from rbserve.models.configs import (
    AutoIntConfig,
    BstEmbConfig,
    CtrConfig,
    DcnConfig,
    DcnV2Config,
    DeepFmConfig,
    DinEmbConfig,
    DnnConfig,
    FinalMlpConfig,
    GdcnConfig,
    HstuEmbConfig,
    ItemLanguageConfig,
    MaskNetConfig,
    PnnConfig,
)
from rbserve.models.ctr_base import CtrModel, width_of
from rbserve.models.fields import Fields
from rbserve.models.item_language import ItemLanguage
from rbserve.models.items import ITEMS, IdItems, ItemEncoder, items_like
from rbserve.models.layers import (
    BilinearFusion,
    CrossNetwork,
    FieldAttention,
    FieldGate,
    GatedCross,
    MaskBlock,
    MatrixCross,
    MixtureCrossNetwork,
    PairAttention,
    PairLinear,
    PairMlp,
    ParallelCross,
    SideNorm,
    StackedCross,
    VectorCross,
    hidden_layers,
    join,
)

NO_FIELDS = Layout(())


def build(
    config: CtrConfig, items: int | ItemEncoder, layout: Layout = NO_FIELDS, base: nn.Module | None = None
) -> CtrModel:
    """A freshly initialised model of `config`'s architecture, for items 0 to n - 1 or for those of an encoder.

    It reads the fields of `layout`. `base`: the layers of a language model, of a model that has some.
    """
    module = next(MODULES[cls] for cls in type(config).__mro__ if cls in MODULES)
    encoder = IdItems(items, width_of(config)) if isinstance(items, int) else items
    fields = Fields(layout, width_of(config)) if layout else None
    return module(config, encoder, fields) if base is None else module(config, encoder, fields, base)


def rebuild(
    config: CtrConfig,
    weights: Mapping[str, Tensor],
    layout: Layout = NO_FIELDS,
    base: nn.Module | None = None,
) -> CtrModel:
    """The model that has the state `weights`. KeyError or RuntimeError where they are another model's."""
    of_items = {name.removeprefix(ITEMS): value for name, value in weights.items() if name.startswith(ITEMS)}
    model = build(config, items_like(config, of_items), layout, base)
    model.load_state_dict(weights, assign=base is not None)
    return model


class Dnn(CtrModel):
    """MLP([u; t]) (Covington et al. 2016)."""

    def __init__(self, config: DnnConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        self.deep = PairMlp(self.left, self.right, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.output(self.deep(user, item))
        return logits.reshape(-1)


class Pnn(CtrModel):
    """MLP([u; t; <u, t>]): the inner-product variant (Qu et al. 2016). With fields, the products of all pairs."""

    pairs: Tensor

    def __init__(self, config: PnnConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        vectors = sum(self.sides)
        pairs = [first * vectors + second for first, second in combinations(range(vectors), 2)]
        self.register_buffer("pairs", torch.tensor(pairs), persistent=False)
        self.deep = PairMlp(
            self.left, self.right + vectors * (vectors - 1) // 2, config.hidden, config.dropout
        )
        self.output = nn.Linear(config.hidden[-1], 1)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        if self.sides.are_single:
            products = (user * item).sum(-1, keepdim=True)
        else:
            vectors = self.vectors(user, item)
            products = (vectors @ vectors.transpose(1, 2)).flatten(1)[:, self.pairs]
        logits: Tensor = self.output(self.deep(user, torch.cat([item, products], dim=-1)))
        return logits.reshape(-1)


class DeepFm(CtrModel):
    """linear + ½ Σ_d[(Σe)² - Σe²] + MLP([u; t]) (Guo et al. 2017); of two fields the middle term is <u, t>.

    The embedding's last column is an item's first-order weight, so the mean that makes u makes the user's.
    It starts at 0. The linear term's bias is the MLP's last one.
    """

    def __init__(self, config: DeepFmConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        assert isinstance(items, IdItems)
        nn.init.zeros_(items.weight[:, -1])
        self.deep = PairMlp(self.left, self.right, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        if not self.sides.are_single:
            return self._interact_fields(user, item)
        linear = user[:, -1] + item[:, -1]
        user, item = user[:, :-1], item[:, :-1]
        logits: Tensor = self.output(self.deep(user, item))
        return linear + (user * item).sum(-1) + logits.reshape(-1)

    def _interact_fields(self, user: Tensor, item: Tensor) -> Tensor:
        vectors = self.vectors(user, item)
        linear, vectors = vectors[..., -1].sum(dim=1), vectors[..., :-1]
        crossed = (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1) / 2
        left, right = torch.split(vectors, [*self.sides], dim=1)
        logits: Tensor = self.output(self.deep(left.flatten(1), right.flatten(1)))
        return linear + crossed + logits.reshape(-1)


class Dcn(CtrModel):
    """fc([cross; MLP]) with vector cross layers (Wang et al. 2017)."""

    def __init__(self, config: DcnConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        cross = CrossNetwork([VectorCross(self.left + self.right) for _ in range(config.cross_layers)])
        self.head = ParallelCross(cross, self.left, self.right, config.hidden, config.dropout)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.head(user, item)
        return logits


class DcnV2(CtrModel):
    """Cross layers of full matrices or low-rank experts, beside or below an MLP (Wang et al. 2021)."""

    def __init__(self, config: DcnV2Config, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        structure = ParallelCross if config.structure == "parallel" else StackedCross
        cross = _dcnv2_cross(config, self.left + self.right)
        self.head = structure(cross, self.left, self.right, config.hidden, config.dropout)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.head(user, item)
        return logits


def _dcnv2_cross(config: DcnV2Config, features: int) -> nn.Module:
    if config.mix:
        return MixtureCrossNetwork(features, config.cross_layers, config.rank, config.experts)
    return CrossNetwork([MatrixCross(features) for _ in range(config.cross_layers)])


class MaskNet(CtrModel):
    """Mask blocks over the layer-normalised fields (Wang et al. 2021).

    serial: fc(block_L(… block_1([LN(u); LN(t)]))). parallel: fc(MLP of every block's output side by side).
    """

    def __init__(self, config: MaskNetConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        self.serial = config.structure == "serial"
        self.norm_user, self.norm_item = (SideNorm(count, config.dim) for count in self.sides)
        self.blocks = nn.ModuleList(
            MaskBlock(self.left, self.right, inputs, outputs, config.reduction_ratio, config.dropout)
            for inputs, outputs in _mask_block_widths(config, self.left + self.right)
        )
        if not self.serial:
            self.deep = hidden_layers(config.blocks * config.block_dim, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        hidden = join(self.norm_user(user), self.norm_item(item), self.left == self.right)
        if self.serial:
            for block in self.blocks:
                hidden = block(user, item, hidden)
        else:
            hidden = self.deep(torch.cat([block(user, item, hidden) for block in self.blocks], dim=-1))
        logits: Tensor = self.output(hidden)
        return logits.reshape(-1)


def _mask_block_widths(config: MaskNetConfig, features: int) -> list[tuple[int, int]]:
    if config.structure == "serial":
        return list(pairwise([features, *config.hidden]))
    return [(features, config.block_dim)] * config.blocks


class FinalMlp(CtrModel):
    """Two MLP streams with feature gates, fused bilinearly (Mao et al. 2023).

    The gates' contexts are what that paper proposes, user features for one stream and item features for the
    other; with two fields, that is u and t themselves.
    """

    def __init__(self, config: FinalMlpConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        self.gates = config.gates
        if config.gates:
            self.user_gate = FieldGate(self.left, self.left, self.right, config.gate_hidden)
            self.item_gate = FieldGate(self.right, self.left, self.right, config.gate_hidden)
        self.first_stream = PairMlp(self.left, self.right, config.hidden, config.dropout)
        self.second_stream = PairMlp(self.left, self.right, config.second_hidden, config.dropout)
        self.fusion = BilinearFusion(config.hidden[-1], config.second_hidden[-1], config.heads)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        first = self.user_gate(user, user, item) if self.gates else (user, item)
        second = self.item_gate(item, user, item) if self.gates else (user, item)
        logits: Tensor = self.fusion(self.first_stream(*first), self.second_stream(*second))
        return logits


class AutoInt(CtrModel):
    """fc(self-attention over the fields) + MLP([u; t]) (Song et al. 2019, with its DNN: AutoInt+)."""

    def __init__(self, config: AutoIntConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        widths = pairwise([config.dim] + [config.attention_dim] * config.attention_layers)
        self.attention = nn.ModuleList(
            PairAttention(inputs, outputs, config.heads, config.dropout)
            if self.sides.are_single
            else FieldAttention(*self.sides, inputs, outputs, config.heads, config.dropout)
            for inputs, outputs in widths
        )
        left, right = (count * config.attention_dim for count in self.sides)
        self.attention_output = PairLinear(left, right, 1)
        self.deep = PairMlp(self.left, self.right, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        attended = user, item
        for layer in self.attention:
            attended = layer(*attended)
        logits: Tensor = self.attention_output(*attended) + self.output(self.deep(user, item))
        return logits.reshape(-1)


class Gdcn(CtrModel):
    """Gated cross layers beside (GDCN-P) or below (GDCN-S) an MLP (Wang et al. 2023)."""

    def __init__(self, config: GdcnConfig, items: ItemEncoder, fields: Fields | None = None) -> None:
        super().__init__(config, items, fields)
        cross = CrossNetwork([GatedCross(self.left + self.right) for _ in range(config.cross_layers)])
        structure = ParallelCross if config.structure == "parallel" else StackedCross
        self.head = structure(cross, self.left, self.right, config.hidden, config.dropout)

    def interact(self, user: Tensor, item: Tensor) -> Tensor:
        logits: Tensor = self.head(user, item)
        return logits


MODULES: dict[type[CtrConfig], Callable[..., CtrModel]] = {
    DnnConfig: Dnn,
    PnnConfig: Pnn,
    DeepFmConfig: DeepFm,
    DcnConfig: Dcn,
    DcnV2Config: DcnV2,
    MaskNetConfig: MaskNet,
    FinalMlpConfig: FinalMlp,
    AutoIntConfig: AutoInt,
    GdcnConfig: Gdcn,
    DinEmbConfig: Din,
    BstEmbConfig: Bst,
    HstuEmbConfig: Hstu,
    ItemLanguageConfig: ItemLanguage,
}
