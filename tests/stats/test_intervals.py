"""Intervals of run times against bootstraps written out as loops, and their coverage of a known truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, t

from rbserve.stats import intervals
from rbserve.stats.intervals import Statistic

properties = settings(max_examples=50, deadline=None, derandomize=True)
CENTRES: tuple[Literal["mean", "median"], ...] = ("mean", "median")
STATISTICS: tuple[Statistic, ...] = (*CENTRES, 0.9)
STATISTIC: dict[Statistic, Callable[[Any], Any]] = {
    "mean": np.mean,
    "median": np.median,
    0.9: lambda runs: np.quantile(runs, 0.9, method="inverted_cdf"),
}


def process_times(
    rng: np.random.Generator, processes: int, runs: int, between: float, within: float
) -> list[NDArray[np.float64]]:
    return [rng.normal(100 + between * rng.normal(), within, runs) for _ in range(processes)]


# ---- Run times ----


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("lengths", [(6, 6, 6), (1, 9, 4, 2), (7,)])
def test_hierarchical_interval_agrees_with_a_bootstrap_in_loops(
    statistic: Statistic, lengths: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(3)
    samples = [rng.normal(10 + i, 1, n) for i, n in enumerate(lengths)]
    draws = []
    for _ in range(4000):
        processes = [samples[i] for i in rng.integers(len(samples), size=len(samples))]
        runs = np.concatenate(
            [process[rng.integers(len(process), size=len(process))] for process in processes]
        )
        draws.append(STATISTIC[statistic](runs))
    low, high = intervals.hierarchical_interval(samples, statistic, confidence=0.9, resamples=4000)
    # A median of few runs takes few values, so each end may stand on one that holds much of the draws.
    assert np.mean(np.less(draws, low)) <= 0.06
    assert np.mean(np.less_equal(draws, low)) >= 0.04
    assert np.mean(np.greater(draws, high)) <= 0.06
    assert np.mean(np.greater_equal(draws, high)) >= 0.04


@pytest.mark.parametrize("lengths", [(5, 5), (3, 8, 1)])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_resample_is_the_statistic_of_the_runs_it_drew(
    statistic: Statistic, lengths: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=n) for n in lengths]
    drawn = np.array([[len(lengths) - 1] * len(lengths), [0] * len(lengths), list(range(len(lengths)))])

    class Scripted:
        def random(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
            return np.linspace(0, 1, math.prod(shape), endpoint=False).reshape(shape)

    uniform = Scripted().random((*drawn.shape, max(lengths)))
    expected = [
        STATISTIC[statistic](
            np.concatenate(
                [
                    [samples[process][int(u * lengths[process])] for u in row[: lengths[process]]]
                    for process, row in zip(processes, rows, strict=True)
                ]
            )
        )
        for processes, rows in zip(drawn, uniform, strict=True)
    ]
    scripted: Any = Scripted()
    actual = intervals._resampled_statistic(
        np.concatenate(samples), np.array(lengths), drawn, statistic, scripted
    )
    assert actual == pytest.approx(expected)


@pytest.mark.parametrize("statistic", CENTRES)  # both are 100 in truth
def test_hierarchical_interval_covers_the_truth_where_resampling_runs_alone_does_not(
    statistic: Statistic,
) -> None:
    rng = np.random.default_rng(11)
    covered = covered_alone = 0
    for seed in range(100):
        samples = process_times(rng, processes=10, runs=40, between=7, within=3)
        low, high = intervals.hierarchical_interval(samples, statistic, resamples=400, seed=seed)
        covered += low <= 100 <= high
        alone = [np.concatenate(samples)]
        low, high = intervals.hierarchical_interval(alone, statistic, resamples=400, seed=seed)
        covered_alone += low <= 100 <= high
    assert covered >= 0.82 * 100
    assert covered_alone <= 0.5 * 100


@pytest.mark.parametrize("statistic", STATISTICS)
def test_hierarchical_interval_holds_the_point_estimate_and_scales_with_the_unit(
    statistic: Statistic,
) -> None:
    samples = process_times(np.random.default_rng(5), processes=5, runs=50, between=5, within=2)
    low, high = intervals.hierarchical_interval(samples, statistic)
    assert low < STATISTIC[statistic](np.concatenate(samples)) < high
    in_microseconds = intervals.hierarchical_interval([1000 * times for times in samples], statistic)
    assert in_microseconds == pytest.approx((1000 * low, 1000 * high))


def test_more_confidence_makes_a_wider_interval() -> None:
    samples = process_times(np.random.default_rng(5), processes=5, runs=50, between=5, within=2)
    widths = [
        np.diff(intervals.hierarchical_interval(samples, "mean", confidence=c)) for c in (0.5, 0.9, 0.99)
    ]
    assert widths == sorted(widths)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_equal_runs_give_an_interval_without_width(statistic: Statistic) -> None:
    samples = [np.full(3, 7), np.full(5, 7)]  # nanoseconds, as integers
    assert intervals.hierarchical_interval(samples, statistic) == (7.0, 7.0)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_hierarchical_interval_depends_on_the_seed_alone(
    statistic: Statistic, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [np.random.default_rng(i).normal(size=10 + i) for i in range(4)]
    first = intervals.hierarchical_interval(samples, statistic, resamples=300, seed=1)
    assert intervals.hierarchical_interval(samples, statistic, resamples=300, seed=1) == first
    assert intervals.hierarchical_interval(samples, statistic, resamples=300, seed=2) != first
    monkeypatch.setattr(intervals, "BLOCK", 1)
    assert intervals.hierarchical_interval(samples, statistic, resamples=300, seed=1) == first


@pytest.mark.parametrize(
    "samples",
    [[], [np.array([])], [np.ones(3), np.array([])], [np.ones((2, 2))], [np.array([1.0, math.nan])]],
)
def test_run_times_that_cannot_be_resampled_are_an_error(samples: list[NDArray[Any]]) -> None:
    with pytest.raises(ValueError, match=r"samples must be|finite"):
        intervals.hierarchical_interval(samples, "mean")


def test_an_unknown_statistic_is_an_error() -> None:
    unknown: Any = "p99"
    with pytest.raises(ValueError, match="statistic must be one of"):
        intervals.hierarchical_interval([np.ones(3)], unknown)


def profile_times(
    rng: np.random.Generator, processes: int, between: float, runs: int = 40
) -> list[NDArray[np.float64]]:
    """Run times whose median is 1: a factor for each process, runs 3% about it, one in a hundred thrice as slow."""
    factors = np.exp(between * rng.normal(size=(processes, 1)))
    slow = np.where(rng.random((processes, runs)) < 0.01, 3, 1)
    return list(factors * np.exp(0.03 * rng.normal(size=(processes, runs))) * slow)


# Seen between processes of one model: 1.2% in the median, 7% in the mean (with single runs that are 3 times as slow).
TRUTH = {"median": 1.0, "mean": math.exp((0.07**2 + 0.03**2) / 2) * 1.02}
BETWEEN = {"median": 0.012, "mean": 0.07}


@pytest.mark.parametrize("processes", [5, 10])
@pytest.mark.parametrize("statistic", CENTRES)
def test_nominal_95_percent_intervals_cover_the_truth_in_93_to_97_percent_of_profiles(
    statistic: Literal["mean", "median"], processes: int
) -> None:
    """And those that take runs for independent cover it in about half of them, a bootstrap of 5 processes in 87%."""
    rng = np.random.default_rng(7)
    covered = covered_alone = covered_by_bootstrap = 0
    for profile in range(2000):
        samples = profile_times(rng, processes, BETWEEN[statistic])
        low, high = intervals.process_interval(samples, statistic)
        covered += low <= TRUTH[statistic] <= high
        if profile < 200:
            alone = [np.concatenate(samples)]
            low, high = intervals.hierarchical_interval(alone, statistic, resamples=200, seed=profile)
            covered_alone += low <= TRUTH[statistic] <= high
            low, high = intervals.hierarchical_interval(samples, statistic, resamples=200, seed=profile)
            covered_by_bootstrap += low <= TRUTH[statistic] <= high
    assert 0.93 <= covered / 2000 <= 0.97
    assert covered_alone / 200 < 0.75
    assert covered_by_bootstrap < covered / 10


def test_student_t_is_that_of_scipy() -> None:
    for freedom in range(1, 60):
        for confidence in (0.5, 0.9, 0.95, 0.999):
            expected = t.ppf((1 + confidence) / 2, freedom)
            assert intervals.student_t(freedom, confidence) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("statistic", CENTRES)
def test_the_interval_over_processes_is_students_of_the_logarithms(
    statistic: Literal["mean", "median"],
) -> None:
    samples = process_times(np.random.default_rng(5), processes=6, runs=21, between=5, within=2)
    logs = [math.log(STATISTIC[statistic](process)) for process in samples]
    expected = t.interval(0.9, 5, np.mean(logs), np.std(logs, ddof=1) / math.sqrt(6))
    assert np.log(intervals.process_interval(samples, statistic, 0.9)) == pytest.approx(expected)


@pytest.mark.parametrize("statistic", CENTRES)
def test_the_interval_over_processes_holds_the_printed_figure_even_with_one_process_far_off(
    statistic: Literal["mean", "median"],
) -> None:
    samples = [np.full(9, 1.0)] * 19 + [np.full(9, 50.0)]
    low, high = intervals.process_interval(samples, statistic)
    assert low <= STATISTIC[statistic](np.concatenate(samples)) <= high
    in_microseconds = intervals.process_interval([1000 * times for times in samples], statistic)
    assert in_microseconds == pytest.approx((1000 * low, 1000 * high))


@pytest.mark.parametrize("processes", [2, 5, 10])
@pytest.mark.parametrize("statistic", CENTRES)
def test_draws_over_processes_have_the_interval_over_processes(
    statistic: Literal["mean", "median"], processes: int
) -> None:
    samples = process_times(np.random.default_rng(4), processes, runs=21, between=5, within=2)
    for confidence in (0.5, 0.8, 0.95):
        expected = np.log(intervals.process_interval(samples, statistic, confidence))
        draws = np.log(intervals.process_draws(samples, statistic, 100_000, seed=1))
        assert intervals.percentile_interval(draws, confidence) == pytest.approx(expected, rel=0.01)


def test_draws_of_two_processes_far_apart_are_finite() -> None:
    draws = intervals.process_draws([np.full(3, 1e-3), np.full(3, 1e3)], "median", 20_000)
    assert np.isfinite(draws).all()
    assert (draws > 0).all()


def test_a_percentile_has_no_interval_over_processes() -> None:
    with pytest.raises(ValueError, match=r"0\.9"):
        intervals.process_interval([np.ones(3), np.ones(3)], 0.9)  # type: ignore[arg-type]


def test_of_one_process_the_runs_are_resampled_and_of_two_the_interval_is_wide() -> None:
    first, second = process_times(np.random.default_rng(5), processes=2, runs=50, between=5, within=2)
    alone = intervals.process_interval([first], "median")
    assert alone == intervals.hierarchical_interval([first], "median")
    assert intervals.percentile_interval(intervals.process_draws([first], "median")) == alone
    low, high = intervals.process_interval([first, second], "median")
    assert high - low > 4 * (alone[1] - alone[0])


@pytest.mark.parametrize(
    "times", [[], [np.array([])], [np.ones(3), np.array([math.inf])], [np.ones(2), np.zeros(2)]]
)
def test_run_times_without_a_logarithm_are_an_error(times: list[NDArray[Any]]) -> None:
    with pytest.raises(ValueError, match=r"samples must be|finite|positive"):
        intervals.process_interval(times, "mean")


# ---- Percentiles ----


@pytest.mark.parametrize(("q", "runs"), [(0.5, 11), (0.9, 64), (0.99, 662), (0.999, 6636)])
def test_runs_needed_are_those_of_mlperf(q: float, runs: int) -> None:
    assert intervals.runs_needed(q) == runs


@properties
@given(st.floats(0.01, 0.9995), st.floats(0.01, 0.999))
def test_runs_needed_is_the_least_number_that_meets_the_binomial_bound(q: float, confidence: float) -> None:
    runs = intervals.runs_needed(q, confidence)
    slack = 1e-9
    assert binom.cdf(1, runs, 1 - q) <= 1 - confidence + slack
    assert binom.cdf(1, runs - 1, 1 - q) > 1 - confidence - slack


def test_the_second_slowest_of_enough_runs_bounds_the_true_percentile() -> None:
    runs = np.random.default_rng(2).random((20_000, intervals.runs_needed(0.9)))  # true p90 = 0.9
    second_slowest = np.partition(runs, -2, axis=1)[:, -2]
    assert np.mean(second_slowest >= 0.9) == pytest.approx(0.99, abs=0.003)


@pytest.mark.parametrize("q", ["0.5", "0.9", "0.95", "0.99"])
def test_certified_percentile_is_a_run_by_nearest_rank(q: str) -> None:
    for extra in range(150):
        runs = intervals.runs_needed(float(q)) + extra
        times = np.random.default_rng(extra).permutation(runs) + 1
        assert intervals.certified_percentile(times, float(q)) == math.ceil(Fraction(q) * runs)


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99, 0.999])
def test_a_percentile_with_one_run_too_few_is_none(q: float) -> None:
    runs = intervals.runs_needed(q)
    assert intervals.certified_percentile(np.ones(runs - 1), q) is None
    assert intervals.certified_percentile(np.ones(runs), q) == 1.0


@properties
@given(st.integers(0, 3000), st.sampled_from([0.5, 0.9, 0.99]))
def test_the_bound_of_a_percentile_is_the_slowest_run_but_those_that_the_binomial_allows(
    runs: int, q: float
) -> None:
    times = np.random.default_rng(runs).permutation(runs)
    bound, percentile = (of(times, q) for of in (intervals.percentile_bound, intervals.certified_percentile))
    assert (bound is None) == (percentile is None) == (runs < intervals.runs_needed(q))
    if bound is not None and percentile is not None:
        slower = runs - int(bound)  # itself among them
        assert binom.cdf(slower, runs, 1 - q) < 0.01 <= binom.cdf(slower + 1, runs, 1 - q)
        assert bound >= percentile - 1  # times count from 0, ranks from 1


def test_the_bound_of_a_percentile_bounds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    bounds = [intervals.percentile_bound(rng.random(300), 0.9) or 0 for _ in range(4000)]
    assert np.mean(np.array(bounds) >= 0.9) == pytest.approx(0.993, abs=0.006)


def test_no_runs_certify_nothing() -> None:
    assert intervals.certified_percentile([], 0.5) is None


@pytest.mark.parametrize(("q", "confidence"), [(0.0, 0.99), (1.0, 0.99), (99, 0.99), (0.99, 1.0)])
def test_a_percentile_outside_zero_and_one_is_an_error(q: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        intervals.runs_needed(q, confidence)


def test_a_nan_run_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        intervals.certified_percentile([math.nan] * 20, 0.5)
