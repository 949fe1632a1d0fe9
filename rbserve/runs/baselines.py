"""Baselines that know items but no user, to compare accuracies with."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.tasks import CTR, SEQREC, TASKS
from rbserve.data.dataset import CtrSplit, Dataset, SeqSplit
from rbserve.runs.measurement import Measurement
from rbserve.stats.listwise import ndcg_at_k, recall_at_k
from rbserve.stats.pairwise import auc, gauc

PRIOR_ROWS = 5
LAST_LIKES = "last likes"
ALL_LIKES = "all likes"

Counts = NDArray[np.float64]


class Baselines(NamedTuple):
    """The headline metrics of each baseline, and its form where a baseline has several."""

    figures: dict[str, dict[str, float]]
    forms: dict[str, str]


def baselines(dataset: Dataset, test: CtrSplit | SeqSplit, exclude_seen: bool = False) -> Baselines:
    """The headline metrics, on test rows of the data set, of scores that are the same for every user.

    `popularity` counts the likes of an item in the training split, in the form that is stronger on the validation
    split: those that training rows ask about (`LAST_LIKES`), or those in their histories as well (`ALL_LIKES`).
    `item_mean`, of click prediction alone, is an item's click rate in the training rows, drawn towards the overall
    rate by PRIOR_ROWS rows.
    """
    if isinstance(test, CtrSplit):
        form, counts = _stronger_pair_wise(dataset)
        scores = {"popularity": counts, "item_mean": _click_rate(dataset.ctr("train"), len(dataset.items))}
        return Baselines(
            {name: _pair_wise(score, test) for name, score in scores.items()}, {"popularity": form}
        )
    form, counts = _stronger_list_wise(dataset, exclude_seen)
    return Baselines({"popularity": _list_wise(counts, test, exclude_seen)}, {"popularity": form})


def forms_of(run: Measurement) -> dict[str, str]:
    """The forms of a run's baselines; of a run file from before they were chosen, those that were counted then."""
    counted = ALL_LIKES if TASKS[run.task].ranks else LAST_LIKES
    return run.baseline_forms or {name: counted for name in run.baselines if name == "popularity"}


def popularity_ranks(counts: Counts, test: SeqSplit, exclude_seen: bool) -> NDArray[np.int64]:
    """1-based rank int64[R] of each target by counts [n_items]; ties rank before their target.

    `exclude_seen` leaves the items of the row's history out of its list; a target among them has rank 0.
    """
    ranks = len(counts) - np.searchsorted(np.sort(counts), counts[test.targets])
    if exclude_seen:
        for row, target in enumerate(test.targets):
            seen = np.unique(test.histories[row])
            left_out = np.count_nonzero(counts[seen] >= counts[target])
            ranks[row] = 0 if target in seen else ranks[row] - left_out
    return ranks


# ---- Which form of popularity ----


def _stronger_pair_wise(dataset: Dataset) -> tuple[str, Counts]:
    train, valid = dataset.ctr("train"), dataset.ctr("valid")
    last = np.bincount(train.candidates, train.labels, len(dataset.items)).astype(np.float64)
    forms = {LAST_LIKES: last, ALL_LIKES: last + _longest_histories(train, len(dataset.items))}
    return _strongest(forms, {form: _pair_wise(counts, valid)[CTR.metric] for form, counts in forms.items()})


def _stronger_list_wise(dataset: Dataset, exclude_seen: bool) -> tuple[str, Counts]:
    train, valid = dataset.seqrec("train"), dataset.seqrec("valid")
    items = len(dataset.items)
    last = np.bincount(train.targets, minlength=items).astype(np.float64)
    forms = {ALL_LIKES: last + np.bincount(train.histories.values, minlength=items), LAST_LIKES: last}
    reached = {form: _list_wise(counts, valid, exclude_seen)[SEQREC.metric] for form, counts in forms.items()}
    return _strongest(forms, reached)


def _strongest(forms: dict[str, Counts], reached: dict[str, float]) -> tuple[str, Counts]:
    """The form with the highest validation metric; the first one of equal ones."""
    form = max(forms, key=lambda name: -math.inf if math.isnan(reached[name]) else reached[name])
    return form, forms[form]


def _longest_histories(train: CtrSplit, items: int) -> Counts:
    """How often each item stands in the training users' histories, the longest one of each user."""
    order = np.lexsort((train.histories.lengths, train.users))
    last_of_user = np.append(np.diff(train.users[order]) > 0, True)[: len(order)]
    histories = train.histories.take(np.sort(order[last_of_user]))
    return np.bincount(histories.values, minlength=items).astype(np.float64)


# ---- What a score reaches ----


def _pair_wise(score: Counts, rows: CtrSplit) -> dict[str, float]:
    of_rows = score[rows.candidates]
    return {"auc": auc(rows.labels, of_rows), "gauc": gauc(rows.labels, of_rows, rows.users)}


def _list_wise(counts: Counts, rows: SeqSplit, exclude_seen: bool) -> dict[str, float]:
    ranks = popularity_ranks(counts, rows, exclude_seen)
    return {"ndcg@10": ndcg_at_k(ranks, 10), "recall@10": recall_at_k(ranks, 10)}


def _click_rate(train: CtrSplit, items: int) -> Counts:
    clicks = np.bincount(train.candidates, weights=train.labels, minlength=items)
    shown = np.bincount(train.candidates, minlength=items)
    rate: Counts = (clicks + PRIOR_ROWS * train.labels.mean()) / (shown + PRIOR_ROWS)
    return rate
