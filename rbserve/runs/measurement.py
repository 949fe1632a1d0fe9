"""A measurement: raw nanoseconds and per-row scores of every variant of one artefact, in one file.

Samples are never thrown away or corrected. `summarise` turns them into the figures people read; the file
carries those as well, so that a reader needs no statistics of its own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rbserve.core.distillation import Distillation
from rbserve.core.errors import unknown_name
from rbserve.core.files import write_bytes
from rbserve.core.manifest import read_manifest
from rbserve.machine.environment import Environment
from rbserve.runs.provenance import GitState
from rbserve.runs.roofline import Cost, Roofline, roofline
from rbserve.runs.samples import Samples
from rbserve.runs.stability import inconclusive
from rbserve.stats.intervals import certified_percentile, percentile_bound, process_interval
from rbserve.stats.metrics import ILLEGAL_SHARE, Rows, measure
from rbserve.stats.scaling import Growth, between, over

SCHEMA = 1
MS = 1e-6  # nanoseconds to milliseconds
SCOPES = ("forward", "end_to_end")
WARM = "warm"
DEPTH = 50  # how long a list the target of a sequence is looked for in
ONE_STAGE = {"forward", "rest"}  # what there is to tell of a call that has no stages
STAGES_OFF = 0.03  # what observing a call may add to its time; more is told with its stages

Accuracy = dict[str, float | tuple[float, float] | None]


class Plan(msgspec.Struct, frozen=True):
    """How latency was sampled. `runs` is an upper bound: a shape also ends after `seconds` of timed calls.

    `scope` is forward (rows of the item table in, scores or rows out), end_to_end (raw ids in, scores or raw ids
    out) or both. A slate is a number of candidates; for a model that ranks the catalogue, the length k of the
    list asked for. `warm` adds a scope of that name: forward, of a language model that remembers what it read of the
    user at an earlier request. `exclude_seen` leaves the history's own items out of that list. Accuracy is that of
    all test users, or of `test_users` of them, drawn by the seed. With a budget, `budget_s` seconds are what the whole
    profile may take, and `runs_of` has the runs that were planned for each variant, in the place of `runs`; `processes`
    is 0 until they are planned. `cost` asks for each variant's operations and bytes.
    """

    processes: int
    runs: int
    seconds: float
    slates: list[int]
    threads: int
    scope: str
    seed: int
    exclude_seen: bool = False
    test_users: int = 0
    budget_s: float | None = None
    runs_of: dict[str, int] = {}
    cost: bool = False
    warm: bool = False

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes to measure, one by one."""
        asked = SCOPES if self.scope == "both" else (self.scope,)
        return (*asked, WARM) if self.warm else asked


