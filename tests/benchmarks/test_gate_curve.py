"""The injections of the gate's operating curve do what they say."""

from __future__ import annotations

import os

import numpy as np
import pytest
from gate_curve import LOSS, Noisy, Slowed, Trial, amplitude, executor, left, noise_of, summarise, with_noise

from rbserve.core.requests import Request, slate_of, slate_request
from rbserve.core.types import Scores
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.machine.environment import allowed_cores
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.pairwise import auc


class Half:
    """Every item is as likely as not."""

    def score(self, request: Request) -> Scores:
        _, candidates = slate_of(request)
        return np.full(len(candidates), 0.5, np.float32)


def affinity(_: int) -> list[int]:
    """The cores of the process that is asked."""
    return [*os.sched_getaffinity(0)]


def test_a_slowed_scorer_spins_for_its_share_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000, 1100, 1104, 1105, 9999])
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(clock))
    history = candidates = np.array([1, 2], np.int32)
    assert Slowed(Half(), 0.05).score(slate_request(history, candidates)).tolist() == [0.5, 0.5]
    assert next(clock) == 9999  # a call of 100 ns ended when 105 had passed


def test_noise_belongs_to_a_pair_and_not_to_the_slate_or_the_call() -> None:
    history, candidates = np.array([3, 4], np.int32), np.arange(5, dtype=np.int32)
    noisy = Noisy(Half(), 0.5, seed=1)
    whole = noisy.score(slate_request(history, candidates))
    assert len({*whole.tolist()}) == 5
    assert np.array_equal(
        whole, np.concatenate([noisy.score(slate_request(history, candidates[i : i + 1])) for i in range(5)])
    )
    assert not np.array_equal(whole, Noisy(Half(), 0.5, seed=2).score(slate_request(history, candidates)))
    scores = np.array([0.1, 0.5, 0.9], np.float32)
    np.testing.assert_allclose(with_noise(scores, np.zeros(3)), scores, rtol=1e-6)


def test_the_noise_costs_the_auc_that_it_is_to_cost(trained: Artifact, planted: Dataset) -> None:
    test = planted.ctr("test")
    scores = score_rows(open_scorer(trained, "onnx-fp32"), test.histories, test.candidates)
    size = amplitude(planted, scores, seed=3)
    noise = np.array(
        [noise_of(test.histories[row], int(item), 3) for row, item in enumerate(test.candidates)]
    )
    pairs = test.labels.sum() * (1 - test.labels).sum()
    lost = auc(test.labels, scores) - auc(test.labels, with_noise(scores, size * noise))
    assert lost == pytest.approx(LOSS, abs=20 / pairs)


def test_the_summary_counts_verdicts_by_condition() -> None:
    trials = [
        Trial("+5%", number, verdict, 8, seconds, 0.05, 0.03, 0.07, "now")
        for number, (verdict, seconds) in enumerate(
            (("REGRESSED", 1.0), ("REGRESSED", 2.0), ("INCONCLUSIVE", 9.0))
        )
    ]
    (row,) = summarise(trials)
    assert (row["trials"], row["REGRESSED"], row["PASS"], row["INCONCLUSIVE"]) == (3, 2, 0, 1)
    assert row["ci95"][0] < 2 / 3 < row["ci95"][1]
    assert (row["seconds_mean"], row["seconds_p50"], row["seconds_max"]) == (4, 2, 9)


def test_conditions_take_turns_and_what_is_made_is_not_made_again() -> None:
    trials = {"same": 4, "+5%": 2}
    whole = left(trials, [])
    assert [one for one, _ in whole] == ["+5%", "same", "same", "+5%", "same", "same"]
    made = [
        Trial(condition, number, "PASS", 6, 1.0, 0.0, 0.0, 0.0, "now") for condition, number in whole[1::2]
    ]
    assert (
        left(trials, made) == whole[::2]
    )  # they end in any order, so it is not the number of them that counts


@pytest.mark.alone
def test_trials_at_a_time_have_a_core_each(trained: Artifact, planted: Dataset) -> None:
    cores = allowed_cores()
    if len(cores) < 2:
        pytest.skip("one core")
    with executor(2, trained.path, planted.path) as pool:
        sides = [*pool.map(affinity, range(2), chunksize=1)]
    assert all(len(side) == 1 for side in sides)
    assert {*sides[0]} | {*sides[1]} <= {*cores[-2:]}
