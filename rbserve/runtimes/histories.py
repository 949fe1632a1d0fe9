"""Scorers that remember what they read of a user's history: rows that read items as tokens (`models/item_language.py`).

A history is known by its items. Where a known one begins as it does, only the items behind that beginning are read; an
encoder, which reads a history in both directions, knows a whole history or none.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rbserve.core.requests import CANDIDATES, HISTORY, Request
from rbserve.core.types import Items, Observe, Scores, no_observer
from rbserve.runtimes.language import PrefixCache

Array = NDArray[np.float32]


@runtime_checkable
class RememberingScorer(Protocol):
    """A scorer that can remember what it read of users."""

    @property
    def user_cache(self) -> PrefixCache | None:
        """What remembers users, if anything does."""
        ...

    def remembering(self, limit: int) -> RememberingScorer:
        """A scorer with this one's model that remembers up to `limit` bytes of what it reads of users."""
        ...

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N]."""
        ...

    def score_staged(self, request: Request, observe: Observe) -> Scores:
        """Scores as `score` does; `observe` hears the name of each stage as it ends."""
        ...


class ReadHistory(NamedTuple):
    """What was read of a history of `items`: the cache [layers, 2, 1, H, P, C], and the user's vector [1, d]."""

    past: Array
    user: Array
    items: int

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.past.nbytes + self.user.nbytes

    def beginning(self, items: int, tokens: int) -> ReadHistory:
        """What was read of its first `items`, each of them `tokens`; the user's vector is then not known."""
        places = self.past.shape[4] - (self.items - items) * tokens
        return ReadHistory(np.ascontiguousarray(self.past[..., :places, :]), self.user, items)


class HistoryCall(Protocol):
    """A model in one of the runtimes that reads candidates, and newer items, behind a state."""

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N], of the request alone."""
        ...

    def score_behind(self, request: Request, state: ReadHistory | None) -> tuple[Scores, ReadHistory]:
        """Click probabilities float32[N], and the state behind the request's history, which follows that of `state`.

        None is the state of an empty history.
        """
        ...

    def score_vectors(self, history: Array, candidates: Array, tensors: Request) -> Scores:
        """Click probabilities float32[N] of items float32[N, d] for the user of items float32[T, d]."""
        ...

    @property
    def takes_vectors(self) -> bool:
        """Whether it takes items as vectors."""
        ...


class HistoryScorer:
    """Scores candidates behind the user's history, which is read once for all, and remembers it in a cache."""

    def __init__(
        self,
        call: HistoryCall,
        max_history: int,
        item_tokens: int,
        causal: bool,
        user_cache: PrefixCache | None,
    ) -> None:
        self._call, self.user_cache = call, user_cache
        self._max_history, self._item_tokens, self._causal = max_history, item_tokens, causal

    @property
    def takes_vectors(self) -> bool:
        """Whether it takes items as vectors."""
        return self._call.takes_vectors

    def score_vectors(self, history: Array, candidates: Array, tensors: Request) -> Scores:
        """Click probabilities float32[N] of items float32[N, d] for the user of items float32[T, d]; uncached."""
        return self._call.score_vectors(history[-self._max_history :], candidates, tensors)

    def remembering(self, limit: int) -> HistoryScorer:
        """A scorer with this one's model that remembers up to `limit` bytes of what it reads of users."""
        cache = PrefixCache(limit, stride=1)
        return HistoryScorer(self._call, self._max_history, self._item_tokens, self._causal, cache)

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N]."""
        return self.score_staged(request, no_observer)

    def score_staged(self, request: Request, observe: Observe) -> Scores:
        """Scores as `score` does; `observe` hears the name of each stage as it ends."""
        if not len(request[CANDIDATES]):  # a graph has no tokens then, and cannot be run
            return np.empty(0, np.float32)
        history = request[HISTORY][-self._max_history :]
        if self.user_cache is None:
            scores = self._call.score({**request, HISTORY: history})
            observe("history and candidates")
            return scores
        state = self._known(history)
        observe("user cache")
        read = state.items if state else 0
        scores, longer = self._call.score_behind({**request, HISTORY: history[read:]}, state)
        if read < len(history):
            self.user_cache.keep(history.astype(np.int64), longer)
        observe("candidates" if read == len(history) else "history and candidates")
        return scores

    def _known(self, history: Items) -> ReadHistory | None:
        """The longest state whose items the history begins with."""
        assert self.user_cache is not None
        shared, state = self.user_cache.longest(history.astype(np.int64))
        if state is None or shared == state.items == len(history):
            return state
        if not self._causal:
            return None
        # The user's vector is known at the end of a state alone: the newest item is read again.
        read = min(shared, len(history) - 1)
        known: ReadHistory = state
        return known if read == known.items else known.beginning(read, self._item_tokens) if read else None
