"""The judgings of a source side by side: each model's accuracy and rank in every data set made of the same events.

A split by users, a split by time and popular negatives ask different questions (docs/judging.md): their accuracies are
not comparable with each other, the order of the models is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import msgspec

from rbserve.core.variants import FP32
from rbserve.profilers.compare.points import Point
from rbserve.profilers.compare.sections import Section
from rbserve.stats.intervals import Interval


class JudgedFigure(msgspec.Struct, frozen=True):
    """A model's accuracy in a data set; `rank` counts from 1 among the models that every data set has, else None."""

    accuracy: float
    ci95: Interval | None
    rank: int | None = None


class JudgedModel(msgspec.Struct, frozen=True):
    """A model, or a baseline, and its figure in each data set of the table, None where it was not judged."""

    name: str
    is_baseline: bool
    figures: list[JudgedFigure | None]


class JudgingTable(msgspec.Struct, frozen=True):
    """Models beside the judgings of one source: `judgings[n]` is that of `datasets[n]`, the paper's first.

    `swapped[n]` is the number of pairs of models, of `pairs`, whose order differs from that in `datasets[0]`.
    """

    source: str
    task: str
    metric: str
    exclude_seen: bool
    datasets: list[str]
    judgings: list[str]
    models: list[JudgedModel]
    swapped: list[int]
    pairs: int


def judging_tables(parts: Sequence[Section]) -> list[JudgingTable]:
    """A table for each source, task and kind of list that at least two data sets of different judgings have."""
    groups: dict[bytes, dict[str, list[Section]]] = {}
    for part in parts:  # the newest section of a data set comes first
        if part.judging:
            events = (part.judging.source, part.judging.sizes, part.task, part.exclude_seen)
            groups.setdefault(msgspec.json.encode(events), {}).setdefault(part.dataset, []).append(part)
    columns = (
        {name: _of_newest_data(of_name) for name, of_name in group.items()} for group in groups.values()
    )
    return [_table(group) for group in columns if len({_title(of_name[0]) for of_name in group.values()}) > 1]


def _of_newest_data(parts: list[Section]) -> list[Section]:
    return [part for part in parts if part.dataset_fingerprint == parts[0].dataset_fingerprint]


def _title(part: Section) -> str:
    return part.judging.title if part.judging else ""


def _key(part: Section) -> tuple[str, str]:
    """Sorts judgings: the paper's first, then by name."""
    return part.judging.suffix if part.judging else "", part.dataset


def _table(group: Mapping[str, list[Section]]) -> JudgingTable:
    columns = sorted(group.values(), key=lambda parts: _key(parts[0]))
    figures = [dict(_figures(parts)) for parts in columns]
    names = dict.fromkeys(key for column in figures for key in column)
    shared = [key for key in names if all(key in column for column in figures)]
    ranked = [_ranked(column, shared) for column in figures]
    models = [
        JudgedModel(name, is_baseline, [column.get((name, is_baseline)) for column in ranked])
        for name, is_baseline in sorted(names, key=lambda key: _place(ranked, key))
    ]
    first = columns[0][0]
    return JudgingTable(
        source=first.judging.source if first.judging else "",
        task=first.task,
        metric=first.metric,
        exclude_seen=first.exclude_seen,
        datasets=[parts[0].dataset for parts in columns],
        judgings=[_title(parts[0]) for parts in columns],
        models=models,
        swapped=[_swapped(figures[0], column, shared) for column in figures],
        pairs=len(shared) * (len(shared) - 1) // 2,
    )


_Key = tuple[str, bool]  # the name of a model, and whether it is a baseline


def _figures(parts: Sequence[Section]) -> Iterator[tuple[_Key, JudgedFigure]]:
    """The accuracy of each baseline and model in the sections of a data set, of the first section that has it."""
    known: set[_Key] = set()
    for part in parts:
        for name, metrics in part.baselines.items():
            if part.metric in metrics and (name, True) not in known:
                known.add((name, True))
                yield (name, True), JudgedFigure(metrics[part.metric], None)
        judged = [point for point in part.points if point.aside is None]
        for point in sorted(judged, key=lambda point: [*FP32, point.variant].index(point.variant)):
            if (figure := _figure(point, part.metric)) and (point.name, False) not in known:
                known.add((point.name, False))
                yield (point.name, False), figure


def _figure(point: Point, metric: str) -> JudgedFigure | None:
    value = point.value(metric)
    return None if value is None else JudgedFigure(value, point.interval(metric))


def _ranked(column: Mapping[_Key, JudgedFigure], shared: Sequence[_Key]) -> dict[_Key, JudgedFigure]:
    """The figures with the ranks of the shared models; accuracies that are equal share the better rank."""
    values = [column[key].accuracy for key in shared]
    ranks = {key: 1 + sum(other > column[key].accuracy for other in values) for key in shared}
    return {key: msgspec.structs.replace(figure, rank=ranks.get(key)) for key, figure in column.items()}


def _place(ranked: Sequence[Mapping[_Key, JudgedFigure]], key: _Key) -> tuple[float, ...]:
    """Sorts models by their accuracy in the first column, then in the next ones."""
    return tuple(-column[key].accuracy if key in column else 1.0 for column in ranked)


def _swapped(
    first: Mapping[_Key, JudgedFigure], other: Mapping[_Key, JudgedFigure], shared: Sequence[_Key]
) -> int:
    """How many pairs of models stand in one order in the first column and in the opposite one in the other."""
    return sum(
        (first[a].accuracy - first[b].accuracy) * (other[a].accuracy - other[b].accuracy) < 0
        for a, b in combinations(shared, 2)
    )
