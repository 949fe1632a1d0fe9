"""The ONNX graph of a zoo row of trees: a function of the matrix of its fields, made by LightGBM's converter."""

from __future__ import annotations

from pathlib import Path

from rbserve.core.errors import UsageError
from rbserve.data.artifact import TREES, Artifact
from rbserve.exporters.graph import origin, save
from rbserve.exporters.library_graph import make_graph
from rbserve.exporters.library_models import read_lightgbm


def write_fp32(artifact: Artifact, folder: Path) -> list[Path]:
    """Writes the fp32 graph of an artefact into `folder`; UsageError where the converter makes another model of it."""
    import onnx

    path = folder / "fp32.onnx"
    graph, notes = make_graph(read_lightgbm(artifact.file(TREES)), path)
    if graph is None:
        raise UsageError(f"{artifact.name}: {notes[0]}", "--variants native")
    save(onnx.load(path), path, origin(artifact, "fp32"), check=False)
    return [path]
