"""An adopted graph is scored through the one call path, on the requests of its table."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from adopted import SIGNATURE, SLATE_SIZE, adopted_graph, expected_scores, small_requests

from rbserve.core.files import digest
from rbserve.core.requests import FeatureSpec
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.request_set import RequestSet
from rbserve.runtimes.opening import open_scorer


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> RequestSet:
    """A small request set on disk."""
    return small_requests(tmp_path_factory.mktemp("data") / "clicks")


def test_an_adopted_graph_scores_the_requests_of_its_table(requests: RequestSet, tmp_path: Path) -> None:
    scorer = open_scorer(open_artifact(adopted_graph(tmp_path / "logistic", requests).path), "onnx-fp32")
    likes, ages = (np.asarray(requests.column(name).values) for name in ("likes", "age"))
    for number in (0, 7, 59):
        begin = number * SLATE_SIZE
        expected = expected_scores(likes[begin : begin + SLATE_SIZE], np.repeat(ages[number], SLATE_SIZE))
        assert scorer.score(requests.request(SIGNATURE, number)) == pytest.approx(expected, abs=1e-6)


def test_a_resampled_slate_keeps_the_values_of_its_request(requests: RequestSet) -> None:
    request = requests.request_of(SIGNATURE, np.array([0, 299]), 3)
    likes, ages = (np.asarray(requests.column(name).values) for name in ("likes", "age"))
    assert request["features"].tolist() == [[likes[0], ages[3]], [likes[299], ages[3]]]


def test_an_adopted_artefact_says_which_columns_fill_its_inputs(requests: RequestSet, tmp_path: Path) -> None:
    adopted = open_artifact(adopted_graph(tmp_path / "logistic", requests).path).manifest.adopted
    assert adopted
    assert adopted.features == {
        "likes": FeatureSpec("float32", "candidate"), "age": FeatureSpec("float32", "request"),
    }  # fmt: skip


def test_two_adopted_graphs_have_digests_of_their_own(requests: RequestSet, tmp_path: Path) -> None:
    first = adopted_graph(tmp_path / "logistic", requests)
    assert first.model_digest == adopted_graph(tmp_path / "copy", requests).model_digest
    (tmp_path / "copy" / "onnx" / "fp32.onnx").write_bytes(b"another graph")
    files = {"onnx/fp32.onnx": digest(tmp_path / "copy" / "onnx" / "fp32.onnx")}
    other = Artifact(first.path, msgspec.structs.replace(first.manifest, files=files))
    assert other.model_digest != first.model_digest
