"""The measured times that a simulation draws from: calls of a variant in a run file, and what HTTP adds to one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from rbserve.core.errors import UsageError, first_line, unknown_name
from rbserve.core.variants import find_variant
from rbserve.profilers.capacity.queueing import Seconds
from rbserve.profilers.client.verify import Verified
from rbserve.runs.changes import display_name
from rbserve.runs.measurement import Measurement
from rbserve.runs.plan import END_TO_END, TABLE, Slate, in_order
from rbserve.runs.summary import samples_by_shape
from rbserve.stats.intervals import process_draws, student_t

OVERHEAD_MS = 0.25
"""Milliseconds that HTTP adds to a call, where `rbserve verify` did not measure them."""


class ServiceTimes(NamedTuple):
    """A variant's calls at one slate: the seconds of each process's calls, and the run that they are of."""

    run: Measurement
    variant: str
    slate: Slate
    processes: list[Seconds]

    @property
    def pooled(self) -> Seconds:
        """The calls [N] of all processes."""
        return np.concatenate(self.processes)

    def factors(self, draws: int, seed: int) -> Seconds:
        """Factors [draws] of the times: how much faster or slower other processes would be, by Student's t."""
        means: Seconds = process_draws(self.processes, "mean", draws, seed) / self.pooled.mean()
        return means


class Overhead(NamedTuple):
    """What HTTP adds to a call: milliseconds, the half width of their 95% interval, rounds (0: assumed)."""

    ms: float
    half_ms: float = 0.0
    rounds: int = 0

    def draws_s(self, draws: int, rng: np.random.Generator) -> Seconds:
        """Seconds [draws] that it might be, by Student's t over the rounds of `rbserve verify`; none below 0."""
        if self.rounds < 2:
            return np.full(draws, self.ms / 1000)
        scale = self.half_ms / student_t(self.rounds - 1, 0.95)
        drawn: Seconds = self.ms + scale * rng.standard_t(self.rounds - 1, draws)
        return np.maximum(drawn, 0.0) / 1000


def service_times(
    runs: Sequence[Measurement],
    model: str | None,
    dataset: str | None,
    variant: str | None,
    slate: Slate | None,
    scope: str | None,
    threads: int | None,
) -> ServiceTimes:
    """The times of the variant that the arguments name; an argument may be None where the runs leave no choice.

    Of scopes, end_to_end is taken where there is one: it begins and ends with ids, as a server does. Raises UsageError
    for an argument that has to be given, that no run has, and for answers of an endpoint.
    """
    runs = _named(runs, "model", model, display_name)
    runs = _named(runs, "dataset", dataset, lambda run: run.dataset)
    known = sorted({run.plan.scope for run in runs})
    preferred = END_TO_END if END_TO_END in known else known[0]
    runs = _named(runs, "scope", scope or preferred, lambda run: run.plan.scope)
    cores = None if threads is None else str(threads)
    runs = _named(runs, "threads", cores, lambda run: str(run.plan.threads))
    run = max(runs, key=lambda run: run.created)
    shapes = samples_by_shape(run)
    variant = _chosen("variant", variant, sorted({name for name, _, _ in shapes}))
    if find_variant(variant).paid:
        raise UsageError(
            f"{variant} of {run.model} is answered by an endpoint, which no replica makes faster"
        )
    slates = in_order(slate for name, _, slate in shapes if name == variant)
    if slate is not None and slate not in slates:
        raise UsageError(
            f"no run of {run.model} on {run.dataset} has slate {slate}; there are {', '.join(map(str, slates))}",
            f"rbserve profile --model {shlex.quote(run.artifact or run.model)} --dataset {shlex.quote(run.dataset)} "
            f"--scope {run.plan.scope} --slates {slate}",
        )
    slate = slate if slate is not None else _only_slate(slates)
    samples = shapes[variant, run.plan.scope, slate]
    return ServiceTimes(run, variant, slate, [np.array(process.runs_ns) / 1e9 for process in samples])


def _named(
    runs: Sequence[Measurement], option: str, value: str | None, name_of: Callable[[Measurement], str]
) -> list[Measurement]:
    """The runs whose name is the value of an option, or that have the only name there is."""
    chosen = _chosen(option, value, sorted({name_of(run) for run in runs}))
    return [run for run in runs if name_of(run) == chosen]


def _only_slate(slates: Sequence[Slate]) -> Slate:
    if len(slates) > 1:
        raise UsageError(
            f"the run has several slates: {', '.join(map(str, slates))}", f"add --slate {slates[-1]}"
        )
    return slates[0]


def _chosen(option: str, value: str | None, names: Sequence[str]) -> str:
    """The value of an option, or the only name there is."""
    if value is not None and value not in names:
        raise unknown_name(f"{option} with runs", value, names)
    if value is None and len(names) > 1:
        raise UsageError(
            f"the runs are of several {option}s: {', '.join(names)}", f"add --{option} {names[0]}"
        )
    return value or names[0]


def read_verified(file: Path, times: ServiceTimes) -> Overhead:
    """What HTTP adds, from the output of `rbserve verify --json`.

    Raises UsageError for another file, and for one of another model, variant or slate than `times`.
    """
    again = "rbserve verify --model MODEL --url URL --slate SLATE --json > FILE writes one"
    try:
        verified = msgspec.json.decode(file.read_bytes(), type=Verified)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"{file} is no output of rbserve verify --json: {first_line(error)}", again
        ) from None
    wanted = (times.run.model, times.variant, times.slate)
    measured = (verified.model, verified.variant, verified.slate)
    if times.slate != TABLE and measured != wanted:
        raise UsageError(
            f"{file} is of {measured[0]} {measured[1]} at slate {measured[2]}, the run of {wanted[0]} {wanted[1]} at "
            f"slate {wanted[2]}", again,
        )  # fmt: skip
    low, high = verified.overhead_ci95
    return Overhead(verified.overhead_ms, (high - low) / 2, verified.rounds)
