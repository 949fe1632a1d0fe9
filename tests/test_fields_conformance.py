"""Every architecture with counted features beside history and candidate, and trees, pass the conformance suite."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conformance import (
    check_a_loaded_copy_scores_the_same,
    check_a_slate_scores_like_its_candidates_one_by_one,
    check_empty_history_and_empty_slate_are_legal,
    check_scores_are_probabilities,
)
from small import train_small

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.requests import slate_request
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.features.counted import COUNTS
from rbserve.models.zoo import MODELS
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.pairwise import auc

ROWS = [*(spec.name for spec in MODELS if spec.group == "A"), "dnn-text", "din-emb", "bst-emb", "hstu-emb"]
FIELDS = ",".join(COUNTS)
TOLERANCE = {"torch-fp32": 1e-5, "native": 1e-7, "onnx-fp32": 1e-5, "onnx-int8": 1e-6}
TREES = {
    "binary": {"trees": "60"},
    "lambdarank": {"trees": "60", "objective": "lambdarank"},
}


def trees(dataset: Dataset, folder: Path, objective: str) -> Artifact:
    """Sixty trees."""
    further = {"fields": FIELDS, **TREES[objective]}
    return export(train_small("gbdt", dataset, folder / "gbdt", further=further), dataset, ["fp32"])


@pytest.fixture(scope="module", params=[*ROWS, *TREES])
def artifact(
    request: pytest.FixtureRequest, planted: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    folder = tmp_path_factory.mktemp("fields")
    if request.param in TREES:
        return trees(planted, folder, request.param)
    further = {"fields": FIELDS}
    return export(train_small(request.param, planted, folder / "model", 4, further=further), planted)


def test_a_row_that_reads_counts_conforms(artifact: Artifact, planted: Dataset, tmp_path: Path) -> None:
    test = planted.ctr("test")
    scorer = open_scorer(artifact, artifact.variants[0])
    assert auc(test.labels, score_rows(scorer, test.histories, test.candidates)) > 0.7
    check_a_loaded_copy_scores_the_same(artifact, planted, tmp_path / "copy")
    for variant in artifact.variants:
        scorer = open_scorer(artifact, variant)
        check_a_slate_scores_like_its_candidates_one_by_one(scorer, planted, TOLERANCE[variant])
        check_empty_history_and_empty_slate_are_legal(scorer)
        check_scores_are_probabilities(scorer, planted)


def test_its_graph_scores_like_its_reference(artifact: Artifact, planted: Dataset) -> None:
    test = planted.ctr("test")
    reference, fp32 = (
        score_rows(open_scorer(artifact, variant), test.histories, test.candidates)
        for variant in (artifact.variants[0], "onnx-fp32")
    )
    np.testing.assert_allclose(fp32, reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", ["native", "onnx-fp32"])
def test_trees_need_no_torch_and_score_test_rows_as_training_would(
    planted: Dataset, tmp_path: Path, variant: str
) -> None:
    """The trees' own library on the features that were written for the test rows: the same scores, to the bit."""
    lightgbm = pytest.importorskip("lightgbm")
    from rbserve.train.counting import counted_features

    artifact = trees(planted, tmp_path, "binary")
    counted, test = counted_features(planted, None), planted.ctr("test")
    features = counted.features("test")[:, [counted.manifest.names.index(name) for name in COUNTS]]
    booster = lightgbm.Booster(model_file=str(artifact.path / "model.txt"))
    expected = booster.predict(features).astype(np.float32)
    scores = score_rows(open_scorer(artifact, variant), test.histories, test.candidates)
    if variant == "native":
        np.testing.assert_array_equal(scores, expected)
    else:
        np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_a_damaged_table_of_counts_is_named(planted: Dataset, tmp_path: Path) -> None:
    artifact = trees(planted, tmp_path, "binary")
    copy = tmp_path / "copy"
    shutil.copytree(artifact.path, copy)
    (copy / "counted" / "likes.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"counted/likes.npy"):
        open_scorer(open_artifact(copy), "native").score(slate_request(*[np.zeros(1, np.int32)] * 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [("nothing", "unknown field: nothing"), ("own", "fields=own: the data set has none")],
)
def test_fields_that_are_not_there_are_named(
    planted: Dataset, tmp_path: Path, fields: str, message: str
) -> None:
    for row in ("dnn", "gbdt"):
        with pytest.raises(UsageError, match=message):
            train_small(row, planted, tmp_path / row, further={"fields": fields})
        assert not (tmp_path / row).exists()
