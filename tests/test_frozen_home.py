"""Artefacts, run files, report data and HTTP answers of version 0.1 mean today what they meant then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from entry_point import rbserve

from rbserve.core.requests import slate_request
from rbserve.data.artifact import open_artifact
from rbserve.profilers.report.render import collect, render
from rbserve.runtimes.evaluate import recommend
from rbserve.runtimes.opening import open_ranker, open_scorer

FROZEN = Path(__file__).parent / "frozen" / "0.1"
ANSWERS: list[dict[str, Any]] = json.loads((FROZEN / "answers.json").read_text())
ARTIFACTS = sorted({answer["artifact"] for answer in ANSWERS})
RUNS = sorted((FROZEN / "runs").glob("*.json"))
# Another processor or library may sum in another order; eight-bit kernels differ between instruction sets.
TOLERANCE = {"torch-fp32": 1e-5, "onnx-fp32": 1e-5, "onnx-int8": 0.02}
# Later versions resample differently and say things in other words; a figure that was measured stays what it was.
RESAMPLED = {"front_probability", "speedup_ci95", "fronts"}
WORDS = {"answers", "absent", "method", "notes", "command"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the home, to be written to."""
    return Path(shutil.copytree(FROZEN, tmp_path_factory.mktemp("frozen") / "home"))


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    """The address of a server of every model's onnx-fp32."""
    models = [word for artifact in ARTIFACTS for word in ("--model", artifact)]
    with subprocess.Popen(
        [sys.executable, "-m", "rbserve", "serve", *models, "--variant", "onnx-fp32", "--port", "0"],
        cwd=home,
        env=os.environ | {"RBSERVE_HOME": str(home), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        lines: list[str] = []
        while not (lines and lines[-1].startswith("serving ")):
            lines.append(process.stderr.readline())
            assert lines[-1], "".join(lines)
        yield lines[-1].split()[-1]
        process.terminate()


def _title(answer: dict[str, Any]) -> str:
    return f"{Path(answer['artifact']).name}-{answer['response']['variant']}"


@pytest.mark.parametrize("answer", ANSWERS, ids=_title)
def test_every_variant_scores_and_ranks_as_it_did(answer: dict[str, Any]) -> None:
    artifact, variant = open_artifact(FROZEN / answer["artifact"]), answer["response"]["variant"]
    request = answer["request"]
    history = np.array([artifact.items.index[item] for item in request["history"]], np.int32)
    if "candidates" in request:
        candidates = np.array([artifact.items.index[item] for item in request["candidates"]], np.int32)
        scores = open_scorer(artifact, variant).score(slate_request(history, candidates))
        expected = answer["response"]["scores"]
    else:
        ranker = open_ranker(artifact, variant)
        items, scores = recommend(ranker, history, request["k"], request["exclude_seen"])
        expected = answer["response"]["items"]
        if variant != "onnx-int8":
            assert [artifact.items.ids[item] for item in items] == [row["item"] for row in expected]
    assert scores == pytest.approx([row["score"] for row in expected], abs=TOLERANCE[variant])


@pytest.mark.parametrize(
    "answer", [answer for answer in ANSWERS if answer["response"]["variant"] == "onnx-fp32"], ids=_title
)
def test_a_server_gives_the_same_answer(answer: dict[str, Any], server: str) -> None:
    body = answer["request"] | {"model": answer["response"]["model"]}
    request = urllib.request.Request(
        server + answer["path"], json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        _compare(answer["response"], json.load(response), "response")


def test_a_profile_finds_the_accuracy_that_it_found(home: Path) -> None:
    named = [Path(artifact).name for artifact in ARTIFACTS if "random" not in artifact]
    done = rbserve("profile", "--models", ",".join(named), "--dataset", "shop", "--variants", "onnx-fp32",
                   "--slates", "5", "--processes", "1", "--runs", "3", "--no-cost", "--json", home=home)  # fmt: skip
    today = {run["model"]: run for run in json.loads(done.stdout)}
    assert sorted(today) == sorted(named)
    for old in (json.loads(path.read_text()) for path in RUNS):
        if not old["random"]:
            (then, *_) = [row for row in old["results"] if row["variant"] == "onnx-fp32"]
            _compare(_accuracies(then), _accuracies(today[old["model"]]["results"][0]), old["model"])


def _accuracies(result: dict[str, Any]) -> dict[str, Any]:
    """Metrics without their intervals, which are resampled."""
    return {key: value for key, value in result["accuracy"].items() if not key.endswith("_ci95")}


def test_a_row_of_random_weights_is_opened_under_its_name(home: Path) -> None:
    done = rbserve("profile", "--model", "pnn", "--weights", "random", "--dataset", "shop", "--variants",
                   "onnx-fp32", "--slates", "5", "--processes", "1", "--runs", "3", "--no-cost", "--json",
                   home=home)  # fmt: skip
    (old,) = [run for run in (json.loads(path.read_text()) for path in RUNS) if run["random"]]
    assert json.loads(done.stdout)["artifact_digest"] == old["artifact_digest"]


def test_the_report_on_the_old_runs_has_every_figure_of_the_old_report(tmp_path: Path) -> None:
    today = json.loads((render(collect(FROZEN / "runs"), tmp_path / "report") / "report.json").read_text())
    old = json.loads((FROZEN / "report.json").read_text())
    tables = {table["title"]: {row["model"]: row for row in table["rows"]} for table in today["paper_tables"]}
    for table in old.pop("paper_tables"):
        for row in table["rows"]:
            _compare(row, tables[table["title"]][row["model"]], table["title"])
    _compare(old, today, "report")


def _compare(old: Any, new: Any, where: str) -> None:
    """Every key and figure of `old` must be in `new`; there may be more keys."""
    if isinstance(old, dict):
        for key, value in old.items():
            assert key in new, f"{where}.{key} is gone"
            if key not in RESAMPLED | WORDS:
                _compare(value, new[key], f"{where}.{key}")
    elif isinstance(old, list):
        assert len(old) == len(new), where
        for index, pair in enumerate(zip(old, new, strict=True)):
            _compare(*pair, f"{where}[{index}]")
    elif isinstance(old, float):
        assert new == pytest.approx(old, rel=1e-5), where
    else:
        assert new == old, where


def test_a_recommendation_is_made_of_the_old_runs(tmp_path: Path) -> None:
    done = rbserve("recommend", "--slo", "p50<1000ms", "--dataset", "shop", "--slate", "8",
                   "--runs", str(FROZEN / "runs"), home=tmp_path)  # fmt: skip
    for model in ("dnn", "dnn-from-dnn"):
        assert f"{model} (dim=8, hidden=16,8)" in done.stdout
    assert "its weights are random: latency only" in done.stdout


def test_an_old_run_file_is_held_against_itself(tmp_path: Path) -> None:
    run = str(RUNS[0])
    done = rbserve("check", "--baseline", run, "--head", run, "--json", home=tmp_path, check=None)
    lines = json.loads(done.stdout)["lines"]
    assert {"PASS"} == {line["verdict"] for line in lines if line["metric"] in ("auc", "file_size")}
    assert all(line["change"] == 0 for line in lines)
