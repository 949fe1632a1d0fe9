"""Next items with vectors of texts (`sasrec-2l-emb`, `hstu`): the training task of a TextSasRec.

It differs from SASRec's task in three ways, each of which an option turns off.

- A position predicts the items that follow it, not the next one alone: the one after k others counts decay^k.
- Targets are held against the other items of the batch and `negatives` drawn ones, not against the whole catalogue. An
  item that is present with probability p stands for 1 / p items, so that the sum over the pool is, in expectation, the
  sum over the catalogue (Horvitz & Thompson 1952; logQ correction: Yi et al. 2019). What a user saw before is always
  present and therefore counts too much: items that are seldom seen twice.
- `freshness`, and the weight of neighbours that are counted, are chosen on validation users after every epoch.

Shapes: n items of the catalogue, U items of the pool, P positions that predict, K targets of a position.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.core.types import Items, ModelSpec, Progress, Ranker
from rbserve.data.columns import Ragged
from rbserve.data.dataset import Dataset
from rbserve.models.configs import ItemKnnConfig, LayersConfig, SasRecTextConfig
from rbserve.models.itemknn import ItemKnn
from rbserve.models.items import OwnAndTextItems
from rbserve.models.sasrec import INIT_STD, LanguageTransformer, TextSasRec, build
from rbserve.runtimes.evaluate import by_length
from rbserve.runtimes.ranking import ScoringRanker
from rbserve.runtimes.torch_models import TorchItemScores
from rbserve.stats.listwise import ndcg_at_k
from rbserve.train.encoders.embed import item_vectors
from rbserve.train.fitting.loop import Rows
from rbserve.train.tasks.align import start_tokens
from rbserve.train.tasks.backbones import FirstLayers, backbone_folder, first_layers, merged
from rbserve.train.tasks.ctr import no_texts
from rbserve.train.tasks.itemknn import ItemKnnTask, draw_neighbours
from rbserve.train.tasks.seq import AT, NO_LABEL, Padded, SeqTask, with_targets
from rbserve.train.tasks.softmax import weighted_softmax_loss
from rbserve.train.tasks.tower import TowerTraining, add_tower, encoder_vectors, require_tower

FRESHNESS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""The values of `freshness` that are tried."""
NEIGHBOUR_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""The values of `neighbour_weight` that are tried."""
PROJECTION_RATE = 0.2
"""The share of the learning rate at which the projection of texts' vectors learns.

It reads hundreds of numbers of like size, which all change by as much in an update of Adam: at the whole rate its
outputs outgrow what reads them, and some trainings never recover.
"""
VALIDATION_ROWS = 5_000
FARTHEST = 6
"""Targets of a position, at most: with a decay of 0.8 the next one would count 0.26."""


def make(spec: ModelSpec, dataset: Dataset, progress: Progress) -> tuple[TextSasRec, TextItemTask]:
    """The untrained model of a list-wise row whose items have vectors of texts, and its training task."""
    config: SasRecTextConfig = spec.config
    require_tower(spec)
    if not any(dataset.items.texts):
        raise no_texts(spec, dataset, instead="sasrec-3l")
    items = OwnAndTextItems(encoder_vectors(spec, dataset, progress), config.dim, INIT_STD)
    layers = first_layers(spec, backbone_folder(spec)) if isinstance(config, LayersConfig) else None
    model = cast(TextSasRec, build(config, items, layers.base if layers else None))
    task = TextItemTask(dataset, config, layers, add_tower(spec, items, dataset, progress))
    if layers is not None:
        own = cast(LanguageTransformer, model.transformer).layers
        start_tokens(own, layers, items, spec, dataset.items.texts, progress)
    items.own.blank(torch.from_numpy(task.counts == 0))
    with torch.no_grad():
        model.item_bias.copy_(_bias(task.counts))
    model.item_life.copy_(_life(task.targets, task.counts))
    nothing = np.zeros(1, np.int64)
    model.new_item.copy_(torch.cat([_bias(nothing), _life(nothing, nothing)]))
    model.freshness.fill_(config.freshness or 0.0)
    if model.neighbours is not None:
        model.neighbours.weight.fill_(config.neighbour_weight or 0.0)
        _count_neighbours(model.neighbours.items, spec, dataset, progress)
    return model, task


def _count_neighbours(items: ItemKnn, spec: ModelSpec, dataset: Dataset, progress: Progress) -> None:
    """Fills in the neighbours of items, with the options of `itemknn` that are best on validation."""
    config: SasRecTextConfig = spec.config
    if spec.random:
        draw_neighbours(items)
        return
    counted = ItemKnnConfig(
        text=config.neighbour_text, neighbours=config.neighbours, max_history=config.max_history
    )
    vectors = None
    if config.neighbour_text:
        vectors = item_vectors(dataset, config.encoder, config.pooling, progress)
    task = ItemKnnTask(dataset, counted, vectors)
    task.fit_whole(items, dataset.path, progress)


def _bias(counts: NDArray[np.int64]) -> Tensor:
    """The start of the biases: the logarithm of occurrences."""
    return torch.from_numpy(np.log(counts + 1.0)).float()


def _life(targets: NDArray[np.int64], counts: NDArray[np.int64]) -> Tensor:
    """The logarithm of the share of occurrences that are targets, smoothed as itemknn's freshness is."""
    return torch.from_numpy(np.log((targets + 0.5) / (counts + 3.0))).float()


