"""The model behind the server: one scorer or ranker, its item table, and where it computes.

Computing on the event loop blocks every other request, health checks among them; computing on a thread costs a
hand-over. A model of 40 us answered in p50 0.27 to 0.36 ms on the loop and 0.38 to 0.51 ms through a thread
(2 cores, one keep-alive connection): the thread would cost more than the model. Warm-up therefore times
requests of growing size: those that take less than INLINE_S are answered on the loop, larger ones and slow models
on the one scoring thread, in their order. No more than `Limits.max_waiting` wait for it: a queue that only grows
answers nobody in time, and the one who is refused at once can go elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rbserve.core.artifact import DatasetReference
from rbserve.core.dataset import ItemTable
from rbserve.core.errors import ArtifactError
from rbserve.core.types import Items, Ranker, Scorer, Scores, Task
from rbserve.language import LanguageScorer
from rbserve.models.prompts import ItemTokenizer
from rbserve.runtime import recommend
from rbserve.server.schema import Limits, Measured
from rbserve.server.telemetry import Telemetry

INLINE_S = 0.001
WARM_UP_RUNS = 3
STATUSES = ("ready", "warming", "draining")
"""Of several models the last of these that is true of one is true of all."""
NEWEST = 0.2  # what the last call weighs in the pace

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


class OverloadedError(Exception):
    """There is no room to wait, or not until the request's deadline; `wait_s` is how long it takes to come to it."""

    def __init__(self, waiting: int, wait_s: float) -> None:
        super().__init__()
        self.waiting, self.wait_s = waiting, wait_s


class ExpiredError(Exception):
    """The request's deadline passed while it waited; nothing was computed."""


class Work(Protocol[Asked, Answer_co]):
    """What a model does for one request; a ValueError when its answer is none."""

    @property
    def task(self) -> Task: ...

    def __call__(self, history: Items, asked: Asked, /) -> Answer_co:
        """The answer for history int32[T]."""
        ...

    def size(self, asked: Asked, /) -> int:
        """How large a request is: what its time grows with."""
        ...

    def example(self, size: int) -> Asked:
        """Any request of that size."""
        ...

    def largest(self, limits: Limits) -> int:
        """The size of the largest request that is answered."""
        ...


@dataclass
class Service(Generic[Asked, Answer]):
    """A model that answers requests, one at a time.

    `warm` and `draining` decide readiness; `inline_size` is the largest request answered on the event loop; `waiting`
    counts those on the scoring thread or before it.
    """

    work: Work[Asked, Answer]
    items: ItemTable
    model: str
    variant: str
    dataset: DatasetReference
    telemetry: Telemetry = field(default_factory=Telemetry)
    warm: bool = False
    draining: bool = False
    inline_size: int = 0
    waiting: int = 0
    measured: Sequence[Measured] = ()

    def __post_init__(self) -> None:
        self._pace = 0.0  # seconds a call on the thread, of late
        self._counts = self.telemetry.of(self.model, self.work.task, lambda: self.waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._scoring = Lock()  # a model need not be thread-safe: the loop and the thread take turns

    @property
    def status(self) -> str:
        """One of STATUSES."""
        if self.draining:
            return "draining"
        return "ready" if self.warm else "warming"

    def warm_up(self, limits: Limits) -> None:
        """Answers a new user, then the longest history with requests of growing size; sets `inline_size`.

        Raises ArtifactError for a model that cannot answer, or not with finite scores.
        """
        try:
            self._answer(rows(self.items, 0), self.work.example(1))
            history = rows(self.items, limits.max_history)
            for size in _doubling(self.work.largest(limits)):
                if self._seconds(history, self.work.example(size)) >= INLINE_S:
                    break
                self.inline_size = size
        except Exception as error:  # whatever a runtime raises, the artefact is what is wrong
            raise ArtifactError(
                f"{self.model} {self.variant} cannot score: {(str(error) or repr(error)).splitlines()[0]}",
                "make the variant anew with rbserve export, or choose another with --variant",
            ) from error
        self.warm = True

    def answer_now(self, history: Items, asked: Asked) -> Answer | None:
        """What the model says for history int32[T], on this thread; None where that takes long, or it is busy."""
        if self.work.size(asked) > self.inline_size or not self._scoring.acquire(blocking=False):
            return None
        try:
            return self._answer(history, asked)
        finally:
            self._scoring.release()

    async def answer_later(
        self, history: Items, asked: Asked, most_waiting: int, deadline: float | None = None
    ) -> Answer:
        """The same by the scoring thread, when it comes to it; `deadline` is a time of `perf_counter`.

        Cancelled before it has begun, nothing is computed. Raises OverloadedError at once, ExpiredError when its turn
        comes too late.
        """
        begun, wait_s = perf_counter(), self.waiting * self._pace
        if self.waiting >= most_waiting or (deadline is not None and begun + wait_s > deadline):
            raise OverloadedError(self.waiting, wait_s)
        self.waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._wait_turn, history, asked, begun, deadline)
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Drops what has not begun and lets the scoring thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _wait_turn(self, history: Items, asked: Asked, begun: float, deadline: float | None) -> Answer:
        with self._scoring:
            now = perf_counter()
            self._counts.queue_seconds.observe(now - begun)
            if deadline is not None and now > deadline:
                raise ExpiredError
            try:
                return self._answer(history, asked)
            finally:
                self._pace += NEWEST * (perf_counter() - now - self._pace)

    def _answer(self, history: Items, asked: Asked) -> Answer:
        started = perf_counter()
        answer = self.work(history, asked)
        if self.warm:
            self._counts.scoring_seconds.observe(perf_counter() - started)
            self._counts.items.inc(self.work.size(asked))
        return answer

    def _seconds(self, history: Items, asked: Asked) -> float:
        """The best of a few runs: the first of a size pays for its buffers."""
        best = float("inf")
        for _ in range(WARM_UP_RUNS):
            started = perf_counter()
            self._answer(history, asked)
            best = min(best, perf_counter() - started)
        return best


