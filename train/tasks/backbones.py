"""The language models of zoo rows as training finds them: where they lie, their first layers, adapters around them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from rbserve.core.errors import AssetError, UsageError
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import LAYERS
from rbserve.models.configs import LayersConfig, TunedLanguageConfig, TunedWeights
from rbserve.models.depth import shortened
from rbserve.models.drivers import ARCHITECTURES, architecture_of, read_config
from rbserve.models.language_layers import layers_of, without_words
from rbserve.models.lm import as_decoder
from rbserve.train.encoders.backbone import loading, locate, locate_shape, precision

# The layers that LoRA adapts (section 4.3 and the authors' code): queries and values; of Qwen all seven products. MPT
# computes queries, keys and values in one product.
LORA_TARGETS: dict[str, list[str]] = {
    "bert": ["query", "value"],
    "mpnet": ["q", "v"],
    "mpt": ["Wqkv"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "t5": ["q", "v"],
}
DEFAULT_TARGETS = ["q_proj", "v_proj"]


def backbone_folder(spec: ModelSpec) -> Path:
    """The directory of a row's language model; for random weights, one with its config and a tokeniser only."""
    return locate_shape(spec.config.backbone) if spec.random else locate(spec.config.backbone)


def weights_kind(spec: ModelSpec, folder: Path) -> torch.dtype | None:
    """The type that a row's weights are read in (`backbone.precision`); None for random weights."""
    return None if spec.random else precision(folder, tuned=isinstance(spec.config, TunedLanguageConfig))


class FirstLayers(NamedTuple):
    """The first layers of a row's language model: adapters are around them, or all their weights are trained.

    `deviation` is that of its word embeddings, `rate` the layers' share of the learning rate, `folder` where the
    language model lies.
    """

    base: nn.Module
    deviation: float
    rate: float
    folder: Path

    def save(self, folder: Path) -> None:
        """Writes the language model's config into an artefact."""
        (folder / LAYERS).parent.mkdir(exist_ok=True)
        shutil.copyfile(self.folder / "config.json", folder / LAYERS)


def first_layers(spec: ModelSpec, folder: Path) -> FirstLayers:
    """The first layers of the language model at `folder`, as a row's config asks for.

    Random weights of a row that is not trained have no values (device "meta"). Raises UsageError where it has fewer
    layers or is an encoder-decoder, AssetError where it cannot be loaded.
    """
    from transformers import AutoModel

    config: LayersConfig = spec.config
    drawn: Callable[[Any], Any] = AutoModel.from_config
    with loading(folder):
        shape = read_config(folder)
    if shape.model_type not in ARCHITECTURES:
        raise AssetError(f"{folder} is of an architecture that is not supported: {shape.model_type}")
    if architecture_of(shape).reads == "encoder-decoder":
        raise UsageError(
            f"{config.backbone} is an encoder-decoder, which reads no items as tokens",
            "--set backbone= a decoder or an encoder",
        )
    if config.layers > shape.num_hidden_layers:
        raise UsageError(
            f"invalid option: layers={config.layers}, and {config.backbone} has {shape.num_hidden_layers}",
            "fewer layers",
        )
    shape = as_decoder(shortened(shape, config.layers))
    if spec.random:
        return FirstLayers(layers_of(shape), 1.0, config.layers_rate, folder)
    with loading(folder):
        if config.start == "drawn":
            base = drawn(shape)
        else:
            base = AutoModel.from_pretrained(folder, config=shape, local_files_only=True, dtype=torch.float32)
    deviation = float(base.get_input_embeddings().weight.detach().std())
    without_words(base)
    base.requires_grad_(True)
    return FirstLayers(adapted(base, config), deviation, config.layers_rate, folder)


def adapted(base: Any, config: TunedWeights) -> Any:
    """A model of transformers with LoRA adapters, its own weights frozen; with rank 0, all weights are trained.

    UsageError where activations are to be computed twice and the architecture cannot.
    """
    from peft import LoraConfig, get_peft_model

    without_attention_dropout(base)
    kind = base.config.model_type
    if config.checkpointing:
        if not architecture_of(base.config).recomputes:
            raise UsageError(f"{kind} cannot recompute activations", "--set checkpointing=false")
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if not config.lora_rank:
        return base
    base.requires_grad_(False)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=LORA_TARGETS.get(kind, DEFAULT_TARGETS),
    )
    with warnings.catch_warnings():  # peft asks transformers by a name that version 6 will not know
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(base, lora)


def without_attention_dropout(base: nn.Module) -> None:
    """Takes the dropout out of BERT's attention, in place: torch's fast attention on a CPU has none."""
    for module in base.modules():
        if hasattr(module, "dropout_prob"):
            setattr(module, "dropout_prob", 0.0)  # noqa: B010


def merged(base: Any) -> Any:
    """The model with its adapters, if there are any, merged into the layers that they adapt."""
    return base.merge_and_unload() if hasattr(base, "merge_and_unload") else base
