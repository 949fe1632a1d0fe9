"""The model behind the server: its queue, and where it computes.

Computing on the event loop blocks every other request, health checks among them; computing on a thread costs a
hand-over. A model of 40 us answered in p50 0.27 to 0.36 ms on the loop and 0.38 to 0.51 ms through a thread
(2 cores, one keep-alive connection): the thread would cost more than the model. The warm-up therefore times requests
of growing size. Requests that take less than INLINE_S are answered on the loop. Larger ones, and slow models, are
answered by the scoring thread, in their order; waiting requests of one batch key (users of a model that ranks, whose
histories have one length) are answered by one call. At most `Limits.max_waiting` requests wait: a queue that only
grows answers nobody in time, and a client that is refused at once can go elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import Generic, NamedTuple, TypeVar

from rbserve.core.discipline import INLINE_S, MARGIN, MAX_BATCH, PACE_WEIGHT
from rbserve.core.errors import ArtifactError, first_line
from rbserve.core.types import no_observer
from rbserve.data.artifact import DatasetReference
from rbserve.data.dataset import ItemTable
from rbserve.data.golden import Checks
from rbserve.runtimes.language import PrefixCache
from rbserve.server.api.options import Limits
from rbserve.server.api.schema import NOT_PROFILED, Profiled
from rbserve.server.observe.telemetry import Stopwatch, Telemetry
from rbserve.server.scoring.work import Query, Work

WARM_UP_RUNS = 3
STATUSES = ("ready", "warming", "draining")
"""The states of a server, from good to bad."""
EXPORT_AGAIN = "make the variant anew with rbserve export, or choose another with --variant"

Answer = TypeVar("Answer")


class OverloadedError(Exception):
    """The queue is full, or too long for the request's deadline: `waiting` requests, `wait_s` seconds."""

    def __init__(self, waiting: int, wait_s: float) -> None:
        super().__init__()
        self.waiting, self.wait_s = waiting, wait_s


class ExpiredError(Exception):
    """The request's deadline passed while it waited; nothing was computed."""


class _Waiting(NamedTuple, Generic[Query, Answer]):
    """A request in the queue of the scoring thread; times are those of `perf_counter`."""

    query: Query
    arrived: float
    deadline: float | None
    future: Future[Answer]


