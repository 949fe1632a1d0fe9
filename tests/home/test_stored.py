"""Names of a store: what users type, where their content is, and what a pull may replace."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import rbserve
from rbserve.core.errors import ArtifactError, RbserveError, UsageError
from rbserve.data.artifact import Artifact
from rbserve.home.target import parse_models, resolve
from rbserve.store.store import open_store


@pytest.fixture
def home(tmp_path: Path, trained: Artifact, monkeypatch: pytest.MonkeyPatch) -> rbserve.Home:
    """A home with dnn trained on `beauty`, and a store in a folder."""
    monkeypatch.setenv("RBSERVE_STORE", f"file://{tmp_path}/store")
    shutil.copytree(trained.path, tmp_path / "here" / "artifacts" / "beauty" / "dnn")
    return rbserve.Home(tmp_path / "here")


@pytest.fixture
def there(home: rbserve.Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> rbserve.Home:
    """Another machine's home, to which nothing was pulled yet."""
    home.push(["dnn"])
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path / "there"))
    return rbserve.Home(tmp_path / "there")


def test_a_model_is_pushed_by_its_name_and_pulled_by_it(there: rbserve.Home, trained: Artifact) -> None:
    assert open_store().names() == ["artifacts/beauty/dnn"]
    for text in ("dnn", "store://beauty/dnn", "artifacts/beauty/dnn"):
        assert there.pull([text])[0].name == "artifacts/beauty/dnn"
    assert resolve("dnn", "beauty").artifact is not None


def test_runs_are_files(home: rbserve.Home, tmp_path: Path) -> None:
    (home.path / "runs").mkdir()
    (home.path / "runs" / "20260101T000000Z-x.json").write_text("{}")
    assert [transfer.name for transfer in home.push(runs=True)] == ["runs/20260101T000000Z-x"]
    rbserve.Home(tmp_path / "there").pull(runs=True)
    assert (tmp_path / "there" / "runs" / "20260101T000000Z-x.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("names", "datasets", "message"),
    [
        ((), (), "nothing is named; there is artifacts/beauty/dnn"),
        (("dnm",), (), "unknown name: dnm"),
        (("dnn",), ("shop",), "nothing at .*artifacts/shop/dnn"),
        (("../etc",), (), "a model takes a plain name, not ../etc"),
        (("data/../x",), (), "takes a plain name"),
        (("artifacts/dnn",), (), "artifacts/dnn is no name in a store"),
        ((), ("shop",), "nothing at .*data/shop to push"),
        (("store://dnn",), (), "store://dnn is no model in a store"),
    ],
)
def test_a_name_that_means_nothing_is_refused(
    names: tuple[str, ...], datasets: tuple[str, ...], message: str, home: rbserve.Home
) -> None:
    with pytest.raises(UsageError, match=message):
        home.push(names, datasets)
    assert open_store().names() == []


def test_a_model_of_the_store_is_pulled_checked_and_opened(there: rbserve.Home, trained: Artifact) -> None:
    (model,) = parse_models(["store://beauty/dnn"])
    target = resolve(model, "another")
    assert target.artifact is not None
    assert target.artifact.manifest == trained.manifest
    assert target.path == there.path / "artifacts" / "beauty" / "dnn"
    with pytest.raises(UsageError, match="has no artifacts/beauty/gdcn"):
        resolve("store://beauty/gdcn")


def test_a_pull_replaces_what_was_pulled_and_not_what_was_changed_here(
    home: rbserve.Home, there: rbserve.Home
) -> None:
    there.pull(["dnn"])
    changed = home.path / "artifacts" / "beauty" / "dnn" / "model.safetensors"
    changed.write_bytes(changed.read_bytes()[::-1])
    home.push(["dnn"])
    assert there.pull(["dnn"])[0].moved_files == 1
    place = there.path / "artifacts" / "beauty" / "dnn" / "model.safetensors"
    assert place.read_bytes() == changed.read_bytes()
    place.write_bytes(b"trained here")
    with pytest.raises(UsageError, match="was not pushed"):
        there.pull(["dnn"])
    assert place.read_bytes() == b"trained here"
    there.pull(["dnn"], force=True)
    assert place.read_bytes() == changed.read_bytes()


def test_a_variant_that_was_exported_here_stays(there: rbserve.Home) -> None:
    there.pull(["dnn"])
    place = there.path / "artifacts" / "beauty" / "dnn"
    text = (place / "manifest.json").read_text()
    (place / "manifest.json").write_text(f"{text}\n")
    (place / "onnx").mkdir(exist_ok=True)
    (place / "onnx" / "mine.onnx").write_bytes(b"exported")
    assert there.pull(["dnn"])[0].moved_files == 0
    (place / "manifest.json").write_text("damaged")
    with pytest.raises(RbserveError):
        there.pull(["dnn"])


def test_a_folder_of_somebody_else_is_not_replaced(there: rbserve.Home) -> None:
    place = there.path / "artifacts" / "beauty" / "dnn"
    place.mkdir(parents=True)
    (place / "thesis.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(UsageError):
            there.pull(["dnn"], force=force)
    assert (place / "thesis.txt").read_text() == "mine"


def test_a_damaged_artefact_is_not_served(home: rbserve.Home, tmp_path: Path) -> None:
    (home.path / "artifacts" / "beauty" / "dnn" / "manifest.json").write_text("{}")
    home.push(["artifacts/beauty/dnn"])
    with pytest.raises(ArtifactError):
        rbserve.Home(tmp_path / "there").export("store://beauty/dnn")
