"""The blocks of docs/your-model.md run as they stand: a model of each library is made, adopted and measured."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from entry_point import rbserve

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "your-model.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
MODELS = {
    "PyTorch": "mlp",
    "scikit-learn": "boosting",
    "LightGBM": "trees",
    "XGBoost": "xgb",
    "Inputs of texts": "categories",
}
MOST_LINES = 10
FEW = ["--processes", "1", "--runs", "3", "--no-cost"]


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL)


def commands(section: str) -> list[list[str]]:
    """The commands of a section that end by themselves."""
    lines = [line for block in blocks(section, "sh") for line in block.splitlines()]
    assert len(lines) <= MOST_LINES
    words = [shlex.split(line, comments=True)[1:] for line in lines]
    return [command for command in words if command[0] != "serve"]


def run_python(code: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "section",
    [pytest.param(name, marks=[] if name == "LightGBM" else [pytest.mark.slow]) for name in MODELS],
)
def test_a_model_of_every_library_is_adopted_and_measured(section: str, tmp_path: Path) -> None:
    (table,) = blocks("The table of requests", "python")
    (making,) = blocks(section, "python")
    run_python(table + making, tmp_path)
    for words in commands(section):
        rbserve(*words, *(FEW if words[0] == "profile" else []), home=tmp_path)
    (file,) = (tmp_path / "runs").glob("*.json")
    run = json.loads(file.read_text())
    assert run["model"] == MODELS[section]
    assert {result["slate"] for result in run["results"]} == {1, 100}
    assert "onnx-fp32" in {result["variant"] for result in run["results"]}
    assert all(0 < result["accuracy"]["auc"] <= 1 for result in run["results"])
    if section == "LightGBM":
        assert run["environment"]["libraries"]["lightgbm"] == version("lightgbm")
        rbserve(*commands("What is measured")[0], home=tmp_path)
