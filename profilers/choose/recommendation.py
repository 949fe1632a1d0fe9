"""What `rbserve recommend` answers: the variants that meet the objectives, those that do not, and why."""

from __future__ import annotations

import msgspec

from rbserve.profilers.choose.objectives import ObjectiveCheck
from rbserve.profilers.compare.points import BaselineGap
from rbserve.runs.plan import Slate
from rbserve.stats.intervals import Interval


class Candidate(msgspec.Struct, frozen=True):
    """A variant of a model. `refused` is the reason why it is not recommended, null if it is allowed.

    `accuracy` is null where none was measured, such as on requests without labels; `unjudged` says why.
    `serve` is the command that serves it, null if the artefact is not where the run file says; `absent` says why, and
    which command makes it anew. `inconclusive` has the reasons why its latency is not settled, `warnings` the doubts
    about its accuracy. `below` is the gap to the best baseline where the accuracy is not above it. `probability` is
    that of meeting all objectives, null where a single process was timed.
    """

    model: str
    variant: str
    run: str
    accuracy: float | None
    accuracy_ci95: Interval | None
    p50_ms: float
    checks: list[ObjectiveCheck]
    probability: float | None
    refused: str | None
    serve: str | None
    absent: str | None = None
    inconclusive: list[str] = []
    warnings: list[str] = []
    below: BaselineGap | None = None
    unjudged: str | None = None

    @property
    def label(self) -> str:
        """The model and the variant: gdcn onnx-int8."""
        return f"{self.model} {self.variant}"


class Recommendation(msgspec.Struct, frozen=True):
    """The recommended variant, `pick`, which is null if no variant meets the objectives, and all others.

    `most_accurate_probability` is the share of resamples of the same users in which no other variant that meets the
    objectives is more accurate than the pick; null without predictions. `faster` is the fastest variant whose accuracy
    these users do not distinguish from the pick's. `metric_title` says what a ranking metric ranks. `baselines` are
    figures of predictions that ignore the user, on the pick's test rows; the `notes` name those that beat the pick.
    """

    dataset: str
    task: str
    metric: str
    objectives: list[str]
    slate: Slate
    scope: str
    threads: int
    confidence: float
    cpu: str
    comparability_key: str
    pick: Candidate | None
    most_accurate_probability: float | None
    faster: Candidate | None
    meets: list[Candidate]
    refused: list[Candidate]
    elsewhere: dict[str, str]
    notes: list[str]
    metric_title: str = ""
    baselines: dict[str, float] = {}
