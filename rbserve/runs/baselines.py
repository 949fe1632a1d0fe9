"""Baselines: what simple models reach on the test rows, to compare accuracies with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.tasks import TASKS
from rbserve.data.dataset import CtrSplit, Dataset, SeqSplit, Split
from rbserve.runs.measurement import Measurement
from rbserve.runs.popularity import (
    ALL_LIKES,
    LAST_LIKES,
    Answers,
    Form,
    TimedRows,
    list_forms,
    pair_forms,
)
from rbserve.stats.listwise import ndcg_at_k, recall_at_k
from rbserve.stats.pairwise import auc, gauc

MODEL_BASELINES = ("itemknn",)
"""The models of the zoo that others are held against, where they were measured on the same test rows."""


class Baselines(NamedTuple):
    """The headline metrics of each baseline, its form where it has several, and its answers to the test rows.

    An answer is the score of a row's candidate, or the 1-based rank of its target, 0 where it is in no list.
    """

    figures: dict[str, dict[str, float]]
    forms: dict[str, str]
    answers: dict[str, Answers]


NO_BASELINES = Baselines({}, {}, {})


def baselines(
    dataset: Dataset,
    task: str,
    rows: NDArray[np.int64] | None = None,
    exclude_seen: bool = False,
    further: Mapping[str, Answers] | None = None,
) -> Baselines:
    """The headline metrics of each baseline on test rows of the data set: those numbered `rows`, or all.

    `popularity` counts the likes of an item in the training split. `item_mean`, of click prediction alone, is an item's
    click rate in the training rows. Each has the form that is strongest on the validation split (`runs/popularity.py`
    has the forms). `further` has the answers of other baselines to all test rows of the data set, by their names.
    """
    train, valid, test = (_timed(dataset, task, split) for split in ("train", "valid", "test"))
    if rows is not None:
        test = TimedRows(test.split.take(rows), test.times[rows])
    forms: dict[str, str] = {}
    answers: dict[str, Answers] = {}
    for name, known in _forms(train, len(dataset.items), exclude_seen).items():
        form = _strongest(known, valid, TASKS[task].metric)
        answers[name] = known[form](test)
        forms |= {name: form} if form else {}
    chosen = slice(None) if rows is None else rows
    answers |= {name: np.asarray(whole, np.float64)[chosen] for name, whole in (further or {}).items()}
    return Baselines({name: _defined(test.split, own) for name, own in answers.items()}, forms, answers)


def _defined(rows: CtrSplit | SeqSplit, answers: Answers) -> dict[str, float]:
    """The headline metrics that the rows define: no user of a log has rows of both labels, for a GAUC."""
    return {metric: value for metric, value in headline(rows, answers).items() if not math.isnan(value)}


def headline(rows: CtrSplit | SeqSplit, answers: Answers) -> dict[str, float]:
    """The headline metrics of answers float64[R] to rows, nan where the rows do not define one."""
    if isinstance(rows, SeqSplit):
        return {"ndcg@10": ndcg_at_k(answers, 10), "recall@10": recall_at_k(answers, 10)}
    return {"auc": auc(rows.labels, answers), "gauc": gauc(rows.labels, answers, rows.users)}


def forms_of(run: Measurement) -> dict[str, str]:
    """The forms of a run's baselines; of a run file from before they were chosen, those that were counted then."""
    counted = ALL_LIKES if TASKS[run.task].ranks else LAST_LIKES
    return run.baseline_forms or {name: counted for name in run.baselines if name == "popularity"}


def _timed(dataset: Dataset, task: str, split: Split) -> TimedRows:
    return TimedRows(dataset.rows(task, split), dataset.column(f"{task}/{split}", "time"))


def _forms(train: TimedRows, items: int, exclude_seen: bool) -> dict[str, dict[str, Form]]:
    """The forms of each baseline of the training rows' task; of equally strong ones the first is taken."""
    if isinstance(train.split, SeqSplit):
        return {"popularity": list_forms(train, items, exclude_seen)}
    return pair_forms(train, items)


def _strongest(forms: Mapping[str, Form], valid: TimedRows, metric: str) -> str:
    """The form with the highest metric on validation rows; the first one of equal ones."""
    reached = {name: headline(valid.split, form(valid))[metric] for name, form in forms.items()}
    return max(reached, key=lambda name: -math.inf if math.isnan(reached[name]) else reached[name])
