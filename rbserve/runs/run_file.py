"""Run files: one measurement as JSON, written whole or not at all, and read whatever version wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from rbserve.core.files import write_bytes
from rbserve.core.manifest import read_manifest
from rbserve.runs.measurement import SCHEMA, Measurement, Result
from rbserve.runs.plan import WARM
from rbserve.runs.samples import Samples
from rbserve.runs.summary import Shape, latency, samples_by_shape


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
    """Reads a run file; DataError when it is not one or of another schema.

    The latencies are derived from its samples anew, so that runs of any age are compared by the same statistics.
    """
    again = "remove it, or profile the model again"
    measurement = read_manifest(path, Measurement, SCHEMA, "a run file", again)
    shapes = samples_by_shape(measurement)
    results = [_derived_anew(result, shapes) for result in measurement.results]
    return msgspec.structs.replace(measurement, results=results)


def _derived_anew(result: Result, shapes: dict[Shape, list[Samples]]) -> Result:
    """The result with the latencies of its samples, where the file kept them."""
    cold, warm = (
        [process.runs_ns for process in shapes.get((result.variant, scope, result.slate), [])]
        for scope in (result.scope, WARM)
    )
    latencies = {"latency_ms": latency(cold)} if cold else {}
    latencies |= {"warm_ms": latency(warm)} if result.warm_ms and warm else {}
    return msgspec.structs.replace(result, **latencies)
