"""The two sides that a gate compares, for each variant of each model, and why some cannot be compared.

A side is an artefact, which is measured now, or a run file of an earlier measurement. Two artefacts are measured in
turn and compared round by round. The processes of a run file are a sample of their own: the machine may have drifted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.tasks import CTR, TASKS
from rbserve.core.variants import REFERENCE, device_of
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.machine.environment import allowed_cores, environment
from rbserve.profilers.gate.config import GateConfig
from rbserve.profilers.gate.verdict import (
    FEWEST_PROCESSES,
    Estimate,
    Line,
    Verdict,
    auc_loss,
    ndcg_loss,
    paired,
    unpaired,
)
from rbserve.profilers.measure.harness import (
    WORKER,
    check_plan,
    default_plan,
    file_bytes,
)
from rbserve.profilers.measure.inputs import Report
from rbserve.profilers.measure.test_rows import open_test_rows
from rbserve.profilers.measure.worker import Job
from rbserve.runs.measurement import Measurement, Predictions, comparability_key
from rbserve.runs.plan import Plan
from rbserve.runs.samples import Samples
from rbserve.runs.summary import MS
from rbserve.stats.listwise import ndcg_at_k
from rbserve.stats.pairwise import auc

METRICS = ("p50", "peak_rss", "file_size", "accuracy")
MB = 2**-20


class Pair(NamedTuple):
    """A model before and after the change: artefacts, or run files. None where a side is absent; `reason` says why."""

    model: str
    base: Artifact | Measurement | None
    head: Artifact | Measurement | None
    reason: str = ""
    base_worker: Sequence[str] = WORKER
    head_worker: Sequence[str] = WORKER


@dataclass(frozen=True)
class Scope:
    """What to compare; None: everything that both sides have, or the default of the task."""

    variants: Sequence[str] | None = None
    slates: Sequence[int] | None = None
    scope: str | None = None
    metrics: Sequence[str] = METRICS


class Key(NamedTuple):
    """One figure of one model's variant."""

    model: str
    variant: str
    metric: str
    scope: str | None = None
    slate: int | None = None


@dataclass
class Side:
    """One side: `worker` starts a process that measures `artifact`; without an artefact, the reports are final."""

    file_bytes: int
    reports: list[Report]
    artifact: Artifact | None = None
    worker: Sequence[str] = WORKER

    def runs(self, key: Key) -> list[list[int]]:
        """The timed runs of each process, nanoseconds."""
        samples = [sample for report in self.reports for sample in report.samples]
        return [
            sample.runs_ns for sample in samples if (sample.scope, sample.slate) == (key.scope, key.slate)
        ]

    def processes(self, key: Key) -> int:
        """The number of processes that the figure of the key rests on."""
        return len(self.runs(key) if key.metric == "p50" else self.reports)

    def observations(self, key: Key) -> NDArray[np.float64]:
        """The key's figure of each process: median milliseconds, or peak megabytes."""
        if key.metric == "p50":
            return np.array([np.median(runs) * MS for runs in self.runs(key)])
        peaks = [
            max(sample.peak_rss_bytes for sample in report.samples)
            for report in self.reports
            if report.samples
        ]
        return np.array(peaks) * MB


@dataclass
class Contender:
    """One variant of a model, before and after."""

    model: str
    variant: str
    plan: Plan
    inputs: Path
    rows: Predictions
    base: Side
    head: Side
    keys: list[Key]
    advisory: str | None = None
    failed: str | None = None
    live: list[Side] = field(init=False)

    def __post_init__(self) -> None:
        self.live = [side for side in (self.base, self.head) if side.artifact is not None]

    @property
    def judgeable(self) -> bool:
        """Whether more rounds can decide: not against a run file of another machine, or of few processes."""
        stored = [side for side in (self.base, self.head) if side.artifact is None]
        return self.advisory is None and all(len(side.reports) >= FEWEST_PROCESSES for side in stored)

    def estimate(self, key: Key) -> Estimate:
        """The change of p50 or peak memory so far."""
        base, head = self.base.observations(key), self.head.observations(key)
        return paired(base, head) if len(self.live) == 2 else unpaired(base, head)


