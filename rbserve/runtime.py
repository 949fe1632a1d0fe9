"""One way to score: `open_scorer(artifact, variant)` whatever the runtime and precision.

Accuracy, latency and the server all go through the `Scorer` returned here, so what is profiled is what is
served. ONNX variants need onnxruntime alone; only `torch-fp32`, the reference, imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rbserve.core.artifact import REFERENCE_VARIANT, WEIGHTS, Artifact
from rbserve.core.columns import Ragged
from rbserve.core.errors import ArtifactError, UsageError, unknown_name
from rbserve.core.types import Items, Scorer, Scores

if TYPE_CHECKING:
    from rbserve.models.ctr import CtrModel


def open_scorer(artifact: Artifact, variant: str, threads: int = 1) -> Scorer:
    """A scorer of one variant of an artefact, its files verified, computing on `threads` threads.

    Raises ArtifactError for a damaged or missing file, UsageError for a variant the artefact lacks.
    """
    if artifact.manifest.task != "ctr":
        raise UsageError(f"{artifact.name} ranks the catalogue; it does not score candidates")
    if variant not in artifact.variants:
        raise unknown_name(f"variant of {artifact.name}", variant, artifact.variants)
    runtime = "torch" if variant == REFERENCE_VARIANT else "onnx"
    return RUNTIMES[runtime](artifact, variant, threads)


def session_options(threads: int) -> Any:
    """onnxruntime settings for a fixed number of threads that do not spin while idle."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxScorer:
    """Scores with an exported graph: history int32[T], candidates int32[N] -> scores float32[N]."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        try:
            self._session = onnxruntime.InferenceSession(
                str(path), session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ArtifactError(f"onnxruntime cannot load {path}: {str(error).splitlines()[0]}") from error

    def score(self, history: Items, candidates: Items) -> Scores:
        """Click probabilities float32[N]."""
        scores: Scores = self._session.run(None, {"history": history, "candidates": candidates})[0]
        return scores


class TorchScorer:
    """Scores with the trained module in eager mode: the reference every exported variant is held against."""

    def __init__(self, model: CtrModel, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._model = model
        self._inference_mode = torch.inference_mode
        self._from_numpy = torch.from_numpy

    def score(self, history: Items, candidates: Items) -> Scores:
        """Click probabilities float32[N]. The arrays are copied: torch wraps no read-only map of a file."""
        with self._inference_mode():
            scores: Scores = self._model.score(
                self._from_numpy(np.array(history)), self._from_numpy(np.array(candidates))
            ).numpy()
        return scores


def load_model(artifact: Artifact) -> CtrModel:
    """The trained torch module of an artefact, in eval mode."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from rbserve.models.configs import config_from_dict
    from rbserve.models.ctr import build

    manifest = artifact.manifest
    model = build(config_from_dict(manifest.config_kind, manifest.config), len(artifact.items))
    path = artifact.file(WEIGHTS)
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{path} does not hold the weights of {artifact.name}: {error}") from error
    return model.eval()


def score_rows(scorer: Scorer, histories: Ragged, candidates: Items) -> Scores:
    """The score float32[R] of R (history, candidate) pairs, one call a pair: the paper's per-sample case."""
    scores = np.empty(len(candidates), np.float32)
    for row in range(len(candidates)):
        scores[row] = scorer.score(histories[row], candidates[row : row + 1])[0]
    return scores


def _open_onnx(artifact: Artifact, variant: str, threads: int) -> Scorer:
    return OnnxScorer(artifact.file(artifact.variant_file(variant)), threads)


def _open_torch(artifact: Artifact, variant: str, threads: int) -> Scorer:
    del variant  # torch has one precision
    try:
        return TorchScorer(load_model(artifact), threads)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the torch-fp32 variant needs {error.name}",
            "pip install 'rbserve[train]', or choose an ONNX variant",
        ) from None


RUNTIMES: dict[str, Callable[[Artifact, str, int], Scorer]] = {"onnx": _open_onnx, "torch": _open_torch}
