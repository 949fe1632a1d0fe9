"""The runtime native gives what a model's own library gives, and no file is opened that was changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from adopted import small_requests
from library_models import LIBRARIES, adopted_library, forest, lightgbm, request, rows, sklearn, xgboost

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.runtimes import native
from rbserve.runtimes.opening import open_scorer, unavailable
from rbserve.runtimes.skops_file import load_estimator, prepare_calls

ROUNDING = {"atol": 2e-6, "rtol": 1e-5}  # sums in float32 of twelve trees


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("threads", [1, 2])
def test_native_scores_are_those_of_the_library(library: str, threads: int, tmp_path: Path) -> None:
    saved = LIBRARIES[library](tmp_path)
    artifact = adopted_library(saved, tmp_path / "m", small_requests(tmp_path / "requests"))
    scorer = open_scorer(artifact, "native", threads)
    for count in (1, 2, 50):
        scores = scorer.score(request(count))
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, saved.predict(rows(count)), rtol=1e-6)


def test_onnx_scores_are_those_of_the_library_up_to_rounding(library: str, tmp_path: Path) -> None:
    saved = LIBRARIES[library](tmp_path)
    artifact = adopted_library(saved, tmp_path / "m", small_requests(tmp_path / "requests"))
    assert artifact.variants == ["native", "onnx-fp32"]
    scores = open_scorer(artifact, "onnx-fp32").score(request(500))
    np.testing.assert_allclose(scores, saved.predict(rows(500)), **ROUNDING)


def test_requests_of_a_table_are_scored(library: str, tmp_path: Path) -> None:
    requests, saved = small_requests(tmp_path / "requests"), LIBRARIES[library](tmp_path)
    artifact = adopted_library(saved, tmp_path / "m", requests)
    features = requests.request(artifact.signature, 3)["features"]
    scores = open_scorer(artifact, "native").score(requests.request(artifact.signature, 3))
    np.testing.assert_allclose(scores, saved.predict(features), rtol=1e-6)


def test_answers_do_not_change_when_the_next_request_is_scored(library: str, tmp_path: Path) -> None:
    artifact = adopted_library(
        LIBRARIES[library](tmp_path), tmp_path / "m", small_requests(tmp_path / "requests")
    )
    scorer = open_scorer(artifact, "native")
    first = scorer.score(request(20))
    copy = first.copy()
    assert not np.array_equal(scorer.score(request(20, seed=4)), copy)
    np.testing.assert_array_equal(first, copy)


def test_features_in_another_layout_or_precision_score_the_same(library: str, tmp_path: Path) -> None:
    artifact = adopted_library(
        LIBRARIES[library](tmp_path), tmp_path / "m", small_requests(tmp_path / "requests")
    )
    scorer = open_scorer(artifact, "native")
    expected = scorer.score(request(20))
    for layout in (
        np.asfortranarray(rows(20)),
        np.repeat(rows(20), 2, axis=0)[::2],
        rows(20).astype(np.float64),
    ):
        np.testing.assert_array_equal(scorer.score({"features": layout}), expected)


def test_no_candidates_have_no_scores(tmp_path: Path) -> None:
    for save in (lightgbm, xgboost):
        saved = save(tmp_path)
        artifact = adopted_library(
            saved, tmp_path / save.__name__, small_requests(tmp_path / f"{save.__name__}-requests")
        )
        assert open_scorer(artifact, "native").score(request(0)).shape == (0,)


def test_a_changed_file_is_not_opened(library: str, tmp_path: Path) -> None:
    artifact = adopted_library(
        LIBRARIES[library](tmp_path), tmp_path / "m", small_requests(tmp_path / "requests")
    )
    assert artifact.manifest.adopted
    (name,) = artifact.manifest.adopted.files
    content = bytearray((artifact.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (artifact.path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match="is damaged"):
        open_scorer(artifact, "native")


def test_a_library_that_is_not_installed_is_named(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = adopted_library(
        LIBRARIES[library](tmp_path), tmp_path / "m", small_requests(tmp_path / "requests")
    )
    assert unavailable(artifact, "native") is None
    monkeypatch.setattr(native, "find_spec", lambda _: None)
    assert unavailable(artifact, "native") == f"the package {library} is not installed"
    with pytest.raises(UsageError, match=f"native cannot be run: the package {library}") as caught:
        open_scorer(artifact, "native")
    assert library.replace("sklearn", "scikit-learn") in str(caught.value.hint)


def test_an_estimator_computes_on_the_threads_of_its_scorer(tmp_path: Path) -> None:
    loaded = load_estimator(sklearn(tmp_path, forest()).path)
    assert loaded.n_jobs == 2
    prepare_calls(loaded, 1)
    assert loaded.n_jobs == 1


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_the_libraries_of_trees_are_opened_without_their_python_packages(
    library: str, tmp_path: Path
) -> None:
    # Importing them brings pandas, SciPy and scikit-learn: seconds, and a hundred MB.
    saved = LIBRARIES[library](tmp_path)
    code = (
        "import sys, numpy; from pathlib import Path; from rbserve.runtimes.native import LIBRARIES; "
        f"f = LIBRARIES[{library!r}].open(Path({str(saved.path)!r}), 1); "
        "print(len(f(numpy.zeros((3, 2), 'f4'))), {'lightgbm', 'xgboost', 'pandas', 'sklearn'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3 set()\n"
