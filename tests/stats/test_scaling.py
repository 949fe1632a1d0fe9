"""Exponents of growth, found again in times that were made by a known law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rbserve.stats.scaling import between, over


def runs(middle: float, seed: int, processes: int = 5) -> list[NDArray[Any]]:
    """A hundred runs a process, of 5% noise, and processes that differ by 2%."""
    rng = np.random.default_rng(seed)
    return [middle * (1 + 0.02 * rng.normal()) * (1 + 0.05 * rng.normal(size=100)) for _ in range(processes)]


@pytest.mark.parametrize(("power", "superlinear"), [(0.5, False), (1.0, False), (1.5, True), (2.0, True)])
def test_growth_between_two_slates_is_the_power_that_made_the_times(power: float, superlinear: bool) -> None:
    growth = between(runs(1e6, 0), runs(1e6 * 10**power, 1), (10, 100))
    assert growth.exponent == pytest.approx(power, abs=0.05)
    assert growth.ci95[0] <= growth.exponent <= growth.ci95[1]
    assert growth.ci95[1] - growth.ci95[0] < 0.1
    assert growth.superlinear is superlinear
    assert (growth.smallest, growth.largest) == (10, 100)


@pytest.mark.parametrize(("power", "superlinear"), [(0.3, False), (1.0, False), (2.0, True)])
def test_growth_over_histories_is_the_power_that_made_the_times(power: float, superlinear: bool) -> None:
    rng = np.random.default_rng(0)
    lengths = [rng.integers(0, 21, size=100) for _ in range(5)]
    times = [np.maximum(length, 1.0) ** power * np.exp(0.1 * rng.normal(size=100)) for length in lengths]
    growth = over(lengths, times)
    assert growth is not None
    assert growth.exponent == pytest.approx(power, abs=0.05)
    assert growth.ci95[0] < growth.exponent < growth.ci95[1]
    assert growth.superlinear is superlinear
    assert (growth.smallest, growth.largest) == (1, 20)


def test_interrupted_calls_widen_the_interval_and_do_not_make_growth_certain() -> None:
    rng = np.random.default_rng(1)
    lengths = [rng.integers(1, 21, size=30) for _ in range(3)]
    times = [length**0.9 * np.where(rng.random(30) < 0.1, 20, 1) for length in lengths]
    growth = over(lengths, times)
    assert growth is not None
    assert not growth.superlinear


@pytest.mark.parametrize("lengths", [[], [0, 0, 0], [5, 5, 5], [4, 5, 6], [1, 20, 1]])
def test_lengths_that_are_too_few_or_too_much_alike_have_no_slope(lengths: list[int]) -> None:
    assert over([np.array(lengths, int)], [np.ones(len(lengths))]) is None
    assert over([], []) is None
