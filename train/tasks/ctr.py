"""Click prediction as a training task: binary cross-entropy (eq. 1) and validation AUC.

The training labels are those of the data set, or a teacher's probabilities (`SoftRows`); validation uses the labels
of the data set.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.core.errors import UsageError
from rbserve.core.fields import Layout
from rbserve.core.tasks import CTR
from rbserve.core.types import Items, ModelSpec, Progress
from rbserve.data.artifact import WORDS
from rbserve.data.columns import Ragged, blocks
from rbserve.data.dataset import CtrSplit, Dataset, Extras, SeqSplit
from rbserve.models.configs import EmbeddingItems, HistoryConfig, LayersConfig, TextItems
from rbserve.models.ctr import NO_FIELDS, build
from rbserve.models.ctr_base import CtrModel
from rbserve.models.item_language import ItemLanguage
from rbserve.models.items import IdItems, ItemEncoder, VectorItems, WordItems
from rbserve.stats.pairwise import auc
from rbserve.train.fitting.loop import Rows, require_finite
from rbserve.train.tasks.align import start_tokens
from rbserve.train.tasks.backbones import FirstLayers, backbone_folder, first_layers, merged
from rbserve.train.tasks.fields import FieldRows, read_fields
from rbserve.train.tasks.packing import Packs
from rbserve.train.tasks.tower import TowerTraining, add_tower, encoder_vectors, require_tower

VALIDATION_BATCH = 8_192
SAMPLE = 1_000_000  # training rows by which numbers are brought to one scale


@dataclass(frozen=True)
class SoftRows:
    """R pairs whose labels are probabilities; pair r has the history of row `owners[r]` of `split`.

    `extras` has the fields of each pair, of a model that reads fields.
    """

    split: CtrSplit
    owners: Rows
    candidates: Items
    labels: NDArray[np.float32]
    extras: Extras = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def histories(self) -> Ragged:
        """The history of each pair, copied from the split."""
        return self.split.histories.take(self.owners)

    def take(self, rows: Rows) -> SoftRows:
        """The given pairs, in that order."""
        extras = {name: column[rows] for name, column in self.extras.items()}
        return SoftRows(self.split, self.owners[rows], self.candidates[rows], self.labels[rows], extras)


def make(
    spec: ModelSpec, dataset: Dataset, progress: Progress, soft: SoftRows | None = None
) -> tuple[CtrModel, CtrTask]:
    """A freshly initialised model of a zoo row for the data set's items, and its training task.

    `soft` replaces the training rows; its items must be among theirs.
    """
    require_tower(spec)
    fields = read_fields(spec.config, dataset, progress)
    if soft is not None and fields is not None:
        soft = replace(soft, extras=fields.extras_of(soft.owners, soft.candidates, progress))
    words, packed = isinstance(spec.config, TextItems), isinstance(spec.config, HistoryConfig)
    layers = first_layers(spec, backbone_folder(spec)) if isinstance(spec.config, LayersConfig) else None
    items = _items(spec, dataset, progress)
    tower = add_tower(spec, items, dataset, progress) if isinstance(items, VectorItems) else None
    task = CtrTask(dataset, words, soft, fields, packed, layers, tower)
    model = build(spec.config, items, fields.layout if fields else NO_FIELDS, layers.base if layers else None)
    if layers is not None:
        own = cast(ItemLanguage, model).layers
        start_tokens(own, layers, cast(VectorItems, items), spec, dataset.items.texts, progress)
    if isinstance(model.item_embedding, IdItems):
        model.item_embedding.blank(torch.from_numpy(~trained_items(dataset.ctr("train"), len(dataset.items))))
    if model.fields is not None:
        model.fields.fit(task.sample())
    return model, task


def _items(spec: ModelSpec, dataset: Dataset, progress: Progress) -> int | ItemEncoder:
    if isinstance(spec.config, TextItems):
        return _word_items(spec, dataset)
    if isinstance(spec.config, EmbeddingItems):
        return _vector_items(spec, dataset, progress)
    return len(dataset.items)


def _word_items(spec: ModelSpec, dataset: Dataset) -> WordItems:
    if not len(dataset.tokens.values):
        raise no_texts(spec, dataset)
    values, offsets = np.array(dataset.tokens.values), np.array(dataset.tokens.offsets)
    return WordItems(torch.from_numpy(values), torch.from_numpy(offsets), len(dataset.words), spec.config.dim)


def _vector_items(spec: ModelSpec, dataset: Dataset, progress: Progress) -> VectorItems:
    config = spec.config
    if not any(dataset.items.texts):
        raise no_texts(spec, dataset)
    hidden = config.item_hidden if isinstance(config, HistoryConfig) else 0
    return VectorItems(
        encoder_vectors(spec, dataset, progress), config.dim, config.vectors == "tuned", hidden
    )


def no_texts(spec: ModelSpec, dataset: Dataset, instead: str = "a model of group A") -> UsageError:
    """The error for a row that reads item texts on a data set without any; `instead` names a row that needs none."""
    return UsageError(
        f"{spec.name} reads item texts, and data set {dataset.name} has none",
        f"{instead} needs none; rbserve prepare --text names the column of one's own items",
    )


class CtrTask:
    """Rows of a data set's click-prediction splits, as batches of a CTR model's `forward`."""

    metric = CTR.metric

    def __init__(
        self,
        dataset: Dataset,
        words: bool = False,
        soft: SoftRows | None = None,
        fields: FieldRows | None = None,
        packed: bool = False,
        layers: FirstLayers | None = None,
        tower: TowerTraining | None = None,
    ) -> None:
        """`words`: the model reads words of the data set's vocabulary. `soft`: rows to train on instead of its own.

        `fields`: what the model reads beside history and candidate. `packed`: it reads a history once for all of its
        candidates, which then are one row of the training loop. `layers`: those of a language model that it has.
        `tower`: what reads the items' texts and is trained.
        """
        self._layers, self._tower = layers, tower
        self.rates = {
            **({"layers.base.": layers.rate} if layers else {}),
            **(tower.rates if tower else {}),
        }
        self._words = dataset.file("text/words.parquet") if words else None
        self._fields = fields
        own = fields.split if fields else dataset.ctr
        self._train = own("train") if soft is None else soft
        self._valid = own("valid")
        self._packs = self._pack() if packed else None
        self.rows = len(self._train) if self._packs is None else len(self._packs)

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy summed over the given training rows."""
        batch = self._train.take(rows if self._packs is None else self._packs.rows(rows))
        device = next(model.parameters()).device
        labels = torch.from_numpy(batch.labels).to(device, torch.float32)
        return F.binary_cross_entropy_with_logits(self._logits(model, batch, device), labels, reduction="sum")

    def sample(self) -> Mapping[str, Tensor]:
        """The tensors of the fields of some training rows."""
        rows = np.linspace(0, len(self._train) - 1, min(len(self._train), SAMPLE)).astype(np.int64)
        return self._tensors(self._train.take(rows), torch.device("cpu"))

    def _pack(self) -> Packs:
        if isinstance(self._train, SoftRows):
            return Packs.of(self._train.split, self._train.owners)
        return Packs.of(self._train, np.arange(len(self._train)))

    def _tensors(self, batch: CtrSplit | SoftRows, device: torch.device) -> dict[str, Tensor]:
        if self._fields is None:
            return {}
        made = self._fields.tensors(batch)
        return {name: torch.from_numpy(np.array(tensor)).to(device) for name, tensor in made.items()}

    def _logits(self, model: nn.Module, batch: CtrSplit | SoftRows, device: torch.device) -> Tensor:
        histories = batch.histories
        values, offsets = histories.values, histories.offsets
        logits: Tensor = model(
            torch.from_numpy(values).to(device, torch.int64),
            torch.from_numpy(offsets).to(device),
            torch.from_numpy(batch.candidates).to(device),
            self._tensors(batch, device),
        )
        return logits

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """All weights of the model but a tower's, after adapters were merged into the layers that they adapt."""
        if self._layers is not None:
            layers = cast(ItemLanguage, model).layers
            layers.base = merged(layers.base)
        weights = model.state_dict()
        return weights if self._tower is None else self._tower.finish(weights)

    def save(self, folder: Path) -> None:
        """Copies the vocabulary of a model that reads words, which encodes new texts with it, a language model's config
        and tables of fields; writes a trained tower.
        """
        if self._layers is not None:
            self._layers.save(folder)
        if self._tower is not None:
            self._tower.save(folder)
        if self._words is not None:
            shutil.copyfile(self._words, folder / WORDS)
        if self._fields is not None:
            self._fields.save(folder)

    @property
    def layout(self) -> Layout:
        """The fields that the model reads."""
        return self._fields.layout if self._fields else NO_FIELDS

    def validate(self, model: nn.Module) -> float:
        """AUC over the validation users' rows; RbserveError when training has diverged."""
        if self._tower is not None:
            self._tower.read(np.union1d(self._valid.histories.values, self._valid.candidates))
        device = next(model.parameters()).device
        rows = np.arange(len(self._valid))
        pieces = np.split(rows, range(VALIDATION_BATCH, len(rows), VALIDATION_BATCH))
        logits = np.concatenate(
            [self._logits(model, self._valid.take(piece), device).cpu().numpy() for piece in pieces]
        )
        require_finite(bool(np.isfinite(logits).all()), "the model's scores are")
        return auc(self._valid.labels, logits)


def trained_items(train: CtrSplit | SeqSplit, items: int) -> NDArray[np.bool_]:
    """Whether a training row has each item of the data set, as its candidate or target or in its history: bool[n]."""
    seen = np.zeros(items, bool)
    for column in (train.items, train.histories.values):
        for block in blocks(column):
            seen[block] = True
    return seen
