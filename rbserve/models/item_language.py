"""A language model's first layers over items as tokens, beyond the paper: an item is k tokens, whatever its text.

A token is made of the vector of an item, which is made of its text once, before any request (`items.py`). The layers
read [start, history] and, behind it, candidates that do not see each other: of a decoder from left to right, of an
encoder in both directions. What was read of a history is a `HistoryState`: candidates, and newer items, can be read
behind it at a later request.

Ideas: MixLM (arXiv 2512.07846) and HLLM (2409.12740), items as tokens of their texts' vectors; HSTU (2402.17152),
candidates side by side behind one history.
Shapes as in `attention.py`; k tokens an item, W the width of the layers, P places that were read before, a layer's keys
and values [H, P, C].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbserve.models.attention import INIT_STD, HistoryModel
from rbserve.models.configs import ItemLanguageConfig
from rbserve.models.drivers import architecture_of
from rbserve.models.fields import Fields
from rbserve.models.items import ItemEncoder
from rbserve.models.lm import as_decoder, bare


class HistoryState(NamedTuple):
    """What was read of one history: the cache [layers, 2, 1, H, P, C] of its tokens, and the user's vector [1, d]."""

    past: Tensor
    user: Tensor


class ItemLanguage(HistoryModel):
    """u is what the last layer says at the newest item's last token, s at the candidate's; both are projected to d."""

    config: ItemLanguageConfig

    def __init__(
        self, config: ItemLanguageConfig, items: ItemEncoder, fields: Fields | None, base: nn.Module
    ) -> None:
        """`base`: the layers, a model of transformers without word embeddings (`layers_of`)."""
        super().__init__(config, items, fields)
        self.base = base
        self.causal = architecture_of(base.config).reads == "decoder"
        width = token_width(base.config)
        self.start = nn.Parameter(INIT_STD * torch.randn(width))
        self.tokens = nn.Sequential(
            nn.LayerNorm(config.dim, elementwise_affine=False),
            nn.Linear(config.dim, config.item_tokens * width),
        )
        self.norm, self.answer = nn.LayerNorm(width), nn.Linear(width, config.dim)

    @torch.no_grad()
    def scale_tokens(self, deviation: float) -> None:
        """Draws the weights so that tokens have this deviation, that of the words which the layers know."""
        nn.init.normal_(self.start, std=deviation)
        linear = cast(nn.Linear, self.tokens[1])
        nn.init.normal_(linear.weight, std=deviation * self.config.dim**-0.5)
        nn.init.zeros_(linear.bias)

    def match(self, history: Tensor, lengths: Tensor | None, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The users' vectors [U, d], and what candidates [U, K, d] find, [U, K, d]; as `HistoryModel.match`.

        Histories [U, T, d] shorter than T have gaps before them; the start stands right before the oldest item.
        """
        users, items = history.shape[:2]
        before = 1 + items * self.config.item_tokens
        gap = history.new_zeros(users, 1, dtype=torch.long)
        if lengths is not None:
            gap = ((items - lengths) * self.config.item_tokens)[:, None]
        place = torch.arange(before, device=history.device)
        read = torch.cat([self.start.expand(users, 1, -1), self._tokens(history)], dim=1)
        read = torch.where((place == gap)[..., None], self.start, read)
        hidden, _ = self._run(read, self._tokens(candidates), gap)
        return hidden[:, before - 1], self._at_candidates(hidden[:, before:])

    def start_state(self) -> HistoryState:
        """The state of an empty history: the start alone was read."""
        gap = torch.zeros(1, 1, dtype=torch.long, device=self.start.device)
        hidden, past = self._run(self.start[None, None], self.start.new_empty(1, 0, len(self.start)), gap)
        return HistoryState(past, hidden[:, 0])

    def score_behind(
        self,
        state: HistoryState,
        history: Tensor,
        candidates: Tensor,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, HistoryState]:
        """Click probabilities [N] of candidates int[N], and the state of the longer history.

        history int[T]: the items behind those of `state`; none where it has all. `tensors` as in `CtrModel.score`.
        """
        read = self._tokens(self.item_embedding(history[-self.max_history :])[None])
        items = self.item_embedding(candidates)
        hidden, present = self._run(read, self._tokens(items[None]), past=state.past)
        before = read.size(1)
        user = torch.cat([state.user, hidden[0, :before]])[-1:]
        past = torch.cat([state.past, present[..., :before, :]], dim=-2)
        logits = self._answer(user, items, self._at_candidates(hidden[:, before:])[0], tensors)
        return torch.sigmoid(logits), HistoryState(past, user)

    def _tokens(self, items: Tensor) -> Tensor:
        """The tokens [U, S * k, W] of items [U, S, d]."""
        made: Tensor = self.tokens(items)
        return made.reshape(len(items), -1, len(self.start))

    def _at_candidates(self, hidden: Tensor) -> Tensor:
        """Of what is said at candidates' tokens [U, K * k, d] the last of each, [U, K, d]."""
        k = self.config.item_tokens
        return hidden if k == 1 else hidden.reshape(len(hidden), -1, k, hidden.size(2))[:, :, -1]

    def _run(
        self, read: Tensor, candidates: Tensor, gap: Tensor | None = None, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the layers say, [U, L, d], of tokens [U, M, W] and those of candidates behind them; and their cache.

        gap int[U, 1]: places before the start, which are passed over. With a `past` there is none: the start was read.
        """
        embedded, before = torch.cat([read, candidates], dim=1), read.size(1)
        place = torch.arange(embedded.size(1), device=read.device)
        of_candidate = place >= before
        within = (place - before) % self.config.item_tokens
        owner = torch.where(of_candidate, (place - before - within) // self.config.item_tokens, -1)
        sees = ~of_candidate | (owner == owner[:, None])  # [L, L]: a row's place sees a column's
        if self.causal:
            sees = sees & (place <= place[:, None])
        positions, mask = torch.where(of_candidate, before + within, place)[None], sees[None]
        if past is None:
            assert gap is not None
            itself, start = place == place[:, None], (place == gap)[..., None]
            mask = itself | (
                mask & (place >= gap[..., None]) & ~start
            )  # the start sees itself alone, as before a past
            positions = (positions - gap).clamp(min=0)
        else:
            known = past.size(4)
            positions = positions + known
            mask = F.pad(mask, (known, 0), value=True)
        positions = positions.expand(len(embedded), -1)
        mask = mask.expand(len(embedded), -1, -1)
        hidden, present = architecture_of(self.base.config).drive(self.base, embedded, positions, mask, past)
        said: Tensor = self.answer(self.norm(hidden))
        return said, present


def token_width(config: Any) -> int:
    """The numbers of a token that a model of transformers' `config` reads."""
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def layers_of(config: Any) -> nn.Module:
    """A model of transformers' `config` without word embeddings; its weights are still to be loaded."""
    from accelerate import init_empty_weights
    from transformers import AutoModel

    with init_empty_weights(include_buffers=False):
        base: nn.Module = AutoModel.from_config(as_decoder(config))  # type: ignore[no-untyped-call]
    return without_words(base)


def without_words(base: nn.Module) -> nn.Module:
    """Takes off a model of transformers what items as tokens do not ask: word embeddings, an encoder's pooler."""
    bare(base)
    base.set_input_embeddings(None)  # type: ignore[operator]
    return base


def shortened(config: Any, layers: int) -> Any:
    """transformers' `config` with its first `layers` layers; ValueError where it has fewer."""
    if layers > config.num_hidden_layers:
        raise ValueError(f"{config.num_hidden_layers} layers")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return config
