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
from rbserve.exporters.adopt.sentence_encoder import VectorComparison
from rbserve.exporters.graph import Axes, trace
from rbserve.runtimes.reranker import SCORES, VECTORS
from rbserve.runtimes.text_tokens import INPUT_IDS, MASK, TENSORS, TOKEN_TYPES

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
UNUSED = "pooler."
"""How weights begin that a text's vector is not made of, and that an encoder of vectors may lack."""
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

    with _reading(f"the config of {folder}"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if config.model_type not in ARCHITECTURES:
        raise UsageError(
            f"a {config.model_type} model cannot be adopted as a reranker",
            f"encoders can: {', '.join(ARCHITECTURES)}; another model can be adopted as an ONNX file",
        )
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(
            f"the weights of {folder} are quantised", "adopt the model that they were made of: rbserve export"
        )
    return config


def load_tokenizer(folder: Path, config: Any) -> Any:
    """The tokenizer of a directory, of transformers.

    Raises UsageError where there is none, none that pads texts, or one with more tokens than the model of `config` has.
    """
    from transformers import AutoTokenizer

    if not (folder / TOKENIZER).is_file():  # transformers would make one without a vocabulary
        raise UsageError(f"{folder} has no {TOKENIZER}", "a fast tokenizer's save_pretrained(DIR) writes it")
    with _reading(f"the tokenizer of {folder}"):
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if getattr(tokenizer, "backend_tokenizer", None) is None or tokenizer.pad_token is None:
        raise UsageError(f"the tokenizer of {folder} has no token for padding")
    last = max(tokenizer.get_vocab().values())
    if last >= config.vocab_size:
        raise UsageError(
            f"the tokenizer of {folder} has tokens up to number {last}, and its model {config.vocab_size} of them",
            "put the tokenizer there with which the model was trained",
        )
    return tokenizer


def tensors_of(tokenizer: Any, config: Any) -> list[str]:
    """The tensors that a tokenizer makes and the model of `config` reads.

    A model that knows one type of token, or none, needs no types: they would all be 0. Raises UsageError for other
    tensors than TENSORS, and where padding would not be told apart.
    """
    types = getattr(config, "type_vocab_size", 0)
    tensors = [name for name in tokenizer.model_input_names if name != TOKEN_TYPES or types > 1]
    if not {INPUT_IDS, MASK} <= {*tensors} <= {*TENSORS}:
        raise UsageError(
            f"the tokenizer makes the tensors {', '.join(tensors) or 'nothing'}",
            f"a reranker needs {INPUT_IDS} and {MASK}, and may have {TOKEN_TYPES}",
        )
    return tensors


def task_of(config: Any) -> str:
    """PAIRS of a sequence classifier, VECTORISING of an encoder with another head or none."""
    import transformers

    names = config.architectures or ["AutoModel"]
    kind = getattr(transformers, str(names[0]), None)
    if names == ["AutoModel"]:
        return VECTORISING
    if len(names) != 1 or not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise UsageError(
            f"the architectures of config.json are no class of transformers: {names}",
            "code of the model's own is never run",
        )
    task = TasksManager.infer_task_from_model(kind)
    return PAIRS if task == PAIRS else VECTORISING


def load(folder: Path, config: Any, task: str) -> nn.Module:
    """The fp32 model of a directory for one of optimum's tasks, from safetensors, without code of its own.

    Raises UsageError where transformers cannot load it, and where files and config do not have the same weights:
    transformers would draw those that are missing at random.
    """
    kind = TasksManager.get_model_class_for_task(task, model_type=config.model_type)
    with _reading(str(folder)), _quiet():
        model: nn.Module
        model, report = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True,
            attn_implementation="eager", output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    for name, stored, wanted in sorted(report["mismatched_keys"]):
        raise UsageError(
            f"{folder} has weights of {name} of shape {tuple(stored)}, and by its config.json of {tuple(wanted)}"
        )
    missing = sorted(name for name in report["missing_keys"] if task == PAIRS or not name.startswith(UNUSED))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(f"{folder} has no weights of {missing[0]}{more}: they were never trained")
    return model.eval()


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Raises UsageError with transformers' reason where it cannot read something of a directory."""
    try:
        yield
    except Exception as error:
        kind = "KeyError: " if isinstance(error, KeyError) else ""
        raise UsageError(f"transformers cannot load {source}: {kind}{first_line(error)}") from error


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


def trace_vectors(model: nn.Module, comparison: VectorComparison, tensors: Sequence[str]) -> ModelProto:
    """The graph of a bi-encoder: tokens int64[B, L] of B texts -> VECTORS float32[B, d], whose product is a score.

    `comparison` says how a text's vector is made. `tensors` are what its tokenizer makes of it.
    """
    return _trace(_TextVectors(model, tensors, comparison), VECTORISING, {VECTORS: {0: "B"}})


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
    """Vectors float32[B, d], of length 1 where a comparison says so."""

    def __init__(self, encoder: nn.Module, tensors: Sequence[str], comparison: VectorComparison) -> None:
        super().__init__(encoder, tensors)
        self._comparison = comparison

    def forward(self, *tensors: Tensor) -> Tensor:
        states: Tensor = self._read(tensors).last_hidden_state
        mask = tensors[self.tensors.index(MASK)].unsqueeze(-1)
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        pooled = states[:, 0] if self._comparison.first_token else mean
        return functional.normalize(pooled, dim=-1) if self._comparison.normalized else pooled
