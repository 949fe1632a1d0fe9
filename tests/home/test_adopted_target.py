"""An adopted model is found by its name, on the data that it was adopted on, and timed at the sizes of its requests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from adopted import adopted_graph, small_requests

from rbserve.core.errors import UsageError
from rbserve.home.target import adopted_targets, check_free_name, parse_models, resolve
from rbserve.pipeline.profiling import plan_of


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the logistic graph adopted on `clicks`."""
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    requests = small_requests(tmp_path / "data" / "clicks")
    adopted_graph(tmp_path / "artifacts" / "clicks" / "logistic", requests)
    return tmp_path


@pytest.mark.parametrize("dataset", [None, "clicks", "ml-100k"])
def test_a_name_means_the_only_data_set_that_it_is_on(home: Path, dataset: str | None) -> None:
    target = resolve("logistic", dataset)
    assert (target.dataset, target.path) == ("clicks", home / "artifacts/clicks/logistic")
    assert target.artifact is not None
    assert "onnx-fp32" in target.variants


def test_names_are_read_beside_those_of_rows(home: Path) -> None:
    assert [str(model) for model in parse_models(["logistic,gdcn,dnn"])] == ["dnn", "gdcn", "logistic"]
    assert [target.dataset for target in adopted_targets(["dnn", "logistic"], ["ml-100k"])] == ["clicks"]
    with pytest.raises(UsageError, match="unknown model: logistics") as caught:
        resolve("logistics", "clicks")
    assert caught.value.hint == "did you mean logistic?"
    with pytest.raises(UsageError, match="unknown model or group: logistics") as caught:
        parse_models(["dnn,logistics"])
    assert caught.value.hint == "did you mean logistic?"


def test_on_another_or_on_several_data_sets_it_must_be_said_which(home: Path) -> None:
    with pytest.raises(UsageError, match="logistic is not adopted on beauty; it is on clicks"):
        resolve("logistic", "beauty")
    shutil.copytree(home / "artifacts/clicks/logistic", home / "artifacts/views/logistic")
    with pytest.raises(UsageError, match="logistic is adopted on several data sets: clicks, views"):
        resolve("logistic", None)
    assert resolve("logistic", "views").path == home / "artifacts/views/logistic"


@pytest.mark.parametrize("name", ["dnn", "all", "A", "dnn-from-gdcn"])
def test_names_of_rows_groups_and_students_are_not_free(name: str) -> None:
    with pytest.raises(UsageError, match="is a model of rbserve's own"):
        check_free_name(name)


def test_the_usual_slates_are_the_requests_of_the_table_and_those_of_the_task(home: Path) -> None:
    assert plan_of(resolve("logistic"), {}).slates == ["table", 1, 100]
    assert plan_of(resolve("logistic"), {"slates": [7]}).slates == [7]
