"""A measurement: raw nanoseconds and per-row scores of every variant of one artefact, in one file.

Samples are never thrown away or corrected. `runs/summary.py` turns them into the figures that people read; the file
has those as well, so that a reader needs no statistics of its own. `runs/run_file.py` writes and reads it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import numpy as np

from rbserve.core.distillation import Distillation
from rbserve.core.variants import CPU, device_of
from rbserve.data.judging import Judging
from rbserve.machine.environment import Environment
from rbserve.runs.plan import Plan, Slate
from rbserve.runs.provenance import GitState
from rbserve.runs.roofline import Cost, Roofline
from rbserve.runs.samples import Samples
from rbserve.stats.metrics import Rows
from rbserve.stats.scaling import Growth

SCHEMA = 1
DEPTH = 50  # how long a list the target of a sequence is looked for in

Accuracy = dict[str, float | tuple[float, float] | None]


class Predictions(msgspec.Struct, frozen=True):
    """The test rows that every variant was judged on, and each variant's answer to each row.

    Of a model that scores candidates: labels, and by variant the score of each row; where labels are grades, `requests`
    has the number of each row's request. Of a model that ranks the
    catalogue: targets, and by variant the target's 1-based rank in a list of `depth` items, 0 where it is not among
    them; `illegal_share` is the share of a generating variant's paths that lead to no item, `exact_recall` the share of
    the exact list's items that an index finds, by the list's length. For an API endpoint, `hard`
    counts the answers without log-probabilities (scores of 0 or 1) and `unclear` those that are neither yes nor no (a
    score of 0.5).
    """

    users: list[int]
    labels: list[int]
    scores: dict[str, list[float]]
    targets: list[int] = []
    ranks: dict[str, list[int]] = {}
    depth: int = 0
    illegal_share: dict[str, float] = {}
    hard: dict[str, int] = {}
    unclear: dict[str, int] = {}
    requests: list[int] = []
    exact_recall: dict[str, dict[int, float]] = {}

    @property
    def rows_key(self) -> bytes:
        """The test rows' users, labels and targets, encoded: equal where two runs were judged on the same rows."""
        return msgspec.json.encode((self.users, self.labels, self.targets))

    def judged_rows(self, variant: str) -> Rows:
        """What a variant is judged by: (labels, scores, users), behind them requests where there are, or (ranks,)."""
        if variant in self.ranks:
            return (np.asarray(self.ranks[variant], np.int64),)
        scores = np.asarray(self.scores[variant], np.float32)
        rows = np.asarray(self.labels, np.int8), scores, np.asarray(self.users, np.int32)
        return (*rows, np.asarray(self.requests, np.int32)) if self.requests else rows

    def warnings(self, variant: str) -> list[str]:
        """Why an endpoint's accuracy is not to be taken at its value: answers that are unclear, or have no chances."""
        rows = len(self.users)
        hard, unclear = self.hard.get(variant, 0), self.unclear.get(variant, 0)
        warnings = []
        if unclear:
            warnings.append(
                f"{unclear:,} of {rows:,} answers ({unclear / rows:.1%}) are neither yes nor no and count as 0.5: "
                "the accuracy is nearer to chance than the model"
            )
        if hard > unclear:
            warnings.append(
                f"{hard:,} of {rows:,} answers have no log-probabilities: their scores are 0, 0.5 or 1"
            )
        return warnings


