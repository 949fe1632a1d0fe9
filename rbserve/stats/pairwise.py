"""Pair-wise accuracy: one row per (user, candidate) with a 0/1 label and a score (RecBench, section 4.2).

In AUC a tie is half a win; in every ranking metric ties go *against* the model, so that constant scores gain nothing
and the order of rows never matters. What cannot be computed (no row, a single class, no user with a positive) is nan;
bad input (NaN, unequal lengths, labels other than 0 and 1) is a ValueError.

Shapes: n rows of U distinct users. Rows need no order: users may be interleaved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbserve.stats.listwise import checked_column, gains_at_k, hits_at_k, mean, mrr_at_k

EPS = 1e-7  # log-loss clips to [EPS, 1 - EPS]: about the smallest for which 1 - EPS is not 1 in float32
_SOFTMAX_SLACK = 1e-6  # a float32 softmax may leave [0, 1] by a rounding error; a logit leaves it by far more


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Probability that a random positive outscores a random negative, ties counting half; in [0, 1].

    The Mann-Whitney form of the area under the ROC curve. `weights` [n] are non-negative and count a row
    that many times. Nan without (positively weighted) rows of both labels.
    """
    y, s = _labelled(labels, scores, "scores")
    w = np.ones_like(s) if weights is None else checked_column(weights, "weights", len(s))
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
    return mean(user_aucs[~np.isnan(user_aucs)])


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


# ---- Calibration and decision ----


def logloss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean binary cross-entropy in nats, >= 0; probabilities are clipped to [EPS, 1 - EPS] first."""
    y, p = _probabilities(labels, probabilities)
    p = np.clip(p, EPS, 1 - EPS)
    return mean(-(y * np.log(p) + (1 - y) * np.log1p(-p)))


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


# ---- The ranking of each user's candidate list ----


def ndcg(labels: ArrayLike, scores: ArrayLike, users: ArrayLike, k: int) -> float:
    """Normalised discounted cumulative gain at k per user, mean over users with a positive; in [0, 1].

    DCG: the sum of 1 / log2(rank + 1) over the positives in the top k, divided by what the best order would
    reach (Järvelin & Kekäläinen, 2002).
    """
    owner, ranks = _positive_ranks(labels, scores, users)
    dcg = np.bincount(owner, gains_at_k(ranks, k))
    best_ranks = np.arange(1, min(k, len(ranks)) + 1)
    ideal = np.cumsum(1 / np.log2(best_ranks + 1))
    return mean(dcg / ideal[np.minimum(np.bincount(owner), k) - 1])


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
    return mean(np.bincount(owner, hits_at_k(ranks, k)) / np.bincount(owner))


# ---- Ranks and checks ----


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


def checked_rows(
    labels: ArrayLike, scores: ArrayLike, users: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    """Labels, scores and users as arrays [n], or a ValueError that says what is wrong with them."""
    y, s = _labelled(labels, scores, "scores")
    ids = np.asarray(users)
    if ids.shape != s.shape:
        raise ValueError(f"users must have shape {s.shape} like the scores, got {ids.shape}")
    return y, s, ids


def are_probabilities(scores: ArrayLike) -> bool:
    """Whether all scores [n] lie in [0, 1], but for the rounding error of a float32 softmax."""
    values = np.asarray(scores, np.float64)
    return bool((np.abs(values - 0.5) <= 0.5 + _SOFTMAX_SLACK).all())


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
    v = checked_column(values, name)
    y = checked_column(labels, "labels", len(v))
    if not ((y == 0) | (y == 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {y[(y != 0) & (y != 1)][0]:g}")
    return y, v
