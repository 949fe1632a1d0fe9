"""What a report knows: comparable points, which of them are on the front, and what the paper prints beside them.

Measurements are compared only within a section: one data set, one task, one scope, one comparability key, and
lists with or without the items the user has seen.
A point is one variant of one model at one slate. The front is, for each slate, the points no other point
beats in p50 latency or accuracy without losing in the other (the paper weighs the same two in section 5.3). Accuracies
that are equal at the four printed digits are equal: of three variants of one AUC only the fastest is on the front.
How sure that is, is the share of resamples in which a point is on it (`uncertainty.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product

import msgspec
import numpy as np

from rbserve.core.tasks import TASKS
from rbserve.core.variants import REFERENCE, find_variant
from rbserve.data.similarity import is_copy
from rbserve.home.commands import command
from rbserve.machine.environment import Environment
from rbserve.profilers.baselines import forms_of
from rbserve.profilers.compare.paper import PaperRow, paper_cautions, paper_rows
from rbserve.profilers.compare.students import Lesson, Seen, lesson
from rbserve.profilers.compare.uncertainty import (
    Draws,
    Evidence,
    Front,
    as_printed,
    front_of,
    front_probabilities,
    nondominated_rows,
)
from rbserve.runs.changes import changed, display_name
from rbserve.runs.measurement import WARM, Accuracy, Measurement, Result, baseline_title, by_scope
from rbserve.stats.metrics import METRICS, Direction, metric_title

INCONCLUSIVE = "INCONCLUSIVE"

Interval = tuple[float, float]


class Point(msgspec.Struct, frozen=True):
    """One variant of one model at one slate; times are milliseconds per call.

    `on_front` is None where the accuracy is not known. `dominated_by` is the id of the most accurate front
    point that is no slower; `domination_certain` says that its intervals clear this point's in both directions.
    `p50_ms_per_candidate` is None and `slate` is k where the model ranks the catalogue. `name` is the model and what
    was `changed` of its row's config. `front_probability` is the share of resamples in which the point is on the front,
    null where the run kept no raw samples. `aside` says why an accuracy is not to be compared with the others'.
    `lesson` holds a distilled model against its teacher. `warm_p50_ms` is that of users who are remembered.
    """

    id: str
    model: str
    name: str
    changed: dict[str, str]
    item_form: str
    runtime: str
    precision: str
    run: str
    users: int
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
    front_probability: float | None
    aside: str | None
    paper: PaperRow | None
    warnings: list[str]
    stages: dict[str, float] | None
    stages_check: float | None = None
    loaded_rss_mb: float | None = None
    parameters: int | None = None
    mflop: float | None = None
    moved_mb: float | None = None
    share_of_peak: float | None = None
    share_of_bandwidth: float | None = None
    overhead_us: float | None = None
    energy_mj: float | None = None
    lesson: Lesson | None = None
    warm_p50_ms: float | None = None
    warm_p50_ci95_ms: Interval | None = None

    @property
    def label(self) -> str:
        """How a sentence calls the point."""
        return f"{self.name} {self.variant}"

    @property
    def inconclusive(self) -> bool:
        """Whether the machine was disturbed, or the times unsteady, so that this latency settles nothing."""
        return any(warning.startswith(INCONCLUSIVE) for warning in self.warnings)

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
    `changed`: the options of its row's config that were not the row's.
    """

    model: str
    name: str
    changed: dict[str, str]
    run: str
    created: str
    artifact_digest: str
    command: str
    random: bool
    left_out: dict[str, str]


class Section(msgspec.Struct, frozen=True):
    """What may be compared with one another. `baseline_forms` says which form of a baseline its figures are of."""

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
    fronts: list[Front]
    baseline_forms: dict[str, str] = {}

    @property
    def slate_name(self) -> str:
        """What people call the size of a request: candidates scored, or items asked for."""
        return TASKS[self.task].size_name

    @property
    def metric_label(self) -> str:
        """The metric as people read it, its ranking among what it ranks: "nDCG@10 (catalogue)"."""
        return metric_title(self.metric, self.task)

    def baseline_title(self, name: str) -> str:
        """A baseline with its form: "popularity (last likes)"."""
        return baseline_title(name, self.baseline_forms)

    def at(self, slate: int) -> list[Point]:
        """The points of one slate, in the order of the table."""
        return [point for point in self.points if point.slate == slate]


