"""Sequential recommenders: causal transformers over the history, those of the paper's groups G and H (section 3.2).

SASRec (Kang & McAuley 2018) reads items and scores the catalogue with h · e_i (eq. 8). SID-SASRec reads every item
as its semantic identifier, one token a level, and writes the next item's codes token by token. Beyond the paper,
TextSasRec is a SASRec, or with other blocks an HSTU (`hstu.py`), whose item vectors are partly made of the items'
texts; ParallelSasRec reads an item's codes as one token and predicts those of the next item at once
(`code_scores.py`). All begin with a start vector, so that an empty history is a sequence too.

Shapes: B sequences, T positions, W beams, S codes a beam has written so far; d the width, H heads of C = d / H
numbers, L layers. A `prefix` cache is [L, 2, B, H, T, C] (keys, then values): a user's prompt, shared by all of the
user's beams. A `suffix` cache is [L, 2, B, W, H, S, C].
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbserve.models.code_scores import code_scores
from rbserve.models.configs import (
    HstuConfig,
    ParallelSasRecConfig,
    SasRecConfig,
    SasRecTextConfig,
    SeqItemConfig,
    SidSasRecConfig,
)
from rbserve.models.hstu import HstuBlock
from rbserve.models.itemknn import WeightedNeighbours, without_neighbours
from rbserve.models.items import ITEMS, OwnAndTextItems
from rbserve.models.language_layers import LanguageLayers

INIT_STD = 0.02


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)), as in BERT-sized GPTs: four times as wide inside, GELU."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.attended = nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    @property
    def outputs(self) -> tuple[nn.Linear, ...]:
        """The layers whose outputs are added to x."""
        return self.attended, self.down

    def forward(self, x: Tensor, last_only: bool = False) -> tuple[Tensor, Tensor]:
        """Causal self-attention over x [B, T, d]: the outputs and the keys and values [2, B, H, T, C].

        With `last_only` the outputs are those of the last position, [B, 1, d].
        """
        query, key, value = self._project(x)
        if last_only:
            x, query = x[:, -1:], query[:, :, -1:]
        scores = query @ key.transpose(-1, -2) * key.size(-1) ** -0.5
        if not last_only:
            scores = scores + _no_later(scores)
        mixed = self.dropout(scores.softmax(-1)) @ value
        return self._finish(x, mixed.transpose(1, 2).reshape(x.shape)), torch.stack((key, value))

    def step(self, x: Tensor, prefix: Tensor, suffix: Tensor) -> tuple[Tensor, Tensor]:
        """One more token of each beam, x [B, W, d], given prefix [2, B, H, T, C] and suffix [2, B, W, H, S, C].

        Returns the outputs and the suffix with the token's key and value in it. The prefix is read once for
        all beams and never copied.
        """
        query, key, value = self._project(x)  # [B, H, W, C]
        own = torch.cat((suffix, torch.stack((key, value)).transpose(2, 3).unsqueeze(-2)), dim=-2)
        scale = key.size(-1) ** -0.5
        with_prefix = query @ prefix[0].transpose(-1, -2)  # [B, H, W, T]
        by_beam = query.transpose(1, 2).unsqueeze(-2)  # [B, W, H, 1, C]
        with_own = (by_beam @ own[0].transpose(-1, -2)).squeeze(-2).transpose(1, 2)  # [B, H, W, S + 1]
        weights = (torch.cat((with_prefix, with_own), dim=-1) * scale).softmax(-1)
        shared, single = weights.split((prefix.size(-2), own.size(-2)), dim=-1)
        mixed = (shared @ prefix[1]).transpose(1, 2)  # [B, W, H, C]
        mixed = mixed + (single.transpose(1, 2).unsqueeze(-2) @ own[1]).squeeze(-2)
        return self._finish(x, mixed.reshape(x.shape)), own

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x [B, T, d], each [B, H, T, C]."""
        joint = self.query_key_value(self.attention_norm(x))
        apart = joint.reshape(x.size(0), x.size(1), 3, self.heads, x.size(2) // self.heads)
        query, key, value = apart.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(self.attended(mixed))
        hidden = F.gelu(self.up(self.mlp_norm(x)))
        outputs: Tensor = x + self.dropout(self.down(hidden))
        return outputs


def _no_later(scores: Tensor) -> Tensor:
    """[T, T]: 0 where a position may be looked at, minus infinity where it lies ahead."""
    positions = torch.ones_like(scores[0, 0, 0]).cumsum(0)
    return torch.where(positions[None, :] <= positions[:, None], 0.0, -torch.inf)


class Transformer(nn.Module):
    """A start vector, then token embeddings, each with its position's; blocks; a last LayerNorm.

    Without `tokens` it has no embeddings of its own, and reads vectors that are made elsewhere.
    """

    def __init__(self, config: SasRecConfig, tokens: int | None, positions: int) -> None:
        super().__init__()
        self.start = nn.Parameter(INIT_STD * torch.randn(config.dim))
        if tokens is not None:
            self.token_embedding = nn.Embedding(tokens, config.dim)
        self.position_embedding = nn.Embedding(positions + 1, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        blocks = self._new_blocks(config)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.dim)
        self.apply(_start_weights)
        for block in blocks:  # so that the sum over layers starts as large as one of them (GPT-2)
            for linear in block.outputs:
                nn.init.normal_(linear.weight, std=INIT_STD * (len(block.outputs) * config.layers) ** -0.5)

    def _new_blocks(self, config: SasRecConfig) -> Sequence[Block | HstuBlock]:
        return [Block(config.dim, config.heads, config.dropout) for _ in range(config.layers)]

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states [B, T + 1, d] of the start and tokens int[B, T]: position t has read t tokens."""
        return self.read(self.token_embedding(tokens))

    def read(self, vectors: Tensor) -> Tensor:
        """Hidden states [B, T + 1, d] of the start and of tokens whose vectors [B, T, d] are given."""
        x = self._embed(vectors)
        for block in self.blocks:
            x, _ = block(x)
        hidden: Tensor = self.norm(x)
        return hidden

    def last(self, tokens: Tensor) -> Tensor:
        """The hidden state [B, d] after all of tokens int[B, T]."""
        return self.last_of(self.token_embedding(tokens))

    def last_of(self, vectors: Tensor) -> Tensor:
        """The hidden state [B, d] after all of the tokens whose vectors [B, T, d] are given."""
        return self.prefill_vectors(vectors)[0]

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden state [B, d] after all of tokens int[B, T], and the prefix cache."""
        return self.prefill_vectors(self.token_embedding(tokens))

    def prefill_vectors(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden state [B, d] after all of the tokens whose vectors [B, T, d] are given, and the prefix cache."""
        x, caches = self._embed(vectors), []
        for number, block in enumerate(self.blocks, start=1):
            x, cache = block(x, last_only=number == len(self.blocks))
            caches.append(cache)
        return self.norm(x).squeeze(1), torch.stack(caches)

    def step(self, tokens: Tensor, prefix: Tensor, suffix: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [B, W, d] after one more token int[B, W] of each beam, and the longer suffix cache."""
        position = prefix.size(-2) + suffix.size(-2)
        x = self.token_embedding(tokens) + self.position_embedding.weight[position]
        caches = []
        for block, shared, own in zip(self.blocks, prefix.unbind(0), suffix.unbind(0), strict=True):
            x, cache = cast(Block, block).step(x, shared, own)
            caches.append(cache)
        return self.norm(x), torch.stack(caches)

    def _embed(self, vectors: Tensor) -> Tensor:
        start = self.start.expand(vectors.size(0), 1, -1)
        x = torch.cat((start, vectors), dim=1)
        embedded: Tensor = self.dropout(x + self.position_embedding.weight[: x.size(1)])
        return embedded


class HstuTransformer(Transformer):
    """A transformer of HSTU blocks, which keep no caches."""

    def _new_blocks(self, config: SasRecConfig) -> Sequence[Block | HstuBlock]:
        return [
            HstuBlock(config.dim, config.heads, config.max_history + 1, config.dropout)
            for _ in range(config.layers)
        ]

    def read(self, vectors: Tensor) -> Tensor:
        """Hidden states [B, T + 1, d] of the start and of tokens whose vectors [B, T, d] are given."""
        x = self._embed(vectors)
        for block in self.blocks:
            x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden

    def last(self, tokens: Tensor) -> Tensor:
        """The hidden state [B, d] after all of tokens int[B, T]."""
        return self.last_of(self.token_embedding(tokens))

    def last_of(self, vectors: Tensor) -> Tensor:
        """The hidden state [B, d] after all of the tokens whose vectors [B, T, d] are given."""
        return self.read(vectors)[:, -1]


class LanguageTransformer(nn.Module):
    """The layers of a language model in a transformer's place, which keep no caches; an encoder's read forwards too."""

    def __init__(self, config: SeqItemConfig, base: nn.Module) -> None:
        """`base`: the layers (`language_layers.py`)."""
        super().__init__()
        self.layers = LanguageLayers(base, config.dim, dropout=config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states [B, T + 1, d] of the start and tokens int[B, T]: position t has read t tokens."""
        return self.read(self.token_embedding(tokens))

    def read(self, vectors: Tensor) -> Tensor:
        """Hidden states [B, T + 1, d] of the start and of tokens whose vectors [B, T, d] are given."""
        start = self.layers.start.expand(vectors.size(0), 1, -1)
        tokens = torch.cat((start, self.layers.tokens(vectors)), dim=1)
        place = torch.arange(tokens.size(1), device=tokens.device)
        hidden: Tensor = self.layers(tokens, place, place <= place[:, None])[0]
        return hidden

    def last(self, tokens: Tensor) -> Tensor:
        """The hidden state [B, d] after all of tokens int[B, T]."""
        return self.last_of(self.token_embedding(tokens))

    def last_of(self, vectors: Tensor) -> Tensor:
        """The hidden state [B, d] after all of the tokens whose vectors [B, T, d] are given."""
        return self.read(vectors)[:, -1]

    token_embedding: nn.Embedding


def transformer_of(
    config: SasRecConfig, tokens: int | None, positions: int, base: nn.Module | None = None
) -> AnyTransformer:
    """An untrained transformer with the blocks of `config`'s kind, `base` of a language model's layers."""
    if isinstance(config, SeqItemConfig):
        assert base is not None
        return LanguageTransformer(config, base)
    kind = HstuTransformer if isinstance(config, HstuConfig) else Transformer
    return kind(config, tokens, positions)


AnyTransformer = Transformer | LanguageTransformer


def with_table(transformer: AnyTransformer, table: Tensor) -> AnyTransformer:
    """The transformer, its parts shared, with finished item vectors [n, d] as the embeddings of its tokens."""
    shared, embedding = copy.copy(transformer), nn.Embedding(len(table), table.size(1), _weight=table)
    shared._modules = {**transformer._modules, "token_embedding": embedding.requires_grad_(False)}
    return shared


def _start_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class SasRec(nn.Module):
    """Group G: the score of item i is h · e_i, with e the embeddings that the history is read with.

    With `biases` [n_items], each item's is added to its score, and with `neighbours` what they say of it.
    """

    def __init__(
        self,
        config: SasRecConfig,
        n_items: int,
        biases: Tensor | None = None,
        transformer: AnyTransformer | None = None,
        neighbours: WeightedNeighbours | None = None,
    ) -> None:
        """`transformer`: one that exists, with the embeddings of the items; else a new one."""
        super().__init__()
        self.config = config
        self.n_items = n_items
        self.transformer = transformer or transformer_of(config, n_items, config.max_history)
        self.register_buffer("biases", biases)
        self.neighbours = neighbours

    biases: Tensor | None

    @property
    def items(self) -> Tensor:
        """The item embeddings [n_items, d]."""
        return self.transformer.token_embedding.weight

    def forward(self, histories: Tensor) -> Tensor:
        """Hidden states [B, T + 1, d] of histories int[B, T]; position t is the user after t items."""
        hidden: Tensor = self.transformer(histories)
        return hidden

    def scores(self, histories: Tensor) -> Tensor:
        """Scores [B, n_items] of every item as the next one after histories int[B, T]."""
        scores = F.linear(self.transformer.last(histories), self.items, self.biases)
        return scores if self.neighbours is None else scores + self.neighbours(histories)

    def top_k(self, histories: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The best min(k, n_items) items int64[B, k] and their scores [B, k], best first."""
        scores, items = self.scores(histories).topk(min(k, self.n_items))
        return items, scores

    def folded(self) -> SasRec:
        """The model itself: its item vectors are a table already."""
        return self


class TextSasRec(nn.Module):
    """SASRec or HSTU whose item vector is the item's own plus a projection of its text's vector; beyond the paper.

    The score of item i is h · e_i + item_bias_i + freshness * item_life_i. The bias is learnt. The life is counted: the
    logarithm of an item's share of occurrences as a target. `freshness`, a number, is chosen on validation. `new_item`
    has the bias and the life of an item that training never saw. `neighbours`, if the config asks for some, are added.
    """

    item_life: Tensor
    freshness: Tensor
    new_item: Tensor

    def __init__(
        self, config: SasRecTextConfig, items: OwnAndTextItems, base: nn.Module | None = None
    ) -> None:
        """`base`: the layers of a language model, of a model that has some."""
        super().__init__()
        self.config = config
        self.item_embedding = items
        self.transformer = transformer_of(config, None, config.max_history, base)
        self.item_bias = nn.Parameter(torch.zeros(items.n_items))
        self.register_buffer("item_life", torch.zeros(items.n_items))
        self.register_buffer("freshness", torch.zeros(()))
        self.register_buffer("new_item", torch.zeros(2))
        self.neighbours = None
        if config.neighbours:
            counted = without_neighbours(items.n_items, config.neighbours, config.max_history)
            self.neighbours = WeightedNeighbours(counted)

    def forward(self, vectors: Tensor) -> Tensor:
        """Hidden states [B, T + 1, d] of histories whose items' vectors [B, T, d] are given."""
        return self.transformer.read(vectors)

    def folded(self) -> SasRec:
        """The SASRec that scores the same, from a table of finished item vectors and a bias for each item."""
        with torch.no_grad():
            table, biases = (
                self.item_embedding.all_vectors(),
                self.item_bias + self.freshness * self.item_life,
            )
        transformer = with_table(self.transformer, table)
        folded = SasRec(self.config, len(table), biases, transformer, self.neighbours)
        return folded.train(self.training)


class SidSasRec(nn.Module):
    """Group H: reads and writes code tokens. Token `level * codes + c` is code c at a level, from 0."""

    def __init__(self, config: SidSasRecConfig) -> None:
        super().__init__()
        self.config = config
        tokens = config.levels * config.codes
        self.transformer = Transformer(config, tokens, (config.max_history + 1) * config.levels)
        self.output = nn.Linear(config.dim, tokens)
        _start_weights(self.output)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, T + 1, levels * codes] of the token after each position of tokens int[B, T]."""
        logits: Tensor = self.output(self.transformer(tokens))
        return logits

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, levels * codes] of the token after all of tokens int[B, T], and the prefix cache."""
        hidden, prefix = self.transformer.prefill(tokens)
        return self.output(hidden), prefix

    def step(self, tokens: Tensor, prefix: Tensor, suffix: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, W, levels * codes] after one more token int[B, W] a beam, and the longer suffix cache."""
        hidden, suffix = self.transformer.step(tokens, prefix, suffix)
        return self.output(hidden), suffix


class ParallelSasRec(nn.Module):
    """Beyond the paper: reads an item as the sum of its codes' embeddings, predicts all codes of the next one at once.

    It has weights for codes alone. `codes` int[L, n] has the code tokens of all items (`code_scores.py`).
    """

    def __init__(self, config: ParallelSasRecConfig) -> None:
        super().__init__()
        self.config = config
        tokens = config.levels * config.codes
        self.transformer = Transformer(config, tokens, config.max_history)
        self.heads = nn.Linear(config.dim, tokens)
        _start_weights(self.heads)

    def forward(self, histories: Tensor, codes: Tensor) -> Tensor:
        """Hidden states [B, T + 1, d] of histories int[B, T]; position t is the user after t items."""
        return self.transformer.read(self._vectors(histories, codes))

    def scores(self, histories: Tensor, codes: Tensor) -> Tensor:
        """Scores [B, n] of every item as the next one after histories int[B, T]."""
        hidden, _ = self.transformer.prefill_vectors(self._vectors(histories, codes))
        return code_scores(self.heads(hidden), codes)

    def top_k(self, histories: Tensor, k: int, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The best min(k, n) items int64[B, k] and their scores [B, k], best first."""
        scores, items = self.scores(histories, codes).topk(min(k, codes.size(1)))
        return items, scores

    def _vectors(self, histories: Tensor, codes: Tensor) -> Tensor:
        """The items' vectors [B, T, d]."""
        vectors: Tensor = self.transformer.token_embedding(codes[:, histories]).sum(0)
        return vectors


SequentialModel = SasRec | TextSasRec | SidSasRec | ParallelSasRec


def build(
    config: SasRecConfig, items: int | OwnAndTextItems, base: nn.Module | None = None
) -> SequentialModel:
    """A freshly initialised model of `config`'s architecture, for items 0 to n - 1 or for those of an encoder.

    `base`: the layers of a language model, of a model that has some.
    """
    if isinstance(config, SasRecTextConfig):
        assert isinstance(items, OwnAndTextItems)
        return TextSasRec(config, items, base)
    assert isinstance(items, int)
    if isinstance(config, ParallelSasRecConfig):
        return ParallelSasRec(config)
    return SidSasRec(config) if isinstance(config, SidSasRecConfig) else SasRec(config, items)


def rebuild(
    config: SasRecConfig, weights: Mapping[str, Tensor], base: nn.Module | None = None
) -> SequentialModel:
    """The model whose state `weights` is; KeyError or RuntimeError where they are not those of `config`."""
    if isinstance(config, SasRecTextConfig):
        model = build(config, OwnAndTextItems.of_sizes(weights[f"{ITEMS}vectors"], config.dim), base)
    else:
        model = build(config, len(weights["transformer.token_embedding.weight"]))
    model.load_state_dict(weights, assign=base is not None)
    return model
