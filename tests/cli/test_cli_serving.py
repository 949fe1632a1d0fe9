"""Serving takes an artefact alone: no data set, no training that nobody asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset
from rbserve.home.target import resolve
from rbserve.models.zoo import find_model
from rbserve.pipeline import choosing, data, serving, training
from rbserve.pipeline.home import Home


@pytest.fixture
def home(tmp_path: Path, trained: Artifact, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with dnn trained on `beauty`, and no data set; anything that would be made is a failure."""
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.path, tmp_path / "artifacts" / "beauty" / "dnn")

    def refuse(*given: object, **options: object) -> Any:
        raise AssertionError(f"made something: {given}, {options}")

    monkeypatch.setattr(training, "train", refuse)
    monkeypatch.setattr(data, "prepare", refuse)
    return tmp_path


def add(home: Path, dataset: str, model: str = "dnn") -> None:
    shutil.copytree(home / "artifacts/beauty/dnn", home / "artifacts" / dataset / model)


def test_without_a_data_set_the_only_one_that_has_the_model_is_served(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serving.open_for_serving(resolve("dnn", None), "onnx-int8")
    assert served.path == home / "artifacts/beauty/dnn"
    assert capsys.readouterr().err == "dnn on beauty\n"


def test_of_several_data_sets_none_is_guessed(home: Path) -> None:
    add(home, "day")
    with pytest.raises(UsageError, match="dnn is trained on several data sets: beauty, day") as error:
        serving.open_for_serving(resolve("dnn", None), "onnx-fp32")
    assert error.value.hint == "for example --dataset beauty"
    assert serving.open_for_serving(resolve("dnn", "day"), "onnx-fp32").path == home / "artifacts/day/dnn"


def test_of_several_data_sets_ml_100k_is_served_as_ever_and_the_others_are_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(home, "ml-100k")
    assert serving.open_for_serving(resolve("dnn", None), "onnx-fp32").path == home / "artifacts/ml-100k/dnn"
    assert "it is also trained on beauty" in capsys.readouterr().err


@pytest.mark.parametrize(("dataset", "where"), [(None, "any data set"), ("beauty", "beauty")])
def test_a_model_that_is_not_trained_is_not_trained_now(home: Path, dataset: str | None, where: str) -> None:
    with pytest.raises(UsageError) as error:
        serving.open_for_serving(resolve("gdcn", dataset), "onnx-fp32")
    assert error.value.message == f"gdcn is not trained on {where}; there are dnn on beauty"
    assert error.value.hint == f"rbserve train --model gdcn --dataset {dataset or 'ml-100k'}"
    with pytest.raises(UsageError, match="dnn is not trained on day; it is trained on beauty"):
        choosing.choose_variant(resolve("dnn", "day"))
    with pytest.raises(UsageError, match="dnn is not trained on day"):
        serving.verify(resolve("dnn", "day"), "http://127.0.0.1:1", None, None, 1)


def test_told_to_make_it_a_missing_model_is_trained_and_one_that_is_there_is_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[object, ...]] = []

    def train(*given: object, **options: object) -> Artifact:
        trained.append(given)
        return open_artifact(home / "artifacts/beauty/dnn")

    monkeypatch.setattr(training, "train", train)
    serving.open_for_serving(resolve("dnn", None), "onnx-fp32", make=True)
    serving.open_for_serving(resolve("dnn", "beauty"), "onnx-fp32", make=True)
    assert not trained
    serving.open_for_serving(resolve("gdcn", None), "onnx-fp32", make=True)
    serving.open_for_serving(resolve("dnn", "synthetic"), "onnx-fp32", make=True)
    assert trained == [(find_model("gdcn"), "ml-100k"), (find_model("dnn"), "synthetic")]


def changed(dataset: Dataset, path: Path) -> None:
    """The data set as a nightly `prepare` leaves it: of the same name, with another fingerprint."""
    shutil.copytree(dataset.path, path)
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace(dataset.fingerprint, "0" * len(dataset.fingerprint)))


def test_an_artefact_is_served_when_its_data_set_has_new_rows(home: Path, planted: Dataset) -> None:
    """The smallest case: prepare, train, prepare with more rows, serve."""
    add(home, "planted")
    changed(planted, home / "data" / "planted")
    assert (
        serving.open_for_serving(resolve("dnn", "planted"), "onnx-int8").path
        == home / "artifacts/planted/dnn"
    )
    with pytest.raises(UsageError, match="was made from data"):  # a profile would judge it on other items
        Home().profile("dnn", "planted")


@pytest.mark.parametrize("there", [False, True])
def test_what_takes_the_data_set_says_so(home: Path, planted: Dataset, there: bool) -> None:
    add(home, "planted")
    artifact = open_artifact(home / "artifacts/planted/dnn")
    if there:
        changed(planted, home / "data" / "planted")
    with pytest.raises(UsageError) as error:
        serving.data_of(artifact, "choosing a variant of dnn")
    assert error.value.message.startswith("choosing a variant of dnn takes ")
    assert ("is 000000000000 now" if there else "which is not there") in error.value.message
    assert error.value.hint == (
        "rbserve serve --model dnn --dataset planted --variant onnx-fp32 takes the artefact alone"
    )


def test_an_unexported_variant_says_that_exporting_takes_the_data_set(home: Path) -> None:
    file = home / "artifacts/beauty/dnn/manifest.json"
    import json

    manifest = json.loads(file.read_text())
    del manifest["variants"]["onnx-int8"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="onnx-int8 of dnn is not exported yet; exporting it takes data set"):
        serving.open_for_serving(resolve("dnn", "beauty"), "onnx-int8")


def test_an_unknown_variant_of_a_path_is_refused_with_those_it_can_have(home: Path) -> None:
    with pytest.raises(UsageError, match="unknown variant of dnn: onnx-int4"):
        serving.open_for_serving(resolve(str(home / "artifacts/beauty/dnn"), None), "onnx-int4")
    with pytest.raises(ArtifactError, match="no artefact at"):
        serving.open_for_serving(resolve("./gone", None), "onnx-fp32")


def test_prepare_names_the_artefacts_that_it_leaves_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    training.train(find_model("dnn"), "synthetic", {"epochs": 1}, {"dim": "4", "hidden": "8"})
    data.prepare("synthetic")  # the same rows again: the artefact is still of this data set
    assert "left behind" not in capsys.readouterr().err
    data.prepare("synthetic", protocol={"seed": 7})
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left behind" in line]
    assert "made from earlier data of synthetic: dnn;" in line
    assert serving.open_for_serving(resolve("dnn", None), "torch-fp32").name == "dnn"
