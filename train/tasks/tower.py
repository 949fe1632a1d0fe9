"""An item tower in training (`models/item_tower.py`): made of a row's encoder, read for the item table, saved.

In each update the tower reads the texts of the batch's distinct items, and learns. Before a validation it reads those
that are validated, and after training all of them, once, into the table that is served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rbserve.core.errors import UsageError
from rbserve.core.types import ModelSpec, Progress
from rbserve.data.artifact import TOWER, TOWER_CONFIG, TOWER_TOKENIZER
from rbserve.data.dataset import Dataset
from rbserve.models.configs import ItemLanguageConfig, LayersConfig, ModelConfig, SeqItemConfig
from rbserve.models.depth import shortened
from rbserve.models.drivers import ARCHITECTURES, architecture_of, most_tokens, read_config
from rbserve.models.item_tower import ItemTower, TextTower
from rbserve.models.items import ITEMS, VectorItems
from rbserve.models.lm import as_decoder, bare
from rbserve.runtimes.text_tokens import TextTokenizer
from rbserve.train.encoders.backbone import load_tokenizer, loading, locate
from rbserve.train.encoders.embed import MAX_TOKENS, item_vectors
from rbserve.train.fitting.tensors import save_tensors
from rbserve.train.tasks.backbones import without_attention_dropout

PREFIX = f"{ITEMS}tower."
"""How the names of the tower's weights begin in the model's."""
OF_TEXT = f"{PREFIX}text."
TEXTS_AT_ONCE = 1_024
"""Texts that are read between two reports of progress."""


class TowerTraining(NamedTuple):
    """A tower that is trained: its items, its share of the learning rate, its tokeniser, and who hears of progress."""

    items: VectorItems
    rate: float
    tokenizer: Any
    progress: Progress

    @property
    def rates(self) -> Mapping[str, float]:
        """The share of the learning rate, by how the names of weights begin."""
        return {PREFIX: self.rate}

    def read(self, items: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Fills the table's rows of items int[K] with the vectors that the tower makes of their texts."""
        rows = torch.from_numpy(np.asarray(items, np.int64)).to(self.items.vectors.device)
        for done, piece in enumerate(rows.split(TEXTS_AT_ONCE)):  # type: ignore[no-untyped-call]
            self.progress(done * TEXTS_AT_ONCE, len(rows), "texts through the item tower")
            self.items.read_texts(piece)
        self.progress(len(rows), len(rows), "texts through the item tower")

    def finish(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of a trained model's `weights` all but the tower's, the table among them filled."""
        self.items.eval()
        self.read(np.arange(self.items.n_items))
        return {name: tensor for name, tensor in weights.items() if not name.startswith(PREFIX)}

    def save(self, folder: Path) -> None:
        """Writes the tower's weights, config and tokeniser into an artefact."""
        assert self.items.tower is not None
        text: Any = self.items.tower.text
        (folder / TOWER).parent.mkdir(exist_ok=True)
        save_tensors(folder / TOWER, text.state_dict())
        text.base.config.to_json_file(folder / TOWER_CONFIG)
        self.tokenizer.save(str(folder / TOWER_TOKENIZER))


def encoder_vectors(spec: ModelSpec, dataset: Dataset, progress: Progress) -> torch.Tensor:
    """The vectors [n, D] of a data set's texts by a row's encoder as it is before training."""
    config = spec.config
    layers = config.tower_layers or None if _trains_tower(config) else None
    return torch.from_numpy(item_vectors(dataset, config.encoder, config.pooling, progress, layers))


def require_tower(spec: ModelSpec) -> None:
    """Raises UsageError where a row's encoder is to be trained and cannot be; AssetError where it cannot be loaded."""
    config = spec.config
    if not _trains_tower(config):
        return
    if spec.random:
        raise UsageError(
            "vectors=end-to-end trains an encoder, and random weights are not trained",
            "without it: what is served is the same, a table of vectors",
        )
    folder = locate(config.encoder)
    with loading(folder):
        shape = read_config(folder)
    if shape.model_type not in ARCHITECTURES or architecture_of(shape).reads == "encoder-decoder":
        known = sorted(name for name, kind in ARCHITECTURES.items() if kind.reads != "encoder-decoder")
        raise UsageError(
            f"{config.encoder} is of architecture {shape.model_type}, which cannot be trained as an item tower",
            f"--set encoder= one of {', '.join(known)}; or vectors=frozen",
        )
    if config.tower_layers > shape.num_hidden_layers:
        raise UsageError(
            f"invalid option: tower_layers={config.tower_layers}, and {config.encoder} has {shape.num_hidden_layers}",
            "fewer layers, or 0 for all",
        )


def add_tower(
    spec: ModelSpec, items: VectorItems, dataset: Dataset, progress: Progress
) -> TowerTraining | None:
    """Gives items a tower with the weights of a row's encoder, where it is to be trained."""
    config = spec.config
    if not _trains_tower(config):
        return None
    folder = locate(config.encoder)
    base = _load_base(folder, config)
    tokenizer = _cutting_tokenizer(folder, base.config)
    lengths, values = _tokens(TextTokenizer(_copy(tokenizer)), dataset.items.texts)
    offsets = torch.tensor([0, *np.cumsum(lengths).tolist()])
    items.tower = ItemTower(
        TextTower(base, config.pooling), values, offsets, items.vectors.size(1), config.checkpointing
    )
    return TowerTraining(items, config.tower_rate, tokenizer, progress)


def _trains_tower(config: ModelConfig) -> bool:
    return isinstance(config, LayersConfig) and config.trains_tower


def _load_base(folder: Path, config: ItemLanguageConfig | SeqItemConfig) -> Any:
    """The encoder, or its first layers, to be trained whole."""
    from transformers import AutoModel

    with loading(folder):
        shape = read_config(folder)
        shape = as_decoder(shortened(shape, config.tower_layers or shape.num_hidden_layers))
        with torch.random.fork_rng():  # a head that the files lack is drawn at random
            base: Any = AutoModel.from_pretrained(
                folder, config=shape, local_files_only=True, dtype=torch.float32
            )
    bare(base)
    without_attention_dropout(base)
    return base.requires_grad_(True)


def _cutting_tokenizer(folder: Path, shape: Any) -> Any:
    """The encoder's tokeniser, of the `tokenizers` library, which cuts texts as `TextEncoder` does."""
    tokenizer = load_tokenizer(folder)
    most = min(MAX_TOKENS, tokenizer.model_max_length, most_tokens(shape) or MAX_TOKENS)
    pad = tokenizer.pad_token_id or 0
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(most)
    backend.enable_padding(pad_id=pad, pad_token=tokenizer.convert_ids_to_tokens(pad))
    return backend


def _copy(tokenizer: Any) -> Any:
    """A copy, which `TextTokenizer` may take over."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer.to_str())


def _tokens(tokenizer: TextTokenizer, texts: Sequence[str]) -> tuple[list[int], Tensor]:
    """How many tokens each of the texts has, and all of them, int64[total]."""
    tokens = tokenizer.encode([(text,) for text in texts])
    return [len(own) for own in tokens], torch.tensor([number for own in tokens for number in own.ids])
