"""Comparable sections: which measurements may be compared, their points, and what the paper prints beside them.

Measurements are compared only within a section: one data set, one task, one scope, one comparability key, and
lists with or without the items the user has seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product

import msgspec

from rbserve.core.tasks import TASKS
from rbserve.data.judging import Judging
from rbserve.data.similarity import is_copy
from rbserve.home.commands import command
from rbserve.machine.environment import Environment
from rbserve.profilers.compare.baselines import judge_of, with_gaps
from rbserve.profilers.compare.front import Front, place_points
from rbserve.profilers.compare.paper import PaperRow, paper_cautions, paper_rows
from rbserve.profilers.compare.points import Point, points_of
from rbserve.profilers.compare.students import with_lessons
from rbserve.profilers.compare.uncertainty import Evidence
from rbserve.profilers.compare.wording import SectionWords
from rbserve.runs.baselines import forms_of
from rbserve.runs.changes import changed, display_name
from rbserve.runs.measurement import Measurement, baseline_title
from rbserve.runs.plan import WARM, Slate, in_order
from rbserve.runs.summary import by_scope


class RunSource(msgspec.Struct, frozen=True):
    """The run file that a model's points come from, and the command that measures them again.

    `random`: the model's weights are random, for its latency alone. `left_out` has each variant that was not measured
    and why. `changed` has the options of the model's config that differ from its row's.
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


class Section(SectionWords, msgspec.Struct, frozen=True):
    """Points that may be compared with one another.

    `baseline_forms` has the form of each baseline that has several, `judging` how the data set divides rows and draws
    negatives, None where no run says it.
    """

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
    slates: list[Slate]
    points: list[Point]
    baselines: dict[str, dict[str, float]]
    paper_column: str
    paper: list[PaperRow]
    sources: list[RunSource]
    notes: list[str]
    exclude_seen: bool
    paper_cautions: list[str]
    fronts: list[Front]
    baseline_forms: dict[str, str] = {}
    judging: Judging | None = None

    def baseline_title(self, name: str) -> str:
        """A baseline with its form: "popularity (last likes)"."""
        return baseline_title(name, self.baseline_forms)

    def at(self, slate: Slate) -> list[Point]:
        """The points of one slate, in the order of the table."""
        return [point for point in self.points if point.slate == slate]


def sections(measurements: Sequence[Measurement], evidence: Evidence | None = None) -> list[Section]:
    """Measurements sorted into what is comparable, the newest section of a data set first."""
    ordered = comparable(measurements)
    known = evidence or Evidence()
    return [_section(f"section-{index}", group, ordered, known) for index, group in enumerate(ordered, 1)]