Slate = Items | list[NDArray[Any]]
"""Candidates: rows of the item table, int32[N], or each one's tokens, of texts that are not in it."""


@dataclass
class Scoring:
    """Pair-wise: a slate is asked about, its scores float32[N] are the answer.

    `tokenizer` reads texts of new items, where the model does; else `no_texts` says why it is not there.
    """

    scorer: Scorer
    items: ItemTable
    task: Task = "ctr"
    tokenizer: ItemTokenizer | None = None
    no_texts: str = "it reads no texts of items"

    def __call__(self, history: Items, candidates: Slate) -> Scores:
        if isinstance(candidates, list):
            assert isinstance(self.scorer, LanguageScorer)
            scores = self.scorer.score_tokens(history, candidates)
        else:
            scores = self.scorer.score(history, candidates)
        if scores.shape != (len(candidates),):
            raise ValueError(f"scores of shape {scores.shape} for {len(candidates)} candidates")
        return _finite(scores)

    def tokens(self, candidates: Sequence[int | str]) -> list[NDArray[Any]]:
        """A slate of rows of the item table and texts of others."""
        assert isinstance(self.scorer, LanguageScorer)
        assert self.tokenizer is not None
        return [
            self.tokenizer.tokens(one) if isinstance(one, str) else self.scorer.tokens(one)
            for one in candidates
        ]

    def size(self, candidates: Slate) -> int:
        return len(candidates)

    def example(self, size: int) -> Items:
        return rows(self.items, size)

    def largest(self, limits: Limits) -> int:
        return limits.max_candidates


class Top(NamedTuple):
    """How many items are asked for, and whether those of the history are left out."""

    k: int
    exclude_seen: bool = False


class Ranked(NamedTuple):
    """At most k items int32[k] and their scores float32[k], best first."""

    items: Items
    scores: Scores


@dataclass
class Ranking:
    """List-wise: the k best items of the catalogue are asked for."""

    ranker: Ranker
    task: Task = "seqrec"

    def __call__(self, history: Items, asked: Top) -> Ranked:
        items, scores = recommend(self.ranker, history, asked.k, asked.exclude_seen)
        if items.shape != scores.shape or len(items) > asked.k:
            raise ValueError(f"items of shape {items.shape}, scores of shape {scores.shape} for k {asked.k}")
        return Ranked(items, _finite(scores))

    def size(self, asked: Top) -> int:
        return asked.k

    def example(self, size: int) -> Top:
        return Top(size)

    def largest(self, limits: Limits) -> int:
        return limits.max_k


def _finite(scores: Scores) -> Scores:
    """Refuses what JSON could not carry: NaN would reach the client as null."""
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    return scores


def _doubling(limit: int) -> list[int]:
    return [*(2**power for power in range(limit.bit_length()) if 2**power < limit), limit]


def rows(items: ItemTable, count: int) -> Items:
    """`count` items of the catalogue, int32[count], over and over when it is smaller."""
    assert len(items), "an artefact has items"
    return np.arange(count, dtype=np.int32) % np.int32(len(items))
