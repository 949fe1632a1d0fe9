"""Accuracy of a recommender, for the two protocols of the RecBench paper (section 4.2).

Pair-wise (click-through rate): one row per (user, candidate) with a 0/1 label and a score.
List-wise (sequential): one target item per sequence, judged by its rank in the whole catalogue.

Conventions, the same for every metric here:

- what cannot be computed (no row, a single class, no user with a positive) is nan, never a made-up number;
- in AUC a tie is half a win; in every ranking metric ties go *against* the model, so that constant scores
  gain nothing and the order of rows never matters;
- bad input (NaN, unequal lengths, labels other than 0 and 1) is a ValueError.

Shapes: n rows, U distinct users, B sequences. Lists of rows need no order: users may be interleaved.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbserve.core.tasks import CTR, SEQREC, TASKS

Direction = Literal["higher", "lower"]

CUTS = (1, 5, 10, 20, 50)  # the k of list-wise metrics

# What `ctr_metrics` reports, and which way is better.
CTR_METRICS: dict[str, Direction] = {
    "auc": "higher",
    "gauc": "higher",
    "gauc_unweighted": "higher",
    "logloss": "lower",
    "f1": "higher",
    "ndcg@10": "higher",
    "mrr": "higher",
    "recall@10": "higher",
}
# What `seqrec_metrics` reports of lists of at least 50 items.
SEQREC_METRICS: dict[str, Direction] = {
    f"{name}@{k}": "higher" for name in ("ndcg", "recall", "mrr") for k in CUTS
}
METRICS = CTR_METRICS | SEQREC_METRICS
TASK_METRICS: dict[str, dict[str, Direction]] = {CTR.name: CTR_METRICS, SEQREC.name: SEQREC_METRICS}
_TITLES = {"ndcg": "nDCG", "recall": "recall", "logloss": "logloss", "gauc_unweighted": "GAUC (unweighted)",
           "illegal_share": "illegal paths"}  # fmt: skip

EPS = 1e-7  # log-loss clips to [EPS, 1 - EPS]: about the smallest for which 1 - EPS is not 1 in float32
_SOFTMAX_SLACK = 1e-6  # a float32 softmax may leave [0, 1] by a rounding error; a logit leaves it by far more


def metric_title(metric: str, task: str) -> str:
    """How people read a metric's key: "AUC", and "nDCG@10 (catalogue)" or, of task ctr, "nDCG@10 (user's candidates)".

    A ranking of a user's few labelled candidates and one of the whole catalogue share a key, not a meaning.
    """
    name, at, k = metric.partition("@")
    title = _TITLES.get(name, name.upper()) + at + k
    return f"{title} ({TASKS[task].ranked_among})" if name in ("ndcg", "recall", "mrr") else title


def ctr_metrics(labels: ArrayLike, scores: ArrayLike, users: ArrayLike) -> dict[str, float]:
    """Every pair-wise metric by its name in `CTR_METRICS`; scores are click probabilities [n]."""
    return {
        "auc": auc(labels, scores),
        "gauc": gauc(labels, scores, users),
        "gauc_unweighted": gauc_unweighted(labels, scores, users),
        "logloss": logloss(labels, scores),
        "f1": f1(labels, scores),
        "ndcg@10": ndcg(labels, scores, users, k=10),
        "mrr": mrr(labels, scores, users),
        "recall@10": recall(labels, scores, users, k=10),
    }


# ---- Pair-wise: area under the curve ----


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Probability that a random positive outscores a random negative, ties counting half; in [0, 1].

    The Mann-Whitney form of the area under the ROC curve. `weights` [n] are non-negative and count a row
    that many times. Nan without (positively weighted) rows of both labels.
    """
    y, s = _labelled(labels, scores, "scores")
    w = np.ones_like(s) if weights is None else _column(weights, "weights", len(s))
    if not (np.isfinite(w) & (w >= 0)).all():
        raise ValueError("weights must be finite and non-negative")
    _, level = np.unique(s, return_inverse=True)  # rows of one level are tied
    positives = np.bincount(level, w * y)
    negatives = np.bincount(level, w * (1 - y))
    below = np.cumsum(negatives) - negatives
    pairs = positives.sum() * negatives.sum()
    return float(positives @ (below + negatives / 2) / pairs) if pairs > 0 else float("nan")


