"""Bootstraps of accuracies against resamples written out as loops, and their coverage of a known truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rbserve.stats import bootstrap
from rbserve.stats.bootstrap import auc_draws, draws_interval, gauc_draws, mean_draws
from rbserve.stats.intervals import Interval
from rbserve.stats.listwise import gains_at_k, ndcg_at_k
from rbserve.stats.pairwise import auc, gauc


def auc_interval(*rows: Any, confidence: float = 0.95, **options: int) -> Interval:
    return draws_interval(auc_draws(*rows, **options), confidence)


def gauc_interval(*rows: Any, confidence: float = 0.95, **options: int) -> Interval:
    return draws_interval(gauc_draws(*rows, **options), confidence)


def mean_interval(values: Any, confidence: float = 0.95, **options: int) -> Interval:
    return draws_interval(mean_draws(values, **options), confidence)


def clicks(seed: int, users: int = 60, lift: float = 0.7) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Rows of users with 1 to 5 rows, a taste of their own, and rounded scores that therefore tie."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(1, 6, size=users))
    labels = rng.integers(0, 2, size=len(user))
    scores = np.round(rng.normal(size=users)[user] + rng.normal(size=len(user)) + lift * labels, 1)
    return labels, scores, user


def bootstrap_in_loops(
    metric: Any, rows: tuple[NDArray[Any], ...], resamples: int, seed: int
) -> NDArray[Any]:
    """The metric's 95% interval over resamples that copy the rows of every user the module would draw."""
    labels, scores, users = rows
    names = np.unique(users)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = names[rng.integers(len(names), size=len(names))]
        copies = [np.flatnonzero(users == user) for user in drawn]
        row = np.concatenate(copies)
        copy = np.repeat(np.arange(len(drawn)), [len(rows_of_user) for rows_of_user in copies])
        values.append(metric(labels[row], scores[row], copy))
    defined = np.array(values)
    return np.array(np.quantile(defined[~np.isnan(defined)], [0.025, 0.975]))


@pytest.mark.parametrize("users", [2, 7, 60])
def test_auc_interval_equals_a_bootstrap_that_copies_rows(users: int) -> None:
    rows = clicks(seed=users, users=users)
    expected = bootstrap_in_loops(lambda y, s, _: auc(y, s), rows, resamples=200, seed=4)
    assert auc_interval(*rows, resamples=200, seed=4) == pytest.approx(expected)


@pytest.mark.parametrize("users", [4, 7, 60])
def test_gauc_interval_equals_a_bootstrap_that_copies_rows(users: int) -> None:
    rows = clicks(seed=users, users=users)
    expected = bootstrap_in_loops(gauc, rows, resamples=200, seed=4)
    assert gauc_interval(*rows, resamples=200, seed=4) == pytest.approx(expected)


@pytest.mark.parametrize("users", [1, 7, 60])
def test_mean_interval_equals_a_bootstrap_that_copies_users(users: int) -> None:
    values = gains_at_k(np.random.default_rng(users).integers(0, 12, size=users), 10)
    rng = np.random.default_rng(4)
    draws = [values[rng.integers(users, size=users)].mean() for _ in range(200)]
    expected = np.quantile(draws, [0.025, 0.975])
    assert mean_interval(values, resamples=200, seed=4) == pytest.approx(expected)


def test_mean_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(6)
    chance = 1 / np.arange(1, 31)
    everyone = rng.choice(30, size=50_000, p=chance / chance.sum())  # ranks, 0 for a miss
    truth = ndcg_at_k(everyone, 10)
    covered = 0
    for seed in range(200):
        gains = gains_at_k(rng.choice(everyone, size=150), 10)
        low, high = mean_interval(gains, resamples=200, seed=seed)
        assert low < gains.mean() < high
        covered += low <= truth <= high
    assert 0.88 * 200 <= covered <= 0.99 * 200


def test_mean_interval_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(40)
    first = mean_interval(values, resamples=150, seed=1)
    assert mean_interval(values, resamples=150, seed=1) == first
    assert mean_interval(values, resamples=150, seed=2) != first
    monkeypatch.setattr(bootstrap, "BLOCK", 1000)
    assert mean_interval(values, resamples=150, seed=1) == pytest.approx(first)


