"""Rankers: a history in, the k best items of the whole catalogue out; torch or onnxruntime, scored or generated.

A ranker that scores (SASRec) multiplies the user's vector with all item vectors, or adds the scores of every item's
codes, and takes the top k. One that generates (SID-SASRec) writes semantic identifiers by beam search, and knows no
more items than it has beams. The parts that differ from runtime to runtime are in `runtimes/onnx.py` and
`runtimes/torch_models.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rbserve.core.types import Items, Observe, Scores, no_observer
from rbserve.data.semantic_ids import SemanticIds
from rbserve.models.beam import Stepper, search
from rbserve.models.configs import SeqSidConfig, SidSasRecConfig

if TYPE_CHECKING:
    pass

Logits = NDArray[np.float32]
Cache = tuple[Any, Any]  # a user's prompt, shared by all beams; what each beam has added


class ItemScores(Protocol):
    """A model with a head for the catalogue, in one of the runtimes."""

    def __call__(self, inputs: Any, k: int) -> tuple[Items, Scores]:
        """The best min(k, n_items) items int32[B, k] for histories int32[B, T] or their prompts, and their scores."""
        ...


class ScoringRanker:
    """Ranks all items by score (groups G and I, and rows that predict all codes at once)."""

    generates = False

    def __init__(
        self,
        best: ItemScores,
        max_history: int,
        prompts: Callable[[Items], Any] | None = None,
        retired: Collection[int] = (),
    ) -> None:
        """`prompts` makes the model's input of histories int32[B, T]; without it the histories are the input.

        `retired` items are left out of every ranking.
        """
        self._best, self._max_history, self._prompts = best, max_history, prompts
        self._retired = np.array(sorted(retired), np.int32)

    def top_k(self, history: Items, k: int) -> tuple[Items, Scores]:
        """The k best items, best first; fewer when the catalogue is smaller."""
        return self.top_k_staged(history, k, no_observer)

    def top_k_staged(self, history: Items, k: int, observe: Observe) -> tuple[Items, Scores]:
        """Ranks as `top_k` does; `observe` hears each stage as it ends: the prompt, if there is one, and the model."""
        items, scores = self._ranked(history[None], k, observe)
        return items[0], scores[0]

    def top_k_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        """`top_k` for the histories int32[B, T] of B users; -1 in places past the catalogue."""
        return _widened(*self._ranked(histories, k, no_observer), k)

    def _ranked(self, histories: Items, k: int, observe: Observe) -> tuple[Items, Scores]:
        inputs: Any = histories[:, -self._max_history :]
        if self._prompts:
            inputs = self._prompts(inputs)
            observe("prompt")
        best = self._best(inputs, k + len(self._retired))
        if len(self._retired):
            best = self._available(*best, k)
        observe("forward")
        return best

    def _available(self, items: Items, scores: Scores, k: int) -> tuple[Items, Scores]:
        """The first k of items and scores [B, n] that are not retired; every row has as many."""
        retired = np.isin(items, self._retired)
        left = min(k, items.shape[1] - int(retired.sum(axis=1).max(initial=0)))
        order = np.argsort(retired, axis=1, kind="stable")[:, :left]
        return np.take_along_axis(items, order, 1), np.take_along_axis(scores, order, 1)


class GeneratingRanker:
    """Ranks items by the probability of their semantic identifier (groups H and J), found by beam search.

    At most `width` items come back, and fewer where free beam search ended in paths that no item has.
    """

    generates = True

    def __init__(
        self,
        stepper: Stepper[Any],
        sids: SemanticIds,
        config: SidSasRecConfig | SeqSidConfig,
        prompts: Callable[[Items], NDArray[Any]] | None = None,
    ) -> None:
        """`prompts` makes prompts [B, P] of histories int32[B, T]; else they are the items' codes and nothing more."""
        self._stepper, self._sids, self._config = stepper, sids, config
        self._prompts = prompts or self._codes

    def top_k(self, history: Items, k: int) -> tuple[Items, Scores]:
        """The k most probable items, best first."""
        return self.top_k_staged(history, k, no_observer)

    def top_k_staged(self, history: Items, k: int, observe: Observe) -> tuple[Items, Scores]:
        """Ranks as `top_k` does; `observe` hears the name of each stage of the decoding as it ends."""
        items, scores = self._search(history[None], k, observe)
        listed = items[0] >= 0
        best = items[0][listed], scores[0][listed]
        observe("rank")
        return best

    def top_k_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        """`top_k` for the histories int32[B, T] of B users; behind the items, -1 for each beam that ended in none."""
        return _widened(*self._search(histories, k, no_observer), k)

    def _search(self, histories: Items, k: int, observe: Observe) -> tuple[Items, Scores]:
        prompts = self._prompts(histories[:, -self._config.max_history :])
        observe("prompt")
        beams = search(
            self._stepper, prompts, self._sids.trie, self._config.codes, self._config.width,
            constrained=self._config.decoding == "cbs", observe=observe)  # fmt: skip
        order = np.argsort(beams.items < 0, axis=1, kind="stable")[:, :k]  # a rank belongs to an item
        return np.take_along_axis(beams.items, order, 1), np.take_along_axis(beams.scores, order, 1)

    def _codes(self, histories: Items) -> Items:
        return self._sids.tokens[histories].reshape(len(histories), -1)


def _widened(items: Items, scores: Scores, k: int) -> tuple[Items, Scores]:
    """Items and scores [B, <=k] with places that no item takes, to [B, k]."""
    missing = ((0, 0), (0, k - items.shape[1]))
    return np.pad(items, missing, constant_values=-1), np.pad(scores, missing, constant_values=-np.inf)
