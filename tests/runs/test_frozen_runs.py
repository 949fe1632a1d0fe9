"""Run files that older versions wrote are still rendered, beside those of today."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from rbserve.cli.profile_table import captions
from rbserve.data.dataset import Dataset
from rbserve.data.similarity import data_sketch
from rbserve.profilers.report.render import collect, render, with_sketch
from rbserve.runs.measurement import Measurement, comparability_key
from rbserve.runs.run_file import read_measurement, write_measurement

FROZEN = Path(__file__).parent.parent / "data"


def test_a_report_is_rendered_from_runs_of_an_older_version(tmp_path: Path) -> None:
    folder = render(collect(FROZEN), tmp_path / "report")
    report = json.loads((folder / "report.json").read_text())
    points = [point for section in report["sections"] for point in section["points"]]
    assert {point["model"] for point in points} == {"dnn", "sasrec-3l"}
    assert {point["overhead_us"] for point in points} == {None}
    for section in report["sections"]:
        assert any("did not look for a counter" in line for line in section["absent"])
        assert not any("overhead" in line for line in section["method"])
    assert "dnn" in (folder / "report.html").read_text()


def test_runs_of_before_and_of_today_stand_in_one_report(measured: Measurement, tmp_path: Path) -> None:
    shutil.copytree(FROZEN, tmp_path / "runs")
    write_measurement(tmp_path / "runs", measured)
    report = json.loads((render(collect(tmp_path / "runs"), tmp_path / "report") / "report.json").read_text())
    (today,) = [one for one in report["sections"] if one["dataset"] == measured.dataset]
    assert any("Harness overhead" in line and "nothing is subtracted" in line for line in today["method"])


def test_a_run_of_before_sketches_gets_the_one_of_its_data_set_while_that_is_the_same(
    measured: Measurement, planted: Dataset, tmp_path: Path
) -> None:
    assert measured.data_sketch == data_sketch(planted)
    old = msgspec.structs.replace(measured, data_sketch={})
    assert with_sketch(old, planted.path).data_sketch == measured.data_sketch
    assert with_sketch(old, tmp_path / "gone") is old
    other = msgspec.structs.replace(old, dataset_fingerprint="f" * 64)
    assert with_sketch(other, planted.path) is other
    (tmp_path / "manifest.json").write_text("{}")
    assert with_sketch(old, tmp_path) is old


def test_a_profile_names_the_form_of_its_baseline_and_the_variants_that_are_no_better(
    measured: Measurement,
) -> None:
    form = measured.baseline_forms["popularity"]
    assert form in ("last likes", "all likes")
    best = msgspec.structs.replace(measured, baselines={"popularity": {"auc": 0.9999}})
    variants = ", ".join(dict.fromkeys(result.variant for result in measured.results))
    assert f"baseline popularity ({form}): AUC 0.9999; no better: {variants}" in [*captions(best)]
    worst = msgspec.structs.replace(measured, baselines={"popularity": {"auc": 0.0001}})
    assert f"baseline popularity ({form}): AUC 0.0001" in [*captions(worst)]


@pytest.mark.parametrize("path", sorted(FROZEN.glob("run-*.json")), ids=lambda path: path.stem)
def test_a_run_of_an_older_version_would_have_the_same_comparability_key_today(path: Path) -> None:
    run = read_measurement(path)
    assert run.environment.device == "cpu"
    key = comparability_key(run.environment, run.plan.threads, run.dataset_fingerprint)
    assert key == run.comparability_key
