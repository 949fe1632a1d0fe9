"""`rbserve size`: the fewest replicas that meet latency objectives, by simulation, with intervals.

A request that is refused, or that expires in the queue, counts as one that takes forever: an objective for p99 allows
no more than 1% of them. Every resample has times of calls of its own (other processes, Student's t), an overhead of
its own, and arrivals of its own. A number of replicas meets an objective where the upper end of the interval does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from rbserve.core.discipline import INLINE_S
from rbserve.core.types import Progress, no_progress
from rbserve.profilers.capacity.arrivals import deal, poisson, rate_of
from rbserve.profilers.capacity.plan import CapacityPlan
from rbserve.profilers.capacity.queueing import Discipline, Seconds, latencies
from rbserve.profilers.capacity.service_times import Overhead, ServiceTimes
from rbserve.profilers.choose.objectives import Objective

WARM_UP = 0.1
"""Share of the simulated requests that come first and are not counted: the queue begins empty."""

Pair = tuple[float, float]


class Simulated(msgspec.Struct, frozen=True):
    """A simulated figure and its 95% interval; null stands for a request that is never answered."""

    value: float | None
    ci95: tuple[float | None, float | None]


class Fleet(msgspec.Struct, frozen=True):
    """What a number of replicas does under the load. Milliseconds; goodput in requests a second, of all replicas."""

    replicas: int
    workers: int
    used: float
    p50_ms: Simulated
    p99_ms: Simulated
    goodput_per_s: Simulated
    refused: float
    meets: bool


class Sizing(msgspec.Struct, frozen=True):
    """How many replicas the load takes: `needed`, `likely` and the interval, null where no number meets the objectives.

    `likely` is the fewest that meet them with the middle of the interval; `needed_ci95` goes from the fewest that may
    to those that surely do, which are `needed`. `impossible` says why no number does. `call_ms` is the time of a call,
    mean and p99, `overhead_ms` what HTTP adds, `capacity_per_s` what a worker answers at most.
    """

    model: str
    variant: str
    dataset: str
    slate: int | str
    run: str
    objectives: list[str]
    rate: float
    arrivals: str
    call_ms: Pair
    overhead_ms: float
    overhead_measured: bool
    capacity_per_s: float
    inline: bool
    needed: int | None
    likely: int | None
    needed_ci95: tuple[int, int] | None
    impossible: str | None
    fleets: list[Fleet]


def size(
    times: ServiceTimes,
    overhead: Overhead,
    objectives: Sequence[Objective],
    plan: CapacityPlan,
    trace: Seconds | None = None,
    history_lengths: Sequence[int] | None = None,
    progress: Progress = no_progress,
) -> Sizing:
    """The fewest replicas whose requests meet every objective under the plan's load.

    `trace` are arrivals in seconds, rising; without it they are a Poisson process. `history_lengths` are those of
    users, for models that answer histories of one length together.
    """
    simulation = Simulation(times, overhead, objectives, plan, trace, history_lengths)
    calls = times.pooled
    impossible = simulation.alone()
    needed = likely = interval = None
    if impossible is None:
        needed = simulation.fewest(lambda fleet: fleet.meets, progress)
        if needed is None:
            impossible = f"not with {plan.most:,} replicas either, the most that were tried (--most)"
        else:
            likely = simulation.fewest(simulation.meets_by_middle, progress)
            interval = simulation.fewest(simulation.meets_by_low_end, progress) or needed, needed
            simulation.fleet(needed + 1)
    else:
        simulation.fleet(simulation.smallest)
    return Sizing(
        model=times.run.model, variant=times.variant, dataset=times.run.dataset, slate=times.slate, run=times.run.id,
        objectives=[objective.text for objective in objectives], rate=simulation.rate,
        arrivals="poisson" if trace is None else "trace",
        call_ms=(float(calls.mean()) * 1000, _quantile(calls, 0.99) * 1000),
        overhead_ms=overhead.ms, overhead_measured=overhead.rounds > 0,
        capacity_per_s=1 / simulation.work_s, inline=simulation.discipline.inline,
        needed=needed, likely=likely, needed_ci95=interval, impossible=impossible, fleets=simulation.fleets,
    )  # fmt: skip


class Simulation:
    """The load on fleets of any size; a fleet is simulated once, with the same random numbers as every other."""

    def __init__(
        self,
        times: ServiceTimes,
        overhead: Overhead,
        objectives: Sequence[Objective],
        plan: CapacityPlan,
        trace: Seconds | None = None,
        history_lengths: Sequence[int] | None = None,
    ) -> None:
        self._calls, self._objectives, self._plan = times.pooled, objectives, plan
        self._lengths = (
            None if history_lengths is None or plan.batch_share == 1 else np.array(history_lengths)
        )
        self._factors = times.factors(plan.draws, plan.seed)
        self._overheads = overhead.draws_s(plan.draws, np.random.default_rng([plan.seed, 1]))
        self._trace = trace
        self.rate = plan.rate or (rate_of(trace) if trace is not None else 0.0)
        if trace is not None:
            self._trace = trace * (rate_of(trace) / self.rate)
        call_s, overhead_s = float(self._calls.mean()), overhead.ms / 1000
        self.work_s = max(call_s, overhead_s) if plan.http_core else call_s + overhead_s
        refusal_ms = overhead.ms / 4 if plan.refusal_ms is None else plan.refusal_ms
        self.discipline = Discipline(
            is_inline(self._calls), plan.max_waiting, None if plan.deadline_ms is None else plan.deadline_ms / 1000,
            refusal_ms / 1000, plan.http_core, plan.batch_share,
        )  # fmt: skip
        self._known: dict[int, tuple[Fleet, bool, bool]] = {}

    @property
    def smallest(self) -> int:
        """The fewest replicas that could answer all requests if none had to wait."""
        return max(1, math.ceil(self.rate * self.work_s / self._plan.workers))

    @property
    def fleets(self) -> list[Fleet]:
        """The fleets that were simulated, by their replicas."""
        return [self._known[replicas][0] for replicas in sorted(self._known)]

    def fleet(self, replicas: int) -> Fleet:
        """The figures of a number of replicas."""
        if replicas not in self._known:
            self._known[replicas] = self._simulate(replicas)
        return self._known[replicas][0]

    def meets_by_low_end(self, fleet: Fleet) -> bool:
        """Whether the lower ends of the intervals meet every objective."""
        return self._known[fleet.replicas][1]

    def meets_by_middle(self, fleet: Fleet) -> bool:
        """Whether the middles of the intervals meet every objective."""
        return self._known[fleet.replicas][2]

    def alone(self) -> str | None:
        """Why no number of replicas meets the objectives: a call that never waits does not. None where it does."""
        for objective in self._objectives:
            unqueued = [
                statistic(self._calls * factor + overhead_s, objective) * 1000
                for factor, overhead_s in zip(self._factors, self._overheads, strict=True)
            ]
            low, middle, high = _ends(np.array(unqueued))
            name, limit = objective.statistic, f"{objective.limit_ms:g} ms"
            if middle >= objective.limit_ms:
                return (
                    f"one call alone, without any wait, has {name} {middle:.3g} ms, and the limit is {limit}"
                )
            if high >= objective.limit_ms:
                return (
                    f"{name} of one call alone, without any wait, is {middle:.3g} ms [{low:.3g}, {high:.3g}]: whether "
                    f"it meets {limit} is not certain with any number of replicas; profile more processes"
                )
        return None

    def fewest(self, holds: Callable[[Fleet], bool], progress: Progress = no_progress) -> int | None:
        """The fewest replicas that hold, by doubling steps and bisection; None of more than the plan's most."""
        failing, step = self.smallest - 1, 1
        holding = self.smallest
        while not holds(self.fleet(holding)):
            progress(len(self._known), 0, f"{holding:,} replicas are too few")
            if holding >= self._plan.most:
                return None
            failing, holding, step = holding, min(holding + step, self._plan.most), 2 * step
        while holding - failing > 1:
            middle = (failing + holding) // 2
            progress(len(self._known), 0, f"{failing + 1:,} to {holding:,} replicas")
            if holds(self.fleet(middle)):
                holding = middle
            else:
                failing = middle
        return holding

    def _simulate(self, replicas: int) -> tuple[Fleet, bool, bool]:
        """The fleet, and whether the lower ends and the middles of its intervals meet the objectives."""
        workers = replicas * self._plan.workers
        drawn = [self.draw(workers, number) for number in range(self._plan.draws)]
        ms = [times * 1000 for times in drawn]
        within = np.inf if self._plan.deadline_ms is None else self._plan.deadline_ms
        goodput = np.array(
            [self.rate * float(np.mean((times <= within) & np.isfinite(times))) for times in ms]
        )
        ends = [
            _ends(np.array([statistic(times, objective) for times in ms])) for objective in self._objectives
        ]
        limits = [objective.limit_ms for objective in self._objectives]
        fleet = Fleet(
            replicas=replicas,
            workers=workers,
            used=self.rate * self.work_s / workers,
            p50_ms=_simulated(np.array([_quantile(times, 0.5) for times in ms])),
            p99_ms=_simulated(np.array([_quantile(times, 0.99) for times in ms])),
            goodput_per_s=_simulated(goodput),
            refused=float(np.mean([np.mean(~np.isfinite(times)) for times in ms])),
            meets=_all_below(limits, [high for _, _, high in ends]),
        )
        lows, middles = [low for low, _, _ in ends], [middle for _, middle, _ in ends]
        return fleet, _all_below(limits, lows), _all_below(limits, middles)

    def draw(self, workers: int, number: int) -> Seconds:
        """Latencies of one resample, in seconds, without those of the warm-up."""
        rng = np.random.default_rng([self._plan.seed, 2, number])
        factor, overhead_s = self._factors[number], self._overheads[number]
        alone = self._trace is None and self._plan.balance == "random"  # all workers are alike: one is enough
        if self._trace is not None:
            arrivals = self._trace
        elif alone:
            arrivals = poisson(self.rate / workers, self._plan.requests, rng)
        else:
            arrivals = poisson(self.rate, max(self._plan.requests, 200 * workers), rng)
        calls = rng.choice(self._calls, len(arrivals)) * factor
        keys = None if self._lengths is None else rng.choice(self._lengths, len(arrivals))
        places = (
            np.zeros(len(arrivals), np.int64)
            if alone
            else deal(arrivals, calls + overhead_s, workers, self._plan.balance, rng)
        )
        answered = np.empty(len(arrivals))
        for worker in range(1 if alone else workers):
            own = np.flatnonzero(places == worker)
            own_keys = None if keys is None else keys[own].tolist()
            answered[own] = latencies(arrivals[own], calls[own], overhead_s, self.discipline, own_keys)
        return answered[int(WARM_UP * len(answered)) :]


