"""The accuracy of base and head on the same test rows: its figures, and the loss with its error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from rbserve.core.tasks import TASKS
from rbserve.profilers.gate.sides import MB, Contender, Key, Side
from rbserve.profilers.gate.verdict import Estimate, ndcg_loss, scores_loss
from rbserve.profilers.measure.inputs import Report
from rbserve.stats.metrics import Rows
from rbserve.stats.own_metrics import find_metric


def accuracy_loss(contender: Contender, key: Key) -> Estimate | None:
    """The loss of accuracy on the same rows; None where a side has no predictions of them."""
    if not contender.rows.users or not all(_has_predictions(contender, side) for side in _sides(contender)):
        return None
    base, head = (judged_rows(contender, side) for side in _sides(contender))
    if TASKS[contender.task].ranks:
        return ndcg_loss(*base, *head)
    return scores_loss(find_metric(contender.task, key.metric), base, head, contender.rows.users)


def figures(contender: Contender, key: Key) -> tuple[float | None, float | None]:
    """The figures of base and head, in the unit of the metric."""
    sides = _sides(contender)
    if key.metric == "file_size":
        return contender.base.file_bytes * MB, contender.head.file_bytes * MB
    if key.metric in ("p50", "peak_rss"):
        before, after = (float(np.median(side.observations(key))) for side in sides)
        return before, after
    metric = find_metric(contender.task, key.metric)
    before, after = (metric.compute(*judged_rows(contender, side)) for side in sides)
    return before, after


def judged_rows(contender: Contender, side: Side) -> Rows:
    """The test rows with the answers of the one process of a side that judged them."""
    ranks, scores = ([*_first(side.reports, field)] for field in ("ranks", "scores"))
    answers = (
        {"ranks": {side.variant: ranks}}
        if TASKS[contender.task].ranks
        else {"scores": {side.variant: scores}}
    )
    return msgspec.structs.replace(contender.rows, **answers).judged_rows(side.variant)


def _sides(contender: Contender) -> tuple[Side, Side]:
    return contender.base, contender.head


def _has_predictions(contender: Contender, side: Side) -> bool:
    return bool(_first(side.reports, "ranks" if TASKS[contender.task].ranks else "scores"))


def _first(reports: Iterable[Report], field: str) -> Sequence[float]:
    """The ranks or scores of the first report that has any."""
    return next((answers for report in reports if (answers := getattr(report, field))), [])