@dataclass
class Service(Generic[Query, Answer]):
    """A model that answers requests, one at a time.

    `warm` decides readiness; `inline_size` is the largest request answered on the event loop; `waiting` counts those
    on the scoring thread or before it. `version` is a digest of the model's files, `manifest` one of the artefact's
    manifest.
    """

    work: Work[Query, Answer]
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
        self._counts = self.telemetry.for_model(self.model, self.work.task)
        self._watch, self._encoding = Stopwatch(self._counts), self._counts.stage("encode")
        self._counted_tokens = 0, 0  # of the user cache: found, and read anew
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._queue: deque[_Waiting[Query, Answer]] = deque()
        self._busy = False  # whether the thread takes turns, and will come to new requests
        self._counting, self._queueing = Lock(), Lock()
        self._scoring = Lock()  # a model need not be thread-safe: the loop and the thread take turns

    @property
    def items(self) -> ItemTable:
        """The items that the model knows."""
        return self.work.items

    @property
    def status(self) -> str:
        """One of STATUSES."""
        return "ready" if self.warm else "warming"

    def warm_up(self, limits: Limits, checks: Checks | None = None) -> None:
        """Answers a new user, then the longest history with requests of growing size; sets `inline_size`.

        Raises ArtifactError for a model that cannot answer, whose scores are not finite, or whose answers differ from
        those in `checks`, which it gave when it was exported.
        """
        difference = None
        try:
            self._answer(self.work.example(1, 0))
            if checks is not None:
                difference = self.work.self_check(checks)
            for size in _doubling(self.work.largest(limits)):
                if self._seconds(self.work.example(size, limits.max_history)) >= INLINE_S:
                    break
                self.inline_size = size
        except Exception as error:  # whatever a runtime raises, the artefact is what is wrong
            raise ArtifactError(
                f"{self.model} {self.variant} cannot score: {first_line(error)}",
                EXPORT_AGAIN,
            ) from error
        if difference is not None:
            raise ArtifactError(
                f"{self.model} {self.variant} answers otherwise than when it was exported: {difference}",
                EXPORT_AGAIN,
            )
        self.warm = True

    def answer_now(self, query: Query) -> Answer | None:
        """The answer to a query, computed on this thread; None where that takes long or the model is busy."""
        if self.work.size(query) > self.inline_size or not self._scoring.acquire(blocking=False):
            return None
        try:
            return self._answer(query)
        finally:
            self._scoring.release()

    def answer_later(
        self, query: Query, max_waiting: int, deadline: float | None = None
    ) -> asyncio.Future[Answer]:
        """A future of the answer to a query, computed by the scoring thread in its turn.

        `deadline` is a time of `perf_counter`. To be called on an event loop. Raises OverloadedError where there is no
        room for the request; the future has an ExpiredError when its turn comes after the deadline. A future that is
        cancelled before its turn is not computed.
        """
        arrived = self.require_room(max_waiting, deadline)
        with self._counting:
            self.waiting += 1
        self._counts.waiting.inc()
        future: Future[Answer] = Future()
        future.add_done_callback(self._release_place)
        with self._queueing:
            self._queue.append(_Waiting(query, arrived, deadline, future))
            starts, self._busy = not self._busy, True
        if starts:  # else the thread comes to it by itself: waking it costs as much as parsing a request
            self._thread.submit(self._take_turns)
        return asyncio.wrap_future(future)

    def require_room(self, max_waiting: int, deadline: float | None) -> float:
        """The time now. Raises OverloadedError where a request could not wait, or would not be answered in time.

        A late answer helps nobody and takes the time of others. A fifth of the time until the deadline is kept back,
        because the average pace does not foresee every call.
        """
        now, wait_s = perf_counter(), self.waiting * self._pace
        late = deadline is not None and now + (wait_s + self._pace) / MARGIN > deadline
        if self.waiting >= max_waiting or (late and self.waiting):
            raise OverloadedError(self.waiting, wait_s)
        return now

    def count_refusal(self, reason: str = "overloaded") -> None:
        """Counts a request that was not computed."""
        self.telemetry.refused.labels(self.model, reason).inc()

    def observe_encoding(self, seconds: float) -> None:
        """Counts the seconds that encoding an answer took."""
        self._encoding.observe(seconds)

    def close(self) -> None:
        """Cancels the requests in the queue and lets the scoring thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        with self._queueing:
            for request in [*self._queue]:
                request.future.cancel()

    def _release_place(self, future: Future[Answer]) -> None:
        """A request is done or cancelled, and gives up its place in the queue."""
        del future
        with self._counting:
            self.waiting -= 1
        self._counts.waiting.dec()

    def _take_turns(self) -> None:
        """Computes batches until no request waits; the event loop has its turn between two."""
        try:
            while True:
                with self._scoring:
                    if batch := self._take():
                        self._compute(batch)
                with self._queueing:
                    if not self._queue:
                        self._busy = False
                        return
        except BaseException:
            self._busy = False
            raise

    def _take(self) -> list[_Waiting[Query, Answer]]:
        """The oldest request, with those behind it that have its batch key, MAX_BATCH at most.

        No request waits for others to join it: there is a second one only where the model was busy.
        """
        batch: list[_Waiting[Query, Answer]] = []
        skipped: list[_Waiting[Query, Answer]] = []
        batch_key: Hashable = None
        with self._queueing:
            while self._queue and (not batch or (batch_key is not None and len(batch) < MAX_BATCH)):
                request = self._queue.popleft()
                key = self.work.batch_key(request.query)
                if batch and key != batch_key:
                    skipped.append(request)
                elif request.future.set_running_or_notify_cancel() and self._is_in_time(request):
                    batch.append(request)
                    batch_key = key
            self._queue.extendleft(reversed(skipped))
        return batch

    def _is_in_time(self, request: _Waiting[Query, Answer]) -> bool:
        """Whether a request's deadline is still to come; one that is late gets its ExpiredError."""
        now = perf_counter()
        self._counts.queue_seconds.observe(now - request.arrived)
        if request.deadline is None or now <= request.deadline:
            return True
        request.future.set_exception(ExpiredError())
        return False

    def _compute(self, batch: list[_Waiting[Query, Answer]]) -> None:
        began = perf_counter()
        self._counts.batch.observe(len(batch))
        alone = len(batch) == 1
        try:
            answers: Sequence[Answer] = [self._answer(batch[0].query)] if alone else self._answer_batch(batch)
        except Exception as error:  # noqa: BLE001  (it is raised where the answer is awaited)
            for request in batch:
                if alone:
                    request.future.set_exception(error)
                else:  # alone, so that only the request at fault fails
                    self._compute([request])
            return
        self._update_pace(batch, began)
        for request, answer in zip(batch, answers, strict=True):
            request.future.set_result(answer)

    def _update_pace(self, batch: list[_Waiting[Query, Answer]], began: float) -> None:
        """The moving average of seconds a request.

        While requests wait, it counts from one end to the next, with the time of the event loop and of other threads.
        """
        ended = perf_counter()
        since = self._ended if self._ended > batch[0].arrived else began
        self._pace += PACE_WEIGHT * ((ended - since) / len(batch) - self._pace)
        self._ended = ended

    def _answer_batch(self, batch: list[_Waiting[Query, Answer]]) -> Sequence[Answer]:
        started = perf_counter()
        answers = self.work.answer_batch([request.query for request in batch])
        self._counts.scoring_seconds.observe(perf_counter() - started)
        self._counts.items.inc(sum(self.work.size(request.query) for request in batch))
        return answers

    def _answer(self, query: Query) -> Answer:
        started = perf_counter()
        self._watch.start()
        answer = self.work(query, self._watch if self.warm else no_observer)
        if self.warm:
            self._counts.scoring_seconds.observe(perf_counter() - started)
            self._counts.items.inc(self.work.size(query))
            if self.work.prefix_cache is not None:
                self._count_tokens(self.work.prefix_cache)
        return answer

    def _count_tokens(self, cache: PrefixCache) -> None:
        """Counts the tokens of users' prompts that were found in the cache since the last call, and those read anew."""
        hits, missed = cache.tokens_found, cache.tokens_asked - cache.tokens_found
        self._counts.prompt_tokens("remembered").inc(hits - self._counted_tokens[0])
        self._counts.prompt_tokens("read").inc(missed - self._counted_tokens[1])
        self._counted_tokens = hits, missed

    def _seconds(self, query: Query) -> float:
        """Seconds of the best of a few runs: the first of a size pays for its buffers."""
        best = float("inf")
        for _ in range(WARM_UP_RUNS):
            started = perf_counter()
            self._answer(query)
            best = min(best, perf_counter() - started)
        return best


def _doubling(limit: int) -> list[int]:
    return [*(2**power for power in range(limit.bit_length()) if 2**power < limit), limit]
