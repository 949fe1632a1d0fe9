"""The only timing loop: varied requests, a monotonic nanosecond clock, every sample kept, nothing subtracted."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Request = tuple[Any, ...]
Clock = Callable[[], int]

WARMUP_CALLS = 20
WARMUP_NS = 500_000_000
FEWEST = 3


@dataclass(frozen=True)
class Times:
    """Nanoseconds per call, in order. The first call and the warm-up are no part of the runs."""

    first_call_ns: int
    warmup_ns: list[int]
    runs_ns: list[int]


def time_calls(
    call: Callable[..., object],
    requests: Sequence[Request],
    runs: int,
    seconds: float,
    clock: Clock = time.perf_counter_ns,
) -> Times:
    """Times `call(*request)` over the requests in turn, once around and around.

    The first call is kept apart. Warm-up is 20 calls or half a second, whichever ends first; then `runs`
    timed calls, fewer when their sum passes `seconds`; never fewer than 3 of either.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        first = _timed(call, requests, 0, 1, 0, clock)
        warmup = _timed(call, requests, 1, WARMUP_CALLS, WARMUP_NS, clock)
        timed = _timed(call, requests, 1 + len(warmup), runs, round(seconds * 1e9), clock)
    finally:
        if collecting:
            gc.enable()
    return Times(first[0], warmup, timed)


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
