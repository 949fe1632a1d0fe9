"""The timing loop, by a clock that follows a script."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from rbserve.profilers.latency import FEWEST, WARMUP_CALLS, WARMUP_NS, time_calls


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


def test_every_call_is_timed_in_order_and_the_first_is_kept_apart() -> None:
    machine = Machine(iter(range(1, 200)))
    times = time_calls(machine.call, [("a",), ("b",)], runs=5, seconds=1, clock=machine.clock)
    assert times.first_call_ns == 1
    assert times.warmup_ns == list(range(2, 2 + WARMUP_CALLS))
    assert times.runs_ns == list(range(2 + WARMUP_CALLS, 7 + WARMUP_CALLS))


def test_requests_go_round_and_round_without_a_break_between_warmup_and_runs() -> None:
    machine = Machine(_constant(1))
    time_calls(machine.call, [("a",), ("b",), ("c",)], runs=6, seconds=1, clock=machine.clock)
    assert machine.seen == [(name,) for name in ("abc" * 100)[: len(machine.seen)]]


def test_a_slow_model_warms_up_for_half_a_second_only() -> None:
    machine = Machine(_constant(WARMUP_NS // 4))
    times = time_calls(machine.call, [()], runs=10, seconds=100, clock=machine.clock)
    assert len(times.warmup_ns) == 4
    assert len(times.runs_ns) == 10


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
