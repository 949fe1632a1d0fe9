"""The model behind the server: one scorer or ranker, its item table, and where it computes.

Computing on the event loop blocks every other request, health checks among them; computing on a thread costs a
hand-over. A model of 40 us answered in p50 0.27 to 0.36 ms on the loop and 0.38 to 0.51 ms through a thread
(2 cores, one keep-alive connection): the thread would cost more than the model. Warm-up therefore times
requests of growing size: those that take less than INLINE_S are answered on the loop, larger ones and slow models
on the one scoring thread, in their order; of those that wait, some that one call can answer are answered together
(users of a model that ranks, whose histories have one length). No more than `Limits.max_waiting` wait: a queue that
only grows answers nobody in time, and the one who is refused at once can go elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from rbserve.core.errors import ArtifactError
from rbserve.core.tasks import CTR, SEQREC, Task
from rbserve.core.types import Items, Observe, Ranker, Scorer, Scores, StagedScorer, no_observer
from rbserve.data.artifact import DatasetReference
from rbserve.data.dataset import ItemTable
from rbserve.data.golden import Checks, ranked_otherwise, scored_otherwise
from rbserve.runtimes.language import LanguageScorer, PrefixCache
from rbserve.runtimes.opening import recommend, without_seen
from rbserve.runtimes.texts import Mixed, TextScorer
from rbserve.server.schema import NOT_PROFILED, Limits, Profiled
from rbserve.server.telemetry import Stopwatch, Telemetry

INLINE_S = 0.001
WARM_UP_RUNS = 3
STATUSES = ("ready", "warming", "draining")
"""What a server is, from good to bad."""
AGAIN = "make the variant anew with rbserve export, or choose another with --variant"
MOST_TOGETHER = 16
NEWEST = 0.05  # what the last call weighs in the pace
MARGIN = 0.8

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

    @property
    def kept(self) -> PrefixCache | None:
        """What remembers users from request to request, if anything does."""
        ...

    def __call__(self, history: Items, asked: Asked, observe: Observe = no_observer, /) -> Answer_co:
        """The answer for history int32[T]; `observe` hears of the stages of a model that has any."""
        ...

    def together(self, history: Items, asked: Asked, /) -> Hashable:
        """What requests have in common that one call can answer; None where each takes its own."""
        ...

    def several(self, requests: Sequence[tuple[Items, Asked]], /) -> Sequence[Answer_co]:
        """The answers to requests that have it in common: those that each would get alone."""
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

    def otherwise(self, checks: Checks, /) -> str | None:
        """How the model answers otherwise than it did when it was exported, if it does."""
        ...


class _Waiting(NamedTuple, Generic[Asked, Answer]):
    """A request before the scoring thread; times are those of `perf_counter`."""

    history: Items
    asked: Asked
    begun: float
    deadline: float | None
    future: Future[Answer]


@dataclass
class Service(Generic[Asked, Answer]):
    """A model that answers requests, one at a time.

    `warm` decides readiness; `inline_size` is the largest request answered on the event loop; `waiting` counts those
    on the scoring thread or before it. `version` is a digest of the model's files, `manifest` one of the artefact's
    manifest.
    """

    work: Work[Asked, Answer]
    items: ItemTable
    model: str
    variant: str
    dataset: DatasetReference
    telemetry: Telemetry = field(default_factory=Telemetry)
    version: str = ""
    manifest: str = ""
    warm: bool = False
    inline_size: int = 0
    waiting: int = 0
    profiled: Profiled = NOT_PROFILED

    def __post_init__(self) -> None:
        self._pace = self._ended = 0.0  # seconds a request takes the thread, of late; when it ended the last
        self._counts = self.telemetry.of(self.model, self.work.task)
        self._watch = Stopwatch(self._counts)
        self._counted = 0, 0  # tokens of the user cache
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._queue: deque[_Waiting[Asked, Answer]] = deque()
        self._counting, self._queueing = Lock(), Lock()
        self._scoring = Lock()  # a model need not be thread-safe: the loop and the thread take turns

    @property
    def status(self) -> str:
        """One of STATUSES."""
        return "ready" if self.warm else "warming"

    def warm_up(self, limits: Limits, checks: Checks | None = None) -> None:
        """Answers a new user, then the longest history with requests of growing size; sets `inline_size`.

        Raises ArtifactError for a model that cannot answer, or not with finite scores, or otherwise than `checks` say
        that it did when it was exported.
        """
        otherwise = None
        try:
            self._answer(rows(self.items, 0), self.work.example(1))
            if checks is not None:
                otherwise = self.work.otherwise(checks)
            history = rows(self.items, limits.max_history)
            for size in _doubling(self.work.largest(limits)):
                if self._seconds(history, self.work.example(size)) >= INLINE_S:
                    break
                self.inline_size = size
        except Exception as error:  # whatever a runtime raises, the artefact is what is wrong
            raise ArtifactError(
                f"{self.model} {self.variant} cannot score: {(str(error) or repr(error)).splitlines()[0]}",
                AGAIN,
            ) from error
        if otherwise is not None:
            raise ArtifactError(
                f"{self.model} {self.variant} answers otherwise than when it was exported: {otherwise}", AGAIN
            )
        self.warm = True

    def answer_now(self, history: Items, asked: Asked) -> Answer | None:
        """What the model says for history int32[T], on this thread; None where that takes long, or it is busy."""
        if self.work.size(asked) > self.inline_size or not self._scoring.acquire(blocking=False):
            return None
        try:
            return self._answer(history, asked)
        finally:
            self._scoring.release()

    def answer_later(
        self, history: Items, asked: Asked, most_waiting: int, deadline: float | None = None
    ) -> asyncio.Future[Answer]:
        """The same by the scoring thread, when it comes to it; `deadline` is a time of `perf_counter`.

        Cancelled before it has begun, nothing is computed. To be called on an event loop. Raises OverloadedError at
        once; the future has an ExpiredError when its turn comes too late.
        """
        begun = self.require_room(most_waiting, deadline)
        with self._counting:
            self.waiting += 1
        self._counts.waiting.inc()
        future: Future[Answer] = Future()
        future.add_done_callback(self._one_less)
        self._queue.append(_Waiting(history, asked, begun, deadline, future))
        self._thread.submit(self._next)
        return asyncio.wrap_future(future)

    def require_room(self, most_waiting: int, deadline: float | None) -> float:
        """The time now; OverloadedError where a request could not wait, or would not be answered in time.

        What is answered late helps nobody and takes the time of others: of the time that is left a fifth is kept for
        what the pace does not tell.
        """
        now, wait_s = perf_counter(), self.waiting * self._pace
        late = deadline is not None and now + (wait_s + self._pace) / MARGIN > deadline
        if self.waiting >= most_waiting or (late and self.waiting):
            raise OverloadedError(self.waiting, wait_s)
        return now

    def encoded(self, seconds: float) -> None:
        """An answer took so long to encode."""
        self._counts.stage("encode").observe(seconds)

    def close(self) -> None:
        """Drops what has not begun and lets the scoring thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        with self._queueing:
            for one in [*self._queue]:
                one.future.cancel()

    def _one_less(self, future: Future[Answer]) -> None:
        """A request is answered, or was given up before it was begun; until then it has a place."""
        del future
        with self._counting:
            self.waiting -= 1
        self._counts.waiting.dec()

    def _next(self) -> None:
        """The scoring thread's turn: once for each request, which an earlier turn may have answered already."""
        with self._scoring:
            if batch := self._take():
                self._compute(batch)

    def _take(self) -> list[_Waiting[Asked, Answer]]:
        """The request that waits longest, with those behind it that one call can answer as well.

        Nobody waits to be joined: there is a second one only where the model was busy.
        """
        taken: list[_Waiting[Asked, Answer]] = []
        left: list[_Waiting[Asked, Answer]] = []
        common: Hashable = None
        with self._queueing:
            while self._queue and (not taken or (common is not None and len(taken) < MOST_TOGETHER)):
                one = self._queue.popleft()
                key = self.work.together(one.history, one.asked)
                if taken and key != common:
                    left.append(one)
                elif one.future.set_running_or_notify_cancel() and self._comes_in_time(one):
                    taken.append(one)
                    common = key
            self._queue.extendleft(reversed(left))
        return taken

    def _comes_in_time(self, one: _Waiting[Asked, Answer]) -> bool:
        now = perf_counter()
        self._counts.queue_seconds.observe(now - one.begun)
        if one.deadline is None or now <= one.deadline:
            return True
        one.future.set_exception(ExpiredError())
        return False

    def _compute(self, batch: list[_Waiting[Asked, Answer]]) -> None:
        began = perf_counter()
        self._counts.batch.observe(len(batch))
        alone = len(batch) == 1
        try:
            answers: Sequence[Answer] = [self._answer(*batch[0][:2])] if alone else self._answers(batch)
        except Exception as error:  # noqa: BLE001  (it is raised where the answer is awaited)
            for one in batch:
                if alone:
                    one.future.set_exception(error)
                else:  # which of them it is
                    self._compute([one])
            return
        ended = perf_counter()
        # While requests wait, from one end to the next: the loop's part in them, and other threads', is in it.
        since = self._ended if self._ended > batch[0].begun else began
        self._pace += NEWEST * ((ended - since) / len(batch) - self._pace)
        self._ended = ended
        for one, answer in zip(batch, answers, strict=True):
            one.future.set_result(answer)

    def _answers(self, batch: list[_Waiting[Asked, Answer]]) -> Sequence[Answer]:
        started = perf_counter()
        answers = self.work.several([(one.history, one.asked) for one in batch])
        self._counts.scoring_seconds.observe(perf_counter() - started)
        self._counts.items.inc(sum(self.work.size(one.asked) for one in batch))
        return answers

    def _answer(self, history: Items, asked: Asked) -> Answer:
        started = perf_counter()
        self._watch.start()
        answer = self.work(history, asked, self._watch if self.warm else no_observer)
        if self.warm:
            self._counts.scoring_seconds.observe(perf_counter() - started)
            self._counts.items.inc(self.work.size(asked))
            if self.work.kept is not None:
                self._count_tokens(self.work.kept)
        return answer

    def _count_tokens(self, kept: PrefixCache) -> None:
        """Counts what of users' prompts was remembered since the last time, and what was not."""
        found, missed = kept.tokens_found, kept.tokens_asked - kept.tokens_found
        self._counts.prompt_tokens("remembered").inc(found - self._counted[0])
        self._counts.prompt_tokens("read").inc(missed - self._counted[1])
        self._counted = found, missed

    def _seconds(self, history: Items, asked: Asked) -> float:
        """The best of a few runs: the first of a size pays for its buffers."""
        best = float("inf")
        for _ in range(WARM_UP_RUNS):
            started = perf_counter()
            self._answer(history, asked)
            best = min(best, perf_counter() - started)
        return best


