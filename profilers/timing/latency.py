"""The only timing loop: varied requests, a monotonic nanosecond clock, every sample kept, nothing subtracted."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rbserve.runs.stability import has_trend

Request = tuple[Any, ...]
Clock = Callable[[], int]

WINDOW = 20  # calls that show whether times still rise or fall
STEP = 10  # calls between two looks at them
WARMUP_CALLS = 200
WARMUP_NS = 1_000_000_000
FEWEST = 3
PAID_WARMUP_CALLS = FEWEST  # where every call costs money
EMPTY_CALLS = 1000


@dataclass(frozen=True)
class Times:
    """Nanoseconds per call, in order. The first call and the warm-up are no part of the runs.

    `settled`: the warm-up ended without a trend, and not at its bound while times still rose or fell.
    """

    first_call_ns: int
    warmup_ns: list[int]
    runs_ns: list[int]
    settled: bool


def _unmarked() -> None:
    """Marks nothing before and after the timed runs."""


def time_calls(
    call: Callable[..., object],
    requests: Sequence[Request],
    runs: int,
    seconds: float,
    clock: Clock = time.perf_counter_ns,
    mark: Callable[[], None] = _unmarked,
    warmup_calls: int = WARMUP_CALLS,
) -> Times:
    """Times `call(*request)` over the requests in turn, once around and around.

    The first call is kept apart. Warm-up ends when the last 20 calls have no trend (`has_trend`, looked at every 10
    calls), and at `warmup_calls` or one second at the latest; then `runs` timed calls, fewer when their sum passes
    `seconds`; never fewer than 3 of either. `mark()` is called before and after the timed runs.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        first = _timed(call, requests, 0, 1, 0, clock)
        warmup = _warm_up(call, requests, clock, warmup_calls)
        mark()
        timed = _timed(call, requests, 1 + len(warmup), runs, round(seconds * 1e9), clock)
        mark()
    finally:
        if collecting:
            gc.enable()
    return Times(first[0], warmup, timed, settled=not has_trend(warmup[-WINDOW:]))


def most_calls(runs: int, warmup_calls: int = WARMUP_CALLS) -> int:
    """The largest number of calls that `time_calls` makes: the first, the warm-up, and `runs`."""
    return 1 + warmup_calls + runs


def overhead_ns(requests: Sequence[Request], clock: Clock = time.perf_counter_ns) -> int:
    """What this loop adds to each call: the median of 1,000 calls that do nothing, timed like any other."""
    return int(statistics.median(_timed(_nothing, requests, 0, EMPTY_CALLS, WARMUP_NS, clock)))


def _nothing(*request: object) -> None:
    """A call without any work."""


def _warm_up(call: Callable[..., object], requests: Sequence[Request], clock: Clock, most: int) -> list[int]:
    """The samples of a warm-up, which starts at request 1."""
    samples: list[int] = []
    while True:
        left_ns = WARMUP_NS - sum(samples)
        calls = min(STEP, most - len(samples))
        samples += _timed(call, requests, 1 + len(samples), calls, left_ns, clock)
        if len(samples) >= most or sum(samples) >= WARMUP_NS:
            return samples
        if len(samples) >= WINDOW and not has_trend(samples[-WINDOW:]):
            return samples


def _timed(
    call: Callable[..., object],
    requests: Sequence[Request],
    begin: int,
    calls: int,
    limit_ns: int,
    clock: Clock,
) -> list[int]:
    """At most `calls` samples, starting at request `begin`, until they add up to `limit_ns`."""
    samples: list[int] = []
    spent = 0
    for index in range(begin, begin + calls):
        request = requests[index % len(requests)]
        start = clock()
        call(*request)
        taken = clock() - start
        samples.append(taken)
        spent += taken
        if spent >= limit_ns and len(samples) >= FEWEST:
            break
    return samples
