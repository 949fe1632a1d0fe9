"""A row that decodes another row's weights takes them under one rule, and says whether and why."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from rbserve.core.options import with_options
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.models.zoo import find_model
from rbserve.train import fit
from rbserve.train.fitting.loop import Settings


@pytest.fixture
def spec(trained: Artifact) -> ModelSpec:
    """A row with the config of the trained one, whose weights are those of `dnn`."""
    row = find_model("dnn")
    config = type(row.config)(**{key: _value(value) for key, value in trained.manifest.config.items()})
    return dataclasses.replace(row, name="dnn-again", config=config, weights_of="dnn")


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def made(
    spec: ModelSpec, data: Dataset, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> tuple[Artifact | None, str]:
    """The artefact, or None where a training would begin; and the first line that was said."""

    class BegunError(Exception):
        pass

    def begin(*given: object) -> Any:
        raise BegunError

    said: list[str] = []
    monkeypatch.setattr(fit, "_maker", lambda *_: begin)
    try:
        return fit.train(spec, data, folder / spec.name, settings, say=said.append), said[0]
    except BegunError:
        return None, "".join(said[:1])


def test_weights_are_taken_where_data_config_and_settings_agree(
    spec: ModelSpec, trained: Artifact, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.path, tmp_path / "dnn")
    settings = Settings(**trained.manifest.training.settings)
    taken, line = made(spec, planted, tmp_path, settings, monkeypatch)
    assert taken is not None
    assert taken.manifest.files["model.safetensors"] == trained.manifest.files["model.safetensors"]
    assert line == "dnn-again takes the weights of dnn: its data, config and training settings are the same"


def test_where_they_do_not_agree_it_is_said_in_what(
    spec: ModelSpec, trained: Artifact, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest case: `train --model X --epochs 1`, then `profile --model X-cbs` with the usual 50."""
    shutil.copytree(trained.path, tmp_path / "dnn")
    settings = Settings(**trained.manifest.training.settings)
    other = dataclasses.replace(settings, epochs=settings.epochs + 1)
    taken, line = made(spec, planted, tmp_path, other, monkeypatch)
    assert taken is None
    assert line.startswith(
        "dnn-again is trained anew, without the weights of dnn: "
        f"setting epochs was {settings.epochs} for them, not {other.epochs} "
    )
    changed = dataclasses.replace(spec, config=with_options(spec.config, {"dim": "3"}))
    taken, line = made(changed, planted, tmp_path, settings, monkeypatch)
    assert taken is None
    assert f"config dim was {spec.config.dim} for them, not 3" in line
    manifest = tmp_path / "dnn" / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace(planted.fingerprint, "0" * len(planted.fingerprint)))
    taken, line = made(spec, planted, tmp_path, settings, monkeypatch)
    assert taken is None
    assert "without the weights of dnn: they are of other data " in line
    manifest.write_text("{")
    taken, line = made(spec, planted, tmp_path, settings, monkeypatch)
    assert taken is None
    assert "without the weights of dnn: " in line


def test_without_the_other_artefact_nothing_is_said(
    spec: ModelSpec, trained: Artifact, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**trained.manifest.training.settings)
    assert made(spec, planted, tmp_path, settings, monkeypatch) == (None, "")
