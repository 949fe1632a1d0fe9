"""Through the command line: a budget, several threads, and a neighbour that takes half of the core."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from artificial import measurement, result
from entry_point import rbserve

from rbserve.cli.profile_table import results_table
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.report.render import collect, render
from rbserve.runs.schema import run_schema

pytestmark = pytest.mark.alone

DNN = ("profile", "--model", "dnn", "--dataset", "planted", "--variants", "onnx-fp32", "--slates", "1")


@pytest.fixture
def home(trained: Artifact, planted: Dataset, tmp_path: Path) -> Path:
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    shutil.copytree(trained.path, tmp_path / "artifacts" / "planted" / "dnn")
    return tmp_path


@pytest.fixture
def neighbour() -> Iterator[None]:
    """Another process that never rests, on the core that profiles are pinned to."""
    code = "import os\nos.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as busy:
        try:
            yield
        finally:
            busy.kill()


def test_a_budget_is_kept_and_told(home: Path) -> None:
    done = rbserve(*DNN, "--budget", "8", home=home)
    assert "budget 8 s, took " in done.stdout
    assert "harness overhead" in done.stdout
    (run,) = (home / "runs").iterdir()
    document = json.loads(run.read_bytes())
    jsonschema.validate(document, json.loads(run_schema()))
    assert document["seconds"] < 40  # a busy machine may start few processes slowly, and two are the fewest
    assert document["plan"]["budget_s"] == 8
    assert document["plan"]["processes"] >= 2
    assert (
        document["results"][0]["n"]
        <= document["plan"]["processes"] * document["plan"]["runs_of"]["onnx-fp32"]
    )
    assert document["command"] == ["rbserve", *DNN, "--budget", "8"]
    assert document["environment"]["flags"] or not Path("/proc/cpuinfo").exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no processes")
def test_a_neighbour_on_the_core_makes_a_latency_inconclusive(home: Path, neighbour: None) -> None:
    shown = rbserve(*DNN, "--processes", "2", "--runs", "300", home=home).stdout
    (run,) = (home / "runs").iterdir()
    (one,) = json.loads(run.read_bytes())["results"]
    assert any(reason.startswith("load by others: waited for the core") for reason in one["inconclusive"])
    assert "onnx-fp32 INCONCLUSIVE" in shown
    assert "INCONCLUSIVE: onnx-fp32, forward, slate 1: load by others" in shown


@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) < 2, reason="one core")
def test_each_number_of_threads_is_a_run_and_a_comparability_key_of_its_own(home: Path) -> None:
    done = rbserve(*DNN, "--threads", "1,2", "--processes", "1", "--runs", "5", "--json", home=home)
    one, two = json.loads(done.stdout)
    assert (one["plan"]["threads"], two["plan"]["threads"]) == (1, 2)
    assert one["comparability_key"] != two["comparability_key"]
    assert len(list((home / "runs").iterdir())) == 2
    assert sorted(section.threads for section in sections(collect(home / "runs"))) == [1, 2]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--budget", "0"), "invalid option: --budget=0.0", "--budget takes a number above 0"),
        (("--budget", "60", "--runs", "5"), "it takes neither --runs nor --seconds", "one or the other"),
        (("--threads", "two"), "threads must be whole numbers, not two", "--threads 1,2"),
        (("--threads", ""), "threads must be whole numbers, not nothing", "--threads 1,2"),
        (("--threads", "0"), "threads must be whole numbers, not 0", "--threads 1,2"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(
    home: Path, words: tuple[str, ...], message: str, hint: str | None
) -> None:
    done = rbserve(*DNN, *words, home=home, check=2)
    assert message in done.stderr
    assert (hint or "") in done.stderr


def test_a_report_says_what_is_inconclusive_and_what_energy_was_counted(tmp_path: Path) -> None:
    line = result("onnx-fp32", 1, 0.4, 0.7, inconclusive=["steal time grew"], overhead_us=0.1, energy_mj=2.5)
    made = measurement("dnn", [line])
    folder = render([made], tmp_path / "report")
    for name in ("table.md", "table.csv", "report.html"):
        assert "INCONCLUSIVE: steal time grew" in (folder / name).read_text(), name
    caption = str(results_table(made).caption)
    assert "INCONCLUSIVE: onnx-fp32, forward, slate 1: steal time grew" in caption
    assert "energy of onnx-fp32, forward, slate 1: 2.5 mJ per call" in caption
    assert "harness overhead 0.1 us per call; nothing is subtracted" in caption
