"""pytest-benchmark's files: judged, refused, written, and read by pytest-benchmark itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbserve.core.artifact import Artifact
from rbserve.core.dataset import Dataset
from rbserve.core.errors import DataError
from rbserve.profilers.gate import Verdict
from rbserve.profilers.gate_config import GateConfig
from rbserve.profilers.gate_run import check
from rbserve.profilers.gate_sides import Pair, Scope
from rbserve.profilers.pytest_benchmark import compare, write

CPU = {"cpu": {"brand_raw": "Artificial"}, "python_version": "3.11.1"}


def file(path: Path, seconds: dict[str, float], data: bool = True, **info: Any) -> Path:
    """A file of benchmarks with these medians, 100 rounds each, spread by 2%."""
    benchmarks = []
    for name, median in seconds.items():
        rounds = median * (1 + 0.02 * np.linspace(-1, 1, 101))
        stats: dict[str, Any] = {"median": median, "stddev": float(rounds.std()), "rounds": 101}
        benchmarks.append({"fullname": name, "stats": stats | ({"data": rounds.tolist()} if data else {})})
    path.write_text(json.dumps({"benchmarks": benchmarks, "machine_info": CPU | info, "version": "5.1.0"}))
    return path


def judge(base: Path, head: Path) -> dict[str, Verdict]:
    return {line.model: line.verdict for line in compare([base], [head], GateConfig()).lines}


@pytest.mark.parametrize("data", [True, False])
def test_benchmarks_are_matched_by_their_full_name(tmp_path: Path, data: bool) -> None:
    base = file(tmp_path / "base.json", {"same": 1e-3, "slower": 2e-3, "gone": 1.0, "close": 1e-6}, data)
    head = file(tmp_path / "head.json", {"new": 1.0, "slower": 2.6e-3, "same": 1e-3, "close": 1.1e-6}, data)
    suite = compare([base], [head], GateConfig())
    assert {line.model: line.verdict for line in suite.lines} == {
        "same": Verdict.PASS, "slower": Verdict.REGRESSED, "gone": Verdict.MISSING, "close": Verdict.INCONCLUSIVE,
    }  # fmt: skip
    assert (suite.verdict, suite.exit_code) == (Verdict.REGRESSED, 3)
    assert next(line.base for line in suite.lines if line.model == "slower") == pytest.approx(2.0)


def test_another_machine_or_python_is_not_comparable(tmp_path: Path) -> None:
    base = file(tmp_path / "base.json", {"one": 1.0})
    assert judge(base, file(tmp_path / "a.json", {"one": 1.0}, python_version="3.12.0")) == {
        "one": Verdict.NOT_COMPARABLE
    }
    assert judge(base, file(tmp_path / "b.json", {"one": 1.0}, node="elsewhere")) == {"one": Verdict.PASS}


def test_several_files_a_side_show_the_spread_between_processes(tmp_path: Path) -> None:
    """One pair of processes differs by 30%; between five of each, that is nothing."""
    levels = {"base": (1.0, 1.3, 1.0, 1.3, 1.1), "head": (1.3, 1.0, 1.3, 1.0, 1.1)}
    files = {
        side: [file(tmp_path / f"{side}{i}.json", {"one": level}) for i, level in enumerate(found)]
        for side, found in levels.items()
    }
    assert judge(files["base"][0], files["head"][0]) == {"one": Verdict.REGRESSED}
    (line,) = compare(files["base"], files["head"], GateConfig()).lines
    assert (line.verdict, line.rounds) == (Verdict.INCONCLUSIVE, 5)


def test_files_without_benchmarks_are_missing(tmp_path: Path) -> None:
    empty = file(tmp_path / "empty.json", {})
    assert compare([empty], [empty], GateConfig()).verdict is Verdict.MISSING


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON of pytest-benchmark"), ("{}", "benchmarks"), (None, "cannot read")],
)
def test_what_is_no_such_file_is_said(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        compare([path], [path], GateConfig())


def test_a_time_of_nothing_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path / "x.json", {"one": 0.0}, data=False)
    with pytest.raises(DataError, match="the median of one is not a time"):
        compare([path], [path], GateConfig())


def test_a_gates_samples_go_to_pytest_benchmark_and_come_back(
    trained: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    outcome = check(
        [Pair("dnn", trained, trained)], lambda _: planted, GateConfig(max_rounds=2, runs=20, seconds=0.1),
        Scope(["onnx-fp32"], [4], metrics=["p50"]),
    )  # fmt: skip
    head = tmp_path / "gate.json"
    base = write(head, outcome.contenders)
    shown = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", str(base), str(head)],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert "dnn[onnx-fp32, forward, slate 4]" in shown.stdout
    (line,) = compare([base], [head], GateConfig()).lines
    assert (line.model, line.rounds) == ("dnn::onnx-fp32[forward-4]", 2)
    (gated,) = outcome.suite.lines
    assert line.base == pytest.approx(gated.base)
    assert line.head == pytest.approx(gated.head)
