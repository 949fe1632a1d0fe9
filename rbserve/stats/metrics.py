"""The metrics: one row for each accuracy that a run file stores and a report shows.

A new metric is a row of CTR_METRICS, SEQREC_METRICS or GRADED_METRICS, with its function in this file, `pairwise.py`,
`listwise.py` or `graded.py`.
Run files then store it for every variant, with its interval where the row has `draws`; all tables, the front and the
JSON Schema of run files take it from here.

Conventions, the same for every metric: what cannot be computed is nan, never a made-up number, and ties never help a
model that says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbserve.core.tasks import CTR, GRADED, SEQREC
from rbserve.stats.bootstrap import RESAMPLES, auc_draws, draws_interval, gauc_draws, mean_draws
from rbserve.stats.graded import Values, graded_draws, graded_mean, mrr_values, ndcg_values, recall_values
from rbserve.stats.intervals import Interval
from rbserve.stats.listwise import gains_at_k, hits_at_k, mrr_at_k, ndcg_at_k, recall_at_k
from rbserve.stats.pairwise import (
    are_probabilities,
    auc,
    f1,
    gauc,
    gauc_unweighted,
    logloss,
    mrr,
    ndcg,
    recall,
)

Direction = Literal["higher", "lower"]
Rows = tuple[NDArray[Any], ...]
"""The test rows of a variant.

(labels [n], scores [n], users [n]) of click prediction, with (requests [n]) behind them of graded candidates, (target
ranks [B],) of lists.
"""


class Metric(NamedTuple):
    """An accuracy of a variant on its test rows.

    `compute(*rows)` is its value. `draws(*rows, resamples=, seed=)` has its value [R] in each resample of the users; a
    metric without them has no interval. `chance` is what a random order reaches: a front's hypervolume begins there.
    `in_tables`: the tables that people read have it; table.csv has every metric. `length` is how long a list it needs.
    """

    title: str
    compute: Callable[..., float]
    better: Direction = "higher"
    chance: float = 0.0
    draws: Callable[..., NDArray[np.float64]] | None = None
    in_tables: bool = False
    length: int = 0


def _gain_draws(ranks: ArrayLike, resamples: int, seed: int) -> NDArray[np.float64]:
    return mean_draws(gains_at_k(ranks, 10), resamples, seed)


def _hit_draws(ranks: ArrayLike, resamples: int, seed: int) -> NDArray[np.float64]:
    return mean_draws(hits_at_k(ranks, 10), resamples, seed)


def _of_probabilities(
    metric: Callable[..., float], labels: ArrayLike, scores: ArrayLike, _: ArrayLike
) -> float:
    """A metric of click probabilities; nan where the scores are none, such as logits or those of lambdarank."""
    return metric(labels, scores) if are_probabilities(scores) else float("nan")


# ---- The table ----

CTR_METRICS: dict[str, Metric] = {
    "auc": Metric("AUC", lambda y, p, _: auc(y, p), chance=0.5, draws=auc_draws, in_tables=True),
    "gauc": Metric("GAUC", gauc, chance=0.5, draws=gauc_draws, in_tables=True),
    "gauc_unweighted": Metric("GAUC (unweighted)", gauc_unweighted, chance=0.5),
    "logloss": Metric("logloss", partial(_of_probabilities, logloss), better="lower", in_tables=True),
    "f1": Metric("F1", partial(_of_probabilities, f1)),
    "ndcg@10": Metric(f"nDCG@10 ({CTR.ranked_among})", partial(ndcg, k=10)),
    "mrr": Metric(f"MRR ({CTR.ranked_among})", mrr),
    "recall@10": Metric(f"recall@10 ({CTR.ranked_among})", partial(recall, k=10)),
}
"""What is measured of click predictions, by name."""

CUTS = (1, 5, 10, 20, 50)  # the k of list-wise metrics
_AT_K = {
    "ndcg": ("nDCG", ndcg_at_k, _gain_draws),
    "recall": ("recall", recall_at_k, _hit_draws),
    "mrr": ("MRR", mrr_at_k, None),
}
SEQREC_METRICS: dict[str, Metric] = {
    f"{name}@{k}": Metric(
        f"{title}@{k} ({SEQREC.ranked_among})",
        partial(at_k, k=k),
        draws=draws if k == 10 else None,
        in_tables=k == 10,
        length=k,
    )
    for name, (title, at_k, draws) in _AT_K.items()
    for k in CUTS
}
"""What is measured of lists of the catalogue, by name."""

_GRADED: dict[str, tuple[str, Values]] = {
    **{f"ndcg@{k}": (f"nDCG@{k}", partial(ndcg_values, k=k)) for k in (1, 5, 10, 20)},
    "mrr": ("MRR", mrr_values),
    "recall@10": ("recall@10", partial(recall_values, k=10)),
}
GRADED_METRICS: dict[str, Metric] = {
    name: Metric(
        f"{title} ({GRADED.ranked_among})",
        partial(graded_mean, values),
        draws=partial(graded_draws, values),
        in_tables=name in (GRADED.metric, "mrr"),
    )
    for name, (title, values) in _GRADED.items()
}
"""The metrics of candidates with graded labels, by name."""

METRICS: dict[str, dict[str, Metric]] = {
    CTR.name: CTR_METRICS, SEQREC.name: SEQREC_METRICS, GRADED.name: GRADED_METRICS
}  # fmt: skip
"""The metrics of each task. Two tasks may share a name ("ndcg@10") and not its meaning: their titles differ."""

ILLEGAL_SHARE = "illegal_share"
"""Stored beside the metrics of a generating model: the share of its paths that lead to no item."""


def metric_title(metric: str, task: str) -> str:
    """How people read a metric's name: "AUC", and "nDCG@10 (catalogue)" or, of task ctr, "nDCG@10 (user's candidates)".

    A ranking of a user's few labelled candidates and one of the whole catalogue share a name, not a meaning.
    """
    if metric == ILLEGAL_SHARE:
        return "illegal paths"
    row = METRICS[task].get(metric)
    return row.title if row else metric


def better_direction(metric: str, task: str) -> Direction:
    """Whether more or less of a metric is better; of a metric of the user's own more is."""
    row = METRICS[task].get(metric)
    return row.better if row else "higher"


def measure(task: str, rows: Rows, depth: int = 0) -> dict[str, float | Interval]:
    """Every metric of a variant's test rows, then the 95% intervals over users as NAME_ci95; nan where not defined.

    `depth` is how long the lists of a list-wise model are.
    """
    metrics = {name: metric for name, metric in METRICS[task].items() if metric.length <= depth}
    values: dict[str, float | Interval] = {name: metric.compute(*rows) for name, metric in metrics.items()}
    draws = {
        name: metric.draws(*rows, resamples=RESAMPLES, seed=0)
        for name, metric in metrics.items()
        if metric.draws
    }
    return values | {f"{name}_ci95": draws_interval(resamples) for name, resamples in draws.items()}


def ctr_metrics(labels: ArrayLike, scores: ArrayLike, users: ArrayLike) -> dict[str, float]:
    """Every pair-wise metric by its name in CTR_METRICS; scores are click probabilities [n]."""
    return {name: metric.compute(labels, scores, users) for name, metric in CTR_METRICS.items()}


def seqrec_metrics(ranks: ArrayLike, depth: int) -> dict[str, float]:
    """Every list-wise metric of SEQREC_METRICS that lists of `depth` items can tell, from target ranks [B].

    `depth` is how many items were ranked: all there are, or the length of the lists. A rank of 0 is a miss.
    """
    return {name: metric.compute(ranks) for name, metric in SEQREC_METRICS.items() if metric.length <= depth}
