"""The two sides that a gate compares, for each variant of each model: what is measured of them, and their figures.

A side is an artefact, which is measured now, or a run file of an earlier measurement. Two artefacts are measured in
turn and compared round by round. The processes of a run file are a sample of their own: the machine may have drifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.data.artifact import Artifact
from rbserve.machine.environment import allowed_cores
from rbserve.profilers.gate.verdict import (
    FEWEST_PROCESSES,
    Estimate,
    paired,
    unpaired,
)
from rbserve.profilers.measure.harness import (
    WORKER,
)
from rbserve.profilers.measure.inputs import Report
from rbserve.profilers.measure.worker import Job
from rbserve.runs.measurement import Measurement, Predictions
from rbserve.runs.plan import Plan, Slate
from rbserve.runs.summary import MS
from rbserve.stats.own_metrics import is_own

COSTS = ("p50", "peak_rss", "file_size")
METRICS = (*COSTS, "accuracy")
MB = 2**-20


def is_accuracy(metric: str) -> bool:
    """Whether a figure says how right a model is, its task's metric or one of the user's own, and not what it costs."""
    return metric not in COSTS


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
    """What to compare; None: everything that both sides have, or the default of the task.

    `metrics` are of METRICS, or functions of the user's own, `module:function`.
    """

    variants: Sequence[str] | None = None
    slates: Sequence[Slate] | None = None
    scope: str | None = None
    metrics: Sequence[str] = METRICS

    @property
    def own_metrics(self) -> list[str]:
        """The metrics of the user's own."""
        return [name for name in self.metrics if is_own(name)]

    @property
    def judges(self) -> bool:
        """Whether the test rows are to be judged, for accuracy or a metric of the user's own."""
        return any(map(is_accuracy, self.metrics))


class Key(NamedTuple):
    """One figure of one model's variant."""

    model: str
    variant: str
    metric: str
    scope: str | None = None
    slate: Slate | None = None


@dataclass
class Side:
    """One side: `worker` starts a process that measures `artifact` on the rows and requests in the file `inputs`.

    Without an artefact, the reports are final.
    """

    file_bytes: int
    reports: list[Report]
    variant: str
    artifact: Artifact | None = None
    worker: Sequence[str] = WORKER
    inputs: Path | None = None

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
    """One variant of a model, before and after. `note` says what is not compared, and why.

    `variant` is how it is called: by both variants, where base and head have none in common.
    """

    model: str
    task: str
    variant: str
    plan: Plan
    rows: Predictions
    base: Side
    head: Side
    keys: list[Key]
    advisory: str | None = None
    note: str | None = None
    failed: str | None = None
    live: list[Side] = field(init=False)

    def __post_init__(self) -> None:
        self.live = [side for side in (self.base, self.head) if side.artifact is not None]

    @property
    def judgeable(self) -> bool:
        """Whether more rounds can decide: not against a run file of another machine, or of few processes."""
        stored = [side for side in (self.base, self.head) if side.artifact is None]
        return self.advisory is None and all(len(side.reports) >= FEWEST_PROCESSES for side in stored)

    @property
    def has_accuracy(self) -> bool:
        """Whether the test rows are to be judged."""
        return any(is_accuracy(key.metric) for key in self.keys)

    def estimate(self, key: Key) -> Estimate:
        """The change of p50 or peak memory so far."""
        base, head = self.base.observations(key), self.head.observations(key)
        return paired(base, head) if len(self.live) == 2 else unpaired(base, head)


def job_of(contender: Contender, side: Side, slates: Sequence[Slate], process: int) -> Job:
    """The job of one process of a side; the first also judges the test rows."""
    plan = contender.plan
    assert side.artifact is not None
    return Job(
        artifact=str(side.artifact.path),
        variant=side.variant,
        inputs=str(side.inputs),
        slates=[*slates],
        threads=plan.threads,
        runs=plan.runs,
        seconds=plan.seconds,
        scopes=[*plan.scopes],
        exclude_seen=plan.exclude_seen,
        process=process,
        cores=allowed_cores()[-plan.threads :],
        accuracy=contender.has_accuracy and process == 0 and not side.artifact.is_random,
    )