def contenders_of(
    pair: Pair,
    dataset_of: Callable[[Artifact], Dataset],
    config: GateConfig,
    scope: Scope,
    inputs: Path,
) -> tuple[list[Contender], list[Line]]:
    """A pair's variants, and a line for each that cannot be compared."""
    base, head = pair.base, pair.head
    if base is None or head is None:
        return [], [Line(pair.model, "all", Verdict.MISSING, reason=pair.reason)]
    if any(isinstance(side, Artifact) and side.is_endpoint for side in (base, head)):
        return [], [
            Line(pair.model, "all", Verdict.MISSING, reason="an endpoint answers for it; nothing runs here")
        ]
    differing = _difference(base, head)
    if differing:
        return [], [Line(pair.model, "all", Verdict.NOT_COMPARABLE, reason=differing)]
    variants, lines = _variants(pair.model, base, head, scope)
    advisory = None
    try:
        plan, rows, advisory = _prepare(base, head, dataset_of, config, scope, inputs, variants)
    except UsageError:
        raise
    except RbserveError as error:
        return [], [Line(pair.model, "all", Verdict.MISSING, reason=error.message)]
    contenders = [
        Contender(
            pair.model, variant, plan, inputs, rows,
            _side(base, variant, pair.base_worker), _side(head, variant, pair.head_worker),
            _keys(pair.model, variant, plan, scope, base), advisory,
        )
        for variant in variants
    ]  # fmt: skip
    return contenders, lines


def _difference(base: Artifact | Measurement, head: Artifact | Measurement) -> str | None:
    """Why two sides can never be compared: another task, or other data."""
    for subject, before, after in (
        ("task", _task(base), _task(head)),
        ("data set", _fingerprint(base)[:12], _fingerprint(head)[:12]),
    ):
        if before != after:
            return f"base and head differ in their {subject}: {before} and {after}"
    return None


def _task(side: Artifact | Measurement) -> str:
    return side.task if isinstance(side, Measurement) else side.manifest.task


def _fingerprint(side: Artifact | Measurement) -> str:
    return side.dataset_fingerprint if isinstance(side, Measurement) else side.manifest.dataset.fingerprint


def _variants(
    model: str, base: Artifact | Measurement, head: Artifact | Measurement, scope: Scope
) -> tuple[list[str], list[Line]]:
    """The variants that both sides have, and a line for each requested variant that a side lacks."""
    there = [_available(side) for side in (base, head)]
    wanted = list(scope.variants or _served(base))
    lines = [
        Line(model, "all", Verdict.MISSING, variant=variant, reason=f"{side} has no {variant}")
        for variant in wanted
        for side, has in zip(("base", "head"), there, strict=True)
        if variant not in has
    ]
    return [variant for variant in wanted if all(variant in has for has in there)], lines


def _available(side: Artifact | Measurement) -> list[str]:
    if isinstance(side, Measurement):
        return list(dict.fromkeys(sample.variant for sample in side.samples))
    return side.can_open


def _served(side: Artifact | Measurement) -> list[str]:
    """The exported variants; the reference where there is none."""
    if isinstance(side, Measurement):
        return _available(side)
    return list(side.manifest.variants) or [REFERENCE]


def _prepare(
    base: Artifact | Measurement,
    head: Artifact | Measurement,
    dataset_of: Callable[[Artifact], Dataset],
    config: GateConfig,
    scope: Scope,
    inputs: Path,
    variants: list[str],
) -> tuple[Plan, Predictions, str | None]:
    """The plan, the test rows, and why the result is advisory, if it is. Writes the requests to `inputs`."""
    plan = _plan(base, config, scope)
    stored = [side for side in (base, head) if isinstance(side, Measurement)]
    artifacts = [side for side in (base, head) if isinstance(side, Artifact)]
    keys = [side.comparability_key for side in stored]
    rows = [side.predictions for side in stored]
    if artifacts:
        dataset = dataset_of(artifacts[0])
        for artifact in artifacts:
            check_plan(artifact, dataset, plan, variants)
        test = open_test_rows(artifacts[0], dataset, plan)
        test.write(inputs, plan)
        rows.append(test.unanswered)
        keys.append(comparability_key(environment(device_of(variants)), plan.threads, dataset.fingerprint))
    first = rows[0]
    if any(
        (other.users, other.labels, other.targets) != (first.users, first.labels, first.targets)
        for other in rows
    ):
        return plan, msgspec.structs.replace(first, users=[]), "base and head were judged on other test rows"
    return (
        plan,
        first,
        "the baseline is of another machine, thread count or library" if len({*keys}) > 1 else None,
    )


