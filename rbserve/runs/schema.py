"""The JSON Schema of a run file, made from the types: `python -m rbserve.runs.schema` writes it anew.

It is published as rbserve/schemas/run.schema.json. Every key that a later version added has a default, so that runs
of all versions of one `schema` number are valid, and further keys are allowed.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from rbserve.core.files import write_bytes
from rbserve.runs.measurement import SCHEMA, Measurement

PATH = Path(__file__).parent.parent / "schemas" / "run.schema.json"


def run_schema() -> bytes:
    """The schema (draft 2020-12) as indented JSON."""
    made = msgspec.json.schema(Measurement)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"rbserve run file, schema {SCHEMA}",
    }
    made["$defs"]["Measurement"]["properties"]["schema"]["const"] = SCHEMA
    return msgspec.json.format(msgspec.json.encode({**head, **made})) + b"\n"


if __name__ == "__main__":
    write_bytes(PATH, run_schema())
