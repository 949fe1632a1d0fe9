"""The operations, bytes and times of a call's operators, and the calls that are made to observe them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median

from rbserve.profilers.timing.calls import Exercise
from rbserve.runs.plan import Slate

CALLS = 32  # at most so many requests of a slate,
SECONDS = 0.5  # or as many as take so long

Opened = Callable[[Slate], Exercise]
"""A variant that was opened: makes the exercise of a slate."""


@dataclass(frozen=True)
class Spent:
    """Operations by kind of number, bytes, and nanoseconds by type of operator."""

    flops: Counter[str] = field(default_factory=Counter)
    weight_bytes: int = 0
    activation_bytes: int = 0
    operators_ns: Counter[str] = field(default_factory=Counter)


def total(spent: Iterable[Spent]) -> Spent:
    """The sum over operators.

    An operator that ran many times counts with the median of its times: an interruption would outweigh most of them.
    """
    flops, weights, activations = Counter[str](), 0, 0
    times: dict[tuple[str, int, int, int], list[int]] = {}
    for operator in spent:
        flops.update(operator.flops)
        weights += operator.weight_bytes
        activations += operator.activation_bytes
        for name, ns in operator.operators_ns.items():
            same = (name, operator.flops.total(), operator.weight_bytes, operator.activation_bytes)
            times.setdefault(same, []).append(ns)
    operators = Counter[str]()
    for (name, *_), nanoseconds in times.items():
        operators[name] += round(median(nanoseconds) * len(nanoseconds))
    return Spent(flops, weights, activations, operators)


def make_calls(exercise: Exercise, forget: Callable[[], None]) -> int:
    """Calls an exercise's first requests while its operators are observed, and returns how many calls it made.

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
