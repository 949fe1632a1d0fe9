"""The runs that a recommendation chooses from: of one data set, task, scope and number of threads, all comparable."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.tasks import TASKS
from rbserve.machine.environment import environment
from rbserve.profilers.compare.sections import comparable
from rbserve.runs.measurement import Measurement, key_here
from rbserve.runs.plan import Slate, in_order
from rbserve.stats.metrics import METRICS, metric_title


class AskedRuns(NamedTuple):
    """Comparable runs to choose from, the others with the same slate, and the metric and the slate that they share."""

    group: list[Measurement]
    others: list[list[Measurement]]
    metric: str
    slate: Slate


def asked_runs(
    runs: list[Measurement],
    slate: Slate | None,
    dataset: str | None,
    metric: str | None,
    task: str | None,
    scope: str | None,
    threads: int | None,
) -> AskedRuns:
    """The runs, one a scope, that the arguments name; an argument may be None where all runs agree in it.

    Raises UsageError for an argument that has to be given, or that no run has.
    """
    runs = _of_dataset(runs, dataset)
    runs, metric = _of_task(runs, metric, task, slate)
    runs = _of_threads(_of_scope(runs, scope), threads)
    slate = _slate(runs, slate)
    return AskedRuns(*_comparable_runs(runs, slate), metric, slate)


def _of_dataset(runs: list[Measurement], dataset: str | None) -> list[Measurement]:
    names = sorted({run.dataset for run in runs})
    if dataset is None and len(names) > 1:
        raise UsageError(
            f"the runs are of several data sets: {', '.join(names)}", f"add --dataset {names[0]}"
        )
    if dataset is not None and dataset not in names:
        raise unknown_name("data set with runs", dataset, names)
    return [run for run in runs if dataset in (None, run.dataset)]


def _of_task(
    runs: list[Measurement], metric: str | None, task: str | None, slate: Slate | None
) -> tuple[list[Measurement], str]:
    """The runs of one task, and the metric, or the paper's of that task.

    The task is the one named, else the only one that has the metric, or the slate. Two tasks are never compared, though
    both have an nDCG@10: one ranks a user's candidates, the other the catalogue.
    """
    own = {name for run in runs for name in own_names(run)}
    names = {name: None for metrics in (*METRICS.values(), sorted(own)) for name in metrics}
    if metric is not None and metric not in names:
        raise unknown_name("metric", metric, names)
    if task is not None and task not in METRICS:
        raise unknown_name("task", task, METRICS)
    dataset = runs[0].dataset
    runs = [run for run in runs if task in (None, run.task)]
    if not runs:
        raise UsageError(f"no run of {dataset} is of task {task}", f"leave out --task {task}")
    tasks = sorted(
        {
            run.task
            for run in runs
            if metric is None or metric in METRICS[run.task] or metric in own_names(run)
        }
    )
    if len(tasks) > 1 and slate is not None:
        tasks = [
            name for name in tasks if any(run.task == name and slate in slates_of([run]) for run in runs)
        ] or tasks
    if not tasks:
        raise UsageError(f"no run of {dataset} has a task with {metric}", f"leave out --metric {metric}")
    if len(tasks) > 1:
        choice = " or ".join(
            f"--task {name} ({metric_title(metric or TASKS[name].metric, name)})" for name in tasks
        )
        raise UsageError(f"the runs of {dataset} are of several tasks: {', '.join(tasks)}", f"add {choice}")
    return [run for run in runs if run.task == tasks[0]], metric or TASKS[tasks[0]].metric


def own_names(run: Measurement) -> set[str]:
    """The metrics of the user's own that a run has."""
    return {name for values in run.own_metrics.values() for name in values}


def _of_scope(runs: list[Measurement], scope: str | None) -> list[Measurement]:
    """The runs of a scope; forward, which every profile has, unless another is named or is all there is."""
    known = sorted({run.plan.scope for run in runs})
    chosen = scope or ("forward" if "forward" in known else known[0])
    if chosen not in known:
        raise unknown_name("scope with runs", chosen, known)
    return [run for run in runs if run.plan.scope == chosen]


def _of_threads(runs: list[Measurement], threads: int | None) -> list[Measurement]:
    known = sorted({run.plan.threads for run in runs})
    if threads is not None and threads not in known:
        raise UsageError(
            f"no run used {threads} threads; there are {listing(known)}", "rbserve profile --threads"
        )
    chosen = threads or known[0]
    return [run for run in runs if run.plan.threads == chosen]


def _slate(runs: Sequence[Measurement], slate: Slate | None) -> Slate:
    known = slates_of(runs)
    if slate is None:
        if len(known) > 1:
            raise UsageError(f"the runs are of several slates: {listing(known)}", f"add --slate {known[-1]}")
        return known[0]
    if slate not in known:
        first = runs[0]
        where = f"--model {first.model} --dataset {shlex.quote(first.dataset)}"
        raise UsageError(
            f"no run of {first.dataset} has slate {slate}; there are {listing(known)}",
            f"rbserve profile {where} --slates {slate}",
        )
    return slate


def slates_of(runs: Sequence[Measurement]) -> list[Slate]:
    """The slates of runs, in their order."""
    return in_order(result.slate for run in runs for result in run.results)


def _comparable_runs(
    runs: Sequence[Measurement], slate: Slate
) -> tuple[list[Measurement], list[list[Measurement]]]:
    """The runs to choose from, all comparable, and the others: this machine's first, then the newest."""
    machine = environment()

    def standing(group: list[Measurement]) -> tuple[bool, str]:
        first = group[0]
        return (first.comparability_key == key_here(first, machine), first.created)

    groups = [group for group in comparable(runs) if slate in slates_of(group)]
    # Lists without seen items are another task than lists with them: the plain ones unless there is nothing else.
    groups.sort(key=lambda group: (not group[0].plan.exclude_seen, standing(group)), reverse=True)
    return groups[0], groups[1:]


def listing(values: Sequence[Slate]) -> str:
    """Slates, or numbers of threads, one after another."""
    return ", ".join(str(value) for value in values)
