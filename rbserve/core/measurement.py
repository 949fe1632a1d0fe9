"""A measurement: raw nanoseconds and per-row scores of every variant of one artefact, in one file.

Samples are never thrown away or corrected. `summarise` turns them into the figures people read; the file
carries those as well, so that a reader needs no statistics of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rbserve.core.environment import Environment
from rbserve.core.errors import DataError
from rbserve.core.files import write_bytes
from rbserve.core.intervals import auc_interval, certified_percentile, gauc_interval, hierarchical_interval
from rbserve.core.metrics import ctr_metrics

SCHEMA = 1
MS = 1e-6  # nanoseconds to milliseconds


class Plan(msgspec.Struct, frozen=True):
    """How latency was sampled. `runs` is an upper bound: a shape also ends after `seconds` of timed calls."""

    processes: int
    runs: int
    seconds: float
    slates: list[int]
    threads: int
    scope: str
    seed: int


class Samples(msgspec.Struct, frozen=True):
    """What one fresh process saw of one variant and slate. Times are nanoseconds, in order.

    `load_ns` is opening the artefact's variant, `first_call_ns` the first call of this shape, `warmup_ns`
    the calls between it and the first timed run. `peak_rss_bytes` is the process's peak so far.
    """

    variant: str
    scope: str
    slate: int
    threads: int
    process: int
    core: int | None
    load_ns: int
    first_call_ns: int
    warmup_ns: list[int]
    runs_ns: list[int]
    peak_rss_bytes: int


class Predictions(msgspec.Struct, frozen=True):
    """The test rows every variant was scored on, and each variant's score of each row."""

    users: list[int]
    labels: list[int]
    scores: dict[str, list[float]]


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds per call. `ci95` belongs to p50, `mean_ci95` to the mean; null: too few runs to certify."""

    mean: float
    p50: float
    p90: float | None
    p99: float | None
    max: float
    ci95: tuple[float, float]
    mean_ci95: tuple[float, float]


class Result(msgspec.Struct, frozen=True):
    """One line of the table: one variant at one slate, its latency and the accuracy of the same artefact."""

    variant: str
    scope: str
    slate: int
    threads: int
    n: int
    processes: int
    latency_ms: Latency
    accuracy: dict[str, float | tuple[float, float] | None]
    peak_rss_mb: float
    load_ms: float
    first_call_ms: float
    file_mb: float
    warnings: list[str]


class Measurement(msgspec.Struct, frozen=True):
    """One profile of one artefact: where, how, the raw samples, and the figures derived from them."""

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


def summarise(measurement: Measurement) -> list[Result]:
    """One Result per variant and slate, in the order they were measured."""
    accuracy = {
        variant: _accuracy(measurement.predictions, variant) for variant in measurement.predictions.scores
    }
    shapes = dict.fromkeys((sample.variant, sample.slate) for sample in measurement.samples)
    return [_result(measurement, variant, slate, accuracy[variant]) for variant, slate in shapes]


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
        ci95=hierarchical_interval(processes, "median"),
        mean_ci95=hierarchical_interval(processes, "mean"),
    )


def comparability_key(environment: Environment, threads: int, fingerprint: str) -> str:
    """Two measurements may be compared only when this is equal: CPU, ISA, threads, libraries, data."""
    parts = [environment.cpu, environment.isa, threads, environment.libraries, fingerprint]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


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
    """Reads a run file; DataError when it is not one or of another version."""
    try:
        content = path.read_bytes()
        schema = msgspec.json.decode(content, type=_Versioned).schema
        if schema != SCHEMA:
            raise DataError(
                f"{path} has schema {schema}, this rbserve reads {SCHEMA}", "profile the model again"
            )
        return msgspec.json.decode(content, type=Measurement)
    except OSError as error:
        raise DataError(
            f"cannot read run file {path}: {error.strerror}", "rbserve profile writes one"
        ) from None
    except msgspec.MsgspecError as error:
        raise DataError(
            f"{path} is not a run file: {error}", "remove it, or profile the model again"
        ) from None


class _Versioned(msgspec.Struct):
    schema: int


def _result(
    measurement: Measurement,
    variant: str,
    slate: int,
    accuracy: dict[str, float | tuple[float, float] | None],
) -> Result:
    samples = [one for one in measurement.samples if (one.variant, one.slate) == (variant, slate)]
    return Result(
        variant=variant,
        scope=samples[0].scope,
        slate=slate,
        threads=samples[0].threads,
        n=sum(len(one.runs_ns) for one in samples),
        processes=len(samples),
        latency_ms=latency([one.runs_ns for one in samples]),
        accuracy=accuracy,
        peak_rss_mb=max(one.peak_rss_bytes for one in samples) / 2**20,
        load_ms=float(np.median([one.load_ns for one in samples])) * MS,
        first_call_ms=float(np.median([one.first_call_ns for one in samples])) * MS,
        file_mb=measurement.file_bytes[variant] / 2**20,
        warnings=measurement.variant_warnings.get(variant, []),
    )


def _accuracy(predictions: Predictions, variant: str) -> dict[str, float | tuple[float, float] | None]:
    labels = np.asarray(predictions.labels, np.int8)
    users = np.asarray(predictions.users, np.int32)
    scores = np.asarray(predictions.scores[variant], np.float32)
    point = {
        name: None if np.isnan(value) else value for name, value in ctr_metrics(labels, scores, users).items()
    }
    intervals = {
        "auc_ci95": auc_interval(labels, scores, users),
        "gauc_ci95": gauc_interval(labels, scores, users),
    }
    return {**point, **{name: None if np.isnan(pair[0]) else pair for name, pair in intervals.items()}}
