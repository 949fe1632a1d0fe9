"""The tasks as a table: the two of the RecBench paper (section 2), and the ranking of candidates with graded labels.

All facts that differ between them stand here.

Manifests, run files and zoo rows name a task by its `name`; look it up with `TASKS[name]`. No other module compares
the name of a task: code that does one thing for a model that scores candidates and another for a model that ranks the
catalogue asks `TASKS[name].ranks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from rbserve.core.wire import RECOMMEND, SCORE

TaskName = Literal["ctr", "seqrec", "rerank"]


@dataclass(frozen=True)
class Task:
    """What a recommender is asked: to score candidates for a user, or to rank the whole catalogue (`ranks`).

    A request has a size, called `size_name`, that counts `size_unit`s: candidates scored, or items returned.
    `default_sizes` are profiled when no others are given, the smallest first, in `default_scope`.

    `metric` is the headline: the one that the paper reports, that validation maximises and that variants are chosen by.
    What else is measured is in `stats/metrics.py`; ranking metrics rank `ranked_among`.

    Test rows are called `row_name`, and the item that a row is about stands in the data set's column `item_column`.
    """

    name: TaskName
    title: str
    answers: str
    ranks: bool
    path: str
    size_name: str
    size_unit: str
    default_sizes: tuple[int, ...]
    default_scope: str
    metric: str
    ranked_among: str
    row_name: str
    item_column: str


CTR = Task(
    name="ctr",
    title="click prediction",
    answers="scores candidates",
    ranks=False,
    path=SCORE,
    size_name="slate",
    size_unit="candidate",
    default_sizes=(1, 100),
    default_scope="forward",
    metric="auc",
    ranked_among="user's candidates",
    row_name="labelled pairs",
    item_column="candidate",
)

SEQREC = Task(
    name="seqrec",
    title="next-item prediction",
    answers="recommends items of the whole catalogue",
    ranks=True,
    path=RECOMMEND,
    size_name="k",
    size_unit="item",
    default_sizes=(10,),
    default_scope="both",  # looking ids up is part of what a ranked list is for
    metric="ndcg@10",
    ranked_among="catalogue",
    row_name="sequences",
    item_column="target",
)

GRADED = replace(
    CTR,
    name="rerank",
    title="ranking of candidates",
    metric="ndcg@10",
    ranked_among="request's candidates",
    row_name="graded candidates",
)
"""Requests of a user's own table whose labels are grades: 0 for not relevant, and more."""

HIGHEST_GRADE = 30
"""Grades are short scales: the gain 2^grade - 1 of a higher one would leave nothing of the others."""

PAPER_TASKS = (CTR, SEQREC)
"""The tasks that a prepared data set has splits for, and that have a path of the API of their own."""

TASKS: Mapping[str, Task] = {task.name: task for task in (*PAPER_TASKS, GRADED)}
ACCURACIES = tuple(task.metric for task in TASKS.values())
"""The main metric of each task: what validation maximises and what a loss of accuracy is measured in."""