class TextItemTask(SeqTask):
    """To predict the items that follow, with a pool of items in place of the catalogue; a row is a user's sequence."""

    def __init__(
        self,
        dataset: Dataset,
        config: SasRecTextConfig,
        layers: FirstLayers | None = None,
        tower: TowerTraining | None = None,
    ) -> None:
        super().__init__(dataset, config)
        self._layers, self._tower = layers, tower
        self.rates = {
            "item_embedding.projection.": PROJECTION_RATE,
            **({"transformer.layers.base.": layers.rate} if layers else {}),
            **(tower.rates if tower else {}),
        }
        self._options, self.chosen = config, dict[str, float]()
        n_items, values = len(dataset.items), with_targets(self._train, config.max_history).values
        self.counts = np.bincount(values, minlength=n_items)
        self.targets = np.bincount(self._train.targets, minlength=n_items)
        self._known = torch.from_numpy(np.flatnonzero(self.counts))
        self._shares = torch.from_numpy(self.counts / max(1, self.counts.sum()))
        self._drawn = (self._shares + (self._shares > 0) / max(1, len(self._known))) / 2

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy summed over the predicting positions of the given training rows."""
        assert isinstance(model, TextSasRec)
        device = model.item_bias.device
        sequences = self._sequences(rows)
        pool, log_odds = self._pool(np.concatenate([part.values for part in sequences]), device)
        place = torch.zeros(model.item_embedding.n_items, dtype=torch.int64, device=device)
        place[pool] = torch.arange(len(pool), device=device)
        table = model.item_embedding(pool)
        hidden, targets, weights = [], [], []
        for inputs, wanted, weight in (self._padded(part, device) for part in sequences):
            known = weight.sum(-1) > 0
            hidden.append(model(F.embedding(place[inputs], table))[known])
            targets.append(place[wanted[known]])
            weights.append(weight[known])
        every = [_widened(tensors) for tensors in (targets, weights)]
        return weighted_softmax_loss(
            torch.cat(hidden), table, model.item_bias[pool], every[0], every[1], log_odds
        )

    def _padded(self, sequences: Ragged, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs int64[B, T], targets int64[B, T + 1, K] and their weights [B, T + 1, K], 0 where there is none."""
        last = 1 if self.config.targets == "last" else None
        inputs, labels = Padded.of(sequences, last).to(device)
        farthest = min(FARTHEST, labels.size(1)) if self._options.decay else 1
        shifted = [F.pad(labels[:, k:], (0, k), value=NO_LABEL) for k in range(farthest)]
        targets = torch.stack(shifted, dim=-1)
        weights = (targets != NO_LABEL) * self._options.decay ** torch.arange(farthest, device=device)
        weights = weights * (labels != NO_LABEL)[..., None]
        return inputs, targets.clamp(min=0), weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)

    def _pool(self, present: Items, device: torch.device) -> tuple[Tensor, Tensor]:
        """Items int64[U] that targets are held against, those `present` among them, and the logarithm [U] of 1 / p."""
        negatives = self._options.negatives
        if not 0 < negatives < len(self._known):
            return self._known.to(device), torch.zeros(len(self._known), device=device)
        drawn = torch.multinomial(self._drawn, negatives)
        pool = torch.unique(torch.cat((torch.from_numpy(present.astype(np.int64)), drawn)))
        absent = len(present) * torch.log1p(-self._shares[pool]) + negatives * torch.log1p(-self._drawn[pool])
        return pool.to(device), -torch.log(-torch.expm1(absent)).float().to(device)

    def validate(self, model: nn.Module) -> float:
        """nDCG@10 over the validation users, with the best values of what is to be chosen."""
        assert isinstance(model, TextSasRec)
        if self._tower is not None:
            self._tower.read(np.arange(len(self.counts)))
        self._choose(model)
        return super().validate(model)

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """All weights of the model but a tower's; what was chosen among them is from now on `chosen`."""
        assert isinstance(model, TextSasRec)
        if self._options.freshness is None:
            self.chosen["freshness"] = float(model.freshness)
        if model.neighbours is not None and self._options.neighbour_weight is None:
            self.chosen["neighbour_weight"] = float(model.neighbours.weight)
        if self._layers is not None:
            layers = cast(LanguageTransformer, model.transformer).layers
            layers.base = merged(layers.base)
        weights = super().weights(model)
        return weights if self._tower is None else self._tower.finish(weights)

    def save(self, folder: Path) -> None:
        """Writes the config of the language model whose layers it has, and a trained tower."""
        if self._layers is not None:
            self._layers.save(folder)
        if self._tower is not None:
            self._tower.save(folder)

    def ranker(self, model: nn.Module) -> Ranker:
        """A ranker that scores every item of the catalogue."""
        return ScoringRanker(TorchItemScores(cast(TextSasRec, model).folded()), self.config.max_history)

    def _choose(self, model: TextSasRec) -> None:
        """Sets the freshness and the weight of neighbours that have the best nDCG@10 of the first VALIDATION_ROWS
        validation users, as far as they are to be chosen; the smallest of the best.
        """
        neighbours, options = model.neighbours, self._options
        freshness = FRESHNESS if options.freshness is None else (options.freshness,)
        weights: tuple[float, ...] = (0.0,)
        if neighbours is not None:
            weights = NEIGHBOUR_WEIGHTS if options.neighbour_weight is None else (options.neighbour_weight,)
        values = [*product(weights, freshness)]
        if len(values) == 1:
            return
        valid = self._valid.take(np.arange(min(VALIDATION_ROWS, len(self._valid))))
        folded, ranks = model.folded(), np.zeros((len(values), len(valid)), np.int64)
        folded.biases, folded.neighbours = model.item_bias, None
        device = model.item_bias.device
        for rows, histories in by_length(valid.histories, batch=256):
            read = torch.from_numpy(histories[:, -self.config.max_history :].astype(np.int64)).to(device)
            targets = torch.from_numpy(valid.targets[rows].astype(np.int64)).to(device)
            scores, shares = folded.scores(read), torch.zeros((), device=device)
            if neighbours is not None:
                shares = neighbours.log_shares(read)
            for place, (weight, fresh) in enumerate(values):
                tried = scores + fresh * model.item_life + weight * shares
                ranks[place, rows] = _ranks(tried, targets).cpu().numpy()
        weight, fresh = values[int(np.argmax([ndcg_at_k(of_value, AT) for of_value in ranks]))]
        model.freshness.fill_(fresh)
        if neighbours is not None:
            neighbours.weight.fill_(weight)


def _ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """The place int64[B] of targets [B] among scores [B, n], from 1; ties stand before."""
    return (scores >= scores.gather(1, targets[:, None])).sum(1)


def _widened(parts: list[Tensor]) -> Tensor:
    """Tensors [., K] of several K one after another, filled up with zeros to the largest."""
    widest = max(part.size(1) for part in parts)
    return torch.cat([F.pad(part, (0, widest - part.size(1))) for part in parts])
