"""What the operators of a call took, added up, and the calls that are made to look at them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median

from rbserve.profilers.timing.calls import Exercise

CALLS = 32  # at most so many requests of a slate,
SECONDS = 0.5  # or as many as take so long

Opened = Callable[[int], Exercise]
"""A variant that was opened: makes the exercise of a slate."""


@dataclass(frozen=True)
class Spent:
    """What operators took: operations by kind of number, bytes, and nanoseconds by type of operator."""

    flops: Counter[str] = field(default_factory=Counter)
    weight_bytes: int = 0
    activation_bytes: int = 0
    operators_ns: Counter[str] = field(default_factory=Counter)


def total(spent: Iterable[Spent]) -> Spent:
    """All of these operators together.

    One that ran many times has the median of its times as often as it ran: an interruption is longer than most of them.
    """
    flops, weights, activations = Counter[str](), 0, 0
    times: dict[tuple[str, int, int, int], list[int]] = {}
    for one in spent:
        flops.update(one.flops)
        weights += one.weight_bytes
        activations += one.activation_bytes
        for name, ns in one.operators_ns.items():
            same = (name, one.flops.total(), one.weight_bytes, one.activation_bytes)
            times.setdefault(same, []).append(ns)
    operators = Counter[str]()
    for (name, *_), some in times.items():
        operators[name] += round(median(some) * len(some))
    return Spent(flops, weights, activations, operators)


def make_calls(exercise: Exercise, forget: Callable[[], None]) -> int:
    """Makes the calls that are looked at, of an exercise's first requests, and returns how many.

    One is made before them, because the first of a shape allocates; then `forget` is called. Where that one takes all
    the time there is, it is the one that is looked at.
    """
    start = time.monotonic()
    exercise.call(*exercise.requests[0])
    if time.monotonic() - start > SECONDS:
        return 1
    forget()
    start, made = time.monotonic(), 0
    for request in exercise.requests[:CALLS]:
        exercise.call(*request)
        made += 1
        if time.monotonic() - start > SECONDS:
            break
    return made