def nondominated(rows: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[bool]:
    """Whether each row is on the front: no other is at least as good in every column and better in one.

    Equal rows stand or fall together. Raises UsageError where moocore is not installed.
    """
    if not rows:
        return []
    maximise = [direction == "higher" for direction in directions]
    return [bool(kept) for kept in nondominated_rows(np.array(rows, np.float64), maximise)]


def sections(measurements: Sequence[Measurement], evidence: Evidence | None = None) -> list[Section]:
    """Measurements sorted into what is comparable, the newest section of a data set first."""
    ordered = comparable(measurements)
    known = evidence or Evidence()
    return [_section(f"section-{index}", group, ordered, known) for index, group in enumerate(ordered, 1)]


def comparable(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """The measurements of every section, one scope each; the newest first, in it and of a data set's sections."""
    groups: dict[tuple[str | bool, ...], list[Measurement]] = {}
    scopes = [part for one in measurements for part in by_scope(one)]
    for one in sorted(
        scopes, key=lambda one: (one.created, one.id, one.plan.scope != WARM, one.plan.scope), reverse=True
    ):
        plan = one.plan
        key = (
            one.dataset, one.task, plan.scope, plan.exclude_seen, one.comparability_key, one.dataset_fingerprint
        )  # fmt: skip
        groups.setdefault(key, []).append(one)
    return sorted(groups.values(), key=lambda group: group[0].dataset)


def same_data(one: Measurement, other: Measurement) -> bool:
    """Whether two runs are of the same data, shuffled or under another name: fingerprints equal, or sketches alike."""
    return one.dataset_fingerprint == other.dataset_fingerprint or is_copy(one.data_sketch, other.data_sketch)


def overlap(a: Interval | None, b: Interval | None) -> bool:
    """Whether two intervals share a value; an unknown one may."""
    return a is None or b is None or (a[0] <= b[1] and b[0] <= a[1])


def _section(
    name: str, group: list[Measurement], groups: list[list[Measurement]], evidence: Evidence
) -> Section:
    first = group[0]
    metric = TASKS[first.task].metric
    column, paper = paper_rows(first.task, first.dataset)
    printed = {row.model: row for row in paper}
    ordered = sorted(group, key=_table_order)
    shared = shared_rows(group)
    judge = _judge(group, shared)
    points = [point for one in ordered for point in _points(one, printed.get(one.model), aside(one, shared))]
    slates = sorted({point.slate for point in points})
    runs = {one.id: one for one in group}
    judged = [
        _judged(slate, [p for p in points if p.slate == slate], metric, runs, evidence) for slate in slates
    ]
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
        rows=len(shared.predictions.users),
        users=len(set(shared.predictions.users)),
        slates=slates,
        points=_with_lessons([point for placed, _ in judged for point in placed], runs, metric, evidence),
        baselines={
            name: {key: value for key, value in figures.items() if not math.isnan(value)}
            for name, figures in judge.baselines.items()
        },
        paper_column=column,
        paper=paper,
        sources=[_source(one) for one in ordered],
        notes=list(_notes(group, groups, shared, judge)),
        exclude_seen=first.plan.exclude_seen,
        paper_cautions=paper_cautions(first.task),
        fronts=[front for _, front in judged],
        baseline_forms=forms_of(judge),
    )


def shared_rows(group: Sequence[Measurement]) -> Measurement:
    """A run on the test rows that most runs of a group share, and of equally many the most rows."""
    counts = Counter(_rows(one) for one in group if not one.random)
    judged = [one for one in group if not one.random] or group
    return max(judged, key=lambda one: (counts[_rows(one)], len(one.predictions.users)))


def _judge(group: Sequence[Measurement], shared: Measurement) -> Measurement:
    """The run whose baselines are shown: one that chose their forms on validation, if there is one on those rows."""
    alike = [run for run in (shared, *group) if _rows(run) == _rows(shared)]
    return next((run for run in alike if run.baseline_forms), shared)


def aside(measurement: Measurement, shared: Measurement) -> str | None:
    """Why a run's accuracy is not to be compared with that of the rows which most runs share."""
    if measurement.random or _rows(measurement) == _rows(shared):
        return None
    mine, others = (len(set(one.predictions.users)) for one in (measurement, shared))
    if measurement.plan.test_users:
        return f"judged on {mine:,} test users drawn at random, the others on {others:,}"
    return f"judged on other test rows ({mine:,} users) than the others ({others:,})"


def _table_order(measurement: Measurement) -> tuple[str, str]:
    return measurement.group, display_name(measurement)


def _points(measurement: Measurement, printed: PaperRow | None, aside: str | None) -> list[Point]:
    reference = {one.slate: one.latency_ms.p50 for one in measurement.results if one.variant == REFERENCE}
    return [_point(measurement, one, reference.get(one.slate), printed, aside) for one in measurement.results]


def _point(
    measurement: Measurement,
    result: Result,
    reference_ms: float | None,
    printed: PaperRow | None,
    aside: str | None,
) -> Point:
    latency, cost, name = result.latency_ms, result.cost, display_name(measurement)
    variant = find_variant(result.variant)
    size = f"{TASKS[measurement.task].size_name} {result.slate}"
    growth = [f"{size}: {warning}" for warning in result.growth_warnings]
    unsettled = [f"{INCONCLUSIVE}: {reason}" for reason in result.inconclusive]
    return Point(
        id=f"{name}/{result.variant}/{result.slate}",
        model=measurement.model,
        name=name,
        changed=changed(measurement),
        item_form=measurement.item_form,
        runtime=variant.runtime,
        precision=variant.precision,
        run=measurement.id,
        users=len(set(measurement.predictions.users)),
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
        p50_ms_per_candidate=None if TASKS[measurement.task].ranks else latency.p50 / result.slate,
        accuracy=result.accuracy,
        peak_rss_mb=result.peak_rss_mb,
        load_ms=result.load_ms,
        first_call_ms=result.first_call_ms,
        file_mb=result.file_mb,
        speedup=reference_ms / latency.p50 if reference_ms else None,
        on_front=None,
        dominated_by=None,
        domination_certain=None,
        front_probability=None,
        aside=aside,
        paper=printed,
        warnings=[*result.warnings, *unsettled, *growth],
        stages=result.stages,
        stages_check=result.stages_check,
        loaded_rss_mb=result.loaded_rss_mb,
        parameters=cost.parameters if cost else None,
        mflop=cost.flops / 1e6 if cost else None,
        moved_mb=(cost.weight_bytes + cost.activation_bytes) / 1e6 if cost else None,
        share_of_peak=cost.share_of_peak if cost else None,
        share_of_bandwidth=cost.share_of_bandwidth if cost else None,
        overhead_us=result.overhead_us,
        energy_mj=result.energy_mj,
        warm_p50_ms=result.warm_ms.p50 if result.warm_ms else None,
        warm_p50_ci95_ms=result.warm_ms.ci95 if result.warm_ms else None,
    )


def _judged(
    slate: int, points: list[Point], metric: str, runs: dict[str, Measurement], evidence: Evidence
) -> tuple[list[Point], Front]:
    """The points of one slate, each with its place relative to the front, and the front as a whole."""
    known = [p for p in points if p.value(metric) is not None and p.aside is None]
    spots = [(point.p50_ms, point.value(metric) or 0.0) for point in known]
    kept = nondominated([(ms, float(as_printed(value))) for ms, value in spots], ("lower", METRICS[metric]))
    front = [point for point, keep in zip(known, kept, strict=True) if keep]
    latency = drawn([evidence.latency(runs[p.run], p.variant, slate) for p in known])
    accuracy = drawn([evidence.accuracy(runs[p.run], p.variant, metric) for p in known])
    shares: dict[str, float | None] = {}
    if latency and accuracy:
        found = front_probabilities(latency, accuracy)
        shares = {p.id: None if math.isnan(share) else share for p, share in zip(known, found, strict=True)}
    placed = [
        msgspec.structs.replace(_placed(point, front, metric), front_probability=shares.get(point.id))
        for point in points
    ]
    return placed, front_of(slate, metric, spots, latency, accuracy)


def _with_lessons(
    points: list[Point], runs: dict[str, Measurement], metric: str, evidence: Evidence
) -> list[Point]:
    """The points, those of students beside their teachers."""
    rows = {name: _rows(run) for name, run in runs.items()}
    seen = [Seen(p.run, p.variant, p.slate, p.p50_ms, p.value(metric), rows[p.run]) for p in points]
    return [
        msgspec.structs.replace(point, lesson=lesson(one, seen, runs, metric, evidence))
        for point, one in zip(points, seen, strict=True)
    ]


def drawn(draws: Sequence[Draws | None]) -> list[Draws] | None:
    """The draws where there are some of all; else None: what is not drawn would always win, or never."""
    found = [one for one in draws if one is not None]
    return found if found and len(found) == len(draws) else None


def _placed(point: Point, front: list[Point], metric: str) -> Point:
    if point.value(metric) is None or point.aside:
        return point
    if point in front:
        return msgspec.structs.replace(point, on_front=True)
    faster = [one for one in front if one.p50_ms <= point.p50_ms]
    winner = max(faster, key=lambda one: (float(as_printed(one.value(metric) or 0.0)), -one.p50_ms, one.id))
    mine, theirs = point.interval(metric), winner.interval(metric)
    certain = not overlap(point.p50_ci95_ms, winner.p50_ci95_ms) and not overlap(mine, theirs)
    return msgspec.structs.replace(point, on_front=False, dominated_by=winner.id, domination_certain=certain)


def _source(measurement: Measurement) -> Source:
    return Source(
        model=measurement.model,
        name=display_name(measurement),
        changed=changed(measurement),
        run=measurement.id,
        created=measurement.created,
        artifact_digest=measurement.artifact_digest,
        command=command(measurement),
        random=measurement.random,
        left_out=measurement.left_out | measurement.failed,
    )


def _notes(
    group: list[Measurement], groups: list[list[Measurement]], shared: Measurement, judge: Measurement
) -> Iterator[str]:
    """What keeps these points from being compared with others, or with one another."""
    for other in groups:
        if other is not group and (other[0].dataset, other[0].task) == (group[0].dataset, group[0].task):
            models = ", ".join(sorted(display_name(one) for one in other))
            yield f"Not comparable with the section of {models}: {difference(group[0], other[0])}."
    for one in group:
        if (reason := aside(one, shared)) is not None:
            yield (
                f"{display_name(one)} was {reason}: these models were not all scored on the same test rows, so it is "
                "drawn, and no part of the front."
            )
    copies = [
        other[0].dataset
        for other in groups
        if other[0].dataset != group[0].dataset and any(same_data(*pair) for pair in product(group, other))
    ]
    for name in dict.fromkeys(copies):
        yield f"{group[0].dataset} holds the same users' likes as {name}: a copy, and Overall counts one of the two."
    group = [one for one in group if one.random or aside(one, shared) is None]
    if len({msgspec.json.encode(one.baselines) for one in group}) > 1:
        yield f"The run files disagree on the baselines; those of {judge.id} are shown."


def _rows(measurement: Measurement) -> bytes:
    predictions = measurement.predictions
    return msgspec.json.encode((predictions.users, predictions.labels, predictions.targets))


def difference(a: Measurement, b: Measurement) -> str:
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
