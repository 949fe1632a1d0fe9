"""Exports: admitted only when they score like the reference, and they say where they come from."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from rbserve.core.errors import ArtifactError, ParityError, UsageError
from rbserve.core.options import with_options
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.exporters import export as module
from rbserve.exporters import graph, parity
from rbserve.exporters.export import export
from rbserve.exporters.parity import compare
from rbserve.models.zoo import find_model
from rbserve.runtimes.onnx import OnnxScorer
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings


@pytest.fixture
def copy(trained: Artifact, tmp_path: Path) -> Artifact:
    return open_artifact(Path(shutil.copytree(trained.path, tmp_path / "dnn")))


def test_the_graph_carries_model_data_fingerprint_and_version(trained: Artifact) -> None:
    for variant in ("onnx-fp32", "onnx-int8"):
        (name,) = trained.variant_files(variant)
        loaded = onnx.load(trained.file(name))
        origin = {prop.key: prop.value for prop in loaded.metadata_props}
        assert origin["rbserve.model"] == "dnn"
        assert origin["rbserve.variant"] == variant
        assert origin["rbserve.data_fingerprint"] == trained.manifest.dataset.fingerprint
        assert origin["rbserve.version"]


def test_the_int8_graph_multiplies_in_integers_and_is_smaller(trained: Artifact) -> None:
    int8 = onnx.load(trained.file("onnx/int8.onnx"))
    assert sum("MatMulInteger" in node.op_type for node in int8.graph.node) >= 3


def test_parity_is_recorded_on_real_rows(trained: Artifact, planted: Dataset) -> None:
    found = trained.manifest.variants["onnx-fp32"].parity
    assert found.rows == min(1_000, len(planted.ctr("test")))
    assert 0 <= found.mean_abs <= found.max_abs <= 1e-5
    assert found.auc_difference == pytest.approx(0, abs=1e-6)


def test_an_fp32_graph_that_scores_otherwise_is_an_error_and_writes_nothing(
    copy: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.read_bytes() for file in copy.path.rglob("*") if file.is_file()}

    def off_by_a_little(
        scorer: object, histories: object, candidates: np.ndarray, extras: object
    ) -> np.ndarray:  # type: ignore[type-arg]
        bias = 1e-3 if isinstance(scorer, OnnxScorer) else 0.0
        return np.linspace(0, 0.5, len(candidates), dtype=np.float32) + np.float32(bias)

    monkeypatch.setattr(parity, "score_rows", off_by_a_little)
    with pytest.raises(ParityError, match=r"differs from torch-fp32 .* by 1"):
        export(copy, planted, ["fp32"])
    assert {file: file.read_bytes() for file in copy.path.rglob("*") if file.is_file()} == before


def test_an_int8_variant_that_loses_auc_is_kept_with_a_warning(
    copy: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LOSS", -1.0)
    exported = export(copy, planted, ["int8"])
    (warning,) = exported.manifest.variants["onnx-int8"].warnings
    assert warning.startswith("int8 loses")
    assert open_artifact(copy.path).manifest.variants["onnx-int8"].warnings == [warning]


def test_an_unknown_precision_names_the_nearest(copy: Artifact, planted: Dataset) -> None:
    with pytest.raises(UsageError) as error:
        export(copy, planted, ["int16"])
    assert error.value.hint == "did you mean int8?"


def test_compare_measures_the_difference_and_what_it_does_to_auc() -> None:
    labels = np.array([0, 1, 0, 1])
    reference = np.array([0.1, 0.9, 0.2, 0.8], np.float32)
    found = compare(reference, np.array([0.1, 0.9, 0.85, 0.8], np.float32), labels)
    assert found.max_abs == pytest.approx(0.65)
    assert found.mean_abs == pytest.approx(0.1625)
    assert (found.auc_reference, found.auc) == (1.0, 0.75)
    assert found.auc_difference == -0.25


def test_compare_without_both_labels_has_no_auc() -> None:
    found = compare(np.zeros(2, np.float32), np.zeros(2, np.float32), np.ones(2))
    assert found.auc is None
    assert found.auc_difference is None


@pytest.mark.parametrize("name", ["dnn", "sasrec-3l", "sid-sasrec-3l-cbs", "sid-sasrec-3l-parallel"])
def test_large_weights_lie_beside_the_graph_and_are_checked_too(
    name: str, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protobuf ends at 2 GiB, sasrec-24l has 5 GB."""
    monkeypatch.setattr(graph, "LARGEST", 1_000)
    spec = find_model(name)
    own = {"dim": "16", "hidden": "32"} if name == "dnn" else {"layers": "1", "dim": "16", "heads": "2"}
    codes = {"levels": "3", "codes": "8"} if spec.item_form == "semantic_id" else {}
    spec = dataclasses.replace(spec, config=with_options(spec.config, own | codes))
    data = open_dataset(Path(shutil.copytree(planted.path, tmp_path / "planted")))
    artifact = export(train(spec, data, tmp_path / name, Settings(batch=64, micro_batch=64, epochs=1)), data)
    for variant, record in artifact.manifest.variants.items():
        assert len(record.data_files) == len(record.graphs)
        opening = open_scorer if name == "dnn" else open_ranker
        opening(artifact, variant)
        (artifact.path / record.data_files[0]).write_bytes(b"cut short")
        with pytest.raises(ArtifactError, match="damaged"):
            opening(artifact, variant)
