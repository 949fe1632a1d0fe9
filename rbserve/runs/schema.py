"""The JSON Schema of a run file, made from the types and the metrics: `python -m rbserve.runs.schema` writes it.

It is published as rbserve/schemas/run.schema.json. Every key that a later version added has a default, so that runs
of all versions of one `schema` number are valid, and further keys are allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from rbserve.core.files import write_bytes
from rbserve.runs.measurement import SCHEMA, Measurement
from rbserve.stats.metrics import ILLEGAL_SHARE, METRICS, metric_title

_INTERVAL = {"type": ["array", "null"], "minItems": 2, "maxItems": 2, "items": {"type": "number"}}
PATH = Path(__file__).parent.parent / "schemas" / "run.schema.json"


def run_schema() -> bytes:
    """The schema (draft 2020-12) as indented JSON."""
    made = msgspec.json.schema(Measurement)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"rbserve run file, schema {SCHEMA}",
    }
    made["$defs"]["Measurement"]["properties"]["schema"]["const"] = SCHEMA
    made["$defs"]["Result"]["properties"]["accuracy"]["properties"] = _accuracies()
    return msgspec.json.format(msgspec.json.encode({**head, **made})) + b"\n"


def _accuracies() -> dict[str, dict[str, Any]]:
    """What a result's accuracy may have: each metric, and NAME_ci95 if it has an interval; null if not defined."""
    listed: dict[str, dict[str, Any]] = {}
    for task, table in METRICS.items():
        for name, metric in table.items():
            title = metric_title(name, task)
            known = listed.get(name, {}).get("description")  # of two tasks with one name, both titles
            listed[name] = {
                "description": f"{known} or {title}" if known else title,
                "type": ["number", "null"],
            }
            if metric.draws:
                listed[f"{name}_ci95"] = {"description": "95% interval over users", **_INTERVAL}
    listed[ILLEGAL_SHARE] = {"description": "Share of generated paths that lead to no item", "type": "number"}
    return listed


if __name__ == "__main__":
    write_bytes(PATH, run_schema())