def comparable(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """The measurements of every section, one scope each; the newest first, in it and of a data set's sections."""
    groups: dict[tuple[str | bool, ...], list[Measurement]] = {}
    scopes = [part for measurement in measurements for part in by_scope(measurement)]
    for run in sorted(scopes, key=_age, reverse=True):
        plan = run.plan
        key = (
            run.dataset,
            run.task,
            plan.scope,
            plan.exclude_seen,
            run.comparability_key,
            run.dataset_fingerprint,
        )
        groups.setdefault(key, []).append(run)
    return sorted(groups.values(), key=lambda group: group[0].dataset)


def same_data(a: Measurement, b: Measurement) -> bool:
    """Whether two runs are of the same data, shuffled or under another name: fingerprints equal, or sketches alike."""
    return a.dataset_fingerprint == b.dataset_fingerprint or is_copy(a.data_sketch, b.data_sketch)


def _age(run: Measurement) -> tuple[str, str, bool, str]:
    """Sorts runs by age, of one run the scope `warm` before the others."""
    return run.created, run.id, run.plan.scope != WARM, run.plan.scope


def _section(
    name: str, group: list[Measurement], groups: list[list[Measurement]], evidence: Evidence
) -> Section:
    first = group[0]
    metric = TASKS[first.task].metric
    column, paper = paper_rows(first.task, first.dataset)
    printed = {row.model: row for row in paper}
    ordered = sorted(group, key=lambda run: (run.group, display_name(run)))
    shared = shared_rows(group)
    judge = judge_of(group, shared)
    points = [
        point for run in ordered for point in points_of(run, printed.get(run.model), aside(run, shared))
    ]
    slates = in_order(point.slate for point in points)
    placed = [
        place_points(slate, [point for point in points if point.slate == slate], metric, evidence)
        for slate in slates
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
        points=with_gaps(
            with_lessons([point for at_slate, _ in placed for point in at_slate], metric, evidence),
            judge,
            metric,
            evidence,
        ),
        baselines={
            name: {key: value for key, value in figures.items() if not math.isnan(value)}
            for name, figures in judge.baselines.items()
        },
        paper_column=column,
        paper=paper,
        sources=[_source(run) for run in ordered],
        notes=list(_notes(group, groups, shared, judge)),
        exclude_seen=first.plan.exclude_seen,
        paper_cautions=paper_cautions(first.task),
        fronts=[front for _, front in placed],
        baseline_forms=forms_of(judge),
        judging=next((run.judging for run in group if run.judging), None),
    )


def shared_rows(group: Sequence[Measurement]) -> Measurement:
    """A run on the test rows that most runs of a group share; where several rows are shared as often, on the most."""
    judged = [run for run in group if not run.random] or group
    counts = Counter(run.predictions.rows_key for run in judged)
    return max(judged, key=lambda run: (counts[run.predictions.rows_key], len(run.predictions.users)))


def aside(run: Measurement, shared: Measurement) -> str | None:
    """Why a run's accuracy may not be compared with that of `shared`; None where both were judged on the same rows."""
    if run.random or run.predictions.rows_key == shared.predictions.rows_key:
        return None
    users, others = (len(set(side.predictions.users)) for side in (run, shared))
    if run.plan.test_users:
        return f"judged on {users:,} test users drawn at random, the others on {others:,}"
    return f"judged on other test rows ({users:,} users) than the others ({others:,})"


def _source(measurement: Measurement) -> RunSource:
    return RunSource(
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
    """Why these points may not be compared with those of other sections, or with one another."""
    for other in groups:
        if other is not group and (other[0].dataset, other[0].task) == (group[0].dataset, group[0].task):
            models = ", ".join(sorted(display_name(run) for run in other))
            yield f"Not comparable with the section of {models}: {difference(group[0], other[0])}."
    reasons = [(run, aside(run, shared)) for run in group]
    for run, reason in reasons:
        if reason is not None:
            yield (
                f"{display_name(run)} was {reason}: these models were not all scored on the same test rows, so it is "
                "drawn, and no part of the front."
            )
    copies = [
        other[0].dataset
        for other in groups
        if other[0].dataset != group[0].dataset and any(same_data(*pair) for pair in product(group, other))
    ]
    for name in dict.fromkeys(copies):
        yield f"{group[0].dataset} holds the same users' likes as {name}: a copy, and Overall counts one of the two."
    if len({msgspec.json.encode(run.baselines) for run, reason in reasons if reason is None}) > 1:
        yield f"The run files disagree on the baselines; those of {judge.id} are shown."


def difference(a: Measurement, b: Measurement) -> str:
    """How the machine, plan, data and libraries of two measurements differ: "threads 1 and 2; onnx 1.0 and 2.0"."""
    pairs = {
        "kind of machine": (a.environment.kind or "unnamed", b.environment.kind or "unnamed"),
        "CPU": (a.environment.cpu, b.environment.cpu),
        "instruction sets": (a.environment.isa, b.environment.isa),
        "device": (a.environment.device, b.environment.device),
        "threads": (a.plan.threads, b.plan.threads),
        "scope": (a.plan.scope, b.plan.scope),
        "seen items": tuple("left out" if run.plan.exclude_seen else "kept" for run in (a, b)),
        "data": (a.dataset_fingerprint[:12], b.dataset_fingerprint[:12]),
    }
    for name in sorted({*a.environment.libraries, *b.environment.libraries}):
        pairs[name] = (a.environment.libraries.get(name, "none"), b.environment.libraries.get(name, "none"))
    different = [f"{name} {mine} and {theirs}" for name, (mine, theirs) in pairs.items() if mine != theirs]
    return "; ".join(different) or "their comparability keys differ"
