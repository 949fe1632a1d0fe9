"""The timing loop, by a clock that follows a script."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest

from rbserve.profilers.timing.latency import (
    EMPTY_CALLS,
    FEWEST,
    STEP,
    WARMUP_CALLS,
    WARMUP_NS,
    WINDOW,
    overhead_ns,
    time_calls,
)

pytestmark = pytest.mark.alone


class Machine:
    """A clock that stands still except while a call runs, for as long as the script says."""

    def __init__(self, durations: Iterator[int]) -> None:
        self.now = 0
        self.durations = durations
        self.seen: list[tuple[object, ...]] = []
        self.collecting: list[bool] = []

    def clock(self) -> int:
        return self.now

    def call(self, *request: object) -> None:
        self.seen.append(request)
        self.collecting.append(gc.isenabled())
        self.now += next(self.durations)


def _constant(duration: int) -> Iterator[int]:
    while True:
        yield duration


def _sawtooth() -> Iterator[int]:
    """Times without a trend that are told apart: 100, 101, 100, 102, 100, 103, …"""
    for number in range(1, 1000):
        yield from (100, 100 + number % 7)


def test_every_call_is_timed_in_order_and_the_first_is_kept_apart() -> None:
    script = [9, *itertools.islice(_sawtooth(), WINDOW + 5)]
    machine = Machine(iter(script))
    times = time_calls(machine.call, [("a",), ("b",)], runs=5, seconds=1, clock=machine.clock)
    assert times.first_call_ns == 9
    assert times.warmup_ns == script[1 : 1 + WINDOW]
    assert times.runs_ns == script[1 + WINDOW :]
    assert times.settled


def test_requests_go_round_and_round_without_a_break_between_warmup_and_runs() -> None:
    machine = Machine(_constant(1))
    time_calls(machine.call, [("a",), ("b",), ("c",)], runs=6, seconds=1, clock=machine.clock)
    assert machine.seen == [(name,) for name in ("abc" * 100)[: len(machine.seen)]]


def test_the_warm_up_ends_when_the_last_calls_show_no_trend() -> None:
    falling = [1_000 - 10 * call for call in range(45)]
    machine = Machine(itertools.chain(falling, _constant(300)))
    times = time_calls(machine.call, [()], runs=10, seconds=1, clock=machine.clock)
    assert len(times.warmup_ns) > len(falling)
    assert len(times.warmup_ns) % STEP == 0
    assert len(times.warmup_ns) < WARMUP_CALLS
    assert times.settled
    assert set(times.runs_ns) == {300}


@pytest.mark.parametrize("slope", [1, -1])
def test_a_model_that_never_settles_is_timed_all_the_same_and_said_to_be_unsettled(slope: int) -> None:
    machine = Machine(iter(10_000 + slope * call for call in range(1_000)))
    times = time_calls(machine.call, [()], runs=10, seconds=1, clock=machine.clock)
    assert len(times.warmup_ns) == WARMUP_CALLS
    assert len(times.runs_ns) == 10
    assert not times.settled


def test_a_slow_model_warms_up_for_a_second_only() -> None:
    machine = Machine(_constant(WARMUP_NS // 4))
    times = time_calls(machine.call, [()], runs=10, seconds=100, clock=machine.clock)
    assert len(times.warmup_ns) == 4
    assert len(times.runs_ns) == 10
    assert times.settled  # four equal times have no trend


def test_the_second_of_a_warm_up_is_one_over_all_its_looks() -> None:
    machine = Machine(itertools.chain([WARMUP_NS // 50], (WARMUP_NS // 50 + call for call in range(1_000))))
    times = time_calls(machine.call, [()], runs=3, seconds=100, clock=machine.clock)
    assert len(times.warmup_ns) == 50
    assert not times.settled


def test_marks_stand_just_before_and_just_after_the_timed_runs() -> None:
    machine = Machine(_constant(5))
    marks: list[int] = []
    times = time_calls(machine.call, [()], 7, 1, machine.clock, mark=lambda: marks.append(len(machine.seen)))
    assert marks == [1 + len(times.warmup_ns), 1 + len(times.warmup_ns) + 7]


def test_what_the_loop_adds_to_a_call_is_measured_by_the_same_loop() -> None:
    """A clock that moves by 7 whenever it is read: 7 lie between the two readings of a call that does nothing."""
    readings = itertools.count(step=7)
    assert overhead_ns([("a", "b"), ("c", "d")], clock=lambda: next(readings)) == 7
    assert next(readings) == 7 * 2 * EMPTY_CALLS
    assert 0 <= overhead_ns([("a",)]) < 1_000_000


class Spin:
    """A model of known cost: it looks at a clock of its own until its time is over, and keeps what that took."""

    def __init__(self, duration_ns: int) -> None:
        self.duration_ns = duration_ns
        self.spans: list[int] = []

    def __call__(self) -> None:
        start = now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        while now - start < self.duration_ns:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.spans.append(now - start)


@pytest.mark.parametrize(
    ("duration_us", "runs"), [(5, 2000), (50, 1000), (1_000, 200), (20_000, 20), (1_000_000, 3)]
)
def test_a_model_that_spins_for_a_known_time_is_measured_within_one_percent_or_a_microsecond(
    duration_us: int, runs: int
) -> None:
    """Median error against the model's own account of each call, which other work on the core lengthens as well."""
    spin = Spin(1000 * duration_us)
    times = time_calls(spin, [()], runs, seconds=4)
    truth = np.array(spin.spans[-len(times.runs_ns) :])
    measured = np.array(times.runs_ns)
    tolerance_ns = max(1_000, 0.01 * 1000 * duration_us)
    assert (measured >= truth).all()  # nothing is subtracted
    assert np.median(measured - truth) <= tolerance_ns
    assert measured.min() - 1000 * duration_us <= tolerance_ns


def test_runs_end_when_their_sum_passes_the_budget() -> None:
    machine = Machine(_constant(100_000_000))
    times = time_calls(machine.call, [()], runs=1_000, seconds=1.0, clock=machine.clock)
    assert len(times.runs_ns) == 10


def test_even_the_slowest_model_is_run_a_few_times() -> None:
    machine = Machine(_constant(60_000_000_000))
    times = time_calls(machine.call, [()], runs=1_000, seconds=1.0, clock=machine.clock)
    assert len(times.warmup_ns) == FEWEST
    assert len(times.runs_ns) == FEWEST


def test_the_garbage_collector_rests_while_the_clock_runs_and_wakes_after_a_failure() -> None:
    machine = Machine(iter([1, 1]))  # the third call raises StopIteration
    with pytest.raises(StopIteration):
        time_calls(machine.call, [()], runs=5, seconds=1, clock=machine.clock)
    assert not any(machine.collecting)
    assert gc.isenabled()
