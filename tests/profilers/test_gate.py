"""The gate's statistics: against scipy's, and by simulation with processes that differ, drift and are disturbed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from rbserve.profilers.gate.verdict import (
    EXIT_CODES,
    UNKNOWN,
    Estimate,
    SequentialTest,
    Verdict,
    auc_loss,
    exact,
    holm_levels,
    looks,
    ndcg_loss,
    paired,
    suite_verdict,
    unpaired,
)
from rbserve.stats.bootstrap import auc_draws, draws_interval
from rbserve.stats.intervals import FEWEST_USERS

RNG = np.random.default_rng


# ---- Estimates ----


@pytest.mark.parametrize("rounds", [6, 8, 14, 33])
def test_a_paired_change_is_the_trimmed_mean_and_error_of_scipy(rounds: int) -> None:
    rng = RNG(rounds)
    base, head = np.exp(rng.standard_t(3, (2, rounds)))
    changes = np.log(head / base)
    cut = int(0.2 * rounds)
    limits = (cut / rounds, cut / rounds)
    found = paired(base, head)
    assert found.change == pytest.approx(float(scipy.stats.mstats.trimmed_mean(changes, limits)))
    assert found.freedom == rounds - 2 * cut - 1
    # scipy divides by (kept share) * sqrt(n); Yuen by sqrt(kept * (kept - 1) / (n - 1)): equal but for n - 1.
    kept = rounds - 2 * cut
    winsorised = float(scipy.stats.mstats.winsorize(changes, limits).std(ddof=1))
    assert found.error == pytest.approx(winsorised * math.sqrt((rounds - 1) / (kept * (kept - 1))))
    low, high = scipy.stats.t.interval(0.9, found.freedom, found.change, found.error)
    assert (found.lower(0.05), found.upper(0.05)) == pytest.approx((low, high))


def test_an_unpaired_change_is_welchs() -> None:
    base, head = np.exp(RNG(1).normal(size=5)), np.exp(RNG(2).normal(size=9))
    welch = scipy.stats.ttest_ind(np.log(head), np.log(base), equal_var=False)
    found = unpaired(base, head)
    assert found.p_value(0) == pytest.approx(
        welch.pvalue / 2 if welch.statistic > 0 else 1 - welch.pvalue / 2
    )
    interval = welch.confidence_interval(0.9)
    assert (found.lower(0.05), found.upper(0.05)) == pytest.approx((interval.low, interval.high))


def test_what_has_too_few_processes_or_no_spread() -> None:
    few = (paired([1.0] * 5, [2.0] * 5), unpaired([1.0] * 4, [2.0] * 9))
    for one in few:
        assert one == Estimate(pytest.approx(math.log(2)), math.inf)  # type: ignore[arg-type]
        assert (one.p_value(0.02), one.lower(0.4), one.upper(0.4)) == (1, -math.inf, math.inf)
    assert paired([], []) == UNKNOWN == unpaired([], [1.0])
    assert exact(100, 100).change == 0
    assert exact(100, 110).lower(1e-9) == pytest.approx(math.log(1.1))
    assert exact(0, 10).change == math.inf


@pytest.mark.parametrize(
    ("base", "head"), [([1.0] * 9, [1.0] * 9), ([1.0] * 9, [1.3] * 9), ([1.0, 2.0] * 3, [1.0, 2.0] * 3)]
)
def test_times_that_show_no_spread_are_not_known_exactly(base: list[float], head: list[float]) -> None:
    assert paired(base, head).error == math.inf
    assert paired(base, head).p_value(0.0) == 1
    assert unpaired([1.0] * 9, head).error == math.inf


def test_a_single_users_auc_is_no_certainty() -> None:
    """All resamples of one user are that user: their spread of 0 says nothing."""
    labels, users = [0, 1, 0, 1], [7, 7, 7, 7]
    loss = auc_loss(labels, users, [0.1, 0.9, 0.2, 0.8], [0.1, 0.15, 0.2, 0.8])
    assert (loss.change, loss.error) == (0.25, math.inf)
    assert auc_loss(labels, users, [0.1, 0.9, 0.2, 0.8], [0.1, 0.9, 0.2, 0.8]).error == 0


def test_lists_without_any_target_are_no_proof_that_two_models_rank_alike() -> None:
    assert ndcg_loss([0] * 1000, [0] * 1000).error == math.inf
    assert ndcg_loss([1] * (FEWEST_USERS - 1), [1] * (FEWEST_USERS - 1)).error == math.inf
    assert ndcg_loss([1] * FEWEST_USERS, [1] * FEWEST_USERS).error == 0


def test_auc_draws_of_one_seed_draw_the_same_users() -> None:
    labels, users, scores = _rows(400, 3)
    assert np.array_equal(auc_draws(labels, scores, users), auc_draws(labels, scores * 2, users))
    low, high = np.quantile(auc_draws(labels, scores, users), [0.025, 0.975])
    assert draws_interval(auc_draws(labels, scores, users)) == (low, high)


def test_an_accuracy_loss_is_told_from_none_on_the_same_rows() -> None:
    labels, users, scores = _rows(20_000, 4)
    assert auc_loss(labels, users, scores, scores) == Estimate(0.0, 0.0, 4_999)
    worse = scores + _noise_of_loss(labels, scores, 0.002)
    loss = auc_loss(labels, users, scores, worse)
    assert loss.change == pytest.approx(0.002, abs=1e-5)
    assert loss.lower(0.005) > 0.0005
    unpaired_error = math.sqrt(2) * auc_draws(labels, scores, users).std()
    assert loss.error < unpaired_error / 4


def test_a_ranking_loss_is_the_mean_over_users() -> None:
    base = np.array([1, 2, 0, 3, 1, 11] * 50)
    assert ndcg_loss(base, base).change == 0
    loss = ndcg_loss(base, np.where(base == 1, 2, base))
    assert loss.change == pytest.approx((1 - 1 / math.log2(3)) / 3)
    assert loss.lower(0.005) > 0.0005


def _rows(rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Labels, users of four rows each, and scores that know something."""
    rng = RNG(seed)
    labels = rng.integers(0, 2, rows)
    return labels, np.repeat(np.arange(rows // 4), 4), labels + rng.normal(0, 1, rows)


def _noise_of_loss(
    labels: NDArray[np.int64], scores: NDArray[np.float64], loss: float
) -> NDArray[np.float64]:
    """Noise that costs so much AUC on these rows."""
    noise = RNG(0).normal(size=len(scores))
    low, high = 0.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        worse = scipy.stats.mannwhitneyu(
            (scores + middle * noise)[labels == 1], (scores + middle * noise)[labels == 0]
        ).statistic
        full = scipy.stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
        pairs = (labels == 1).sum() * (labels == 0).sum()
        low, high = (middle, high) if (full - worse) / pairs < loss else (low, middle)
    return high * noise


# ---- Levels, looks, verdicts ----


def test_holm_divides_alpha_among_what_is_left() -> None:
    assert holm_levels([0.02, 0.001, 0.9], 0.03) == pytest.approx([0.015, 0.01, 0.015])
    assert holm_levels([0.001, 0.9], 0.03, hypotheses=6) == pytest.approx([0.005, 0.006])
    assert holm_levels([], 0.03) == []


def test_looks_are_after_even_rounds_and_at_the_last() -> None:
    assert looks(96) == [6, 8, 10, 14, 18, 24, 32, 42, 56, 74, 96]
    assert looks(4) == [4]
    for last in range(2, 200, 2):
        assert all(one % 2 == 0 for one in looks(last))
        assert looks(last)[-1] == last


def test_alpha_is_spent_in_proportion_to_the_rounds() -> None:
    test = SequentialTest({"a": 0.02}, 0.01, 0.05, 96)
    before = 0
    for at in looks(96):
        level = 0.01 * (at - before) / 96
        estimate = Estimate(0.05, 0.0401 / scipy.stats.norm.isf(level))  # its lower bound is 0.0099
        test.look(at, {"a": estimate})
        assert test.decisions["a"].low == pytest.approx(0.05 - 0.0401)
        assert test.decisions["a"].verdict is Verdict.INCONCLUSIVE
        before = at


def test_a_decided_change_stays_decided_and_what_passed_counts_in_holms_divisor() -> None:
    test = SequentialTest(dict.fromkeys("abc", 0.02), 0.01, 0.05, 20)
    test.look(10, {"a": Estimate(0.5, 0.01), "b": Estimate(-0.5, 0.01), "c": Estimate(0.02, 0.01)})
    assert [test.decisions[key].verdict for key in "abc"] == [
        Verdict.REGRESSED, Verdict.PASS, Verdict.INCONCLUSIVE,
    ]  # fmt: skip
    assert test.undecided == {"c"}
    test.look(20, {"a": Estimate(-0.5, 0.01), "c": Estimate(0.05, 0.01)})
    assert test.decisions["a"].verdict is Verdict.REGRESSED
    expected = 0.05 - scipy.stats.norm.isf(0.01 * 0.5 / 2) * 0.01
    assert test.decisions["c"].low == pytest.approx(expected)


def test_a_change_at_the_tolerance_that_is_known_exactly_passes() -> None:
    test = SequentialTest({"a": 0.01, "b": 0.01}, 0.01, 0.05, 1)
    test.look(1, {"a": Estimate(0.01, 0.0), "b": Estimate(0.0101, 0.0)})
    assert test.decisions["a"].verdict is Verdict.PASS
    assert test.decisions["b"].verdict is Verdict.REGRESSED


def test_a_suite_is_as_bad_as_its_worst_and_of_nothing_is_missing() -> None:
    assert suite_verdict([]) is Verdict.MISSING
    assert suite_verdict([Verdict.PASS]) is Verdict.PASS
    assert suite_verdict([*Verdict]) is Verdict.REGRESSED
    assert (
        suite_verdict([Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.NOT_COMPARABLE]) is Verdict.NOT_COMPARABLE
    )
    assert suite_verdict([Verdict.INCONCLUSIVE, Verdict.PASS]) is Verdict.INCONCLUSIVE
    codes = list(EXIT_CODES.values())
    assert len({*codes}) == len(Verdict)
    assert not {1, 2, 130} & {*codes}
    assert [one for one in Verdict if EXIT_CODES[one] == 0] == [Verdict.PASS]


# ---- Operating characteristics ----


def _processes(rng: np.random.Generator, rounds: int, kind: str) -> NDArray[np.float64]:
    """Log medians [rounds, 2] of base and head that are the same, on a machine of a kind."""
    between = rng.normal(0, 0.02, (rounds, 2))
    if kind == "disturbed":  # a process in eight meets a neighbour
        between += np.where(rng.random((rounds, 2)) < 0.125, rng.exponential(0.15, (rounds, 2)), 0)
    if kind == "two levels":  # where memory happened to be placed
        between += 0.04 * rng.integers(0, 2, (rounds, 2))
    order = np.arange(2 * rounds, dtype=float).reshape(rounds, 2)
    order[1::2] = order[1::2, ::-1]
    if kind == "drifting":  # 20% slower in the end, and the second of a round always by 1%
        between += 0.2 * order / (2 * rounds) + 0.01 * (order % 2)
    return between


def _suite(rng: np.random.Generator, kind: str, changes: dict[str, float], rounds: int = 96) -> Verdict:
    """The verdict on models whose head is slower by `changes` (log ratios)."""
    sides = {
        model: _processes(rng, rounds, kind) + np.array([0, change]) for model, change in changes.items()
    }
    test = SequentialTest(dict.fromkeys(changes, math.log1p(0.02)), 0.005, 0.05, rounds)
    for at in looks(rounds):
        test.look(at, {one: paired(*np.exp(sides[one][:at].T)) for one in test.undecided})
        if not test.undecided:
            break
    return suite_verdict([one.verdict for one in test.decisions.values()])


KINDS = ("quiet", "disturbed", "two levels", "drifting")
MODELS = "abcd"


@pytest.mark.parametrize("kind", KINDS)
def test_a_suite_without_a_change_is_not_called_regressed(kind: str) -> None:
    rng = RNG(0)
    verdicts = [_suite(rng, kind, dict.fromkeys(MODELS, 0.0)) for _ in range(500)]
    assert verdicts.count(Verdict.REGRESSED) <= 1  # at most 1% is asked for
    assert verdicts.count(Verdict.PASS) >= 450  # the others ask for more than 96 rounds


@pytest.mark.parametrize("kind", KINDS)
def test_a_suite_at_its_tolerance_is_called_regressed_with_a_chance_of_alpha_at_most(kind: str) -> None:
    rng = RNG(1)
    verdicts = [_suite(rng, kind, dict.fromkeys(MODELS, math.log1p(0.02))) for _ in range(400)]
    assert verdicts.count(Verdict.REGRESSED) <= 6  # 0.5% of 400 is 2; more than 6 has a chance of 0.5%
    assert verdicts.count(Verdict.PASS) <= 20  # all four at once


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("slower", "share"), [(0.05, 0.95), (0.10, 0.99)])
def test_one_slower_model_of_four_is_caught(kind: str, slower: float, share: float) -> None:
    rng = RNG(2)
    changes = dict.fromkeys(MODELS, 0.0) | {"b": math.log1p(slower)}
    verdicts = [_suite(rng, kind, changes) for _ in range(200)]
    assert verdicts.count(Verdict.REGRESSED) >= share * 200
    assert Verdict.PASS not in verdicts
