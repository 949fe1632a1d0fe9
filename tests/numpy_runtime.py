"""A runtime as another package may add one: the DNN of this zoo in NumPy, from the trained weights.

`install` puts it where Python finds it, in three files: this module, and what names and announces its package.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbserve.core.requests import Request, slate_of
from rbserve.core.tasks import CTR
from rbserve.core.types import Ranker, Scorer, Scores
from rbserve.core.variants import GROUP, WEIGHTS, Variant
from rbserve.data.artifact import WEIGHTS as WEIGHTS_FILE
from rbserve.data.artifact import Artifact

VARIANTS = (
    Variant(
        "numpy-fp32", "numpy", "fp32", WEIGHTS, ("recommender",), (CTR.name,), automatic=True,
        libraries=("numpy-runtime",), colour="#123456", dark_colour="#abcdef", marker="X",
    ),
)  # fmt: skip
HINT = "choose dnn"


def unavailable(artifact: Artifact, variant: Variant) -> str | None:
    """Why the artefact cannot be scored in NumPy."""
    kind = artifact.manifest.config_kind
    return None if kind == "dnn" else f"NumPy computes dnn alone, not {kind}"


def open(artifact: Artifact, variant: Variant, threads: int, user_cache: int) -> Scorer | Ranker:
    """The scorer; NumPy's own threads are those of the process."""
    from safetensors.numpy import load_file

    return NumpyDnn(load_file(artifact.file(WEIGHTS_FILE)))


class NumpyDnn:
    """MLP([u; t]), u the mean of the history's items."""

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        self._items = weights["item_embedding.weight"]
        self._left, self._right = weights["deep.first.left.weight"], weights["deep.first.right.weight"]
        self._bias = weights["deep.first.right.bias"]
        rest = sorted(name for name in weights if name.startswith("deep.rest.") and name.endswith(".weight"))
        self._layers = [(weights[name], weights[name.replace("weight", "bias")]) for name in rest]
        self._output = (weights["output.weight"], weights["output.bias"])

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N]."""
        history, candidates = slate_of(request)
        user = self._items[history].sum(axis=0) / max(len(history), 1)
        hidden = np.maximum(user @ self._left.T + self._items[candidates] @ self._right.T + self._bias, 0)
        for weight, bias in self._layers:
            hidden = np.maximum(hidden @ weight.T + bias, 0)
        weight, bias = self._output
        scores: Scores = (1 / (1 + np.exp(-(hidden @ weight.T + bias)[:, 0]))).astype(np.float32)
        return scores


def install(folder: Path) -> None:
    """Installs the package `numpy-runtime` in a folder, which is then to be on PYTHONPATH."""
    shutil.copy(__file__, folder / "numpy_runtime.py")
    about = folder / "numpy_runtime-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy-runtime\nVersion: 1.5\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\nnumpy = numpy_runtime\n")
