"""The model behind the server: one scorer, its item table, and where scoring runs.

Scoring on the event loop blocks every other request, health checks among them; scoring on a thread costs a
hand-over. A model of 40 us answered in p50 0.27 to 0.36 ms on the loop and 0.38 to 0.51 ms through a thread
(2 cores, one keep-alive connection): the thread would cost more than the model. Warm-up therefore times
slates of growing size: those that take less than INLINE_S are scored on the loop, larger ones and slow models
on the one scoring thread.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter

import numpy as np

from rbserve.core.artifact import DatasetReference
from rbserve.core.dataset import ItemTable
from rbserve.core.errors import ArtifactError
from rbserve.core.types import Items, Scorer, Scores
from rbserve.server.schema import Limits
from rbserve.server.telemetry import Telemetry

INLINE_S = 0.001
WARM_UP_RUNS = 3


@dataclass
class ScoringService:
    """A model that answers requests, one slate at a time.

    `warm` and `draining` decide readiness; `inline_slate` is the largest slate scored on the event loop.
    """

    scorer: Scorer
    items: ItemTable
    model: str
    variant: str
    dataset: DatasetReference
    telemetry: Telemetry = field(default_factory=Telemetry)
    warm: bool = False
    draining: bool = False
    inline_slate: int = 0

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._scoring = Lock()  # a Scorer need not be thread-safe: the loop and the thread take turns

    @property
    def status(self) -> str:
        """One of warming, ready, draining."""
        if self.draining:
            return "draining"
        return "ready" if self.warm else "warming"

    def warm_up(self, limits: Limits) -> None:
        """Scores a new user, then the longest history with slates of growing size; sets `inline_slate`.

        Raises ArtifactError for a model that cannot score or does not give one finite score a candidate.
        """
        try:
            self._score(rows(self.items, 0), rows(self.items, 1))
            history = rows(self.items, limits.max_history)
            for size in _doubling(limits.max_candidates):
                if self._seconds(history, rows(self.items, size)) >= INLINE_S:
                    break
                self.inline_slate = size
        except Exception as error:  # whatever a runtime raises, the artefact is what is wrong
            raise ArtifactError(
                f"{self.model} {self.variant} cannot score: {(str(error) or repr(error)).splitlines()[0]}",
                "make the variant anew with rbserve export, or choose another with --variant",
            ) from error
        self.warm = True

    async def score(self, history: Items, candidates: Items) -> Scores:
        """float32[N] for candidates int32[N] given history int32[T], on the loop or on the scoring thread."""
        if len(candidates) <= self.inline_slate and self._scoring.acquire(blocking=False):
            try:
                return self._score(history, candidates)
            finally:
                self._scoring.release()
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._wait_turn, history, candidates
        )

    def close(self) -> None:
        """Drops what has not begun and lets the scoring thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _wait_turn(self, history: Items, candidates: Items) -> Scores:
        with self._scoring:
            return self._score(history, candidates)

    def _score(self, history: Items, candidates: Items) -> Scores:
        """Scores, and refuses what JSON could not carry: NaN would reach the client as null."""
        started = perf_counter()
        scores = self.scorer.score(history, candidates)
        seconds = perf_counter() - started
        if scores.shape != candidates.shape:
            raise ValueError(f"scores of shape {scores.shape} for candidates of shape {candidates.shape}")
        if not np.isfinite(scores).all():
            raise ValueError("a score is not finite")
        if self.warm:
            self.telemetry.scoring_seconds.observe(seconds)
            self.telemetry.candidates.inc(len(candidates))
        return scores

    def _seconds(self, history: Items, candidates: Items) -> float:
        """The best of a few runs: the first of a size pays for its buffers."""
        best = float("inf")
        for _ in range(WARM_UP_RUNS):
            started = perf_counter()
            self._score(history, candidates)
            best = min(best, perf_counter() - started)
        return best


def _doubling(limit: int) -> list[int]:
    return [*(2**power for power in range(limit.bit_length()) if 2**power < limit), limit]


def rows(items: ItemTable, count: int) -> Items:
    """`count` items of the catalogue, int32[count], over and over when it is smaller."""
    assert len(items), "an artefact has items"
    return np.arange(count, dtype=np.int32) % np.int32(len(items))