def test_mean_interval_of_no_user_is_nan_and_of_equal_users_without_width() -> None:
    assert mean_interval([]) == pytest.approx((math.nan, math.nan), nan_ok=True)
    assert mean_interval(np.full(30, 0.5)) == (0.5, 0.5)


@pytest.mark.parametrize("values", [[[0.5, 0.5]], [0.5, math.nan], [math.inf]])
def test_values_that_have_no_mean_are_an_error(values: Any) -> None:
    with pytest.raises(ValueError, match="finite numbers, one a user"):
        mean_interval(values)
    with pytest.raises(ValueError, match="confidence"):
        mean_interval([0.5], confidence=95)


def test_accuracy_intervals_cover_the_truth() -> None:
    everyone = clicks(seed=0, users=20_000)
    truths = [(auc_interval, auc(*everyone[:2])), (gauc_interval, gauc(*everyone))]
    covered = np.zeros(2)
    for seed in range(1, 151):
        rows = clicks(seed, users=150)
        for i, (interval, truth) in enumerate(truths):
            low, high = interval(*rows, resamples=200)
            covered[i] += low <= truth <= high
    assert (covered >= 0.87 * 150).all()


def test_accuracy_intervals_hold_the_point_estimate() -> None:
    rows = clicks(seed=1)
    low, high = auc_interval(*rows)
    assert low < auc(*rows[:2]) < high
    low, high = gauc_interval(*rows)
    assert low < gauc(*rows) < high


@pytest.mark.parametrize("interval", [auc_interval, gauc_interval])
def test_accuracy_intervals_depend_on_the_seed_alone(interval: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores, users = clicks(seed=2)
    first = interval(labels, scores, users, resamples=150, seed=1)
    assert interval(labels, scores, users, resamples=150, seed=1) == first
    assert interval(labels, scores, users, resamples=150, seed=2) != first
    order = np.random.default_rng(0).permutation(len(users))
    assert interval(labels[order], scores[order], users[order], resamples=150, seed=1) == first
    assert interval(labels, np.exp(scores), users, resamples=150, seed=1) == first
    monkeypatch.setattr(bootstrap, "BLOCK", 1000)
    assert interval(labels, scores, users, resamples=150, seed=1) == first


def test_the_same_seed_draws_the_same_users_for_every_metric() -> None:
    by_auc, by_gauc = (np.hstack(list(bootstrap._user_counts(9, rows, 500_000, 1))) for rows in (40, 9))
    assert np.array_equal(by_auc, by_gauc)
    assert (by_auc.sum(axis=0) == 9).all()


@pytest.mark.parametrize("interval", [auc_interval, gauc_interval])
@pytest.mark.parametrize(
    ("labels", "users"), [([], []), ([1], [0]), ([0, 0], [0, 1]), ([1, 1, 1], ["a", "a", "b"])]
)
def test_an_undefined_metric_has_a_nan_interval(interval: Any, labels: list[int], users: list[Any]) -> None:
    assert interval(labels, np.zeros(len(labels)), users) == pytest.approx((math.nan, math.nan), nan_ok=True)


@pytest.mark.parametrize("interval", [auc_interval, gauc_interval])
def test_constant_scores_have_an_interval_without_width(interval: Any) -> None:
    labels, _, users = clicks(seed=3)
    assert interval(labels, np.zeros(len(labels)), users) == (0.5, 0.5)


@pytest.mark.parametrize("interval", [auc_interval, gauc_interval])
def test_bad_rows_and_settings_are_an_error(interval: Any) -> None:
    with pytest.raises(ValueError, match="NaN"):
        interval([1, 0], [math.nan, 0.0], [0, 1])
    with pytest.raises(ValueError, match="users must have shape"):
        interval([1, 0], [0.1, 0.0], [0])
    with pytest.raises(ValueError, match="confidence"):
        interval([1, 0], [0.1, 0.0], [0, 1], confidence=95)
    with pytest.raises(ValueError, match="resamples"):
        interval([1, 0], [0.1, 0.0], [0, 1], resamples=0)
