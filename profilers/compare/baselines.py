"""Whether a variant is better than the best baseline of its test rows, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from rbserve.core.tasks import TASKS
from rbserve.profilers.compare.points import BaselineGap, Point
from rbserve.profilers.compare.uncertainty import Evidence, interval_of
from rbserve.runs.baselines import MODEL_BASELINES, forms_of
from rbserve.runs.measurement import Accuracy, Measurement, Result, baseline_title


def gap_below(
    judge: Measurement, run: Measurement, result: Result, metric: str, evidence: Evidence
) -> BaselineGap | None:
    """How far a result of a run is below the best baseline of `judge`, a run on the same test rows.

    None where it is above all baselines, and where there is none to compare with. A model that is a baseline itself is
    compared with the others.
    """
    own = result.accuracy.get(metric)
    levels = {name: value for name, value in levels_of(judge, metric).items() if name != run.model}
    if not isinstance(own, float) or not levels:
        return None
    best = max(levels, key=lambda name: levels[name])
    gap = own - levels[best]
    if gap > 0:
        return None
    title = baseline_title(best, forms_of(judge))
    mine, theirs = evidence.accuracy(run, result.variant, metric), evidence.baseline(judge, best, metric)
    interval = interval_of(mine - theirs) if mine is not None and theirs is not None else None
    certain = interval[1] < 0 if interval else _interval_below(result.accuracy, metric, levels[best])
    return BaselineGap(best, title, levels[best], gap, interval, certain)


def levels_of(run: Measurement, metric: str) -> dict[str, float]:
    """What each baseline of a run reaches, where it is defined."""
    known = {name: figures.get(metric, math.nan) for name, figures in run.baselines.items()}
    return {name: value for name, value in known.items() if not math.isnan(value)}


def gaps_of(run: Measurement, metric: str, evidence: Evidence | None = None) -> dict[str, BaselineGap]:
    """The gaps of a run's variants that are not above its own best baseline."""
    evidence = evidence or Evidence()
    results = {result.variant: result for result in run.results}
    gaps = {variant: gap_below(run, run, result, metric, evidence) for variant, result in results.items()}
    return {variant: gap for variant, gap in gaps.items() if gap}


def marks_of(run: Measurement) -> dict[str, str]:
    """ "below popularity" of each variant that is not above the best baseline of its run, by its headline metric."""
    return {variant: gap.mark for variant, gap in gaps_of(run, TASKS[run.task].metric).items()}


def with_gaps(points: Sequence[Point], judge: Measurement, metric: str, evidence: Evidence) -> list[Point]:
    """The points with their gaps; a point that was judged on other rows is held against its own run's baselines."""
    marked = []
    for point in points:
        own_judge = point.run if point.aside else judge
        gap = gap_below(own_judge, point.run, point.result, metric, evidence)
        marked.append(msgspec.structs.replace(point, below=gap))
    return marked


def judge_of(group: Sequence[Measurement], shared: Measurement) -> Measurement:
    """The run on the rows of `shared` that knows most of its baselines: their answers, their forms, the most baselines.

    The models of the group that are baselines too (`MODEL_BASELINES`) are among its baselines.
    """
    alike = [run for run in (shared, *group) if run.predictions.rows_key == shared.predictions.rows_key]
    judge = max(
        alike, key=lambda run: (bool(run.baseline_answers), bool(run.baseline_forms), len(run.baselines))
    )
    for run in alike:
        if run.model in MODEL_BASELINES and not run.random:
            judge = _with_model(judge, run)
    return judge


def _with_model(judge: Measurement, run: Measurement) -> Measurement:
    """The run with a model's first variant among its baselines."""
    variant, accuracy = next(((result.variant, result.accuracy) for result in run.results), ("", {}))
    known = {metric: accuracy.get(metric) for figures in judge.baselines.values() for metric in figures}
    figures = {metric: value for metric, value in known.items() if isinstance(value, float)}
    answers = run.predictions.scores or run.predictions.ranks
    if not figures or variant not in answers:
        return judge
    return msgspec.structs.replace(
        judge,
        baselines={**judge.baselines, run.model: figures},
        baseline_answers={
            **judge.baseline_answers,
            run.model: [float(answer) for answer in answers[variant]],
        },
    )


def _interval_below(accuracy: Accuracy, metric: str, level: float) -> bool:
    interval = accuracy.get(f"{metric}_ci95")
    return isinstance(interval, tuple) and interval[1] < level
