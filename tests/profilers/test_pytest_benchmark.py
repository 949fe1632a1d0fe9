"""pytest-benchmark's files: judged, refused, written, and read by pytest-benchmark itself."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbserve.core.errors import DataError
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.profilers.gate.benchmark_file import Benchmark, Stats, write
from rbserve.profilers.gate.config import GateConfig
from rbserve.profilers.gate.pytest_benchmark import compare, judge_benchmarks
from rbserve.profilers.gate.rounds import check
from rbserve.profilers.gate.sides import Pair, Scope
from rbserve.profilers.gate.verdict import Verdict

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


# ---- Spreads that nobody saw ----


def timed(path: Path, rounds: list[float], **stats: Any) -> Path:
    """A file of one benchmark with these rounds, as pytest-benchmark sums them up."""
    summary = {
        "median": float(np.median(rounds)),
        "stddev": float(np.std(rounds, ddof=1)) if len(rounds) > 1 else 0,
        "rounds": len(rounds),
        "iqr": float(np.subtract(*np.quantile(rounds, [0.75, 0.25]))),
        "data": rounds,
    }
    benchmarks = [{"fullname": "one", "stats": summary | stats}]
    path.write_text(json.dumps({"benchmarks": benchmarks, "machine_info": CPU}))
    return path


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize(
    ("base", "head", "reason"),
    [
        ([1.0], [1.3], "base: a single round shows no spread"),
        ([1.0], [1.0], "base: a single round shows no spread"),
        ([1.0, 1.1, 1.2], [1.0], "head: a single round shows no spread"),
        ([1.0] * 5, [1.0] * 5, "base: its 5 rounds show no spread"),
        ([1.0] * 5, [1.3] * 5, "base: its 5 rounds show no spread"),
        ([1.0] * 100, [1.3] * 100, "base: its 100 rounds show no spread"),
    ],
)
def test_an_unknown_spread_is_not_one_of_nothing(
    tmp_path: Path, base: list[float], head: list[float], reason: str, data: bool
) -> None:
    kept = {} if data else {"data": []}
    files = timed(tmp_path / "base.json", base, **kept), timed(tmp_path / "head.json", head, **kept)
    (line,) = compare([files[0]], [files[1]], GateConfig()).lines
    assert line.verdict is Verdict.INCONCLUSIVE
    assert (line.reason or "").startswith(reason)
    assert (line.low, line.high) == (None, None)


def test_five_equal_processes_are_not_exact(tmp_path: Path) -> None:
    base = [timed(tmp_path / f"base{i}.json", [1.0]) for i in range(5)]
    head = [timed(tmp_path / f"head{i}.json", [1.3]) for i in range(5)]
    (line,) = compare(base, head, GateConfig()).lines
    assert line.verdict is Verdict.INCONCLUSIVE
    assert line.reason == "the medians of all 5 processes of base are equal: their spread is unknown"


def test_a_verdict_of_one_process_says_what_it_assumes(tmp_path: Path) -> None:
    base, head = file(tmp_path / "base.json", {"one": 1.0}), file(tmp_path / "head.json", {"one": 1.3})
    (line,) = compare([base], [head], GateConfig(process_cv=0.03)).lines
    assert line.verdict is Verdict.REGRESSED
    assert line.reason == "rests on an assumed spread between processes of 3.0% (process_cv)"


def test_a_few_processes_that_differ_by_more_than_is_assumed_count_with_that(tmp_path: Path) -> None:
    levels = {"base": (1.0, 1.1), "head": (1.3, 1.5)}
    base, head = (
        [file(tmp_path / f"{side}{i}.json", {"one": level}) for i, level in enumerate(found)]
        for side, found in levels.items()
    )
    assert compare(base, head, GateConfig()).verdict is Verdict.INCONCLUSIVE


REPEATS = 300
MOST = 9  # of 300: 1% would show more with a chance of 0.1%


@pytest.mark.parametrize("change", [0.0, math.log(1.1)], ids=["no change", "at the tolerance"])
@pytest.mark.parametrize("data", [1, 2, 3, 5, 30])
def test_noise_of_15_percent_is_called_a_regression_with_a_chance_of_alpha_at_most(
    data: int, change: float
) -> None:
    """Of the rounds of one process a side, and of as many processes of one round each."""
    rng = np.random.default_rng(data)
    rounds = np.exp(0.15 * rng.normal(size=(REPEATS, 2, data)) + np.array([[[0.0], [change]]]))
    for processes in (1, data):
        verdicts = [_simulated(*sides, processes) for sides in rounds]
        assert verdicts.count(Verdict.REGRESSED) <= MOST
        if data == 1:
            assert {*verdicts} == {Verdict.INCONCLUSIVE}


def test_a_slowdown_of_half_is_told_from_three_rounds_of_little_noise() -> None:
    rng = np.random.default_rng(0)
    rounds = np.exp(0.02 * rng.normal(size=(REPEATS, 2, 3)) + np.array([[[0.0], [math.log(1.5)]]]))
    assert sum(_simulated(*sides, 1) is Verdict.REGRESSED for sides in rounds) > 0.95 * REPEATS


def _simulated(base: Any, head: Any, processes: int) -> Verdict:
    sides = [
        [
            Benchmark("one", Stats(float(np.median(part)), len(part), data=part.tolist()))
            for part in np.split(side, processes)
        ]
        for side in (base, head)
    ]
    return judge_benchmarks({"one": sides[0]}, {"one": sides[1]}, GateConfig())[0].verdict


@pytest.mark.parametrize("wrong", ["NaN", "Infinity"])
def test_a_number_that_is_none_matters_only_where_it_is_judged(tmp_path: Path, wrong: str) -> None:
    text = file(tmp_path / "base.json", {"one": 1.0}).read_text()
    harmless = tmp_path / "harmless.json"
    harmless.write_text(text.replace('"rounds"', f'"ops": {wrong}, "ld15iqr": {wrong}, "rounds"'))
    assert judge(harmless, harmless) == {"one": Verdict.PASS}
    spread = tmp_path / "spread.json"
    spread.write_text(json.dumps({"benchmarks": [
        {"fullname": "one", "stats": {"median": 1.0, "stddev": float("nan"), "iqr": float("inf"), "rounds": 50}}
    ]}))  # fmt: skip
    assert judge(spread, spread) == {"one": Verdict.INCONCLUSIVE}
    median = tmp_path / "median.json"
    stats = f'{{"median": {wrong}, "rounds": 9}}'
    median.write_text(f'{{"benchmarks": [{{"fullname": "one", "stats": {stats}}}]}}')
    with pytest.raises(DataError, match="the median of one is not a time"):
        compare([median], [median], GateConfig())


def test_a_foreign_list_of_medians_is_an_error_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    stats = {"median": 1.0, "rounds": 9, "stddev": 0.1}
    path.write_text(
        json.dumps(
            {"benchmarks": [{"fullname": "one", "stats": stats, "extra_info": {"process_medians_s": "fast"}}]}
        )
    )
    with pytest.raises(DataError, match="is not JSON of pytest-benchmark"):
        compare([path], [path], GateConfig())


def test_a_run_file_is_told_which_option_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"schema": 1, "samples": []}')
    with pytest.raises(DataError) as caught:
        compare([path], [path], GateConfig())
    assert caught.value.hint == f"it is a run file: rbserve check --baseline {path}"


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
        [Pair("dnn", trained, trained)], lambda _: planted, GateConfig(max_rounds=6, runs=20, seconds=0.1),
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
    assert (line.model, line.rounds) == ("dnn::onnx-fp32[forward-4]", 6)
    (gated,) = outcome.suite.lines
    assert line.base == pytest.approx(gated.base)
    assert line.head == pytest.approx(gated.head)
