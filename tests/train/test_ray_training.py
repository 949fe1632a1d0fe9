"""`rbserve train --engine ray --workers 2`: the weights of one process, also when a process is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from entry_point import rbserve_process
from safetensors.torch import load_file
from small_backbone import make_backbone

from rbserve.cli.options import without_options
from rbserve.data.artifact import WEIGHTS, Artifact, open_artifact
from rbserve.data.dataset import Dataset

pytest.importorskip("ray")
from local_cluster import LocalCluster, local_cluster

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1200)]
SMALL = ("--dataset", "planted", "--epochs", "2", "--batch", "500", "--set", "dim=8", "--set", "dropout=0")


@pytest.fixture(scope="module")
def nodes() -> Iterator[LocalCluster]:
    with local_cluster("a", "b") as running:
        yield running


def _train_on_one_and_on_two(nodes: LocalCluster, home: Path, *words: str) -> tuple[Artifact, Artifact]:
    """The artefacts of one training, done in one process here and in two on the cluster."""
    rbserve_process("train", *words, "--out", str(home / "one"), home=home, ACCELERATE_USE_CPU="true")
    cluster = ("--engine", "ray", "--address", nodes.address, "--workers", "2")
    rbserve_process("train", *words, "--out", str(home / "two"), *cluster, home=home)
    return open_artifact(home / "one"), open_artifact(home / "two")


def _check_equal(one: Artifact, two: Artifact, atol: float) -> None:
    expected, found = load_file(one.file(WEIGHTS)), load_file(two.file(WEIGHTS))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=atol, rtol=0)
    assert two.manifest.training.best_metric == pytest.approx(one.manifest.training.best_metric, abs=1e-5)


@pytest.mark.parametrize(
    "words",
    [("--model", "dnn", *SMALL, "--set", "hidden=32"), ("--model", "sasrec-3l", *SMALL, "--set", "heads=2")],
    ids=["ctr", "sasrec"],
)
def test_processes_on_two_nodes_train_to_the_weights_of_one(
    words: tuple[str, ...], nodes: LocalCluster, planted: Dataset, tmp_path: Path
) -> None:
    """Dropout is off: its masks differ between one process and two."""
    shutil.copytree(planted.path, tmp_path / "data/planted")
    _check_equal(*_train_on_one_and_on_two(nodes, tmp_path, *words), atol=1e-5)


def test_adapters_of_a_language_model_are_trained_like_on_one(
    nodes: LocalCluster, planted: Dataset, tmp_path: Path
) -> None:
    """Shares of unequal size take the processes unequal numbers of micro batches; one has none of the last batch."""
    shutil.copytree(planted.path, tmp_path / "data/planted")
    backbone = make_backbone("llama", tmp_path / "tiny")
    one, two = _train_on_one_and_on_two(
        nodes, tmp_path, "--model", "seq-p5", "--backbone", str(backbone), "--dataset", "planted", "--epochs", "2",
        "--batch", "33", "--epoch-rows", "133", "--lr", "0.001", "--set", "lora_rank=4", "--set", "lora_dropout=0",
    )  # fmt: skip
    _check_equal(one, two, atol=1e-5)


def test_after_the_loss_of_a_process_all_continue_from_the_checkpoint(
    nodes: LocalCluster, planted: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(planted.path, tmp_path / "data/planted")
    out, checkpoint = tmp_path / "out", tmp_path / "out.checkpoint.safetensors"
    words = ["train", "--model", "dnn", "--dataset", "planted", "--epochs", "400", "--patience", "400",
             "--batch", "500", "--set", "dim=8", "--set", "hidden=32", "--out", str(out),
             "--engine", "ray", "--address", nodes.address, "--workers", "2"]  # fmt: skip
    environment = os.environ | {"RBSERVE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "rbserve", *words], stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    )  # fmt: skip
    try:
        end = time.monotonic() + 600
        while not checkpoint.is_file():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
        _rank(tmp_path, "1").kill()
        _, said = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "the training begins again from its checkpoint" in said
    assert open_artifact(out).manifest.training.epochs == 400
    assert not checkpoint.exists()


def test_what_a_process_says_is_the_error_of_the_command(nodes: LocalCluster, tmp_path: Path) -> None:
    words = ("train", "--model", "dnn", "--dataset", "synthetic", "--set", "dmi=8", "--engine", "ray",
             "--address", nodes.address)  # fmt: skip
    done = rbserve_process(*words, home=tmp_path, check=None)
    assert done.returncode in (1, 2)
    assert "dmi" in done.stderr.splitlines()[-2] + done.stderr.splitlines()[-1]


def test_options_of_the_cluster_are_not_passed_on() -> None:
    line = ["train", "--engine", "ray", "--model", "dnn", "--workers=2", "--address", "a:1", "--epochs", "2"]
    left = without_options(line, ("--engine", "--address", "--workers"))
    assert left == ["train", "--model", "dnn", "--epochs", "2"]


def _rank(home: Path, number: str) -> psutil.Process:
    for process in psutil.process_iter(["cmdline"]):
        if "rbserve" in (process.info["cmdline"] or []):
            environment = process.environ()
            if (environment.get("RANK"), environment.get("RBSERVE_HOME")) == (number, str(home)):
                return process
    raise AssertionError(f"no process {number}")
