"""Graded relevance: nDCG with the gain 2^grade - 1 against scikit-learn, MRR and recall against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from rbserve.core.tasks import GRADED
from rbserve.profilers.gate.verdict import scores_loss
from rbserve.runs.measurement import Predictions
from rbserve.stats import metrics

NDCG = {f"ndcg@{k}": k for k in (1, 5, 10, 20)}
CANDIDATES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 10**6)), min_size=2, max_size=25)
LISTS = st.lists(CANDIDATES, min_size=1, max_size=6)


def measured(
    labels: list[int], scores: list[float], requests: list[int], users: list[int] | None = None
) -> dict[str, float]:
    rows = (np.array(labels), np.array(scores), np.array(users or requests), np.array(requests))
    values = metrics.measure(GRADED.name, rows)
    return {name: value for name, value in values.items() if isinstance(value, float)}


@settings(deadline=None, max_examples=60)
@given(LISTS, st.randoms(use_true_random=False))
def test_ndcg_of_graded_lists_is_that_of_scikit_learn(
    lists: list[list[tuple[int, int]]], random: object
) -> None:
    rows = [(grade, score + number / 100, request) for request, pairs in enumerate(lists)
            for number, (grade, score) in enumerate(pairs)]  # fmt: skip
    random.shuffle(rows)  # type: ignore[attr-defined]
    labels, scores, requests = map(list, zip(*rows, strict=True))
    values = measured(labels, scores, requests)
    relevant = [request for request, pairs in enumerate(lists) if any(grade for grade, _ in pairs)]
    for name, k in NDCG.items():
        expected = [
            ndcg_score([[2**grade - 1 for grade, _, of in rows if of == request]],
                       [[score for _, score, of in rows if of == request]], k=k)
            for request in relevant
        ]  # fmt: skip
        assert values[name] == pytest.approx(np.mean(expected)) if expected else math.isnan(values[name])


@settings(deadline=None, max_examples=60)
@given(LISTS)
def test_mrr_and_recall_take_any_grade_above_0_as_relevant(lists: list[list[tuple[int, int]]]) -> None:
    reciprocals, recalls = [], []
    rows = []
    for request, pairs in enumerate(lists):
        listed = [(grade, score + number / 100) for number, (grade, score) in enumerate(pairs)]
        rows += [(grade, score, request) for grade, score in listed]
        grades = [grade for grade, _ in sorted(listed, key=lambda pair: -pair[1])]
        places = [place for place, grade in enumerate(grades, 1) if grade > 0]
        if places:
            reciprocals.append(1 / places[0])
            recalls.append(sum(place <= 10 for place in places) / len(places))
    labels, scores, requests = map(list, zip(*rows, strict=True))
    values = measured(labels, scores, requests)
    for name, expected in (("mrr", reciprocals), ("recall@10", recalls)):
        assert values[name] == pytest.approx(np.mean(expected)) if expected else math.isnan(values[name])


def test_ties_go_against_the_model() -> None:
    values = measured([0, 0, 3], [0.5, 0.5, 0.5], [0, 0, 0])
    assert values["mrr"] == pytest.approx(1 / 3)
    assert values["ndcg@10"] == pytest.approx(1 / math.log2(4))


def test_requests_of_one_user_are_lists_of_their_own() -> None:
    values = measured([1, 0, 0, 1], [0.9, 0.1, 0.9, 0.1], [0, 0, 1, 1], users=[7, 7, 7, 7])
    assert values["mrr"] == pytest.approx((1 + 1 / 2) / 2)


def test_an_interval_of_graded_lists_resamples_users_and_not_requests() -> None:
    rng = np.random.default_rng(3)
    requests = np.repeat(np.arange(400), 5)
    labels, scores = rng.integers(0, 4, 2000), rng.normal(size=2000)
    # Requests that are the same ten times over say no more than one of them.
    copies = (np.tile(labels, 10), np.tile(scores, 10), np.tile(requests, 10), np.arange(20_000) // 5)
    once = metrics.measure(GRADED.name, (labels, scores, requests, requests))["ndcg@10_ci95"]
    assert isinstance(once, tuple)
    assert metrics.measure(GRADED.name, copies)["ndcg@10_ci95"] == pytest.approx(once)


@pytest.mark.parametrize("labels", [[-1, 0], [0.5, 1], [31, 0], [math.nan, 1]])
def test_labels_that_are_no_grades_are_an_error(labels: list[float]) -> None:
    with pytest.raises(ValueError, match="labels"):
        measured(labels, [0.1, 0.2], [0, 0])  # type: ignore[arg-type]


def test_predictions_of_graded_rows_are_judged_by_request() -> None:
    predictions = Predictions(
        [7, 7, 7, 7], [2, 0, 0, 1], {"native": [0.9, 0.1, 0.9, 0.1]}, requests=[0, 0, 1, 1]
    )
    values = metrics.measure(GRADED.name, predictions.judged_rows("native"))
    assert values["mrr"] == pytest.approx((1 + 1 / 2) / 2)


@pytest.mark.parametrize("scores", [[-3.0, 2.0, 0.5, 7.0], [1.5, 0.1, 0.2, 0.3]])
def test_scores_that_are_no_probabilities_have_no_logloss_and_no_f1(scores: list[float]) -> None:
    values = metrics.ctr_metrics([0, 1, 0, 1], scores, [0, 0, 1, 1])
    assert math.isnan(values["logloss"])
    assert math.isnan(values["f1"])
    assert not math.isnan(values["auc"])


@pytest.mark.parametrize("with_requests", [True, False])
def test_the_gate_compares_graded_lists_with_requests_and_without(with_requests: bool) -> None:
    rng = np.random.default_rng(5)
    requests = np.repeat(np.arange(200), 6)
    grades = rng.integers(0, 5, 1200)
    good, bad = grades + rng.normal(size=1200), rng.normal(size=1200)
    rows = [(grades, scores, requests // 2, *([requests] if with_requests else [])) for scores in (good, bad)]
    loss = scores_loss(metrics.GRADED_METRICS["ndcg@10"], rows[0], rows[1], requests // 2)
    base, head = (metrics.GRADED_METRICS["ndcg@10"].compute(*each) for each in rows)
    assert loss.change == pytest.approx(base - head)
    assert 0 < loss.error < loss.change / 5
