"""Where a call's time goes, stage by stage; apart from the timed calls, because observing costs time.

Every observed call is made beside an unobserved one of the same request, in an order that turns around. Thus the
stages can be held against what they are said to add up to, and a call's time against its request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rbserve.profilers.timing.calls import Exercise
from rbserve.profilers.timing.latency import Clock

REST = "rest"  # what a call does after its last stage


@dataclass(frozen=True)
class Waterfall:
    """Nanoseconds by stage, summed over observed calls; and of each observed call and the unobserved one beside it."""

    stages_ns: dict[str, int] = field(default_factory=dict)
    observed_ns: list[int] = field(default_factory=list)
    unobserved_ns: list[int] = field(default_factory=list)


def time_stages(
    exercise: Exercise, calls: int, seconds: float, clock: Clock = time.perf_counter_ns
) -> Waterfall:
    """Times pairs of an observed and an unobserved call: `calls` pairs, or as many as take `seconds`, at least one.

    An observed call is `observed(*request, observe)`, which calls observe(stage) at the end of each stage.
    """
    waterfall = Waterfall()
    last = 0

    def observe(stage: str) -> None:
        nonlocal last
        now = clock()
        waterfall.stages_ns[stage] = waterfall.stages_ns.get(stage, 0) + now - last
        last = now

    def observed(request: tuple[object, ...]) -> None:
        nonlocal last
        start = last = clock()
        exercise.observed(*request, observe)
        observe(REST)
        waterfall.observed_ns.append(last - start)

    def unobserved(request: tuple[object, ...]) -> None:
        start = clock()
        exercise.call(*request)
        waterfall.unobserved_ns.append(clock() - start)

    begin = clock()
    for index in range(calls):
        request = exercise.requests[index % len(exercise.requests)]
        for made in (unobserved, observed) if index % 2 else (observed, unobserved):
            made(request)
        if clock() - begin >= seconds * 1e9:
            break
    return waterfall