Slate = Items | Mixed
"""Candidates: rows of the item table, int32[N], or rows and texts of items that are not in it."""


@dataclass
class Scoring:
    """Pair-wise: a slate is asked about, its scores float32[N] are the answer.

    `texts` scores with texts of new items, where the model reads them; else it says why not.
    """

    scorer: Scorer
    items: ItemTable
    task: Task = CTR
    texts: TextScorer | str = "it reads no texts of items"

    def __post_init__(self) -> None:
        self._staged = self.scorer.score_staged if isinstance(self.scorer, StagedScorer) else None
        self.kept = self.scorer.kept if isinstance(self.scorer, LanguageScorer) else None

    def __call__(self, history: Slate, candidates: Slate, observe: Observe = no_observer) -> Scores:
        if isinstance(history, list) or isinstance(candidates, list):
            assert not isinstance(self.texts, str)
            scores = self.texts.score([*history], [*candidates], observe)
        elif self._staged is not None:
            scores = self._staged(history, candidates, observe)
        else:
            scores = self.scorer.score(history, candidates)
        if scores.shape != (len(candidates),):
            raise ValueError(f"scores of shape {scores.shape} for {len(candidates)} candidates")
        return _finite(scores)

    def together(self, history: Slate, candidates: Slate) -> None:
        del history, candidates

    def several(self, requests: Sequence[tuple[Slate, Slate]]) -> list[Scores]:
        return [self(history, candidates) for history, candidates in requests]

    def size(self, candidates: Slate) -> int:
        return len(candidates)

    def example(self, size: int) -> Items:
        return rows(self.items, size)

    def largest(self, limits: Limits) -> int:
        return limits.max_candidates

    def otherwise(self, checks: Checks) -> str | None:
        return scored_otherwise(checks, self.scorer.score)


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
    """List-wise: the k best items of the catalogue are asked for. The model reads `max_history` items, or all."""

    ranker: Ranker
    max_history: int | None = None
    task: Task = SEQREC
    kept: PrefixCache | None = None

    def __call__(self, history: Items, asked: Top, observe: Observe = no_observer) -> Ranked:
        del observe
        items, scores = recommend(self.ranker, history, asked.k, asked.exclude_seen)
        if items.shape != scores.shape or len(items) > asked.k:
            raise ValueError(f"items of shape {items.shape}, scores of shape {scores.shape} for k {asked.k}")
        return Ranked(items, _finite(scores))

    def together(self, history: Items, asked: Top) -> Hashable:
        del asked
        return len(self._read(history))

    def several(self, requests: Sequence[tuple[Items, Top]]) -> list[Ranked]:
        most = max(asked.k + asked.exclude_seen * len(history) for history, asked in requests)
        histories = np.stack([self._read(history) for history, _ in requests])
        answers = []
        for (history, asked), items, scores in zip(
            requests, *self.ranker.top_k_batch(histories, most), strict=True
        ):
            own = asked.k + asked.exclude_seen * len(history)
            there = np.flatnonzero(items >= 0)[:own]
            items, scores = items[there], scores[there]
            if asked.exclude_seen:
                items, scores = without_seen(history, asked.k, items, scores)
            answers.append(Ranked(items, _finite(scores)))
        return answers

    def _read(self, history: Items) -> Items:
        """What of a history the model reads."""
        return history if self.max_history is None else history[-self.max_history :]

    def size(self, asked: Top) -> int:
        return asked.k

    def example(self, size: int) -> Top:
        return Top(size)

    def largest(self, limits: Limits) -> int:
        return limits.max_k

    def otherwise(self, checks: Checks) -> str | None:
        return ranked_otherwise(checks, self.ranker.top_k)


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
