"""The neighbours of `itemknn`: counted in one pass over the training sequences, options chosen on validation.

Nothing is trained: there are no epochs, batches or learning rates. Pairs of items are counted for every decay of the
grid at once (`pairs.py`). The options that are not set are then chosen one after another, each by nDCG@10 of at most
VALIDATION_ROWS validation users, with the others as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rbserve.core.errors import UsageError
from rbserve.core.files import scratch
from rbserve.core.tasks import SEQREC
from rbserve.core.types import ModelSpec, Progress, Vectors
from rbserve.data.dataset import Dataset
from rbserve.models.configs import ItemKnnConfig
from rbserve.models.itemknn import PRIOR, ItemKnn, recency_weights, without_neighbours
from rbserve.runtimes.evaluate import rank_rows
from rbserve.runtimes.ranking import ScoringRanker
from rbserve.runtimes.torch_models import TorchItemScores
from rbserve.stats.listwise import ndcg_at_k, ranks_in_lists
from rbserve.train.encoders.embed import item_vectors
from rbserve.train.fitting.loop import Rows, State
from rbserve.train.tasks.neighbours import (
    DENSE,
    Neighbours,
    heaviest,
    heaviest_with_texts,
    pair_weights,
    popularity_order,
)
from rbserve.train.tasks.pairs import Occurrences, PairTable
from rbserve.train.tasks.seq import AT

GRID: dict[str, tuple[float, ...]] = {
    "decay": (0.8, 0.6, 0.9, 1.0),
    "freshness": (0.5, 0.0, 0.25, 1.0),
    "recency": (0.7, 0.5, 0.85, 1.0),
}
"""The values of the options that are chosen, in the order in which they are chosen; the first of each is the start."""
VALIDATION_ROWS = 5_000
Values = dict[str, float]


def make(spec: ModelSpec, dataset: Dataset, progress: Progress) -> tuple[ItemKnn, ItemKnnTask]:
    """A model without neighbours, or with drawn ones if `spec.random`, and the task that counts them."""
    config: ItemKnnConfig = spec.config
    model = without_neighbours(len(dataset.items), config.neighbours, config.max_history)
    if spec.random:
        draw_neighbours(model)
    with_texts = config.text and not spec.random
    return model, ItemKnnTask(dataset, config, _vectors(dataset, config, progress) if with_texts else None)


def draw_neighbours(model: ItemKnn) -> None:
    """Gives every item drawn neighbours, with weight 0."""
    model.neighbours.random_(model.n_items)


def _vectors(dataset: Dataset, config: ItemKnnConfig, progress: Progress) -> Vectors:
    if not any(dataset.items.texts):
        raise UsageError(
            f"text={config.text:g} compares item texts, and data set {dataset.name} has none", "--set text=0"
        )
    return item_vectors(dataset, config.encoder, progress=progress)


class ItemKnnTask:
    """A task without a loss: `fit_whole` counts the model's neighbours and chooses the options that are not set."""

    metric = SEQREC.metric

    def __init__(self, dataset: Dataset, config: ItemKnnConfig, vectors: Vectors | None) -> None:
        self._config, self._vectors = config, vectors
        self._train, self._valid = dataset.seqrec("train"), dataset.seqrec("valid")
        self.rows = len(self._train)
        self.chosen: Values = {}

    def fit_whole(self, model: nn.Module, path: Path, progress: Progress) -> State:
        """Fills the model's buffers; temporary files stand beside the artefact's `path` meanwhile."""
        assert isinstance(model, ItemKnn)
        started, config = time.monotonic(), self._config
        preset = {name: value for name in GRID if (value := getattr(config, name)) is not None}
        decays = (preset["decay"],) if "decay" in preset else GRID["decay"]
        with scratch(path.parent, f"{path.name}-count") as folder, PairTable(folder, decays) as table:
            counts = table.count(self._train, model.n_items, config.max_history, progress)
            model.prior.copy_(PRIOR * torch.from_numpy(popularity_order(counts)))
            filling = _Filling(self, model, table, counts)
            options, metric = choose(preset, filling.evaluate, progress)
            filling.fill(options)
        self.chosen = {name: value for name, value in options.items() if name not in preset}
        return State(best_metric=metric, seconds=time.monotonic() - started, metrics=[metric])

    def neighbours(self, table: PairTable, counts: Occurrences, options: Values, width: int) -> Neighbours:
        """The `width` heaviest neighbours of every item with a decay and a freshness."""
        weigh = pair_weights(counts, table.decays.index(options["decay"]), options["freshness"])
        if self._vectors is None:
            return heaviest(table.pieces(), weigh, len(counts.all), width)
        return heaviest_with_texts(table.pieces(), weigh, self._vectors, self._config.text, width)

    def validate(self, model: nn.Module) -> float:
        """nDCG@10 of the first VALIDATION_ROWS validation users, ranks among the whole catalogue."""
        assert isinstance(model, ItemKnn)
        valid = self._valid.take(np.arange(min(VALIDATION_ROWS, len(self._valid))))
        ranker = ScoringRanker(TorchItemScores(model), self._config.max_history)
        batch = max(1, min(256, DENSE // model.n_items))
        return ndcg_at_k(ranks_in_lists(rank_rows(ranker, valid.histories, AT, batch), valid.targets), AT)

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Never called: counting needs no loss."""
        raise NotImplementedError

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """All buffers of the model."""
        return model.state_dict()

    def save(self, folder: Path) -> None:
        """Writes nothing: scoring needs no more than the buffers and items."""


class _Filling:
    """Fills a model with the neighbours that options ask for, and cuts none again while decay and freshness stay."""

    def __init__(self, task: ItemKnnTask, model: ItemKnn, table: PairTable, counts: Occurrences) -> None:
        self._task, self._model, self._table, self._counts = task, model, table, counts
        self._filled: tuple[float, float] | None = None

    def fill(self, options: Values) -> None:
        """Sets the model's neighbours, weights and recency."""
        model, wanted = self._model, (options["decay"], options["freshness"])
        if wanted != self._filled:
            rows = self._task.neighbours(self._table, self._counts, options, model.neighbours.size(1))
            model.neighbours.copy_(torch.from_numpy(rows.items))
            model.weights.copy_(torch.from_numpy(rows.weights))
            self._filled = wanted
        model.recency.copy_(recency_weights(options["recency"], len(model.recency)))

    def evaluate(self, options: Values) -> float:
        """nDCG@10 of validation users with these options."""
        self.fill(options)
        return self._task.validate(self._model)


def choose(preset: Values, evaluate: Callable[[Values], float], progress: Progress) -> tuple[Values, float]:
    """The best options and their metric: one option of GRID after another, the `preset` ones as they are."""
    options = {name: values[0] for name, values in GRID.items()} | preset
    trials = [(name, value) for name, values in GRID.items() if name not in preset for value in values[1:]]
    progress(0, len(trials) + 1, "options tried")
    best = evaluate(options)
    for number, (name, value) in enumerate(trials, start=1):
        progress(number, len(trials) + 1, f"options tried, valid {SEQREC.metric} {best:.4f}")
        metric = evaluate(tried := options | {name: value})
        if metric > best:
            options, best = tried, metric
    return options, best
