"""The sessions of docs/onnx-models.md run as they stand: ONNX files of five kinds, from training to a served answer."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from shell_sessions import ROOT, STOP, Shell, sections, shell_lines

PAGE = sections(ROOT / "docs" / "onnx-models.md")
MODELS = {
    "PyTorch": "mlp",
    "scikit-learn": "boosting",
    "LightGBM": "trees",
    "XGBoost": "xgb",
    "Texts": "categories",
}
QUICKEST = ("LightGBM", "Texts")
MOST_LINES = 10
REGRESSED, INCONCLUSIVE = 3, 4
QUICK = """\
max_rounds = 6
runs = 5
seconds = 0.01
budget = 60.0
"""
EXTRA = {"rbserve profile": ["--processes", "1", "--runs", "3", "--no-cost"]}
CHECK, SLOWED = "rbserve check", "python docs/examples/onnx/slowed_head.py"
ADOPT, TRAIN = "rbserve adopt", "python docs/examples/onnx/from_"
ASK = "python docs/examples/onnx/ask.py"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tables that the sessions share."""
    folder = tmp_path_factory.mktemp("tables")
    (line,) = shell_lines(PAGE[""])
    Shell(folder).run(line)
    return folder


@pytest.fixture
def folder(tables: Path, tmp_path: Path) -> Path:
    """An empty folder with the tables."""
    for table in tables.glob("*.parquet"):
        shutil.copy(table, tmp_path)
    return tmp_path


def begins(words: Sequence[str], line: str) -> bool:
    """Whether a command is that of a line."""
    return " ".join(words).startswith(line)


def inputs_of(words: Sequence[str]) -> dict[str, np.ndarray]:
    """The values that a line asks a server about, by input."""
    values = {name: ast.literal_eval(text) for name, text in (word.split("=", 1) for word in words[3:])}
    return {
        name: np.array(value, object if isinstance(value[0][0], str) else np.float32)
        for name, value in values.items()
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "section",
    [pytest.param(name, marks=[] if name in QUICKEST else [pytest.mark.slow]) for name in MODELS],
)
def test_a_session_ends_in_the_answer_of_the_model(section: str, folder: Path) -> None:
    (folder / "rbserve-check.toml").write_text(QUICK)
    lines, model = shell_lines(PAGE[section]), MODELS[section]
    assert len(lines) <= MOST_LINES
    answers: dict[str, str] = {}
    with Shell(folder, EXTRA) as shell:
        for words in lines:
            if words == STOP:
                shell.stop()
            elif words[-1] == "&":
                shell.start(words)
            elif begins(words, CHECK):
                assert " auc " in shell.run(words, REGRESSED).stdout
            elif not begins(words, SLOWED):  # tried below, for it takes minutes to be sure of a time
                answers[" ".join(words[:2])] = shell.run(words).stdout
    asked = next(words for words in lines if begins(words, ASK))
    session = onnxruntime.InferenceSession(folder / f"{model}.onnx")
    last = session.get_outputs()[-1].name
    (expected,) = session.run([last], inputs_of(asked))
    told = dict(line.split(" ", 1) for line in answers[ASK].splitlines())
    np.testing.assert_allclose(ast.literal_eval(told[last]), expected, atol=1e-6)
    (file,) = (folder / "runs").glob("*.json")
    run = json.loads(file.read_text())
    assert (run["model"], {result["slate"] for result in run["results"]}) == (model, {1, 100})
    assert all(0.75 < result["accuracy"]["auc"] < 0.9 for result in run["results"])


def test_both_sides_of_the_slowed_head_are_measured_and_judged(folder: Path) -> None:
    (folder / "rbserve-check.toml").write_text(QUICK)
    with Shell(folder) as shell:
        for words in shell_lines(PAGE["LightGBM"]):
            if begins(words, TRAIN) or begins(words, ADOPT):
                shell.run(words)
            elif begins(words, SLOWED):
                said = json.loads(shell.run([*words, "--json"], 0, REGRESSED, INCONCLUSIVE).stdout)
    measured = {(line["metric"], line["slate"], line["variant"]) for line in said["lines"]}
    assert measured == {("p50", 1, "onnx-fp32"), ("p50", 100, "onnx-fp32")}
    assert all(line["base"] > 0 and line["head"] > 0 for line in said["lines"])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("section", MODELS)
def test_calls_that_take_a_tenth_longer_are_never_passed(section: str, folder: Path) -> None:
    """The gate in its own time; a machine too noisy to tell is no failure, a slowdown that passes is one."""
    with Shell(folder) as shell:
        for words in shell_lines(PAGE[section]):
            if begins(words, TRAIN) or begins(words, ADOPT):
                shell.run(words)
            elif begins(words, SLOWED):
                said = json.loads(shell.run([*words, "--json"], REGRESSED, INCONCLUSIVE).stdout)
    assert {line["verdict"] for line in said["lines"]} <= {"REGRESSED", "INCONCLUSIVE"}