def _all_below(limits: Sequence[float], figures: Sequence[float]) -> bool:
    return all(figure < limit for figure, limit in zip(figures, limits, strict=True))


def is_inline(calls: Seconds) -> bool:
    """Whether a server makes these calls on its event loop: the best of three, as at its warm-up, is quick enough."""
    return bool(np.quantile(calls, 0.2) < INLINE_S)


def statistic(times: Seconds, objective: Objective) -> float:
    """The statistic of an objective, in the unit of the times; a mean is that of the answered requests."""
    if objective.fraction is None:
        answered = times[np.isfinite(times)]
        return float(answered.mean()) if len(answered) else np.inf
    return _quantile(times, objective.fraction)


def _quantile(times: Seconds, q: float) -> float:
    """The nearest-rank quantile; infinite where too many requests are never answered."""
    return float(np.quantile(times, q, method="inverted_cdf"))


def _ends(draws: Seconds) -> tuple[float, float, float]:
    """Lower end, middle and upper end of the 95% interval of resamples."""
    low, middle, high = np.quantile(draws, [0.025, 0.5, 0.975], method="inverted_cdf").tolist()
    return low, middle, high


def _simulated(draws: Seconds) -> Simulated:
    low, middle, high = (end if np.isfinite(end) else None for end in _ends(draws))
    return Simulated(middle, (low, high))
