"""A log of clicks goes all the way through the entry point: prepared, trained on, exported, profiled, reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click_lines import AVAZU_HEADER, avazu_lines, criteo_line, criteo_lines, write_log
from entry_point import rbserve

ROWS = 1_500
"""Rows of each log; their labels follow a field nine times of ten, so that the best possible AUC is 0.9."""
TRAINING = ("--set", "fields=own", "--set", "dim=4", "--epochs", "6", "--batch", "64", "--lr", "0.003")
NEURAL = {"criteo": "dcnv2", "avazu": "deepfm"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with both logs prepared, and two models trained on each."""
    folder = tmp_path_factory.mktemp("logs")
    files = {
        "criteo": write_log(folder / "train.txt.gz", criteo_lines(ROWS)),
        "avazu": write_log(folder / "train.csv", [AVAZU_HEADER, *avazu_lines(ROWS)]),
    }
    for source, file in files.items():
        rbserve("prepare", source, "--raw", str(file), home=folder)
        rbserve("train", "--model", NEURAL[source], "--dataset", source, *TRAINING, home=folder)
        rbserve("train", "--model", "gbdt", "--dataset", source, "--set", "fields=all", home=folder)
    return folder


@pytest.mark.parametrize("source", ["criteo", "avazu"])
def test_models_learn_from_the_fields_and_are_profiled(home: Path, source: str) -> None:
    models = f"{NEURAL[source]},gbdt"
    exported = rbserve("export", "--model", models, "--dataset", source, home=home)
    assert exported.stderr.count("onnx-fp32: max |difference|") == 2
    few = ("--runs", "5", "--processes", "1", "--slates", "1,8")
    rbserve("profile", "--model", models, "--dataset", source, *few, home=home)
    runs = [json.loads(file.read_text()) for file in sorted((home / "runs").glob(f"*-{source}-*.json"))]
    assert len(runs) == 2
    for run in runs:
        assert all(0.8 < result["accuracy"]["auc"] < 1 for result in run["results"]), run["model"]
        assert run["baselines"]["item_mean"] == {"auc": 0.5}, "of one item there is a base rate alone"
    rbserve("report", "--dataset", source, "--name", source, home=home)
    text = (home / "reports" / source / "table.md").read_text()
    assert NEURAL[source] in text
    assert "nan" not in text.lower().split()


def test_datasets_show_finds_a_log_sound(home: Path) -> None:
    shown = rbserve("datasets", "show", "criteo", "--json", home=home)
    report = json.loads(shown.stdout)
    assert report["ok"]
    assert [split["rows"] for split in report["splits"]] == [1200, 150, 150, 0, 0, 0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "deepfm"), "criteo has fields alone"),
        (("--model", "deepfm", "--set", "fields=counted"), "fields=counted: the data set has none"),
        (("--model", "sasrec-3l"), "no training rows for sasrec-3l"),
        (("--model", "itemknn"), "no training rows for itemknn"),
    ],
)
def test_what_a_log_cannot_train_is_said(home: Path, words: tuple[str, ...], said: str) -> None:
    before = sorted((home / "artifacts").rglob("*"))
    done = rbserve(
        "train", *words, "--dataset", "criteo", "--out", str(home / "other"), home=home, check=None
    )
    assert done.returncode != 0
    assert said in done.stderr
    assert sorted((home / "artifacts").rglob("*")) == before
    assert not (home / "other").exists()


def test_nothing_is_counted_for_the_tables_of_a_log(home: Path) -> None:
    done = rbserve("datasets", "export", "criteo", "--to", "tables", "--counted", home=home, check=None)
    assert done.returncode != 0
    assert "criteo has nothing to count" in done.stderr
    assert not (home / "tables").exists()


def test_a_wrong_log_leaves_the_earlier_data_set(home: Path, tmp_path: Path) -> None:
    manifest = (home / "data" / "criteo" / "manifest.json").read_bytes()
    wrong = write_log(tmp_path / "train.txt", [criteo_line(2) for _ in range(10)])
    done = rbserve("prepare", "criteo", "--raw", str(wrong), home=home, check=None)
    assert done.returncode != 0
    assert "10 rows without a label" in done.stderr
    assert (home / "data" / "criteo" / "manifest.json").read_bytes() == manifest