def _plan(base: Artifact | Measurement, config: GateConfig, scope: Scope) -> Plan:
    """The baseline's shapes and threads, else the task's and the configuration's."""
    if isinstance(base, Measurement):
        plan = base.plan
    else:
        usual = default_plan(_task(base))
        plan = msgspec.structs.replace(
            usual, scope="forward", threads=config.threads, test_users=config.test_users, seed=config.seed
        )
    return msgspec.structs.replace(
        plan,
        processes=config.max_rounds,
        runs=config.runs,
        seconds=config.seconds,
        slates=list(scope.slates or plan.slates),
        scope=scope.scope or plan.scope,
    )


def _side(side: Artifact | Measurement, variant: str, worker: Sequence[str]) -> Side:
    if isinstance(side, Artifact):
        return Side(file_bytes(side, variant), [], side, worker)
    by_process: dict[int, list[Samples]] = {}
    for sample in side.samples:
        if sample.variant == variant:
            by_process.setdefault(sample.process, []).append(sample)
    reports = [Report(samples) for samples in by_process.values()]
    predictions = side.predictions
    reports[0] = Report(
        reports[0].samples,
        scores=predictions.scores.get(variant, []),
        ranks=predictions.ranks.get(variant, []),
    )
    return Side(side.file_bytes[variant], reports)


def _keys(model: str, variant: str, plan: Plan, scope: Scope, base: Artifact | Measurement) -> list[Key]:
    random = base.random if isinstance(base, Measurement) else base.is_random
    keys = [
        Key(model, variant, "p50", scope_name, slate)
        for scope_name in plan.scopes
        for slate in plan.slates
        if "p50" in scope.metrics
    ]
    keys += [Key(model, variant, metric) for metric in ("peak_rss", "file_size") if metric in scope.metrics]
    if "accuracy" in scope.metrics and not random:
        keys.append(Key(model, variant, TASKS[_task(base)].metric))
    return keys


def job_of(
    contender: Contender, artifact: Artifact, slates: Sequence[int], process: int, accuracy: bool
) -> Job:
    """The job of one process of a side."""
    plan = contender.plan
    return Job(
        artifact=str(artifact.path),
        variant=contender.variant,
        inputs=str(contender.inputs),
        slates=[*slates],
        threads=plan.threads,
        runs=plan.runs,
        seconds=plan.seconds,
        scopes=[*plan.scopes],
        exclude_seen=plan.exclude_seen,
        process=process,
        cores=allowed_cores()[-plan.threads :],
        accuracy=accuracy and process == 0 and not artifact.is_random,
    )


def accuracy_loss(contender: Contender, key: Key) -> Estimate | None:
    """The loss of accuracy on the same rows; None where a side has no predictions of them."""
    base, head = (_predictions(side.reports, key) for side in (contender.base, contender.head))
    if not base or not head or not contender.rows.users:
        return None
    if key.metric == CTR.metric:
        return auc_loss(contender.rows.labels, contender.rows.users, base, head)
    return ndcg_loss(base, head)


def _predictions(reports: Iterable[Report], key: Key) -> Sequence[float] | Sequence[int]:
    """The scores, or ranks, of the one process that judged the test rows."""
    candidates = (report.scores if key.metric == CTR.metric else report.ranks for report in reports)
    return next((predictions for predictions in candidates if predictions), [])


def figures(contender: Contender, key: Key) -> tuple[float | None, float | None]:
    """The figures of base and head, in the unit of the metric."""
    sides = (contender.base, contender.head)
    if key.metric == "file_size":
        return contender.base.file_bytes * MB, contender.head.file_bytes * MB
    if key.metric in ("p50", "peak_rss"):
        before, after = (float(np.median(side.observations(key))) for side in sides)
        return before, after
    predictions = [_predictions(side.reports, key) for side in sides]
    if key.metric == CTR.metric:
        return auc(contender.rows.labels, predictions[0]), auc(contender.rows.labels, predictions[1])
    return ndcg_at_k(predictions[0], 10), ndcg_at_k(predictions[1], 10)
