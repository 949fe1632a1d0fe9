"""Every pair-wise row passes the conformance suite, in every variant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conformance import (
    check_a_loaded_copy_scores_the_same,
    check_it_learns_the_planted_structure,
    check_items_that_training_never_saw_score_alike,
    check_new_items_score_by_their_content,
    check_variants,
)
from small import train_small

from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.exporters.parity import PROBABILITY_TOLERANCE
from rbserve.models.configs import CtrConfig
from rbserve.models.zoo import BEYOND, MODELS
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer

ROWS = [
    spec.name
    for spec in (*MODELS, *BEYOND)
    if isinstance(spec.config, CtrConfig) and not spec.config.fields and spec.backbone is None
]
TOLERANCE = {"torch-fp32": 1e-5, "onnx-fp32": 1e-5, "onnx-int8": 1e-6}


@pytest.fixture(scope="module", params=ROWS)
def artifact(
    request: pytest.FixtureRequest, planted: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    return export(
        train_small(request.param, planted, tmp_path_factory.mktemp("zoo") / request.param), planted
    )


def test_a_row_conforms(artifact: Artifact, planted: Dataset, tmp_path: Path) -> None:
    check_it_learns_the_planted_structure(artifact, planted)
    check_a_loaded_copy_scores_the_same(artifact, planted, tmp_path / "copy")
    if artifact.manifest.item_form == "id":
        check_items_that_training_never_saw_score_alike(artifact, planted)
    else:
        check_new_items_score_by_their_content(artifact, planted)
    check_variants(artifact, planted, TOLERANCE)


def test_exported_scores_agree_with_the_reference(artifact: Artifact, planted: Dataset) -> None:
    test = planted.ctr("test")
    reference = score_rows(open_scorer(artifact, "torch-fp32"), test.histories, test.candidates)
    fp32 = score_rows(open_scorer(artifact, "onnx-fp32"), test.histories, test.candidates)
    np.testing.assert_allclose(fp32, reference, atol=PROBABILITY_TOLERANCE, rtol=0)
    int8 = artifact.manifest.variants["onnx-int8"].parity
    assert int8.max_abs < 0.1
    assert int8.mean_abs < 0.005
    assert int8.auc_difference is not None
    assert abs(int8.auc_difference) < 0.005
