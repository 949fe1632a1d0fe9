"""Across data sets: the same variant on several of them, as the paper's column "Overall" averages its five.

Accuracies are averaged, p50 latencies by their geometric mean. Only what was measured on every data set of the table is
in it, on one machine with the same libraries, threads and scope. A data set and its copy, shuffled or under another
name, are one: only one of the two is in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations, product

import msgspec
import numpy as np

from rbserve.profilers.compare.pareto import Point, Section, drawn, nondominated, same_data
from rbserve.profilers.compare.uncertainty import (
    Draws,
    Evidence,
    Front,
    Interval,
    as_printed,
    front_of,
    front_probabilities,
    interval_of,
)
from rbserve.runs.measurement import Measurement, by_scope, comparability_key
from rbserve.stats.metrics import METRICS, metric_title


class OverallPoint(msgspec.Struct, frozen=True):
    """One variant of one model at one slate, over the data sets of its table; `parts` are the sections' point ids.

    `warned`: a part has a warning, or its time is INCONCLUSIVE.
    """

    name: str
    model: str
    group: str
    item_form: str
    variant: str
    accuracy: float
    accuracy_ci95: Interval | None
    p50_ms: float
    p50_ci95_ms: Interval | None
    on_front: bool
    front_probability: float | None
    parts: list[str]
    warned: bool = False


class Overall(msgspec.Struct, frozen=True):
    """A task at one slate over several data sets.

    `left_out` are data sets on which too few of the variants ran, and copies; `copies` says of those of which data set.
    """

    task: str
    metric: str
    scope: str
    threads: int
    exclude_seen: bool
    slate: int
    slate_name: str
    cpu: str
    datasets: list[str]
    left_out: list[str]
    points: list[OverallPoint]
    front: Front
    copies: dict[str, str] = {}


def overalls(
    parts: Sequence[Section], measurements: Sequence[Measurement], evidence: Evidence
) -> list[Overall]:
    """A table for each task, scope and slate that at least two data sets share variants of."""
    groups: dict[tuple[object, ...], list[Section]] = {}
    for part in parts:
        machine = comparability_key(part.environment, part.threads, "")
        key = (part.task, part.scope, part.threads, part.exclude_seen, machine)
        if part.dataset not in [
            one.dataset for one in groups.get(key, [])
        ]:  # the newest of a data set comes first
            groups.setdefault(key, []).append(part)
    runs = {(run.id, run.plan.scope): run for whole in measurements for run in by_scope(whole)}
    return [
        table
        for group in groups.values()
        for slate in sorted({slate for part in group for slate in part.slates})
        if (table := _overall(group, slate, runs, evidence))
    ]


def _overall(
    group: Sequence[Section],
    slate: int,
    runs: dict[tuple[str, str], Measurement],
    evidence: Evidence,
) -> Overall | None:
    metric = group[0].metric
    known = {
        part.dataset: {
            (one.name, one.variant): one
            for one in part.at(slate)
            if one.value(metric) is not None and one.aside is None
        }
        for part in group
    }
    pairs = _copies(group, runs)
    datasets, names = _largest_table(known, pairs)
    if not datasets:
        return None
    rows = [[known[dataset][name] for dataset in datasets] for name in names]
    spots = [(_geometric([one.p50_ms for one in row]), _mean(row, metric)) for row in rows]
    latency, accuracy = _draws(rows, metric, group[0].scope, runs, evidence)
    shares = front_probabilities(latency, accuracy) if latency and accuracy else [math.nan] * len(rows)
    kept = nondominated([(ms, float(as_printed(value))) for ms, value in spots], ("lower", METRICS[metric]))
    points = [
        OverallPoint(
            name=row[0].name,
            model=row[0].model,
            group=row[0].group,
            item_form=row[0].item_form,
            variant=row[0].variant,
            accuracy=spot[1],
            accuracy_ci95=interval_of(accuracy[index]) if accuracy else None,
            p50_ms=spot[0],
            p50_ci95_ms=interval_of(latency[index]) if latency else None,
            on_front=keep,
            front_probability=None if math.isnan(share) else share,
            parts=[one.id for one in row],
            warned=any(one.warnings for one in row),
        )
        for index, (row, spot, keep, share) in enumerate(zip(rows, spots, kept, shares, strict=True))
    ]
    first = group[0]
    return Overall(
        task=first.task,
        metric=metric,
        scope=first.scope,
        threads=first.threads,
        exclude_seen=first.exclude_seen,
        slate=slate,
        slate_name=first.slate_name,
        cpu=first.environment.cpu,
        datasets=datasets,
        left_out=[part.dataset for part in group if part.dataset not in datasets],
        points=sorted(points, key=lambda one: (one.group, one.name, one.variant)),
        front=front_of(slate, metric, spots, latency, accuracy),
        copies={
            part.dataset: kept
            for part in group
            for kept in datasets
            if part.dataset not in datasets and frozenset((part.dataset, kept)) in pairs
        },
    )


def _copies(group: Sequence[Section], runs: dict[tuple[str, str], Measurement]) -> set[frozenset[str]]:
    """The pairs of data sets, by name, that hold the same likes."""
    measured = {part.dataset: [runs[source.run, part.scope] for source in part.sources] for part in group}
    return {
        frozenset((first, second))
        for first, second in combinations(measured, 2)
        if any(same_data(one, other) for one, other in product(measured[first], measured[second]))
    }


def _largest_table(
    known: dict[str, dict[tuple[str, str], Point]], copies: Collection[frozenset[str]]
) -> tuple[list[str], list[tuple[str, str]]]:
    """The data sets, two at least and no copies, and the variants on all of them that make the table of most cells."""
    best: tuple[int, int, list[str], list[tuple[str, str]]] = (0, 0, [], [])
    for size in range(2, len(known) + 1):
        for some in combinations(known, size):
            if any(frozenset(pair) in copies for pair in combinations(some, 2)):
                continue
            shared = [name for name in known[some[0]] if all(name in known[one] for one in some)]
            if shared and (size * len(shared), size) > best[:2]:
                best = (size * len(shared), size, list(some), shared)
    return best[2], best[3]


def _draws(
    rows: Sequence[Sequence[Point]],
    metric: str,
    scope: str,
    runs: dict[tuple[str, str], Measurement],
    evidence: Evidence,
) -> tuple[list[Draws] | None, list[Draws] | None]:
    """Geometric means of latency and means of accuracy [R] of each row, None where one has no draws."""
    latency: list[Draws | None] = []
    accuracy: list[Draws | None] = []
    for row in rows:
        own = [(runs[one.run, scope], one) for one in row]
        times = drawn([evidence.latency(run, one.variant, one.slate) for run, one in own])
        values = drawn([evidence.accuracy(run, one.variant, metric) for run, one in own])
        latency.append(np.exp(np.mean(np.log(times), axis=0)) if times else None)
        accuracy.append(np.mean(values, axis=0) if values else None)
    return drawn(latency), drawn(accuracy)


def notes(table: Overall) -> Iterator[str]:
    """What a reader of the table has to know."""
    yield (
        f"Mean {metric_title(table.metric, table.task)} and geometric mean of p50 over {', '.join(table.datasets)}; "
        "what was not measured on each of them is not in it."
    )
    few = [name for name in table.left_out if name not in table.copies]
    if few:
        yield f"Left out, for sharing too few variants with them: {', '.join(few)}."
    for name, kept in table.copies.items():
        yield f"Left out, for being a copy: {name} holds the same users' likes as {kept}, and counts once."


def _geometric(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def _mean(row: Sequence[Point], metric: str) -> float:
    return sum(one.value(metric) or 0.0 for one in row) / len(row)