def gauc(labels: ArrayLike, scores: ArrayLike, users: ArrayLike) -> float:
    """Mean of per-user AUC over users with both labels, weighted by their number of rows; in [0, 1].

    Zhu et al., "Optimized Cost per Click in Taobao Display Advertising" (KDD 2017).
    """
    _, user_aucs, rows = user_auc(labels, scores, users)
    defined = ~np.isnan(user_aucs)
    return float(np.average(user_aucs[defined], weights=rows[defined])) if defined.any() else float("nan")


def gauc_unweighted(labels: ArrayLike, scores: ArrayLike, users: ArrayLike) -> float:
    """Plain mean of per-user AUC over users with both labels; in [0, 1]."""
    _, user_aucs, _ = user_auc(labels, scores, users)
    return _mean(user_aucs[~np.isnan(user_aucs)])


def user_auc(
    labels: ArrayLike, scores: ArrayLike, users: ArrayLike
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.int64]]:
    """Distinct users [U] in sorted order, the AUC of each [U] (nan with a single label), their rows [U]."""
    y, s, ids = checked_rows(labels, scores, users)
    names, user, rows = np.unique(ids, return_inverse=True, return_counts=True)
    order = np.lexsort((s, user))
    y, s, user = y[order], s[order], user[order]
    # A level is a run of rows of one user with one score.
    starts = np.ones(len(s), dtype=bool)
    starts[1:] = (user[1:] != user[:-1]) | (s[1:] != s[:-1])
    level, owner = np.cumsum(starts) - 1, user[starts]
    positives, negatives = np.bincount(level, y), np.bincount(level, 1 - y)
    user_positives = np.bincount(owner, positives, minlength=len(names))
    user_negatives = np.bincount(owner, negatives, minlength=len(names))
    earlier_users = np.cumsum(user_negatives) - user_negatives
    below = np.cumsum(negatives) - negatives - earlier_users[owner]
    wins = np.bincount(owner, positives * (below + negatives / 2), minlength=len(names))
    pairs = user_positives * user_negatives
    aucs = np.divide(wins, pairs, out=np.full(len(names), np.nan), where=pairs > 0)
    return names, aucs, rows.astype(np.int64)


# ---- Pair-wise: calibration and decision ----


def logloss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean binary cross-entropy in nats, >= 0; probabilities are clipped to [EPS, 1 - EPS] first."""
    y, p = _probabilities(labels, probabilities)
    p = np.clip(p, EPS, 1 - EPS)
    return _mean(-(y * np.log(p) + (1 - y) * np.log1p(-p)))


def log_odds(probabilities: ArrayLike, certain: float = EPS) -> NDArray[np.float64]:
    """Log-odds of probabilities, none of which is taken to be nearer to 0 or 1 than `certain`."""
    p = np.clip(np.asarray(probabilities, np.float64), certain, 1 - certain)
    return np.log(p) - np.log1p(-p)


def f1(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> float:
    """Harmonic mean of precision and recall of `probabilities >= threshold`; in [0, 1].

    0.0 where there is neither a positive nor a predicted positive (0/0).
    """
    y, p = _probabilities(labels, probabilities)
    if not len(y):
        return float("nan")
    predicted = p >= threshold
    positives_both_ways = y.sum() + predicted.sum()  # 2 TP + FN + FP
    return float(2 * y[predicted].sum() / positives_both_ways) if positives_both_ways else 0.0


# ---- Pair-wise: the ranking of each user's candidate list ----


def ndcg(labels: ArrayLike, scores: ArrayLike, users: ArrayLike, k: int) -> float:
    """Normalised discounted cumulative gain at k per user, mean over users with a positive; in [0, 1].

    DCG: the sum of 1 / log2(rank + 1) over the positives in the top k, divided by what the best order would
    reach (Järvelin & Kekäläinen, 2002).
    """
    owner, ranks = _positive_ranks(labels, scores, users)
    dcg = np.bincount(owner, _discounted_hits(ranks, k))
    best_ranks = np.arange(1, min(k, len(ranks)) + 1)
    ideal = np.cumsum(1 / np.log2(best_ranks + 1))
    return _mean(dcg / ideal[np.minimum(np.bincount(owner), k) - 1])


def mrr(labels: ArrayLike, scores: ArrayLike, users: ArrayLike, k: int | None = None) -> float:
    """1 / rank of a user's first positive (0 past k), mean over users with a positive; in [0, 1]."""
    owner, ranks = _positive_ranks(labels, scores, users)
    _, first = np.unique(owner, return_index=True)
    return mrr_at_k(ranks[first], k)


