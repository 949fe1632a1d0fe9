"""A language model's first layers that score candidates, beyond the paper: items are tokens (`language_layers.py`).

The layers read [start, history] and, behind it, candidates that do not see each other: of a decoder from left to right,
of an encoder in both directions. What was read of a history is a `HistoryState`: candidates, and newer items, can be
read behind it at a later request.

Idea: HSTU (arXiv 2402.17152), candidates side by side behind one history.
Shapes as in `attention.py`; k tokens an item, W the width of the layers, P places that were read before, a layer's keys
and values [H, P, C].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rbserve.models.attention import HistoryModel
from rbserve.models.configs import ItemLanguageConfig
from rbserve.models.fields import Fields
from rbserve.models.items import ItemEncoder
from rbserve.models.language_layers import LanguageLayers


class HistoryState(NamedTuple):
    """What was read of one history: the cache [layers, 2, 1, H, P, C] of its tokens, and the user's vector [1, d]."""

    past: Tensor
    user: Tensor


class ItemLanguage(HistoryModel):
    """u is what the last layer says at the newest item's last token, s at the candidate's; both are projected to d."""

    def __init__(
        self, config: ItemLanguageConfig, items: ItemEncoder, fields: Fields | None, base: nn.Module
    ) -> None:
        """`base`: the layers, a model of transformers without word embeddings (`layers_of`)."""
        super().__init__(config, items, fields)
        self.layers = LanguageLayers(base, config.dim, config.item_tokens, config.dropout)

    def match(self, history: Tensor, lengths: Tensor | None, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The users' vectors [U, d], and what candidates [U, K, d] find, [U, K, d]; as `HistoryModel.match`.

        Histories [U, T, d] shorter than T have gaps before them; the start stands right before the oldest item.
        """
        users, items = history.shape[:2]
        before = 1 + items * self.layers.item_tokens
        gap = history.new_zeros(users, 1, dtype=torch.long)
        if lengths is not None:
            gap = ((items - lengths) * self.layers.item_tokens)[:, None]
        place = torch.arange(before, device=history.device)
        start = self.layers.start
        read = torch.cat([start.expand(users, 1, -1), self.layers.tokens(history)], dim=1)
        read = torch.where((place == gap)[..., None], start, read)
        answers, _ = self._run(read, self.layers.tokens(candidates), gap)
        return answers[:, before - 1], self._at_candidates(answers[:, before:])

    def start_state(self) -> HistoryState:
        """The state of an empty history: the start alone was read."""
        start = self.layers.start
        gap = torch.zeros(1, 1, dtype=torch.long, device=start.device)
        answers, past = self._run(start[None, None], start.new_empty(1, 0, len(start)), gap)
        return HistoryState(past, answers[:, 0])

    def score_behind(
        self,
        state: HistoryState,
        history: Tensor,
        candidates: Tensor,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, HistoryState]:
        """Click probabilities [N] of candidates int[N], and the state of the longer history.

        history int[T]: the items behind those of `state`, of the last `max_history`; none where it has all. `tensors`
        as in `CtrModel.score`.
        """
        read = self.layers.tokens(self.item_embedding(history)[None])
        items = self.item_embedding(candidates)
        answers, present = self._run(read, self.layers.tokens(items[None]), past=state.past)
        before = read.size(1)
        user = torch.cat([state.user, answers[0, :before]])[-1:]
        past = torch.cat([state.past, present[..., :before, :]], dim=-2)
        logits = self._answer(user, items, self._at_candidates(answers[:, before:])[0], tensors)
        return torch.sigmoid(logits), HistoryState(past, user)

    def _at_candidates(self, answers: Tensor) -> Tensor:
        """Of the outputs at candidates' tokens [U, K * k, d] the last of each, [U, K, d]."""
        k = self.layers.item_tokens
        return answers if k == 1 else answers.reshape(len(answers), -1, k, answers.size(2))[:, :, -1]

    def _run(
        self, read: Tensor, candidates: Tensor, gap: Tensor | None = None, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the layers say, [U, L, d], at tokens [U, M, W] and those of candidates behind them; and their cache.

        gap int[U, 1]: places before the start, which are passed over. With a `past` there is none: the start was read.
        """
        tokens, before, k = torch.cat([read, candidates], dim=1), read.size(1), self.layers.item_tokens
        place = torch.arange(tokens.size(1), device=read.device)
        of_candidate = place >= before
        within = (place - before) % k
        owner = torch.where(of_candidate, (place - before - within) // k, -1)
        mask = ~of_candidate | (owner == owner[:, None])  # [L, L]: a row's place sees a column's
        if self.layers.causal:
            mask = mask & (place <= place[:, None])
        positions = torch.where(of_candidate, before + within, place)
        if past is None:
            assert gap is not None
            itself, start = place == place[:, None], (place == gap)[..., None]
            mask = itself | (
                mask & (place >= gap[..., None]) & ~start
            )  # the start sees itself alone, as before a past
            return self.layers(tokens, (positions - gap).clamp(min=0), mask)  # type: ignore[no-any-return]
        known = past.size(4)
        return self.layers(tokens, positions + known, F.pad(mask, (known, 0), value=True), past)  # type: ignore[no-any-return]
