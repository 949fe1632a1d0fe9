"""The published JSON Schema of run files is that of the types, and run files of today and of before are valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from rbserve.runs.measurement import Measurement
from rbserve.runs.run_file import read_measurement, write_measurement
from rbserve.runs.schema import PATH, run_schema

TESTS = Path(__file__).parent.parent
BEFORE = sorted((TESTS / "data").glob("run-schema-1-*.json"))  # with intervals of before they knew processes
FROZEN = [*BEFORE, *sorted(TESTS.glob("frozen/*/runs/*.json"))]


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(PATH.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_published_schema_is_that_of_the_types() -> None:
    assert PATH.read_bytes() == run_schema(), "python -m rbserve.runs.schema writes it anew"


def test_a_real_run_is_valid(validator: Any, measured: Measurement, tmp_path: Path) -> None:
    document = json.loads(write_measurement(tmp_path, measured).read_bytes())
    validator.validate(document)
    assert document["samples"][0]["noise"]["wall_ns"] > 0  # what is new is in it
    assert document["results"][0]["overhead_us"] > 0


@pytest.mark.parametrize("file", FROZEN, ids=lambda file: file.stem)
def test_a_run_of_an_earlier_version_is_valid(validator: Any, file: Path) -> None:
    validator.validate(json.loads(file.read_bytes()))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 2}, "1 was expected"),
        ({"samples": [{}]}, "required"),
        ({"results": "none"}, "not of type"),
    ],
)
def test_what_is_no_run_file_is_not_valid(validator: Any, change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=complaint):
        validator.validate(json.loads(FROZEN[0].read_bytes()) | change)


@pytest.mark.parametrize("file", BEFORE, ids=lambda file: file.stem)
def test_a_run_of_an_older_version_is_read_with_todays_intervals(file: Path) -> None:
    written = json.loads(file.read_bytes())
    read = read_measurement(file)
    for before, after in zip(written["results"], read.results, strict=True):
        assert after.latency_ms.p50 == pytest.approx(before["latency_ms"]["p50"])
        assert json.loads(msgspec.json.encode(after.accuracy)) == before["accuracy"]
        low, high = after.latency_ms.ci95
        assert low <= after.latency_ms.p50 <= high
        assert ([low, high] != before["latency_ms"]["ci95"]) == (after.processes > 1)
        assert (after.inconclusive, after.overhead_us, after.energy_mj) == ([], None, None)
    assert read.environment.energy_absent
    assert (read.command, read.git) == ([], None)