class Predictions(msgspec.Struct, frozen=True):
    """The test rows every variant was judged on, and what it said of each.

    Pair-wise: labels, and by variant the score of each row. List-wise: targets, and by variant the target's
    1-based rank in a list of `depth` items of the whole catalogue, 0 where it is not among them; `illegal_share`
    is the share of a generative variant's paths that lead to no item. Of an endpoint, `hard` answers had no
    log-probabilities (scores of 0 or 1), and `unclear` ones were neither yes nor no (0.5).
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

    @property
    def rows_key(self) -> bytes:
        """The test rows' users, labels and targets, encoded: equal where two runs were judged on the same rows."""
        return msgspec.json.encode((self.users, self.labels, self.targets))

    def judged_rows(self, variant: str) -> Rows:
        """What the metrics of a variant are computed from: (labels, scores, users), or (target ranks,) of lists."""
        if variant in self.ranks:
            return (np.asarray(self.ranks[variant], np.int64),)
        scores = np.asarray(self.scores[variant], np.float32)
        return np.asarray(self.labels, np.int8), scores, np.asarray(self.users, np.int32)

    def warnings(self, variant: str) -> list[str]:
        """What an endpoint's answers do to its accuracy."""
        rows = len(self.users)
        hard, unclear = self.hard.get(variant, 0), self.unclear.get(variant, 0)
        told = []
        if unclear:
            told.append(
                f"{unclear:,} of {rows:,} answers ({unclear / rows:.1%}) are neither yes nor no and count as 0.5: "
                "the accuracy is nearer to chance than the model"
            )
        if hard > unclear:
            told.append(
                f"{hard:,} of {rows:,} answers have no log-probabilities: their scores are 0, 0.5 or 1"
            )
        return told


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds per call. `ci95` belongs to p50, `mean_ci95` to the mean; null: too few runs to certify.

    The true percentile lies below `p90_bound` or `p99_bound` with 99% confidence (MLPerf's early stopping), were
    calls independent; null also in files of versions that did not compute it.
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


class Result(msgspec.Struct, frozen=True):
    """One line of the table: one variant in one scope at one slate, and the accuracy of the same artefact.

    `warm_ms` is the latency of the same requests, of scope forward, where the user is remembered.

    `stages` is the share of time in each stage, null where a call is one; `stages_check` is what a call's stages add up
    to as a part of the same call unobserved: the median of all pairs. `slate_growth` is that of p50 from the next
    smaller slate measured, `history_growth` that of a call with its history. `inconclusive` has the reasons why this
    latency settles nothing, empty where it is stable. `overhead_us` is what the timing loop adds to a call, and is not
    subtracted; `energy_mj` the millijoules of the whole processor package per call.
    """

    variant: str
    scope: str
    slate: int
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

    @property
    def growth_warnings(self) -> list[str]:
        """A line for each size that the time certainly grows faster than."""
        grown = {"slate": self.slate_growth, "history": self.history_growth}
        return [growth.warning(what) for what, growth in grown.items() if growth and growth.superlinear]


class Measurement(msgspec.Struct, frozen=True):
    """One profile of one artefact: where, how, the raw samples, and the figures derived from them.

    Of a model whose weights are `random` the latency is measured alone; `left_out` says of each variant that was not
    measured why. `command` is the command line, `git` the state of the working directory where that is a repository,
    `seconds` what the whole profile took, `config` and `model_digest` the artefact's; empty in files from before they
    were kept. `failed` are the variants whose process died, and how. `distilled` says whose scores a student learnt
    from. `artifact` is what `--model` takes to find the artefact again, its row or its path as it was given; `settings`
    are those of its training (`core.settings.Settings`), which began with the weights of `continued`, if of any.
    `baseline_forms` says of a baseline that has several forms
    which one `baselines` holds; `data_sketch` tells copies of a data set from others (`data.similarity`).
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
    continued: str = ""


def baseline_title(name: str, forms: dict[str, str]) -> str:
    """A baseline with its form, where it has several: "popularity (last likes)"."""
    return f"{name} ({forms[name]})" if name in forms else name


def summarise(measurement: Measurement) -> list[Result]:
    """One Result per variant, scope and slate, in the order they were measured."""
    predictions = measurement.predictions
    accuracy = {
        variant: _accuracy(measurement, variant) for variant in (predictions.scores or predictions.ranks)
    }
    shapes: dict[tuple[str, str, int], list[Samples]] = {}
    for one in measurement.samples:
        shapes.setdefault((one.variant, one.scope, one.slate), []).append(one)
    results = []
    for (variant, scope, slate), samples in shapes.items():
        smaller = max((n for v, s, n in shapes if (v, s) == (variant, scope) and n < slate), default=None)
        before = shapes[variant, scope, smaller] if smaller else None
        result = _result(measurement, samples, accuracy.get(variant, {}), before)
        warm = shapes.get((variant, WARM, slate)) if scope == "forward" else None
        if warm:
            result = msgspec.structs.replace(result, warm_ms=latency([one.runs_ns for one in warm]))
        results.append(result)
    return results


def by_scope(measurement: Measurement) -> list[Measurement]:
    """The measurement once for each of its scopes, with that scope's results only: what may be compared."""
    results = measurement.results or summarise(measurement)
    return [
        msgspec.structs.replace(
            measurement,
            plan=msgspec.structs.replace(
                measurement.plan, scope=scope, warm=measurement.plan.warm and scope != WARM
            ),
            results=[one for one in results if one.scope == scope],
        )
        for scope in dict.fromkeys(one.scope for one in results)
    ]


def latency(runs_ns: Sequence[Sequence[int]]) -> Latency:
    """Summary of the timed runs of each process."""
    processes = [np.asarray(runs, np.float64) * MS for runs in runs_ns]
    runs = np.concatenate(processes)
    return Latency(
        mean=float(runs.mean()),
        p50=float(np.median(runs)),
        p90=certified_percentile(runs, 0.90),
        p99=certified_percentile(runs, 0.99),
        max=float(runs.max()),
        ci95=process_interval(processes, "median"),
        mean_ci95=process_interval(processes, "mean"),
        p90_bound=percentile_bound(runs, 0.90),
        p99_bound=percentile_bound(runs, 0.99),
    )


def comparability_key(environment: Environment, threads: int, fingerprint: str) -> str:
    """Two measurements may be compared only when this is equal: CPU, ISA, threads, libraries, data."""
    parts = [environment.cpu, environment.isa, threads, environment.libraries, fingerprint]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def check_scope(scope: str) -> None:
    """Raises UsageError for what is no scope of a plan."""
    if scope not in (*SCOPES, "both"):
        raise unknown_name("scope", scope, (*SCOPES, "both"))


def public(measurement: Measurement) -> dict[str, Any]:
    """What `rbserve profile --json` prints: the measurement without its raw samples and predictions."""
    document: dict[str, Any] = msgspec.to_builtins(measurement)
    return {key: value for key, value in document.items() if key not in ("samples", "predictions")}


def write_measurement(folder: Path, measurement: Measurement) -> Path:
    """Writes runs/<id>.json, atomically."""
    path = folder / f"{measurement.id}.json"
    write_bytes(path, msgspec.json.encode(measurement))
    return path


def read_measurement(path: Path) -> Measurement:
    """Reads a run file; DataError when it is not one or of another version.

    The latencies are derived from its samples anew, so that runs of any age are compared by the same statistics.
    """
    again = "remove it, or profile the model again"
    measurement = read_manifest(path, Measurement, SCHEMA, "a run file", again)
    runs: dict[tuple[str, str, int], list[list[int]]] = {}
    for one in measurement.samples:
        runs.setdefault((one.variant, one.scope, one.slate), []).append(one.runs_ns)
    results = []
    for result in measurement.results:
        found, warm = (runs.get((result.variant, scope, result.slate)) for scope in (result.scope, WARM))
        anew = {"latency_ms": latency(found)} if found else {}
        anew |= {"warm_ms": latency(warm)} if result.warm_ms and warm else {}
        results.append(msgspec.structs.replace(result, **anew))
    return msgspec.structs.replace(measurement, results=results)


def _result(
    measurement: Measurement, samples: list[Samples], accuracy: Accuracy, smaller: list[Samples] | None
) -> Result:
    """`smaller` are the samples of the next smaller slate, if there are any."""
    first = samples[0]
    cost = [one for one in measurement.costs if (one.variant, one.slate) == (first.variant, first.slate)]
    if first.scope == WARM:  # the cost is that of a user who is not remembered
        cost = []
    resident = [one.loaded_rss_bytes for one in samples if one.loaded_rss_bytes is not None]
    return Result(
        variant=first.variant,
        scope=first.scope,
        slate=first.slate,
        threads=first.threads,
        n=sum(len(one.runs_ns) for one in samples),
        processes=len(samples),
        latency_ms=latency([one.runs_ns for one in samples]),
        accuracy=accuracy,
        peak_rss_mb=max(one.peak_rss_bytes for one in samples) / 2**20,
        load_ms=float(np.median([one.load_ns for one in samples])) * MS,
        first_call_ms=float(np.median([one.first_call_ns for one in samples])) * MS,
        file_mb=measurement.file_bytes[first.variant] / 2**20,
        warnings=[
            *measurement.variant_warnings.get(first.variant, []),
            *measurement.predictions.warnings(first.variant),
        ],
        **_stages(samples),
        inconclusive=inconclusive(samples),
        overhead_us=_overhead_us(samples),
        energy_mj=_energy_mj(samples),
        loaded_rss_mb=max(resident) / 2**20 if resident else None,
        slate_growth=_slate_growth(smaller, samples) if smaller else None,
        history_growth=over(
            [np.array(one.history_lengths) for one in samples],
            [np.array(one.unobserved_ns, np.float64) for one in samples],
        ),
        cost=roofline(cost[0], [one.unobserved_ns for one in samples]) if cost else None,
    )


def _overhead_us(samples: list[Samples]) -> float | None:
    known = [one.overhead_ns for one in samples if one.overhead_ns is not None]
    return float(np.median(known)) / 1000 if known else None


def _energy_mj(samples: list[Samples]) -> float | None:
    """Millijoules a timed call, of all processes together; None where one could not be counted."""
    spent = [one.noise.energy_uj if one.noise else None for one in samples]
    known = [energy for energy in spent if energy is not None]
    return sum(known) / 1000 / sum(len(one.runs_ns) for one in samples) if len(known) == len(spent) else None


def _stages(samples: list[Samples]) -> dict[str, Any]:
    """Each stage's share of all observed time, and what observing does to a call."""
    spent: Counter[str] = Counter()
    for one in samples:
        spent.update(one.stages_ns)
    total = spent.total()
    if not total or spent.keys() <= ONE_STAGE:
        return {}
    pairs = [pair for one in samples for pair in zip(one.observed_ns, one.unobserved_ns, strict=True)]
    return {
        "stages": {stage: ns / total for stage, ns in spent.items()},
        "stages_check": float(np.median([seen / unseen for seen, unseen in pairs])) if pairs else None,
    }


def _slate_growth(smaller: list[Samples], larger: list[Samples]) -> Growth:
    before, after = ([np.array(one.runs_ns, np.float64) for one in samples] for samples in (smaller, larger))
    return between(before, after, (smaller[0].slate, larger[0].slate))


def _accuracy(measurement: Measurement, variant: str) -> Accuracy:
    """Every metric of a variant and its interval, by name; None where it is not defined on these test rows."""
    predictions = measurement.predictions
    values = measure(measurement.task, predictions.judged_rows(variant), predictions.depth)
    if variant in predictions.illegal_share:
        values[ILLEGAL_SHARE] = predictions.illegal_share[variant]
    return {name: None if np.isnan(value).any() else value for name, value in values.items()}