class SlateSizes(msgspec.Struct, frozen=True):
    """Candidates of the timed calls, whose requests have as many as they have in their table."""

    min: int
    median: float
    max: int


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds per call. `ci95` belongs to p50, `mean_ci95` to the mean; null: too few runs to certify.

    The true percentile lies below its bound, such as `p99_bound`, with 99% confidence (MLPerf's early stopping), were
    calls independent. p95 and the bounds are null also in files of versions that did not compute them.
    """

    mean: float
    p50: float
    p90: float | None
    p99: float | None
    max: float
    ci95: tuple[float, float]
    mean_ci95: tuple[float, float]
    p90_bound: float | None = None
    p99_bound: float | None = None
    p95: float | None = None
    p95_bound: float | None = None


class Result(msgspec.Struct, frozen=True):
    """The figures of one variant in one scope at one slate, with the accuracy of the same artefact.

    `n` calls were timed in `processes` fresh processes. `warm_ms` is the latency of the same requests, of scope
    forward, for users whom the model remembers.

    `stages` has each stage's share of a call's time, null where calls have no stages; `stages_check` is the time of an
    observed call divided by that of the same call unobserved, the median of all pairs. `slate_growth` is how p50 grows
    from the next smaller slate measured (of the slate `table`: how a call's time grows with its candidates, whose
    distribution is `slate_sizes`), `history_growth` how a call's time grows with the length of its history.
    `inconclusive` has the reasons why this latency settles nothing, empty where it is stable. `overhead_us` is what the
    timing loop adds to a call, and is not subtracted; `energy_mj` is the energy of the whole processor package a call.
    """

    variant: str
    scope: str
    slate: Slate
    threads: int
    n: int
    processes: int
    latency_ms: Latency
    accuracy: Accuracy
    peak_rss_mb: float
    load_ms: float
    first_call_ms: float
    file_mb: float
    warnings: list[str]
    stages: dict[str, float] | None = None
    inconclusive: list[str] = []
    overhead_us: float | None = None
    energy_mj: float | None = None
    stages_check: float | None = None
    loaded_rss_mb: float | None = None
    slate_growth: Growth | None = None
    history_growth: Growth | None = None
    cost: Roofline | None = None
    warm_ms: Latency | None = None
    slate_sizes: SlateSizes | None = None

    @property
    def growth_warnings(self) -> list[str]:
        """A sentence for each size, slate or history, that the time certainly grows faster than."""
        growths = {"slate": self.slate_growth, "history": self.history_growth}
        return [growth.warning(size) for size, growth in growths.items() if growth and growth.superlinear]


class Measurement(msgspec.Struct, frozen=True):
    """One profile of one artefact: where and how it was measured, the raw samples, and the figures derived from them.

    A model with `random` weights has latencies and no accuracy. `left_out` has the variants that were not measured and
    why, `failed` those whose process died and how. `command` is the command line, `git` the state of the working
    directory where that is a repository, `seconds` what the whole profile took; `config` and `model_digest` are the
    artefact's. `artifact` is what `--model` takes to find the artefact again: its row, or its path as it was given.
    `settings` are those of its training (`core.settings.Settings`), which began with the weights of `continued`, if
    any; `distilled` says whose scores a student learnt from. `baseline_forms` has the form of each baseline in
    `baselines` that has several, `baseline_answers` the answer of each to every test row: the score of its candidate,
    or the rank of its target, 0 where it is in no list. `data_sketch` tells copies of a data set from others
    (`data.similarity`).
    `own_metrics` has, by variant, the values of the user's own metrics by their name, null where one is not defined,
    and `own_intervals` their 95% intervals over users, where they were computed.
    `adopted` is what a model that was made elsewhere came as (onnx, lightgbm, …), empty for all others. `judging` says
    how the data set divides rows and draws negatives; null for requests of no data set. Fields that a
    version did not know are empty in its files.
    """

    schema: int
    id: str
    created: str
    model: str
    group: str
    task: str
    item_form: str
    dataset: str
    dataset_fingerprint: str
    artifact_digest: str
    comparability_key: str
    environment: Environment
    plan: Plan
    file_bytes: dict[str, int]
    variant_warnings: dict[str, list[str]]
    baselines: dict[str, dict[str, float]]
    samples: list[Samples]
    predictions: Predictions
    results: list[Result] = []
    random: bool = False
    left_out: dict[str, str] = {}
    command: list[str] = []
    git: GitState | None = None
    seconds: float | None = None
    config: dict[str, Any] = {}
    costs: list[Cost] = []
    model_digest: str = ""
    distilled: Distillation | None = None
    failed: dict[str, str] = {}
    artifact: str = ""
    settings: dict[str, Any] = {}
    baseline_forms: dict[str, str] = {}
    data_sketch: dict[int, int] = {}
    own_metrics: dict[str, dict[str, float | None]] = {}
    continued: str = ""
    adopted: str = ""
    baseline_answers: dict[str, list[float]] = {}
    own_intervals: dict[str, dict[str, tuple[float, float]]] = {}
    judging: Judging | None = None

    @property
    def unjudged(self) -> str | None:
        """Why no accuracy could be measured, whatever the variant; None where it could."""
        if self.random:
            return "the weights are random"
        return None if self.predictions.users else "the requests have no labels"


def baseline_title(name: str, forms: dict[str, str]) -> str:
    """A baseline with its form, where it has several: "popularity (last likes)"."""
    return f"{name} ({forms[name]})" if name in forms else name


def comparability_key(environment: Environment, threads: int, fingerprint: str) -> str:
    """Two measurements may be compared only when this is equal: CPU, ISA, threads, libraries, data, device, kind.

    The libraries are those of the runtimes, with their versions. A run on the processor has the key that it had before
    devices were known, so that run files of any age are compared with those of today. A kind of machine that has a name
    is apart from all others, whose processor may be called the same.
    """
    parts: list[Any] = [environment.cpu, environment.isa, threads, environment.libraries, fingerprint]
    if environment.device != CPU:
        parts.append(environment.device)
    if environment.kind:
        parts.append({"kind": environment.kind})
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def key_here(measurement: Measurement, machine: Environment) -> str:
    """The comparability key that the same profile would have on a machine, this one as it is now."""
    device = device_of(result.variant for result in measurement.results)
    machine = msgspec.structs.replace(machine, device=device)
    return comparability_key(machine, measurement.plan.threads, measurement.dataset_fingerprint)
