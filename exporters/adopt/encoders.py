"""Text encoders of transformers as ONNX graphs, loaded and traced by what optimum knows of them.

optimum's tasks manager tells a model's task from its class and loads it. An export config for each architecture
(`EncoderExport`) stands on optimum's normalized configs and dummy inputs, and is registered with the tasks manager. The
configs of optimum-onnx cannot take its place: version 0.1.0 needs transformers below 4.58. torch traces the graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from optimum.exporters.base import ExporterConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import DummyTextInputGenerator
from optimum.utils.normalized_config import NormalizedConfigManager
from torch import Tensor, nn
from torch.nn import functional

from rbserve.core.errors import UsageError, first_line
from rbserve.exporters.graph import Axes, trace
from rbserve.runtimes.reranker import SCORES, VECTORS

if TYPE_CHECKING:
    from onnx import ModelProto

TOKENIZER = "tokenizer.json"
BACKEND = "rbserve"
"""The name under which our export configs are registered with optimum's tasks manager."""
PAIRS, VECTORISING = "text-classification", "feature-extraction"
"""optimum's names of the tasks of a cross-encoder and of a bi-encoder."""
ARCHITECTURES = (
    "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta",
    "xlm-roberta",
)  # fmt: skip
"""Encoders whose scores of a text do not depend on the texts beside it."""
TOKENS: dict[int, str] = {0: "B", 1: "L"}


class EncoderExport(ExporterConfig):  # type: ignore[misc]
    """How optimum exports an encoder of texts: its inputs int64[B, L], and how examples of them are made."""

    DUMMY_INPUT_GENERATOR_CLASSES = (DummyTextInputGenerator,)

    def __init__(self, config: Any, task: str, tensors: Sequence[str], **dtypes: str) -> None:
        """`tensors` are those that the model's tokenizer makes."""
        self._tensors = tensors
        self.NORMALIZED_CONFIG_CLASS = NormalizedConfigManager.get_normalized_config_class(config.model_type)
        super().__init__(config, task, **dtypes)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """The tensors that the model takes, with their dynamic axes."""
        return dict.fromkeys(self._tensors, TOKENS)


_register = TasksManager.create_register(BACKEND)
for _architecture in ARCHITECTURES:
    _register(_architecture, PAIRS, VECTORISING)(EncoderExport)


def load_config(folder: Path) -> Any:
    """The config of a directory. Raises UsageError for one that needs code of its own, or is of no ARCHITECTURES."""
    from transformers import AutoConfig

    with _reading(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if config.model_type not in ARCHITECTURES:
        raise UsageError(
            f"a {config.model_type} model cannot be adopted as a reranker",
            f"encoders can: {', '.join(ARCHITECTURES)}; another model can be adopted as an ONNX file",
        )
    return config


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a directory, of transformers; UsageError where there is none, or none that pads texts."""
    from transformers import AutoTokenizer

    if not (folder / TOKENIZER).is_file():  # transformers would make one without a vocabulary
        raise UsageError(f"{folder} has no {TOKENIZER}", "a fast tokenizer's save_pretrained(DIR) writes it")
    with _reading(folder):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if getattr(tokenizer, "backend_tokenizer", None) is None or tokenizer.pad_token is None:
        raise UsageError(f"the tokenizer of {folder} has no token for padding")
    return tokenizer


def task_of(config: Any) -> str:
    """PAIRS of a sequence classifier, VECTORISING of an encoder with another head or none."""
    import transformers

    (name,) = config.architectures or ["AutoModel"]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise UsageError(f"transformers has no class {name}", "code of the model's own is never run")
    task = TasksManager.infer_task_from_model(kind)
    return PAIRS if task == PAIRS else VECTORISING


def load(folder: Path, task: str) -> nn.Module:
    """The fp32 model of a directory for one of optimum's tasks, from safetensors, without code of its own.

    Raises UsageError where transformers cannot load it.
    """
    with _reading(folder), _quiet():
        model: nn.Module = TasksManager.get_model_from_task(
            task, str(folder), framework="pt", library_name="transformers", torch_dtype=torch.float32,
            use_safetensors=True, trust_remote_code=False, local_files_only=True, attn_implementation="eager",
        )  # fmt: skip
    return model.eval()


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Raises UsageError with transformers' reason where it cannot read something of a directory."""
    try:
        yield
    except Exception as error:
        reason = first_line(error)
        raise UsageError(f"transformers cannot load {folder}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Shows no progress bars and no warnings of transformers."""
    from transformers.utils import logging as typeless

    logging: Any = typeless
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def trace_scores(model: nn.Module, labels: int, tensors: Sequence[str]) -> ModelProto:
    """The graph of a cross-encoder: tokens int64[B, L] of B pairs -> the probability SCORES float32[B] of relevance.

    `tensors` are what its tokenizer makes of a text (`model_input_names`).
    """
    return _trace(_PairScores(model, tensors, labels), PAIRS, {SCORES: {0: "B"}})


def trace_vectors(model: nn.Module, first_token: bool, tensors: Sequence[str]) -> ModelProto:
    """The graph of a bi-encoder: tokens int64[B, L] of B texts -> VECTORS float32[B, d] of length 1.

    A text's vector is the mean of its tokens', or that of the first one. `tensors` are what its tokenizer makes of it.
    """
    return _trace(_TextVectors(model, tensors, first_token), VECTORISING, {VECTORS: {0: "B"}})


def _trace(head: _Head, task: str, outputs: Axes) -> ModelProto:
    constructor = TasksManager.get_exporter_config_constructor(
        BACKEND, model=head.encoder, task=task, library_name="transformers",
        exporter_config_kwargs={"tensors": head.tensors},
    )  # fmt: skip
    export = constructor(head.encoder.config)
    example = export.generate_dummy_inputs(framework="pt")
    with warnings.catch_warnings():  # DeBERTa copies sizes as tensors while it is traced
        warnings.filterwarnings("ignore", message="To copy construct from a tensor")
        return trace(head, tuple(example[name] for name in head.tensors), export.inputs, outputs)


class _Head(nn.Module):
    """What a reranker's graph computes on top of a model of transformers that takes `tensors`."""

    def __init__(self, encoder: nn.Module, tensors: Sequence[str]) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.tensors = tensors

    def _read(self, tensors: tuple[Tensor, ...]) -> Any:
        return self.encoder(**dict(zip(self.tensors, tensors, strict=True)))


class _PairScores(_Head):
    """Probabilities float32[B]: the sigmoid of one logit, or the softmax's second part of two."""

    def __init__(self, encoder: nn.Module, tensors: Sequence[str], labels: int) -> None:
        super().__init__(encoder, tensors)
        self._labels = labels

    def forward(self, *tensors: Tensor) -> Tensor:
        logits: Tensor = self._read(tensors).logits
        return logits.sigmoid()[:, 0] if self._labels == 1 else logits.softmax(-1)[:, 1]


class _TextVectors(_Head):
    """Vectors float32[B, d] of length 1."""

    def __init__(self, encoder: nn.Module, tensors: Sequence[str], first_token: bool) -> None:
        super().__init__(encoder, tensors)
        self._first_token = first_token

    def forward(self, *tensors: Tensor) -> Tensor:
        states: Tensor = self._read(tensors).last_hidden_state
        mask = tensors[self.tensors.index("attention_mask")].unsqueeze(-1)
        pooled = states[:, 0] if self._first_token else (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return functional.normalize(pooled, dim=-1)
