"""Models on several kinds of machines: a table with a block of columns for each kind.

Its figures come from different sections, which are never mixed: no ratio and no front is taken across two machines.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rbserve.profilers.compare.points import Point
from rbserve.profilers.compare.sections import Section
from rbserve.runs.plan import Slate
from rbserve.stats.intervals import Interval


class MachineFigures(msgspec.Struct, frozen=True):
    """Milliseconds a call of one variant at one slate on one kind of machine; `inconclusive`: they settle nothing."""

    p50_ms: float
    p50_ci95_ms: Interval | None
    p99_ms: float | None
    inconclusive: bool


class MachineRow(msgspec.Struct, frozen=True):
    """A variant of a model at a slate, with its figures on each kind of machine; None where it was not measured."""

    name: str
    variant: str
    slate: Slate
    figures: list[MachineFigures | None]


class MachineTable(msgspec.Struct, frozen=True):
    """Latencies on a data set by kind of machine: `kinds[n]` has the processor `cpus[n]` and the key of its section."""

    dataset: str
    task: str
    scope: str
    threads: int
    exclude_seen: bool
    slate_name: str
    kinds: list[str]
    cpus: list[str]
    comparability_keys: list[str]
    rows: list[MachineRow]


def machine_tables(parts: Sequence[Section]) -> list[MachineTable]:
    """A table for each data set, task, scope and number of threads that was measured on several kinds of machines."""
    groups: dict[tuple[object, ...], dict[tuple[str, str, str], Section]] = {}
    for part in parts:  # the newest section of a data set comes first
        subject = (
            part.dataset,
            part.dataset_fingerprint,
            part.task,
            part.scope,
            part.threads,
            part.exclude_seen,
        )
        machine = (part.environment.kind, part.environment.cpu, ",".join(part.environment.isa))
        groups.setdefault(subject, {}).setdefault(machine, part)
    return [
        _table([group[machine] for machine in sorted(group)]) for group in groups.values() if len(group) > 1
    ]


def _table(parts: Sequence[Section]) -> MachineTable:
    first = parts[0]
    points = [{(point.name, point.variant, point.slate): point for point in part.points} for part in parts]
    return MachineTable(
        dataset=first.dataset,
        task=first.task,
        scope=first.scope,
        threads=first.threads,
        exclude_seen=first.exclude_seen,
        slate_name=first.slate_name,
        kinds=[part.environment.kind or part.environment.cpu for part in parts],
        cpus=[part.environment.cpu for part in parts],
        comparability_keys=[part.comparability_key for part in parts],
        rows=[
            MachineRow(*key, [_figures(there.get(key)) for there in points])
            for key in dict.fromkeys(key for there in points for key in there)
        ],
    )


def _figures(point: Point | None) -> MachineFigures | None:
    if point is None:
        return None
    return MachineFigures(
        point.p50_ms, point.p50_ci95_ms, point.result.latency_ms.p99, bool(point.result.inconclusive)
    )
