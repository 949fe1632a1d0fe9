"""One worker of a server as a queue: when each of its requests is answered, or whether it is refused.

A worker answers requests in their order on one core: a request takes its call of the model and the overhead of HTTP.
Requests that wait are let in, refused, expired and batched by the rules of `server/scoring/service.py`. Requests whose
calls are short are answered on the event loop: nobody is refused there.

Where nobody is refused or batched, the departures follow from Lindley's recursion (1952), which NumPy computes in one
pass; else a loop follows the queue request by request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.discipline import MARGIN, MAX_BATCH, MAX_WAITING, PACE_WEIGHT

Seconds = NDArray[np.float64]
NEVER = np.inf
"""The latency of a request that is refused, or whose deadline passes while it waits."""


class Discipline(NamedTuple):
    """The rules of a worker's queue. Times are seconds.

    `inline`: calls are so short that the event loop makes them. `refusal_s` is the worker's time that a refusal takes.
    `http_core`: HTTP has a core of its own, beside that of the model. `batch_share` is the time that a further request
    of a batch takes, in calls.
    """

    inline: bool = False
    max_waiting: int = MAX_WAITING
    deadline_s: float | None = None
    refusal_s: float = 0.0
    http_core: bool = False
    batch_share: float = 1.0


def latencies(
    arrivals: Seconds,
    calls: Seconds,
    overhead_s: float,
    discipline: Discipline,
    batch_keys: Sequence[int] | None = None,
) -> Seconds:
    """Seconds [N] from each arrival to its answer, NEVER for requests without one.

    `arrivals` [N] rise; `calls` [N] are the times of the model alone. Requests of one of `batch_keys` [N] may share a
    call; None: each takes its own.
    """
    if not discipline.http_core:
        return _one_core(arrivals, calls, overhead_s, discipline, batch_keys)
    parsed = departures(arrivals, np.full(len(arrivals), overhead_s))
    return parsed - arrivals + _one_core(parsed, calls, 0.0, discipline, batch_keys)


def departures(arrivals: Seconds, work: Seconds) -> Seconds:
    """When each request leaves a queue that answers all of them in their order (Lindley's recursion)."""
    done = np.cumsum(work)
    left: Seconds = done + np.maximum.accumulate(arrivals - (done - work))
    return left


def _one_core(
    arrivals: Seconds,
    calls: Seconds,
    overhead_s: float,
    discipline: Discipline,
    batch_keys: Sequence[int] | None,
) -> Seconds:
    left = departures(arrivals, calls + overhead_s)
    if discipline.inline or not len(arrivals):
        return left - arrivals
    if batch_keys is None and not _may_refuse(arrivals, left, calls + overhead_s, discipline):
        return left - arrivals
    return np.array(_followed(arrivals, calls, overhead_s, discipline, batch_keys)) - arrivals


def _may_refuse(arrivals: Seconds, left: Seconds, work: Seconds, discipline: Discipline) -> bool:
    """Whether a request could find the queue too long; False is certain, True is not."""
    waiting = np.arange(len(arrivals)) - np.searchsorted(left, arrivals, side="right")
    longest = int(waiting.max())
    if longest >= discipline.max_waiting:
        return True
    if discipline.deadline_s is None or not longest:
        return False
    latest = float((left - work - arrivals).max())
    return bool(max(latest, (longest + 1) * float(work.max()) / MARGIN) > discipline.deadline_s)


def _followed(
    arrivals: Seconds,
    calls: Seconds,
    overhead_s: float,
    discipline: Discipline,
    batch_keys: Sequence[int] | None,
) -> list[float]:
    """When each request is answered, followed one after the other."""
    queue = WorkerQueue(arrivals.tolist(), calls.tolist(), overhead_s, discipline, batch_keys)
    for number in range(len(arrivals)):
        queue.arrive(number)
    queue.advance(NEVER)
    return queue.left


class WorkerQueue:
    """The state of a worker between two arrivals: who waits, who is being answered, and until when."""

    def __init__(
        self,
        arrivals: list[float],
        calls: list[float],
        overhead_s: float,
        discipline: Discipline,
        batch_keys: Sequence[int] | None,
    ) -> None:
        self.left = [NEVER] * len(arrivals)
        self._arrivals, self._calls, self._overhead_s = arrivals, calls, overhead_s
        self._rules, self._keys = discipline, batch_keys
        self._queue: deque[int] = deque()
        self._current: list[int] = []
        self._began = self._free_at = self._ended = 0.0
        self._pace = 0.0

    def arrive(self, number: int) -> None:
        """A request arrives, later than all before it: it is answered at once, waits, or is refused."""
        now = self._arrivals[number]
        if self._current and self._free_at <= now:
            self.advance(now)
        waiting = len(self._queue) + len(self._current)
        if not waiting:
            self._start([number], now)
        elif self._is_refused(waiting):
            self._free_at += self._rules.refusal_s
        else:
            self._queue.append(number)

    def advance(self, now: float) -> None:
        """Ends the calls that end until `now` and starts those behind them."""
        while self._current and self._free_at <= now:
            self._finish()
            at = self._free_at
            while self._queue and not self._current:
                if batch := self._take(at):
                    self._start(batch, at)
                else:
                    at += self._rules.refusal_s  # a request that came too late takes that of a refusal

    def _is_refused(self, waiting: int) -> bool:
        deadline_s, pace = self._rules.deadline_s, self._pace
        late = deadline_s is not None and (waiting * pace + pace) / MARGIN > deadline_s
        return waiting >= self._rules.max_waiting or late

    def _start(self, batch: list[int], at: float) -> None:
        share = self._rules.batch_share
        work = self._calls[batch[0]] + self._overhead_s
        for number in batch[1:]:
            work += share * self._calls[number] + self._overhead_s
        self._current, self._began, self._free_at = batch, at, at + work

    def _finish(self) -> None:
        """Answers the current requests and updates the pace, as `Service._update_pace` does."""
        ended, batch = self._free_at, self._current
        since = self._ended if self._ended > self._arrivals[batch[0]] else self._began
        self._pace += PACE_WEIGHT * ((ended - since) / len(batch) - self._pace)
        for number in batch:
            self.left[number] = ended
        self._ended, self._current = ended, []

    def _take(self, at: float) -> list[int]:
        """The oldest request in time, with those behind it of its batch key; empty where the oldest is late."""
        first = self._queue.popleft()
        if self._is_late(first, at):
            return []
        batch = [first]
        if self._keys is None:
            return batch
        skipped: list[int] = []
        while self._queue and len(batch) < MAX_BATCH:
            number = self._queue.popleft()
            if self._keys[number] != self._keys[first]:
                skipped.append(number)
            elif not self._is_late(number, at):
                batch.append(number)
        self._queue.extendleft(reversed(skipped))
        return batch

    def _is_late(self, number: int, at: float) -> bool:
        deadline_s = self._rules.deadline_s
        return deadline_s is not None and at > self._arrivals[number] + deadline_s
