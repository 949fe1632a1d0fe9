"""What a report knows: comparable points, which of them are on the front, and what the paper prints beside them.

Measurements are compared only within a section: one data set, one task, one scope, one comparability key, and
lists with or without the items the user has seen.
A point is one variant of one model at one slate. The front is, for each slate, the points no other point
beats in p50 latency or accuracy without losing in the other (the paper weighs the same two in section 5.3).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence

import msgspec

from rbserve.core.environment import Environment
from rbserve.core.errors import UsageError
from rbserve.core.measurement import Accuracy, Measurement, Result, by_scope
from rbserve.core.metrics import METRICS, Direction
from rbserve.profilers.paper import TASK_METRIC, PaperRow, paper_cautions, paper_rows

REFERENCE = "torch-fp32"

Interval = tuple[float, float]


class Point(msgspec.Struct, frozen=True):
    """One variant of one model at one slate; times are milliseconds per call.

    `on_front` is None where the accuracy is not known. `dominated_by` is the id of the most accurate front
    point that is no slower; `domination_certain` says that its intervals clear this point's in both directions.
    `p50_ms_per_candidate` is None and `slate` is k where the model ranks the catalogue.
    """

    id: str
    model: str
    group: str
    variant: str
    slate: int
    threads: int
    scope: str
    processes: int
    runs: int
    p50_ms: float
    p50_ci95_ms: Interval
    mean_ms: float
    mean_ci95_ms: Interval
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float
    p50_ms_per_candidate: float | None
    accuracy: Accuracy
    peak_rss_mb: float
    load_ms: float
    first_call_ms: float
    file_mb: float
    speedup: float | None
    on_front: bool | None
    dominated_by: str | None
    domination_certain: bool | None
    paper: PaperRow | None
    warnings: list[str]
    stages: dict[str, float] | None
    stages_check: float | None
    loaded_rss_mb: float | None
    parameters: int | None
    mflop: float | None
    moved_mb: float | None
    share_of_peak: float | None
    share_of_bandwidth: float | None

    @property
    def label(self) -> str:
        """How a sentence calls the point."""
        return f"{self.model} {self.variant}"

    def value(self, metric: str) -> float | None:
        """The accuracy called `metric`, None where it was not measured or is not defined."""
        value = self.accuracy.get(metric)
        return value if isinstance(value, float) else None

    def interval(self, metric: str) -> Interval | None:
        """The 95% interval of that accuracy."""
        value = self.accuracy.get(f"{metric}_ci95")
        return value if isinstance(value, tuple) else None


class Source(msgspec.Struct, frozen=True):
    """The run file a model's points come from, and the command that makes one like it.

    `random`: the model's weights were drawn, for its latency alone. `left_out` says of variants why they are absent.
    """

    model: str
    run: str
    created: str
    artifact_digest: str
    command: str
    random: bool
    left_out: dict[str, str]


class Section(msgspec.Struct, frozen=True):
    """What may be compared with one another."""

    id: str
    dataset: str
    dataset_fingerprint: str
    task: str
    metric: str
    scope: str
    threads: int
    comparability_key: str
    environment: Environment
    rows: int
    users: int
    slates: list[int]
    points: list[Point]
    baselines: dict[str, dict[str, float]]
    paper_column: str
    paper: list[PaperRow]
    sources: list[Source]
    notes: list[str]
    exclude_seen: bool
    paper_cautions: list[str]

    @property
    def slate_name(self) -> str:
        """What people call the size of a request: candidates scored, or items asked for."""
        return "slate" if self.task == "ctr" else "k"

    @property
    def metric_label(self) -> str:
        """The metric as the paper writes it."""
        return self.metric.upper()

    def at(self, slate: int) -> list[Point]:
        """The points of one slate, in the order of the table."""
        return [point for point in self.points if point.slate == slate]


def nondominated(rows: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[bool]:
    """Whether each row is on the front: no other is at least as good in every column and better in one.

    Equal rows stand or fall together. Raises UsageError where moocore is not installed.
    """
    if not rows:
        return []
    try:
        import moocore
    except ImportError:
        raise UsageError(
            "a report needs moocore, which is not installed", "pip install 'rbserve[report]'"
        ) from None
    maximise = [direction == "higher" for direction in directions]
    return [bool(kept) for kept in moocore.is_nondominated(rows, maximise=maximise, keep_weakly=True)]


def sections(measurements: Sequence[Measurement]) -> list[Section]:
    """Measurements sorted into what is comparable, the newest section of a data set first."""
    groups: dict[tuple[str | bool, ...], list[Measurement]] = {}
    scopes = [part for one in measurements for part in by_scope(one)]
    for one in sorted(scopes, key=lambda one: (one.created, one.id, one.plan.scope), reverse=True):
        plan = one.plan
        key = (
            one.dataset, one.task, plan.scope, plan.exclude_seen, one.comparability_key, one.dataset_fingerprint
        )  # fmt: skip
        groups.setdefault(key, []).append(one)
    ordered = sorted(groups.values(), key=lambda group: group[0].dataset)
    return [_section(f"section-{index}", group, ordered) for index, group in enumerate(ordered, 1)]


def overlap(a: Interval | None, b: Interval | None) -> bool:
    """Whether two intervals share a value; an unknown one may."""
    return a is None or b is None or (a[0] <= b[1] and b[0] <= a[1])


def _section(name: str, group: list[Measurement], groups: list[list[Measurement]]) -> Section:
    first = group[0]
    metric = TASK_METRIC[first.task]
    column, paper = paper_rows(first.task, first.dataset)
    printed = {row.model: row for row in paper}
    points = [
        point for one in sorted(group, key=_table_order) for point in _points(one, printed.get(one.model))
    ]
    slates = sorted({point.slate for point in points})
    placed = [point for slate in slates for point in _judged([p for p in points if p.slate == slate], metric)]
    return Section(
        id=name,
        dataset=first.dataset,
        dataset_fingerprint=first.dataset_fingerprint,
        task=first.task,
        metric=metric,
        scope=first.plan.scope,
        threads=first.plan.threads,
        comparability_key=first.comparability_key,
        environment=first.environment,
        rows=len(first.predictions.users),
        users=len(set(first.predictions.users)),
        slates=slates,
        points=placed,
        baselines={
            name: {key: value for key, value in figures.items() if not math.isnan(value)}
            for name, figures in first.baselines.items()
        },
        paper_column=column,
        paper=paper,
        sources=[_source(one) for one in sorted(group, key=_table_order)],
        notes=list(_notes(group, groups)),
        exclude_seen=first.plan.exclude_seen,
        paper_cautions=paper_cautions(first.task),
    )


def _table_order(measurement: Measurement) -> tuple[str, str]:
    return measurement.group, measurement.model


def _points(measurement: Measurement, printed: PaperRow | None) -> list[Point]:
    reference = {one.slate: one.latency_ms.p50 for one in measurement.results if one.variant == REFERENCE}
    return [_point(measurement, one, reference.get(one.slate), printed) for one in measurement.results]


def _point(
    measurement: Measurement, result: Result, reference_ms: float | None, printed: PaperRow | None
) -> Point:
    latency, cost = result.latency_ms, result.cost
    size = "slate" if measurement.task == "ctr" else "k"
    growth = [f"{size} {result.slate}: {warning}" for warning in result.growth_warnings]
    return Point(
        id=f"{measurement.model}/{result.variant}/{result.slate}",
        model=measurement.model,
        group=measurement.group,
        variant=result.variant,
        slate=result.slate,
        threads=result.threads,
        scope=result.scope,
        processes=result.processes,
        runs=result.n,
        p50_ms=latency.p50,
        p50_ci95_ms=latency.ci95,
        mean_ms=latency.mean,
        mean_ci95_ms=latency.mean_ci95,
        p90_ms=latency.p90,
        p99_ms=latency.p99,
        max_ms=latency.max,
        p50_ms_per_candidate=latency.p50 / result.slate if measurement.task == "ctr" else None,
        accuracy=result.accuracy,
        peak_rss_mb=result.peak_rss_mb,
        load_ms=result.load_ms,
        first_call_ms=result.first_call_ms,
        file_mb=result.file_mb,
        speedup=reference_ms / latency.p50 if reference_ms else None,
        on_front=None,
        dominated_by=None,
        domination_certain=None,
        paper=printed,
        warnings=[*result.warnings, *growth],
        stages=result.stages,
        stages_check=result.stages_check,
        loaded_rss_mb=result.loaded_rss_mb,
        parameters=cost.parameters if cost else None,
        mflop=cost.flops / 1e6 if cost else None,
        moved_mb=(cost.weight_bytes + cost.activation_bytes) / 1e6 if cost else None,
        share_of_peak=cost.share_of_peak if cost else None,
        share_of_bandwidth=cost.share_of_bandwidth if cost else None,
    )


def _judged(points: list[Point], metric: str) -> list[Point]:
    """The points of one slate, each with its place relative to the front."""
    known = [(point, value) for point in points if (value := point.value(metric)) is not None]
    kept = nondominated([(point.p50_ms, value) for point, value in known], ("lower", METRICS[metric]))
    front = [point for (point, _), keep in zip(known, kept, strict=True) if keep]
    return [_placed(point, front, metric) for point in points]


def _placed(point: Point, front: list[Point], metric: str) -> Point:
    value = point.value(metric)
    if value is None:
        return point
    if point in front:
        return msgspec.structs.replace(point, on_front=True)
    faster = [one for one in front if one.p50_ms <= point.p50_ms]
    winner = max(faster, key=lambda one: (one.value(metric) or 0.0, -one.p50_ms, one.id))
    mine, theirs = point.interval(metric), winner.interval(metric)
    certain = not overlap(point.p50_ci95_ms, winner.p50_ci95_ms) and not overlap(mine, theirs)
    return msgspec.structs.replace(point, on_front=False, dominated_by=winner.id, domination_certain=certain)


def _source(measurement: Measurement) -> Source:
    plan = measurement.plan
    slates = ",".join(str(slate) for slate in plan.slates)
    return Source(
        model=measurement.model,
        run=measurement.id,
        created=measurement.created,
        artifact_digest=measurement.artifact_digest,
        command=f"rbserve profile --model {shlex.quote(measurement.model)} "
        f"--dataset {shlex.quote(measurement.dataset)} --slates {slates} "
        f"--threads {plan.threads} --processes {plan.processes} --runs {plan.runs} --scope {plan.scope}"
        + (" --exclude-seen" if plan.exclude_seen else "")
        + (f" --test-users {plan.test_users}" if plan.test_users else "")
        + (" --weights random" if measurement.random else ""),
        random=measurement.random,
        left_out=measurement.left_out,
    )


def _notes(group: list[Measurement], groups: list[list[Measurement]]) -> Iterator[str]:
    """What keeps these points from being compared with others, or with one another."""
    for other in groups:
        if other is not group and (other[0].dataset, other[0].task) == (group[0].dataset, group[0].task):
            models = ", ".join(sorted(one.model for one in other))
            yield f"Not comparable with the section of {models}: {_difference(group[0], other[0])}."
    if len({_rows(one) for one in group}) > 1:
        yield "These models were not all scored on the same test rows: their accuracies are not comparable."
    if len({msgspec.json.encode(one.baselines) for one in group}) > 1:
        yield f"The run files disagree on the baselines; those of {group[0].id} are shown."


def _rows(measurement: Measurement) -> bytes:
    predictions = measurement.predictions
    return msgspec.json.encode((predictions.users, predictions.labels, predictions.targets))


def _difference(a: Measurement, b: Measurement) -> str:
    """In what two measurements that may not be compared differ."""
    pairs = {
        "CPU": (a.environment.cpu, b.environment.cpu),
        "instruction sets": (a.environment.isa, b.environment.isa),
        "threads": (a.plan.threads, b.plan.threads),
        "scope": (a.plan.scope, b.plan.scope),
        "seen items": tuple("left out" if one.plan.exclude_seen else "kept" for one in (a, b)),
        "data": (a.dataset_fingerprint[:12], b.dataset_fingerprint[:12]),
    }
    for name in sorted({*a.environment.libraries, *b.environment.libraries}):
        pairs[name] = (a.environment.libraries.get(name, "none"), b.environment.libraries.get(name, "none"))
    different = [f"{name} {mine} and {theirs}" for name, (mine, theirs) in pairs.items() if mine != theirs]
    return "; ".join(different) or "their comparability keys differ"
