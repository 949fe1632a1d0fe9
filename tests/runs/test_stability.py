"""When a latency is called INCONCLUSIVE, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from rbserve.machine.noise import Noise
from rbserve.runs.samples import Samples
from rbserve.runs.stability import has_trend, inconclusive

MS = 1_000_000
QUIET = Noise(
    wall_ns=1000 * MS, waited_ns=0, steal_ns=0, throttled_ns=0, mhz=(3000.0, 2990.0), energy_uj=None
)


def samples(p50s_ms: list[float], noise: Noise | None = QUIET, **changes: Any) -> list[Samples]:
    """A process for each median."""
    facts: dict[str, Any] = {
        "variant": "onnx-fp32", "scope": "forward", "slate": 1, "threads": 1, "core": 0, "load_ns": 1,
        "first_call_ns": 1, "warmup_ns": [], "peak_rss_bytes": 1, "noise": noise, "settled": True,
    }  # fmt: skip
    return [
        Samples(**{**facts, "process": process, "runs_ns": [int(p50 * MS)] * 5, **changes})
        for process, p50 in enumerate(p50s_ms)
    ]


def noise(**changes: Any) -> Noise:
    return Noise(**{**{name: getattr(QUIET, name) for name in QUIET.__struct_fields__}, **changes})


STEADY = [1.0, 1.01, 0.99, 1.0, 1.01]


def test_a_quiet_machine_and_agreeing_processes_are_conclusive() -> None:
    assert inconclusive(samples(STEADY)) == []
    assert inconclusive(samples([1.0])) == []


def test_files_of_versions_that_did_not_look_are_judged_by_their_times_alone() -> None:
    assert inconclusive(samples(STEADY, noise=None, settled=None)) == []


@pytest.mark.parametrize(
    ("disturbed", "reason"),
    [
        ({"waited_ns": 60 * MS}, "load by others: waited for the core 6% of the time"),
        ({"steal_ns": 30 * MS}, "steal time grew: the hypervisor had the core 3% of the time"),
        ({"throttled_ns": 5 * MS}, "throttled for 25 ms by the container's processor quota"),
        ({"mhz": (3000.0, 2500.0)}, "frequency changed: from 2500 to 3000 MHz"),
    ],
)
def test_what_disturbed_the_calls_is_the_reason(disturbed: dict[str, Any], reason: str) -> None:
    assert inconclusive(samples(STEADY, noise(**disturbed))) == [reason]


@pytest.mark.parametrize(
    "hardly", [{"waited_ns": 49 * MS}, {"steal_ns": 19 * MS}, {"mhz": (3000.0, 2750.0)},
               {"waited_ns": None, "steal_ns": None, "throttled_ns": None, "mhz": None}]
)  # fmt: skip
def test_what_hardly_disturbed_them_is_none(hardly: dict[str, Any]) -> None:
    assert inconclusive(samples(STEADY, noise(**hardly))) == []


def test_a_single_tick_of_steal_in_a_short_run_is_none() -> None:
    assert inconclusive(samples(STEADY[:1], noise(wall_ns=20 * MS, steal_ns=10 * MS))) == []


def test_no_share_of_the_time_passes_all_of_it() -> None:
    """Run files of before sum the waits of all threads; steal comes in ticks that may be longer than the calls."""
    assert inconclusive(samples(STEADY, noise(waited_ns=1110 * MS))) == [
        "load by others: waited for the core 100% of the time"
    ]
    assert inconclusive(samples(STEADY, noise(wall_ns=15 * MS, steal_ns=30 * MS))) == [
        "steal time grew: the hypervisor had the core 100% of the time"
    ]


def test_waiting_is_a_share_of_all_threads_time() -> None:
    assert inconclusive(samples(STEADY, noise(waited_ns=90 * MS), threads=2)) == []


def test_rounds_that_go_one_way_are_a_drift_whatever_the_order_of_the_file() -> None:
    drifting = samples([1.0, 1.02, 1.05, 1.07, 1.1])
    for order in (drifting, drifting[::-1]):
        assert inconclusive(order) == ["drift between rounds: p50 +10% from the first of 5 to the last"]
    assert inconclusive(samples([1.0, 1.01, 1.02, 1.03, 1.04])) == []  # too little to matter
    assert inconclusive(samples([1.0, 1.05, 1.02, 1.1, 1.07])) == []  # no trend


def test_a_warm_up_that_did_not_settle_in_most_processes_is_a_reason() -> None:
    few = samples(STEADY[:2], settled=False) + samples(STEADY[2:])
    assert inconclusive(few) == []
    assert inconclusive(samples(STEADY, settled=False)) == [
        "warm-up reached its bound with a trend in 5 of 5 processes"
    ]


def test_processes_that_disagree_are_a_reason() -> None:
    assert inconclusive(samples([1.0, 2.0, 1.0, 1.1, 1.0])) == ["processes disagree: p50 from 1 to 2 ms"]


def test_a_trend_is_what_kendalls_test_says() -> None:
    rng = np.random.default_rng(2)
    agreed = 0
    for _ in range(300):
        times = rng.normal(size=20) + rng.choice([0, 0.05, 0.2]) * np.arange(20)
        p = kendalltau(np.arange(20), times, method="exact").pvalue
        agreed += has_trend(times) == (p < 0.05)
    assert agreed >= 295  # the normal approximation, beside the exact distribution


@pytest.mark.parametrize("few", [[], [1], [2, 1], [3, 2, 1], [4, 3, 2, 1]])
def test_fewer_than_five_times_have_no_trend(few: list[int]) -> None:
    assert not has_trend(few)
    assert has_trend([5, 4, 3, 2, 1])
    assert not has_trend([1] * 20)
