"""Run files that older versions wrote are still rendered, beside those of today."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rbserve.core.measurement import Measurement, write_measurement
from rbserve.profilers.report import collect, render

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
