"""`check` through the real entry point: verdicts, exit codes, files, and mistakes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from entry_point import rbserve, rbserve_process
from old_int8 import with_old_int8

from rbserve.data.artifact import Artifact, add_variants, open_artifact
from rbserve.data.dataset import Dataset

pytestmark = pytest.mark.alone

DECIDED_EXACTLY = ("--metrics", "file_size,accuracy")


@pytest.fixture(scope="module")
def home(trained: Artifact, planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two models as they were, and below main/ as they are; big's file has grown."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(planted.path, home / "data" / "planted")
    for name in ("dnn", "big"):
        for side in ("artifacts", "main/artifacts"):
            shutil.copytree(trained.path, home / side / "planted" / name)
    grown = home / "artifacts/planted/big"
    with (grown / "onnx/fp32.onnx").open("ab") as file:
        file.write(b"\xa2\x01\x80\x80\x01" + b"x" * (1 << 14))  # a field that onnx readers skip
    artifact = open_artifact(grown)
    add_variants(artifact, {"onnx-fp32": artifact.manifest.variants["onnx-fp32"]})
    return home


def test_an_artefact_against_itself_passes_or_asks_for_more_rounds(home: Path) -> None:
    (home / "rbserve-check.toml").write_text(
        "max_rounds = 8\nruns = 20\nseconds = 0.05\n[tolerance]\np50 = 1.0\n"
    )
    one = "artifacts/planted/dnn"
    done = rbserve_process("check", "--base", one, "--head", one, "--slates", "4", "--variant", "onnx-fp32", "--json",
                   "--base-python", sys.executable,
                   "--markdown", "out/gate.md", "--junit", "gate.xml", "--pytest-benchmark-out", "gate.json",
                   home=home, check=None)  # fmt: skip
    (home / "rbserve-check.toml").unlink()
    suite = json.loads(done.stdout)
    assert done.returncode == suite["exit_code"]
    assert done.returncode in (0, 4)
    assert {"schema", "created", "verdict", "lines", "config", "environment"} <= suite.keys()
    figures = {(line["metric"], line["slate"]) for line in suite["lines"]}
    assert figures == {("p50", 4), ("peak_rss", None), ("file_size", None), ("auc", None)}
    assert suite["verdict"] in (home / "out/gate.md").read_text()
    assert len(ElementTree.parse(home / "gate.xml").findall(".//testcase")) == 4
    files = ("gate.base.json", "gate.json")
    again = rbserve_process("check", "--pytest-benchmark", *files, home=home, check=None)
    assert "dnn::onnx-fp32[forward-4]" in again.stdout
    assert again.returncode in (0, 4)


def test_an_int8_file_of_version_01_is_a_base_for_a_new_one(
    trained: Artifact, home: Path, tmp_path: Path
) -> None:
    old, words = with_old_int8(trained, tmp_path / "dnn"), ("--head", "artifacts/planted/dnn", "--json")
    done = rbserve_process("check", "--base", str(old.path), *words, "--variant", "onnx-int8", *DECIDED_EXACTLY,
                   home=home, check=None)  # fmt: skip
    figures = {line["metric"]: line for line in json.loads(done.stdout)["lines"]}
    assert figures.keys() == {"file_size", "auc"}
    assert abs(figures["auc"]["base"] - figures["auc"]["head"]) < 0.005
    assert done.returncode in (0, 4)


def test_folders_are_compared_model_by_model_and_one_verdict_is_given(home: Path) -> None:
    words = ("check", "--base", "main", "--head", ".", "--variant", "onnx-fp32", *DECIDED_EXACTLY)
    done = rbserve_process(*words, "--json", home=home, check=3)
    verdicts = {(one["model"], one["metric"]): one["verdict"] for one in json.loads(done.stdout)["lines"]}
    assert verdicts == {
        ("planted/big", "file_size"): "REGRESSED", ("planted/big", "auc"): "PASS",
        ("planted/dnn", "file_size"): "PASS", ("planted/dnn", "auc"): "PASS",
    }  # fmt: skip
    assert "REGRESSED: 1 REGRESSED, 3 PASS" in done.stderr
    words = (*words[:-2], "--metrics", "file_size")
    shown = rbserve_process(*words, "--models", "dnn", home=home, check=0)
    assert "PASS" in shown.stdout
    assert "big" not in shown.stdout
    gone = rbserve_process(*words, "--models", "dnn,gdcn", home=home, check=5)
    assert "there is no gdcn in main and ." in gone.stderr


def test_a_model_that_was_removed_is_missing_and_a_new_one_is_not(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "artifacts/planted/dnn", tmp_path / "few/dnn")
    words = ("--variant", "onnx-fp32", "--metrics", "file_size")
    folders = (str(home / "main/artifacts/planted"), str(tmp_path / "few"))
    done = rbserve_process("check", "--base", folders[0], "--head", folders[1], *words, home=home, check=5)
    assert f"there is no big in {tmp_path / 'few'}" in done.stderr
    rbserve_process("check", "--base", folders[1], "--head", folders[0], *words, home=home, check=0)


def test_nothing_is_missing(home: Path, tmp_path: Path) -> None:
    done = rbserve("check", "--base", str(tmp_path), "--head", str(tmp_path), home=home, check=5)
    assert "MISSING: nothing was measured" in done.stderr


def test_a_run_file_is_a_baseline_and_a_foreign_one_advice(home: Path) -> None:
    short = ("--variants", "onnx-fp32", "--processes", "2", "--runs", "9", "--slates", "4")
    rbserve_process("profile", "--model", "artifacts/planted/dnn", *short, home=home)
    (run,) = (home / "runs").iterdir()
    words = ("check", "--head", "artifacts/planted/dnn", "--baseline")
    done = rbserve_process(*words, str(run), *DECIDED_EXACTLY, home=home, check=0)
    assert "auc" in done.stdout
    document = json.loads(run.read_text()) | {"comparability_key": "elsewhere"}
    (home / "foreign.json").write_text(json.dumps(document))
    done = rbserve_process(*words, "foreign.json", "--metrics", "file_size", home=home, check=6)
    assert "the baseline is of another machine" in done.stderr
    both = ("check", "--baseline", str(run), "--head", str(run))
    assert rbserve_process(*both, home=home, check=None).returncode in (0, 4)


def test_init_writes_the_documented_defaults_once(tmp_path: Path) -> None:
    from rbserve.profilers.gate.config import GateConfig, read_config

    rbserve("check", "--init", home=tmp_path)
    assert read_config(tmp_path / "rbserve-check.toml") == GateConfig()
    again = rbserve("check", "--init", home=tmp_path, check=2)
    assert "is there already" in again.stderr


MISTAKES = [
    ((), "", "give --head"),
    (("--base", ".", "--head", ".", "--baseline", "x.json"), "", "give --head"),
    (("--base", "gone", "--head", "."), "", "there is nothing at gone"),
    (
        ("--baseline", "gone.json", "--head", "artifacts/planted/dnn"),
        "",
        "--baseline takes a run file, not gone.json",
    ),
    (("--base", "artifacts/planted/dnn", "--head", "."), "", "must both be one model"),
    (("--base", "main", "--head", ".", "--base-python", "gone"), "", "there is no interpreter gone"),
    (("--base", "main", "--head", ".", "--metrics", "speed"), "", "unknown metric: speed"),
    (("--base", "main", "--head", ".", "--slates", "one"), "", "slates must be whole numbers"),
    (("--base", "main", "--head", ".", "--budget", "0"), "", "invalid option: --budget=0.0"),
    (("--pytest-benchmark", "a.json", "b.json", "--base", "main"), "", "--pytest-benchmark takes none of"),
    (("--base", "main", "--head", "."), "tolerence = 1", "unknown option: tolerence"),
    (("--base", "main", "--head", "."), "alpha = 0.7", "invalid option: alpha=0.7"),
    (("--base", "main", "--head", "."), "[tolerance]\np50 = -1", "invalid option: p50=-1"),
    (("--base", "main", "--head", ".", "--config", "gone.toml"), "", "cannot read gone.toml"),
]


@pytest.mark.parametrize(("words", "config", "message"), MISTAKES, ids=[one[2] for one in MISTAKES])
def test_a_mistake_is_one_line(home: Path, words: tuple[str, ...], config: str, message: str) -> None:
    file = home / "rbserve-check.toml"
    file.write_text(config)
    try:
        done = rbserve("check", *words, home=home, check=2)
    finally:
        file.unlink()
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in error
    assert done.stdout == ""


@pytest.mark.parametrize("option", ["--base", "--baseline"])
def test_a_file_of_pytest_benchmark_is_told_which_option_takes_it(
    home: Path, tmp_path: Path, option: str
) -> None:
    bench = tmp_path / "bench.json"
    bench.write_text('{"benchmarks": [], "machine_info": {}}')
    done = rbserve("check", option, str(bench), "--head", str(bench), home=home, check=2)
    assert f"{bench} is a file of pytest-benchmark, not a model or a run" in done.stderr
    assert "rbserve check --pytest-benchmark BASE HEAD" in done.stderr
