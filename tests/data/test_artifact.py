"""Artefacts: damage is noticed before anything is computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.runtimes.opening import open_scorer


@pytest.fixture
def copy(trained: Artifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.path, tmp_path / "dnn"))


@pytest.mark.parametrize(
    ("variant", "member"), [("torch-fp32", "model.safetensors"), ("onnx-int8", "onnx/int8.onnx")]
)
def test_a_truncated_file_is_refused(copy: Path, variant: str, member: str) -> None:
    (copy / member).write_bytes((copy / member).read_bytes()[:100])
    with pytest.raises(ArtifactError, match="has 100 bytes instead of") as error:
        open_scorer(open_artifact(copy), variant)
    assert error.value.hint is not None


def test_a_tampered_file_is_refused(copy: Path) -> None:
    content = bytearray((copy / "onnx/fp32.onnx").read_bytes())
    content[5000] ^= 1
    (copy / "onnx/fp32.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match="sha256"):
        open_scorer(open_artifact(copy), "onnx-fp32")


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / "items.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"items\.parquet is missing"):
        _ = open_artifact(copy).items


@pytest.mark.parametrize("content", [b"", b"null", b'{"schema": 1, "surprise": 2}'])
def test_a_broken_manifest_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="not an artefact manifest"):
        open_artifact(tmp_path)


def test_a_trained_artefact_has_no_field_that_an_earlier_version_refuses(trained: Artifact) -> None:
    """Versions refuse unknown fields: what only adopted models have is left out of all others."""
    fields = json.loads((trained.path / "manifest.json").read_text()).keys()
    assert "adopted" not in fields
    assert {"schema", "name", "task", "files", "variants"} <= fields


def test_a_directory_without_a_manifest_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no artefact at"):
        open_artifact(tmp_path)


def test_an_unknown_variant_names_the_nearest(trained: Artifact) -> None:
    with pytest.raises(UsageError) as error:
        open_scorer(trained, "onnx-int")
    assert error.value.hint == "did you mean onnx-int8?"
