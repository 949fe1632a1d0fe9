"""`gbdt`: LightGBM's trees on counted features and fields, stopped where validation users' AUC no longer rises.

The training loop is LightGBM's own; there are no epochs, batches or optimiser. Rows are read in pieces.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.core.errors import UsageError
from rbserve.core.fields import Layout
from rbserve.core.tasks import CTR
from rbserve.core.types import ModelSpec, Progress
from rbserve.data.artifact import TREES
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.data.dataset_export import request_starts
from rbserve.models.configs import GbdtConfig
from rbserve.runtimes.trees import column_names, tree_matrix
from rbserve.stats.pairwise import auc
from rbserve.train.fitting.loop import Rows, State
from rbserve.train.tasks.fields import FieldRows, read_fields

PIECE = 65_536  # rows


def make(spec: ModelSpec, dataset: Dataset, progress: Progress) -> tuple[nn.Module, GbdtTask]:
    """A task that fits trees; the module beside it has no weights."""
    fields = read_fields(spec.config, dataset, progress)
    if fields is None:
        raise UsageError(f"{spec.name} reads fields alone, and fields= names none", "--set fields=all")
    if spec.random:
        raise UsageError(
            f"{spec.name} has no random weights: its trees are what it learns", "leave out --weights"
        )
    return nn.Module(), GbdtTask(spec.config, fields)


class GbdtTask:
    """Fits LightGBM's trees as a whole."""

    metric = CTR.metric
    chosen: Mapping[str, float] = {}

    def __init__(self, config: GbdtConfig, fields: FieldRows) -> None:
        self._config, self._fields = config, fields
        self._train, self._valid = fields.split("train"), fields.split("valid")
        self._text = ""
        self.rows = len(self._train)

    @property
    def layout(self) -> Layout:
        """The fields that the model reads."""
        return self._fields.layout

    def fit_whole(self, model: nn.Module, path: Path, progress: Progress) -> State:  # noqa: ARG002
        """Fits the trees; as many as were best on validation stay."""
        started = time.monotonic()
        names = column_names(self.layout)
        train = self._dataset(self._train, feature_name=names)
        valid = self._dataset(self._valid, reference=train)

        def report(environment: Any) -> None:
            (_, _, reached, _), *_ = environment.evaluation_result_list
            progress(environment.iteration + 1, self._config.trees, f"trees, valid auc {reached:.4f}")

        stop = lightgbm.early_stopping(self._config.patience, verbose=False)
        booster = lightgbm.train(
            self._settings(), train, self._config.trees, [valid], callbacks=[stop, report]
        )
        self._text = booster.model_to_string(num_iteration=booster.best_iteration)
        scores = np.concatenate([booster.predict(piece) for piece in _Rows(self._fields, self._valid)])
        reached = auc(self._valid.labels, scores)
        return State(
            epoch=1, best_metric=reached, best_epoch=0, metrics=[reached], seconds=time.monotonic() - started
        )

    def _settings(self) -> dict[str, Any]:
        config = self._config
        return {
            "objective": config.objective, "metric": "auc", "num_leaves": config.leaves,
            "learning_rate": config.learning_rate, "min_data_in_leaf": config.min_rows,
            "feature_fraction": config.field_share, "bagging_fraction": config.row_share, "bagging_freq": 1,
            "seed": torch.initial_seed() % 2**31, "num_threads": torch.get_num_threads(),
            "deterministic": True, "force_row_wise": True, "verbose": -1,
        }  # fmt: skip

    def _dataset(self, rows: CtrSplit, **options: Any) -> lightgbm.Dataset:
        group = None
        if self._config.objective == "lambdarank":
            group = np.diff(np.append(request_starts(rows), len(rows)))  # the rows of each request
        return lightgbm.Dataset(
            _Rows(self._fields, rows), np.asarray(rows.labels), group=group, params={"verbose": -1}, **options
        )

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Not asked: LightGBM has its own."""
        raise NotImplementedError

    def validate(self, model: nn.Module) -> float:
        """Not asked: `fit_whole` validates."""
        raise NotImplementedError

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """No tensors: the trees are a file of LightGBM."""
        del model
        return {}

    def save(self, folder: Path) -> None:
        """Writes the trees and the tables of the fields."""
        (folder / TREES).write_text(self._text)
        self._fields.save(folder)


class _Rows(lightgbm.Sequence):  # type: ignore[misc]
    """The matrix of the rows of a split, made piece by piece."""

    batch_size = PIECE

    def __init__(self, fields: FieldRows, rows: CtrSplit) -> None:
        self._fields, self._rows, self._tensors = fields, rows, [*fields.layout.tensors]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int | slice | list[int]) -> NDArray[np.float64]:
        rows = np.atleast_1d(np.arange(len(self))[place])
        matrix = tree_matrix(self._fields.tensors(self._rows.take(rows)), self._tensors, len(rows))
        own = matrix.astype(np.float64)  # what LightGBM takes of a sequence
        return own[0] if isinstance(place, int | np.integer) else own

    def __iter__(self) -> Any:
        return (self[begin : begin + PIECE] for begin in range(0, len(self), PIECE))
