"""Baselines through the entry point: models that are no better than one, and `itemknn` as one of rankings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from entry_point import rbserve
from small import train_small

from rbserve.data.dataset import Dataset
from rbserve.pipeline.baselines import PAIR_BASELINES
from rbserve.runs.measurement import Measurement
from rbserve.runs.run_file import read_measurement

SHORT = ("--processes", "2", "--runs", "5")


@pytest.fixture(scope="module")
def home(judged: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose likes depend on the item alone, and models of both tasks that have hardly learnt."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(judged.path, home / "data" / "judged")
    for model in ("dnn", "sasrec-3l"):
        train_small(model, judged, home / "artifacts" / "judged" / model, epochs=1, lr=1e-4)
    return home


def newest_run(home: Path, model: str) -> Measurement:
    *_, path = sorted((home / "runs").glob(f"*-judged-{model}-*.json"))
    return read_measurement(path)


def test_every_command_marks_a_model_that_a_baseline_beats(home: Path) -> None:
    matrix = ("--models", "dnn", "--datasets", "judged", "--variants", "torch-fp32", "--slates", "2")
    rows = json.loads(rbserve("bench", *matrix, *SHORT, "--json", home=home).stdout)["rows"]
    assert [row["baseline_mark"] for row in rows] == ["below item_mean"]
    assert "below item_mean" in rbserve("bench", *matrix, *SHORT, home=home).stdout
    run = newest_run(home, "dnn")
    assert set(run.baseline_answers) == {"popularity", "item_mean"}
    profiled = rbserve("profile", "--model", "dnn", "--dataset", "judged", "--slates", "2", *SHORT, home=home)
    assert f"▼ torch-fp32: below item_mean, {run.baselines['item_mean']['auc']:.4f}: -" in profiled.stdout
    assert "judged ctr, below item_mean: dnn" in rbserve("report", home=home).stderr
    advice = rbserve("recommend", "--slo", "mean<10s", "--task", "ctr", home=home)
    assert "below item_mean): AUC" in advice.stdout
    assert (
        "No variant that meets the limits is above the best baseline: the pick is below item_mean"
        in advice.stderr
    )


def test_itemknn_is_a_baseline_once_it_is_trained_and_the_same_one_when_it_was_profiled(home: Path) -> None:
    ranking = ("--dataset", "judged", "--variants", "torch-fp32", *SHORT)
    rbserve("profile", "--model", "sasrec-3l", *ranking, home=home)
    assert set(newest_run(home, "sasrec-3l").baselines) == {"popularity"}
    rbserve("train", "--model", "itemknn", "--dataset", "judged", home=home)
    shutil.rmtree(home / "runs")
    rbserve("profile", "--model", "sasrec-3l", *ranking, home=home)
    by_artifact = newest_run(home, "sasrec-3l")
    rbserve("profile", "--model", "itemknn", *ranking, home=home)
    itself = newest_run(home, "itemknn")
    assert "itemknn" not in itself.baselines
    assert by_artifact.baselines["itemknn"]["ndcg@10"] == itself.results[0].accuracy["ndcg@10"]
    for path in (home / "runs").glob("*-sasrec-3l-*"):
        path.unlink()
    rbserve("profile", "--model", "sasrec-3l", *ranking, home=home)
    by_run = newest_run(home, "sasrec-3l")
    assert by_run.baseline_answers == by_artifact.baseline_answers
    assert by_run.baselines == by_artifact.baselines


def test_a_baseline_of_a_model_has_a_line_and_its_answers_of_the_users_that_are_judged(
    home: Path, judged: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PAIR_BASELINES, "oracle", lambda data: data.ctr("test").labels.astype(np.float64))
    words = ("profile", "--model", "dnn", "--dataset", "judged", "--slates", "2", "--variants", "torch-fp32")
    done = rbserve(*words, *SHORT, "--test-users", "20", home=home)
    assert "baseline oracle: AUC 1.0000, GAUC 1.0000; no better: torch-fp32" in done.stdout
    assert "▼ torch-fp32: below oracle, 1.0000: -" in done.stdout
    run = newest_run(home, "dnn")
    assert len(set(run.predictions.users)) == 20
    assert run.baseline_answers["oracle"] == run.predictions.labels
    assert len(run.predictions.labels) < len(judged.ctr("test"))
