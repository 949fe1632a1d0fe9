"""A runtime of another package, in three files, is profiled, reported, recommended, checked and served like our own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import numpy_runtime
import pytest
from entry_point import rbserve_process

from rbserve.core import variants
from rbserve.core.errors import UsageError
from rbserve.core.requests import slate_request
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.runtimes.opening import open_scorer

VARIANT = "numpy-fp32"
QUICK = ("--processes", "2", "--runs", "30", "--seconds", "1", "--slates", "4")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the other package is installed."""
    folder = tmp_path_factory.mktemp("packages")
    numpy_runtime.install(folder)
    return folder


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The other package is found by this process."""
    monkeypatch.syspath_prepend(package)
    _forget()
    yield
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    variants.variants.cache_clear()
    variants.plug_ins.cache_clear()


@pytest.fixture(scope="module")
def home(trained: Artifact, planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the planted data set and a small DNN."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(planted.path, home / "data" / "planted")
    shutil.copytree(trained.path, home / "artifacts" / "planted" / "dnn")
    return home


@pytest.fixture(scope="module")
def profiled(home: Path, package: Path) -> Path:
    """The home with a profile in the other package's variant and in one of ours."""
    words = ("profile", "--model", "dnn", "--dataset", "planted", "--variants", f"onnx-fp32,{VARIANT}")
    rbserve_process(*words, *QUICK, home=home, PYTHONPATH=str(package))
    return home


@pytest.mark.usefixtures("installed")
def test_it_scores_like_the_reference(trained: Artifact) -> None:
    history, candidates = np.arange(5, dtype=np.int32), np.arange(40, dtype=np.int32)
    assert VARIANT in trained.can_open
    assert VARIANT not in trained.variants, "what nobody named is measured only where the row says so"
    scores = [
        open_scorer(trained, name).score(slate_request(history, candidates))
        for name in (VARIANT, "torch-fp32")
    ]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_its_profile_has_times_and_the_reference_s_accuracy(profiled: Path) -> None:
    (run,) = (json.loads(path.read_text()) for path in (profiled / "runs").glob("*.json"))
    ours, theirs = run["results"]
    assert (ours["variant"], theirs["variant"]) == ("onnx-fp32", VARIANT)
    assert theirs["n"] == 60
    assert theirs["latency_ms"]["p50"] > 0
    assert theirs["accuracy"]["auc"] == pytest.approx(ours["accuracy"]["auc"], abs=1e-6)
    assert run["environment"]["libraries"]["numpy-runtime"] == "1.5"


def test_a_report_has_it_in_its_colour(profiled: Path, package: Path) -> None:
    rbserve_process("report", "--name", "plug", home=profiled, PYTHONPATH=str(package))
    report = profiled / "reports" / "plug"
    points = {
        point["variant"]: point
        for section in json.loads((report / "report.json").read_text())["sections"]
        for point in section["points"]
    }
    assert (points[VARIANT]["runtime"], points[VARIANT]["precision"]) == ("numpy", "fp32")
    assert VARIANT in (report / "table.md").read_text()
    for file in ("pareto.svg", "report.html"):
        assert numpy_runtime.VARIANTS[0].colour in (report / file).read_text(), file


def test_it_is_a_candidate_of_recommend(profiled: Path, package: Path) -> None:
    words = ("recommend", "--slo", "p50<1000ms", "--slate", "4", "--dataset", "planted", "--json")
    answer = json.loads(rbserve_process(*words, home=profiled, PYTHONPATH=str(package), check=None).stdout)
    assert VARIANT in {candidate["variant"] for candidate in [*answer["meets"], *answer["refused"]]}


def test_check_holds_it_against_itself(home: Path, package: Path) -> None:
    artifact = str(home / "artifacts/planted/dnn")
    words = ("check", "--base", artifact, "--head", artifact, "--variant", VARIANT, "--metrics", "accuracy")
    done = rbserve_process(*words, "--json", home=home, PYTHONPATH=str(package))
    (line,) = json.loads(done.stdout)["lines"]
    assert (line["metric"], line["verdict"]) == ("auc", "PASS")


def test_it_is_served(home: Path, package: Path, planted: Dataset) -> None:
    words = ("serve", "--model", "dnn", "--dataset", "planted", "--variant", VARIANT, "--port", "0")
    server = subprocess.Popen(
        [sys.executable, "-m", "rbserve", *words], stderr=subprocess.PIPE, text=True, cwd=home,
        env=os.environ | {"RBSERVE_HOME": str(home), "PYTHONPATH": str(package)},
    )  # fmt: skip
    try:
        assert server.stderr is not None
        line = next(line for line in server.stderr if "http://" in line)
        url = line[line.index("http://") :].split()[0].rstrip(".,;")
        body = {"history": planted.items.ids[:3], "candidates": planted.items.ids[:5]}
        answer = httpx.post(f"{url}/v1/score", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["scores"]) == 5
        assert httpx.get(f"{url}/v1/models", timeout=60).json()["models"][0]["variant"] == VARIANT
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)


def test_without_the_package_its_old_figures_are_still_reported(profiled: Path) -> None:
    rbserve_process("report", "--name", "gone", home=profiled)
    report = json.loads((profiled / "reports" / "gone" / "report.json").read_text())
    runtimes = {point["runtime"] for section in report["sections"] for point in section["points"]}
    assert runtimes == {"onnx", "numpy"}


@pytest.mark.usefixtures("installed")
def test_what_it_cannot_open_is_told_with_its_reason(
    trained: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants.plug_ins()["numpy"], "unavailable", lambda *_: "it is Sunday")
    with pytest.raises(UsageError, match="numpy-fp32 cannot be run: it is Sunday") as error:
        open_scorer(trained, VARIANT)
    assert error.value.hint == "choose dnn"


def test_a_runtime_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy_runtime.install(tmp_path)
    (tmp_path / "numpy_runtime-1.5.dist-info" / "entry_points.txt").write_text(
        f"[{variants.GROUP}]\nbroken = no_such_module\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    _forget()
    with pytest.raises(UsageError, match="the runtime broken cannot be loaded: No module named") as error:
        variants.variants()
    assert error.value.hint == "pip uninstall numpy-runtime, or mend it"
    monkeypatch.undo()
    _forget()
