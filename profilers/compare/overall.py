"""Across data sets: the same variant on several of them, as the paper's column "Overall" averages its five.

Accuracies are averaged, p50 latencies by their geometric mean. Only what was measured on every data set of the table is
in it, on one machine with the same libraries, threads and scope, and with the same judging (`data.judging`). A data set
and its copy, shuffled or under another name, are one: only one of the two is in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations, product

import msgspec
import numpy as np

from rbserve.profilers.compare.front import Front, as_printed, front_of, front_probabilities, nondominated
from rbserve.profilers.compare.points import Point
from rbserve.profilers.compare.sections import Section, same_data
from rbserve.profilers.compare.uncertainty import Draws, Evidence, all_or_none, interval_of
from rbserve.runs.measurement import comparability_key
from rbserve.runs.plan import Slate, in_order
from rbserve.stats.intervals import Interval
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

    `left_out` are the data sets that are copies, or on which too few of the variants ran; `copies` has the original of
    each copy.
    """

    task: str
    metric: str
    scope: str
    threads: int
    exclude_seen: bool
    slate: Slate
    slate_name: str
    cpu: str
    datasets: list[str]
    left_out: list[str]
    points: list[OverallPoint]
    front: Front
    copies: dict[str, str] = {}


def overalls(parts: Sequence[Section], evidence: Evidence) -> list[Overall]:
    """A table for each task, scope and slate that at least two data sets share variants of."""
    groups: dict[tuple[object, ...], dict[str, Section]] = {}
    for part in parts:  # the newest section of a data set comes first
        machine = comparability_key(part.environment, part.threads, "")
        judging = part.judging.suffix if part.judging else ""
        key = (part.task, part.scope, part.threads, part.exclude_seen, machine, judging)
        groups.setdefault(key, {}).setdefault(part.dataset, part)
    return [
        table
        for group in groups.values()
        for slate in in_order(slate for part in group.values() for slate in part.slates)
        if (table := _overall([*group.values()], slate, evidence))
    ]


def _overall(group: Sequence[Section], slate: Slate, evidence: Evidence) -> Overall | None:
    first, metric = group[0], group[0].metric
    judged = {part.dataset: _judged(part, slate) for part in group}
    copies = _copies(group)
    datasets, names = _largest_table(judged, copies)
    if not datasets:
        return None
    rows = [[judged[dataset][name] for dataset in datasets] for name in names]
    points, front = _points(rows, slate, metric, evidence)
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
        points=sorted(points, key=lambda point: (point.group, point.name, point.variant)),
        front=front,
        copies={
            part.dataset: twin
            for part in group
            for twin in datasets
            if part.dataset not in datasets and frozenset((part.dataset, twin)) in copies
        },
    )


def _judged(part: Section, slate: Slate) -> dict[tuple[str, str], Point]:
    """The points of a slate whose accuracy may be compared, by model and variant."""
    return {
        (point.name, point.variant): point
        for point in part.at(slate)
        if point.value(part.metric) is not None and point.aside is None
    }


def _points(
    rows: Sequence[Sequence[Point]], slate: Slate, metric: str, evidence: Evidence
) -> tuple[list[OverallPoint], Front]:
    """A point for each row of points of one variant, one a data set; and the front of all."""
    table = METRICS[rows[0][0].run.task][metric]
    spots = [(_geometric([point.p50_ms for point in row]), _mean(row, metric)) for row in rows]
    latency, accuracy = _draws(rows, metric, evidence)
    shares = front_probabilities(latency, accuracy) if latency and accuracy else [math.nan] * len(rows)
    kept = nondominated([(ms, float(as_printed(value))) for ms, value in spots], ("lower", table.better))
    points = [
        OverallPoint(
            name=row[0].name,
            model=row[0].model,
            group=row[0].run.group,
            item_form=row[0].run.item_form,
            variant=row[0].variant,
            accuracy=spot[1],
            accuracy_ci95=interval_of(accuracy[index]) if accuracy else None,
            p50_ms=spot[0],
            p50_ci95_ms=interval_of(latency[index]) if latency else None,
            on_front=keep,
            front_probability=None if math.isnan(share) else share,
            parts=[point.id for point in row],
            warned=any(point.warnings for point in row),
        )
        for index, (row, spot, keep, share) in enumerate(zip(rows, spots, kept, shares, strict=True))
    ]
    return points, front_of(slate, table.chance, spots, latency, accuracy)


def _copies(group: Sequence[Section]) -> set[frozenset[str]]:
    """The pairs of data sets, by name, that hold the same likes."""
    runs = {part.dataset: {point.run.id: point.run for point in part.points} for part in group}
    return {
        frozenset((first, second))
        for first, second in combinations(runs, 2)
        if any(same_data(a, b) for a, b in product(runs[first].values(), runs[second].values()))
    }


def _largest_table(
    judged: dict[str, dict[tuple[str, str], Point]], copies: Collection[frozenset[str]]
) -> tuple[list[str], list[tuple[str, str]]]:
    """The data sets, two at least and no copies, and the variants on all of them that make the table of most cells."""
    best: tuple[int, int, list[str], list[tuple[str, str]]] = (0, 0, [], [])
    for size in range(2, len(judged) + 1):
        for datasets in combinations(judged, size):
            if any(frozenset(pair) in copies for pair in combinations(datasets, 2)):
                continue
            shared = [
                name for name in judged[datasets[0]] if all(name in judged[other] for other in datasets)
            ]
            if shared and (size * len(shared), size) > best[:2]:
                best = (size * len(shared), size, list(datasets), shared)
    return best[2], best[3]


def _draws(
    rows: Sequence[Sequence[Point]], metric: str, evidence: Evidence
) -> tuple[list[Draws] | None, list[Draws] | None]:
    """Geometric means of latency and means of accuracy [R] of each row; None where a point has no draws."""
    latency: list[Draws | None] = []
    accuracy: list[Draws | None] = []
    for row in rows:
        times = all_or_none([evidence.latency(point.run, point.variant, point.slate) for point in row])
        values = all_or_none([evidence.accuracy(point.run, point.variant, metric) for point in row])
        latency.append(np.exp(np.mean(np.log(times), axis=0)) if times else None)
        accuracy.append(np.mean(values, axis=0) if values else None)
    return all_or_none(latency), all_or_none(accuracy)


def notes(table: Overall) -> Iterator[str]:
    """Sentences below a table: what its figures are means of, and which data sets are left out."""
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
    return sum(point.value(metric) or 0.0 for point in row) / len(row)
