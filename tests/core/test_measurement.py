"""Figures are functions of the raw samples."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from rbserve.core.environment import environment
from rbserve.core.errors import DataError
from rbserve.core.measurement import (
    Measurement,
    comparability_key,
    latency,
    read_measurement,
    summarise,
    write_measurement,
)
from rbserve.core.metrics import auc


def test_latency_is_in_milliseconds_and_certifies_only_what_it_can() -> None:
    few = latency([[1_000_000, 3_000_000], [2_000_000]])
    assert (few.mean, few.p50, few.max) == (2.0, 2.0, 3.0)
    assert few.p90 is None
    assert few.p99 is None
    many = latency([list(range(1_000_000, 2_000_000, 1_000))] * 5)
    assert many.p99 == pytest.approx(1.989, abs=0.002)
    assert many.ci95[0] <= many.p50 <= many.ci95[1]


def test_a_run_file_reads_back_and_its_figures_follow_from_its_samples(
    measured: Measurement, tmp_path: Path
) -> None:
    again = read_measurement(write_measurement(tmp_path, measured))
    assert again == measured
    assert summarise(again) == measured.results
    result = measured.results[0]
    runs = [run for one in measured.samples if (one.variant, one.slate) == (result.variant, result.slate)
            for run in one.runs_ns]  # fmt: skip
    assert result.n == len(runs)
    assert result.latency_ms.mean == pytest.approx(np.mean(runs) / 1e6)
    assert result.accuracy["auc"] == auc(
        measured.predictions.labels, measured.predictions.scores[result.variant]
    )


def test_another_schema_and_garbage_are_refused(measured: Measurement, tmp_path: Path) -> None:
    path = write_measurement(tmp_path, msgspec.structs.replace(measured, schema=99))
    with pytest.raises(DataError, match="schema 99"):
        read_measurement(path)
    path.write_bytes(b"{}")
    with pytest.raises(DataError, match="not a run file"):
        read_measurement(path)
    with pytest.raises(DataError, match="cannot read"):
        read_measurement(tmp_path / "absent.json")


def test_only_equal_machines_threads_and_data_share_a_key() -> None:
    here = environment()
    key = comparability_key(here, 1, "data")
    assert key == comparability_key(here, 1, "data")
    assert key != comparability_key(here, 2, "data")
    assert key != comparability_key(here, 1, "other")
    assert key != comparability_key(msgspec.structs.replace(here, isa=["other"]), 1, "data")
