"""Metrics against scikit-learn, and against the definitions written out as loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    f1_score,
    label_ranking_average_precision_score,
    log_loss,
    ndcg_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from rbserve.stats import listwise, metrics, pairwise

Rows = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

properties = settings(max_examples=60, deadline=None, derandomize=True)
K = st.integers(1, 12)


def columns(rows: list[tuple[Any, ...]]) -> Rows:
    labels, scores, users = zip(*rows, strict=True) if rows else ((), (), ())
    return (
        np.array(labels, dtype=np.int64),
        np.array(scores, dtype=np.float64),
        np.array(users, dtype=np.int64),
    )


def rows_of(scores: st.SearchStrategy[float], min_size: int = 0) -> st.SearchStrategy[Rows]:
    row = st.tuples(st.integers(0, 1), scores, st.integers(0, 4))
    return st.lists(row, min_size=min_size, max_size=40).map(columns)


TIED = st.integers(-3, 3).map(float) | st.sampled_from([-math.inf, math.inf])
TIED_ROWS = rows_of(TIED)
PROBABILITY_ROWS = rows_of(st.floats(0, 1), min_size=1)
DISTINCT_ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), max_size=40).flatmap(
    lambda rows: st.permutations(range(len(rows))).map(
        lambda scores: columns(
            [(label, score, user) for (label, user), score in zip(rows, scores, strict=True)]
        )
    )
)


# ---- The definitions, as loops ----


def auc_by_pairs(labels: NDArray[Any], scores: NDArray[Any], weights: NDArray[Any] | None = None) -> float:
    weights = np.ones(len(labels)) if weights is None else weights
    wins = pairs = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pairs += weights[i] * weights[j]
            wins += weights[i] * weights[j] * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
    return wins / pairs if pairs else math.nan


def user_lists(labels: NDArray[Any], scores: NDArray[Any], users: NDArray[Any]) -> list[list[int]]:
    """Labels of every list with a positive, best score first and negatives first among equals."""
    lists = []
    for user in sorted(set(users.tolist())):
        mine = [
            (-s, y)
            for y, s, u in zip(labels.tolist(), scores.tolist(), users.tolist(), strict=True)
            if u == user
        ]
        ranked = [y for _, y in sorted(mine)]
        if any(ranked):
            lists.append(ranked)
    return lists


def dcg(ranked: list[int], k: int) -> float:
    return sum(y / math.log2(rank + 1) for rank, y in enumerate(ranked[:k], start=1))


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def same(actual: float, expected: float) -> bool:
    return actual == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)


# ---- AUC ----


@properties
@given(TIED_ROWS)
def test_auc_is_the_share_of_pairs_won_with_ties_counting_half(rows: Rows) -> None:
    labels, scores, _ = rows
    assert same(pairwise.auc(labels, scores), auc_by_pairs(labels, scores))


@properties
@given(rows_of(st.integers(-3, 3).map(float)))
def test_auc_equals_scikit_learn(rows: Rows) -> None:
    labels, scores, _ = rows
    assume(0 < labels.sum() < len(labels))
    assert same(pairwise.auc(labels, scores), roc_auc_score(labels, scores))


@properties
@given(rows_of(st.integers(-3, 3).map(float)), st.data())
def test_weighted_auc_equals_scikit_learn(rows: Rows, data: st.DataObject) -> None:
    labels, scores, _ = rows
    weight = st.just(0.0) | st.floats(0.01, 100)
    weights = np.array(data.draw(st.lists(weight, min_size=len(labels), max_size=len(labels))))
    assume(weights[labels == 1].sum() > 0 and weights[labels == 0].sum() > 0)
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert pairwise.auc(labels, scores, weights) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@properties
@given(TIED_ROWS, st.data())
def test_a_whole_weight_counts_a_row_that_many_times(rows: Rows, data: st.DataObject) -> None:
    labels, scores, _ = rows
    repeats = data.draw(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels)))
    counts = np.array(repeats, dtype=np.int64)
    repeated = pairwise.auc(np.repeat(labels, counts), np.repeat(scores, counts))
    assert same(pairwise.auc(labels, scores, counts), repeated)


@properties
@given(TIED_ROWS)
def test_user_auc_is_the_auc_of_each_users_rows_alone(rows: Rows) -> None:
    labels, scores, users = rows
    names, aucs, sizes = pairwise.user_auc(labels, scores, users)
    assert names.tolist() == sorted(set(users.tolist()))
    for name, auc, size in zip(names, aucs, sizes, strict=True):
        mine = users == name
        assert size == mine.sum()
        assert same(auc, auc_by_pairs(labels[mine], scores[mine]))


@properties
@given(TIED_ROWS)
def test_gauc_averages_users_with_both_labels(rows: Rows) -> None:
    labels, scores, users = rows
    aucs, sizes = [], []
    for user in set(users.tolist()):
        mine = users == user
        if 0 < labels[mine].sum() < mine.sum():
            aucs.append(auc_by_pairs(labels[mine], scores[mine]))
            sizes.append(mine.sum())
    weighted = sum(a * n for a, n in zip(aucs, sizes, strict=True)) / sum(sizes) if aucs else math.nan
    assert same(pairwise.gauc(labels, scores, users), weighted)
    assert same(pairwise.gauc_unweighted(labels, scores, users), mean(aucs))


def test_gauc_weighs_a_user_by_rows_and_leaves_out_users_with_one_label() -> None:
    users = ["ann", "bob", "ann", "bob", "ann", "cat", "ann"]
    labels = [1, 1, 0, 0, 0, 1, 0]
    scores = [9, 1, 1, 2, 2, 5, 3]  # ann 4 rows AUC 1, bob 2 rows AUC 0, cat positives only
    assert pairwise.gauc(labels, scores, users) == pytest.approx(4 / 6)
    assert pairwise.gauc_unweighted(labels, scores, users) == 0.5


def test_auc_is_not_gauc_where_users_differ_in_their_base_rate() -> None:
    labels, scores, users = [1, 1, 0, 1, 0, 0], [9, 8, 7, 3, 2, 1], [0, 0, 0, 1, 1, 1]
    assert pairwise.gauc(labels, scores, users) == 1.0
    assert pairwise.auc(labels, scores) == pytest.approx(8 / 9)


# ---- Log-loss and F1 ----


@properties
@given(PROBABILITY_ROWS)
def test_logloss_equals_scikit_learn_on_clipped_probabilities(rows: Rows) -> None:
    labels, probabilities, _ = rows
    expected = log_loss(labels, np.clip(probabilities, pairwise.EPS, 1 - pairwise.EPS), labels=[0, 1])
    assert pairwise.logloss(labels, probabilities) == pytest.approx(expected, rel=1e-9)


def test_logloss_of_a_certain_mistake_is_finite_and_alike_on_both_sides() -> None:
    worst = -math.log(pairwise.EPS)
    assert pairwise.logloss([1], [0.0]) == pytest.approx(worst)
    assert pairwise.logloss([0], [1.0]) == pytest.approx(worst)
    assert pairwise.logloss([0], np.array([1.0], dtype=np.float32)) == pytest.approx(worst)
    assert np.float32(1 - pairwise.EPS) < 1


@properties
@given(PROBABILITY_ROWS, st.floats(0, 1))
def test_f1_equals_scikit_learn(rows: Rows, threshold: float) -> None:
    labels, probabilities, _ = rows
    expected = f1_score(labels, probabilities >= threshold, zero_division=0.0)
    assert same(pairwise.f1(labels, probabilities, threshold), expected)


def test_f1_is_zero_without_positives_and_predicted_positives() -> None:
    assert pairwise.f1([0, 0], [0.1, 0.2]) == 0.0


def test_f1_counts_a_probability_at_the_threshold_as_predicted() -> None:
    assert pairwise.f1([1], [0.5]) == 1.0


@pytest.mark.parametrize("metric", [pairwise.logloss, pairwise.f1])
def test_logits_are_refused_where_probabilities_are_due(metric: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="logits"):
        metric([1, 0], [2.5, -1.0])
    assert math.isfinite(metric([1, 0], np.array([1.0000001, -0.0000001], dtype=np.float32)))


# ---- Rankings of each user's list ----


@properties
@given(TIED_ROWS, K)
def test_ndcg_follows_its_definition_with_ties_against_the_model(rows: Rows, k: int) -> None:
    expected = [dcg(ranked, k) / dcg(sorted(ranked, reverse=True), k) for ranked in user_lists(*rows)]
    assert same(pairwise.ndcg(*rows, k), mean(expected))


@properties
@given(DISTINCT_ROWS, K)
def test_ndcg_without_ties_equals_scikit_learn(rows: Rows, k: int) -> None:
    labels, scores, users = rows
    expected = []
    for user in set(users.tolist()):
        mine = users == user
        if labels[mine].sum() and mine.sum() > 1:  # scikit-learn refuses a list of one
            expected.append(float(ndcg_score(labels[None, mine], scores[None, mine], k=k)))
        elif labels[mine].sum():
            expected.append(1.0)
    assert same(pairwise.ndcg(labels, scores, users, k), mean(expected))


@properties
@given(TIED_ROWS, st.none() | K)
def test_mrr_is_the_reciprocal_rank_of_the_first_positive(rows: Rows, k: int | None) -> None:
    firsts = [ranked.index(1) + 1 for ranked in user_lists(*rows)]
    expected = mean([1 / first if k is None or first <= k else 0.0 for first in firsts])
    assert same(pairwise.mrr(*rows, k), expected)


@properties
@given(TIED_ROWS, K)
def test_recall_is_the_share_of_a_users_positives_in_the_top_k(rows: Rows, k: int) -> None:
    expected = mean([sum(ranked[:k]) / sum(ranked) for ranked in user_lists(*rows)])
    assert same(pairwise.recall(*rows, k), expected)


def test_constant_scores_gain_nothing() -> None:
    labels, scores, users = [1, 0, 0, 0], [0.5] * 4, [7] * 4
    assert pairwise.auc(labels, scores) == 0.5
    assert pairwise.gauc(labels, scores, users) == 0.5
    assert pairwise.mrr(labels, scores, users) == 0.25
    assert pairwise.recall(labels, scores, users, k=3) == 0.0
    assert pairwise.ndcg(labels, scores, users, k=3) == 0.0


def test_one_positive_row_is_a_perfect_list_without_an_auc() -> None:
    assert (
        pairwise.mrr([1], [0.3], [0])
        == pairwise.ndcg([1], [0.3], [0], 1)
        == pairwise.recall([1], [0.3], [0], 1)
        == 1
    )
    assert math.isnan(pairwise.auc([1], [0.3]))
    assert math.isnan(pairwise.gauc([1], [0.3], [0]))


# ---- The rank of one target among all items ----

CATALOGUES = st.integers(1, 6).flatmap(
    lambda n_items: st.lists(
        st.tuples(st.lists(TIED, min_size=n_items, max_size=n_items), st.integers(0, n_items - 1)),
        min_size=1,
        max_size=8,
    )
)
RANKS = st.lists(st.integers(0, 15), min_size=1, max_size=20)


def test_no_ranks_have_no_metric() -> None:
    assert math.isnan(listwise.recall_at_k(np.empty(0, dtype=np.int64), 10))


@properties
@given(RANKS, K)
def test_metrics_at_k_follow_their_definitions(ranks: list[int], k: int) -> None:
    hits = [rank if 1 <= rank <= k else None for rank in ranks]
    assert same(listwise.recall_at_k(ranks, k), mean([float(r is not None) for r in hits]))
    assert same(listwise.mrr_at_k(ranks, k), mean([1 / r if r else 0.0 for r in hits]))
    assert same(listwise.ndcg_at_k(ranks, k), mean([1 / math.log2(r + 1) if r else 0.0 for r in hits]))
    assert same(listwise.mrr_at_k(ranks), mean([1 / r if r else 0.0 for r in ranks]))


@properties
@given(CATALOGUES, K)
def test_a_sequence_is_a_user_with_one_positive(catalogue: list[tuple[list[float], int]], k: int) -> None:
    scores = np.array([row for row, _ in catalogue])
    targets = np.array([target for _, target in catalogue])
    target_scores = np.take_along_axis(scores, targets[:, None], axis=1)
    ranks = (scores >= target_scores).sum(axis=1)  # ties rank before their target
    labels = (np.arange(scores.shape[1]) == targets[:, None]).ravel()
    users = np.repeat(np.arange(len(scores)), scores.shape[1])
    assert same(listwise.ndcg_at_k(ranks, k), pairwise.ndcg(labels, scores.ravel(), users, k))
    assert same(listwise.mrr_at_k(ranks, k), pairwise.mrr(labels, scores.ravel(), users, k))
    assert same(listwise.recall_at_k(ranks, k), pairwise.recall(labels, scores.ravel(), users, k))


# ---- The place of one target in a list ----

LISTS = st.integers(0, 6).flatmap(
    lambda k: st.lists(
        st.tuples(st.lists(st.integers(-1, 5), min_size=k, max_size=k), st.integers(0, 5)),
        min_size=1,
        max_size=8,
    )
)


@properties
@given(LISTS)
def test_the_rank_in_a_list_is_the_first_place_of_the_target(lists: list[tuple[list[int], int]]) -> None:
    items, targets = (np.array(column, np.int32) for column in zip(*lists, strict=True))
    expected = [row.index(target) + 1 if target in row else 0 for row, target in lists]
    ranks = listwise.ranks_in_lists(items, targets)
    assert ranks.tolist() == expected
    assert ranks.dtype == np.int64


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_metrics_of_lists_cut_from_a_ranking_equal_scikit_learn(k: int) -> None:
    rng = np.random.default_rng(k)
    scores, targets = rng.permuted(np.tile(np.arange(30.0), (40, 1)), axis=1), rng.integers(30, size=40)
    lists = np.argsort(-scores, axis=1)[:, :20].astype(np.int32)
    report = metrics.seqrec_metrics(listwise.ranks_in_lists(lists, targets), depth=20)
    is_target = np.arange(30) == targets[:, None]
    in_top_k = [
        top_k_accuracy_score([t], [row], k=k, labels=range(30))
        for t, row in zip(targets, scores, strict=True)
    ]
    assert report[f"ndcg@{k}"] == pytest.approx(ndcg_score(is_target, scores, k=k))
    assert report[f"recall@{k}"] == pytest.approx(np.mean(in_top_k))
    cut = np.where(scores >= 30 - k, scores, -1)  # what is past k shares the last place: 1/30 at most
    beyond = np.mean((1 - np.array(in_top_k)) / 30)
    assert report[f"mrr@{k}"] == pytest.approx(label_ranking_average_precision_score(is_target, cut) - beyond)


@pytest.mark.parametrize(
    ("depth", "cuts"), [(0, []), (4, [1]), (10, [1, 5, 10]), (49, [1, 5, 10, 20]), (1000, [1, 5, 10, 20, 50])]
)
def test_no_metric_looks_further_than_the_lists_go(depth: int, cuts: list[int]) -> None:
    report = metrics.seqrec_metrics([1, 0, 3], depth)
    assert list(report) == [f"{name}@{k}" for name in ("ndcg", "recall", "mrr") for k in cuts]


@properties
@given(RANKS, K)
def test_the_value_of_a_user_is_the_metric_of_that_user_alone(ranks: list[int], k: int) -> None:
    assert listwise.gains_at_k(ranks, k).tolist() == [listwise.ndcg_at_k([rank], k) for rank in ranks]
    assert listwise.hits_at_k(ranks, k).tolist() == [listwise.recall_at_k([rank], k) for rank in ranks]


@pytest.mark.parametrize(
    ("items", "targets", "message"),
    [([[0, 1]], [0, 1], "expected"), ([0, 1], [0], "expected"), ([[-1, 1]], [-1], "targets must be items")],
)
def test_bad_lists_are_an_error(items: Any, targets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        listwise.ranks_in_lists(np.array(items), np.array(targets))


# ---- All of them ----


def test_the_table_names_what_ctr_metrics_reports() -> None:
    report = metrics.ctr_metrics([1, 0, 1, 0], [0.9, 0.1, 0.4, 0.6], [0, 0, 1, 1])
    assert list(report) == list(metrics.CTR_METRICS)
    assert {name for name, metric in metrics.CTR_METRICS.items() if metric.better == "lower"} == {"logloss"}


def test_the_table_names_what_seqrec_metrics_reports() -> None:
    assert list(metrics.seqrec_metrics([1, 2], depth=50)) == list(metrics.SEQREC_METRICS)


@pytest.mark.parametrize("name", metrics.SEQREC_METRICS)
def test_a_first_place_beats_a_miss_in_the_direction_of_the_table(name: str) -> None:
    first, miss = (metrics.seqrec_metrics([rank], depth=50)[name] for rank in (1, 0))
    assert (first, miss) == (1, 0)
    assert metrics.SEQREC_METRICS[name].better == "higher"
    assert math.isnan(metrics.seqrec_metrics([], depth=50)[name])


@pytest.mark.parametrize("name", metrics.CTR_METRICS)
def test_a_perfect_model_beats_a_reversed_one_in_the_direction_of_the_table(name: str) -> None:
    labels, users = np.array([1, 0] * 20), np.repeat([0], 40)
    perfect = metrics.ctr_metrics(labels, np.where(labels, 0.9, 0.1), users)[name]
    reversed_ = metrics.ctr_metrics(labels, np.where(labels, 0.1, 0.9), users)[name]
    assert perfect < reversed_ if metrics.CTR_METRICS[name].better == "lower" else perfect > reversed_


@properties
@given(rows_of(st.integers(0, 8).map(lambda eighths: eighths / 8)), st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_rows(rows: Rows, random: Any) -> None:
    order = list(range(len(rows[0])))
    random.shuffle(order)
    shuffled = metrics.ctr_metrics(*(column[np.array(order, dtype=np.int64)] for column in rows))
    for name, value in metrics.ctr_metrics(*rows).items():
        assert same(shuffled[name], value)


@properties
@given(rows_of(st.integers(0, 8).map(lambda eighths: eighths / 8)))
def test_a_rising_transform_of_the_scores_moves_no_ranking_metric(rows: Rows) -> None:
    labels, scores, users = rows
    before, after = (metrics.ctr_metrics(labels, s, users) for s in (scores, scores**2 / 2))
    for name in ("auc", "gauc", "gauc_unweighted", "ndcg@10", "mrr", "recall@10"):
        assert same(after[name], before[name])


@properties
@given(TIED_ROWS)
def test_negated_scores_mirror_the_auc(rows: Rows) -> None:
    labels, scores, _ = rows
    assert same(pairwise.auc(labels, -scores), 1 - pairwise.auc(labels, scores))


@pytest.mark.parametrize("name", metrics.CTR_METRICS)
def test_nothing_measured_is_nan(name: str) -> None:
    assert math.isnan(metrics.ctr_metrics([], [], [])[name])


def test_users_without_a_positive_leave_the_rankings_undefined() -> None:
    report = metrics.ctr_metrics([0, 0], [0.1, 0.2], [0, 1])
    assert all(math.isnan(report[name]) for name in ("ndcg@10", "mrr", "recall@10", "auc", "gauc"))


@pytest.mark.parametrize(
    ("labels", "scores", "users", "message"),
    [
        ([1, 0], [0.5, math.nan], [0, 0], "1 of 2 scores are NaN"),
        ([1, 0], [0.5], [0], "labels must have shape"),
        ([1, 0], [0.5, 0.5], [0], "users must have shape"),
        ([1, 2], [0.5, 0.5], [0, 0], "labels must be 0 or 1, got 2"),
        ([1, math.nan], [0.5, 0.5], [0, 0], "labels are NaN"),
        ([[1, 0]], [[0.5, 0.5]], [[0, 0]], "scores must have shape"),
    ],
)
def test_bad_rows_are_an_error_that_names_them(labels: Any, scores: Any, users: Any, message: str) -> None:
    grouped: list[Callable[[], Any]] = [
        lambda: pairwise.user_auc(labels, scores, users),
        lambda: pairwise.gauc(labels, scores, users),
        lambda: pairwise.ndcg(labels, scores, users, 10),
        lambda: pairwise.mrr(labels, scores, users),
        lambda: pairwise.recall(labels, scores, users, 10),
        lambda: metrics.ctr_metrics(labels, scores, users),
    ]
    for call in grouped:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("metric", [pairwise.auc, pairwise.logloss, pairwise.f1])
def test_a_nan_score_is_an_error(metric: Callable[..., float]) -> None:
    with pytest.raises(ValueError, match="NaN"):
        metric([1, 0], [math.nan, 0.5])


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, math.inf], [1.0, math.nan], [1.0]])
def test_weights_that_are_no_weights_are_an_error(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        pairwise.auc([1, 0], [0.5, 0.4], weights)


@pytest.mark.parametrize("ranks", [[-1], [1.5], [math.nan]])
def test_ranks_that_are_no_ranks_are_an_error(ranks: list[float]) -> None:
    with pytest.raises(ValueError, match="ranks"):
        listwise.mrr_at_k(ranks, 10)


def test_a_cut_below_one_is_an_error() -> None:
    calls: list[Callable[[], float]] = [
        lambda: pairwise.recall([1], [0.5], [0], 0),
        lambda: pairwise.ndcg([1], [0.5], [0], 0),
        lambda: pairwise.mrr([1], [0.5], [0], 0),
        lambda: listwise.ndcg_at_k([1], 0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="k must be at least 1"):
            call()


def test_a_ranking_of_a_users_candidates_and_one_of_the_catalogue_never_share_a_title() -> None:
    shared = metrics.CTR_METRICS.keys() & metrics.SEQREC_METRICS.keys()
    assert shared == {"ndcg@10", "recall@10"}
    for metric in shared:
        assert metrics.metric_title(metric, "ctr") != metrics.metric_title(metric, "seqrec")
    assert metrics.metric_title("ndcg@10", "seqrec") == "nDCG@10 (catalogue)"
    assert metrics.metric_title("ndcg@10", "ctr") == "nDCG@10 (user's candidates)"
    assert [metrics.metric_title(name, "ctr") for name in ("auc", "gauc", "logloss")] == [
        "AUC",
        "GAUC",
        "logloss",
    ]
