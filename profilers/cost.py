"""What a call costs: operations and bytes of every operator, and what this machine does of either at most.

Matrix products are the operations that count; all else is counted by the bytes it reads and writes. The calls that are
looked at are no part of any latency. `cost_onnx.py` and `cost_torch.py` look, `machine.py` measures the limits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from rbserve.core.artifact import TORCH_VARIANTS, WEIGHTS, Artifact
from rbserve.core.memory import parameters
from rbserve.core.roofline import Cost
from rbserve.profilers.calls import Exercise
from rbserve.profilers.machine import bandwidth_gbs, peak_gflops

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


def measure_cost(
    artifact: Artifact, variant: str, slates: Sequence[int], threads: int, open_variant: Callable[[], Opened]
) -> list[Cost]:
    """The cost of a call at each slate, of a variant that is opened anew to be looked into."""
    if variant in TORCH_VARIANTS:
        from rbserve.profilers.cost_torch import look_into
    else:
        from rbserve.profilers.cost_onnx import look_into
    found = look_into(variant, slates, open_variant)
    kinds = sorted({kind for _, spent in found for kind in spent.flops})
    peaks = {kind: peak_gflops(kind, threads) for kind in kinds}
    return [
        Cost(
            variant=variant,
            slate=slate,
            calls=calls,
            parameters=parameters(artifact.path / WEIGHTS),
            flops=dict(spent.flops),
            weight_bytes=spent.weight_bytes,
            activation_bytes=spent.activation_bytes,
            peak_gflops=peaks,
            bandwidth_gbs=bandwidth_gbs((spent.weight_bytes + spent.activation_bytes) // calls),
            operators_ns=dict(spent.operators_ns),
        )
        for slate, (calls, spent) in zip(slates, found, strict=True)
    ]


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