def recall(labels: ArrayLike, scores: ArrayLike, users: ArrayLike, k: int) -> float:
    """Share of each user's positives among the top k of the list, mean over users with a positive; in [0, 1].

    The divisor is the number of positives, also where it exceeds k.
    """
    owner, ranks = _positive_ranks(labels, scores, users)
    return _mean(np.bincount(owner, _hits(ranks, k)) / np.bincount(owner))


# ---- List-wise: the rank of one target among all items ----


def target_ranks(scores: NDArray[Any], targets: NDArray[np.integer]) -> NDArray[np.int64]:
    """1-based rank [B] of the targets [B] among scores [B, n_items]; ties rank before their target."""
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(
            f"scores [B, n_items] and targets [B] expected, got {scores.shape} and {targets.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError("scores contain NaN")
    if ((targets < 0) | (targets >= scores.shape[1])).any():
        raise ValueError(f"targets must be items 0 to {scores.shape[1] - 1}")
    target_scores = np.take_along_axis(scores, targets[:, None], axis=1)
    ranks: NDArray[np.int64] = np.count_nonzero(scores >= target_scores, axis=1).astype(np.int64)
    return ranks


def ranks_in_lists(items: NDArray[np.integer], targets: NDArray[np.integer]) -> NDArray[np.int64]:
    """1-based place [B] of the targets [B] in lists of items [B, k], best first; 0 where absent.

    Of an item that is there twice the first place counts; -1 stands for no item and is nobody's target.
    """
    items, targets = np.asarray(items), np.asarray(targets)
    if items.ndim != 2 or targets.shape != items.shape[:1]:
        raise ValueError(f"items [B, k] and targets [B] expected, got {items.shape} and {targets.shape}")
    if (targets < 0).any():
        raise ValueError("targets must be items, 0 or more")
    found = items == targets[:, None]
    before = np.count_nonzero(np.logical_and.accumulate(~found, axis=1), axis=1)
    return np.where(found.any(axis=1), before + 1, 0).astype(np.int64)


def seqrec_metrics(ranks: ArrayLike, depth: int) -> dict[str, float]:
    """Every list-wise metric of `SEQREC_METRICS` whose k is no more than `depth`, from target ranks [B].

    `depth` is how many items were ranked: all there are, or the length of the lists. A rank of 0 is a miss.
    """
    metrics = {"ndcg": ndcg_at_k, "recall": recall_at_k, "mrr": mrr_at_k}
    return {f"{name}@{k}": at_k(ranks, k) for name, at_k in metrics.items() for k in CUTS if k <= depth}


def gains_at_k(ranks: ArrayLike, k: int) -> NDArray[np.float64]:
    """1 / log2(rank + 1) of each target rank [B], 0 for a miss (rank 0, or past k): the ndcg of one target."""
    return _discounted_hits(_checked_ranks(ranks), k)


def hits_at_k(ranks: ArrayLike, k: int) -> NDArray[np.float64]:
    """1.0 for each target rank [B] from 1 to k, else 0.0: the recall of one target."""
    return _hits(_checked_ranks(ranks), k)


def ndcg_at_k(ranks: ArrayLike, k: int) -> float:
    """Mean of `gains_at_k` over target ranks [B]; in [0, 1]."""
    return _mean(gains_at_k(ranks, k))


def mrr_at_k(ranks: ArrayLike, k: int | None = None) -> float:
    """Mean of 1 / rank over target ranks [B], 0 for a miss (rank 0, or past k if given); in [0, 1]."""
    ranks = _checked_ranks(ranks)
    return _mean(_hits(ranks, k) / np.maximum(ranks, 1))


def recall_at_k(ranks: ArrayLike, k: int) -> float:
    """Share of target ranks [B] from 1 to k, also called hit rate at k; in [0, 1]."""
    return _mean(hits_at_k(ranks, k))


# ---- Ranks, gains and checks ----


def _positive_ranks(
    labels: ArrayLike, scores: ArrayLike, users: ArrayLike
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Owner and 1-based rank in the owner's list of every positive, ascending by owner, then rank.

    Owners are the users with a positive, numbered from 0.
    """
    y, s, ids = checked_rows(labels, scores, users)
    _, user, rows = np.unique(ids, return_inverse=True, return_counts=True)
    order = np.lexsort((y, -s, user))  # of equal scores, the negatives first
    user, positive = user[order], y[order] == 1
    list_start = np.cumsum(rows) - rows
    ranks = np.arange(1, len(user) + 1) - list_start[user]
    _, owner = np.unique(user[positive], return_inverse=True)
    return owner, ranks[positive]


def _hits(ranks: NDArray[np.int64], k: int | None) -> NDArray[np.float64]:
    """1.0 where a 1-based rank is within k, else 0.0."""
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    hit = ranks >= 1 if k is None else (ranks >= 1) & (ranks <= k)
    return hit.astype(np.float64)


def _discounted_hits(ranks: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """1 / log2(rank + 1) where a 1-based rank is within k, else 0.0."""
    gains: NDArray[np.float64] = _hits(ranks, k) / np.log2(np.maximum(ranks, 1) + 1)
    return gains


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def checked_rows(
    labels: ArrayLike, scores: ArrayLike, users: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    """Labels, scores and users as arrays [n], or a ValueError that says what is wrong with them."""
    y, s = _labelled(labels, scores, "scores")
    ids = np.asarray(users)
    if ids.shape != s.shape:
        raise ValueError(f"users must have shape {s.shape} like the scores, got {ids.shape}")
    return y, s, ids


def _probabilities(
    labels: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, p = _labelled(labels, probabilities, "probabilities")
    outside = np.abs(p - 0.5) > 0.5 + _SOFTMAX_SLACK
    if outside.any():
        raise ValueError(f"probabilities must lie in [0, 1], got {p[outside][0]:g}: are these logits?")
    return y, p


def _labelled(
    labels: ArrayLike, values: ArrayLike, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    v = _column(values, name)
    y = _column(labels, "labels", len(v))
    if not ((y == 0) | (y == 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {y[(y != 0) & (y != 1)][0]:g}")
    return y, v


def _column(values: ArrayLike, name: str, rows: int | None = None) -> NDArray[np.float64]:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or (rows is not None and len(column) != rows):
        raise ValueError(f"{name} must have shape ({'n' if rows is None else rows},), got {column.shape}")
    nans = np.count_nonzero(np.isnan(column))
    if nans:
        raise ValueError(f"{nans} of {len(column)} {name} are NaN")
    return column


def _checked_ranks(ranks: ArrayLike) -> NDArray[np.int64]:
    column = _column(ranks, "ranks")
    if (column < 0).any() or (column != np.floor(column)).any():
        raise ValueError("ranks must be whole numbers: 1-based, or 0 for a miss")
    return column.astype(np.int64)
