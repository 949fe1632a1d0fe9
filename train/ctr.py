"""Click prediction as a training task: binary cross-entropy (eq. 1) and validation AUC."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.core.columns import blocks
from rbserve.core.dataset import CtrSplit, Dataset
from rbserve.core.errors import RbserveError
from rbserve.core.metrics import auc
from rbserve.train.loop import Rows

VALIDATION_BATCH = 8_192


class CtrTask:
    """Rows of a data set's click-prediction splits, as batches of a CTR model's `forward`."""

    metric = "auc"

    def __init__(self, dataset: Dataset) -> None:
        self._train = dataset.ctr("train")
        self._valid = dataset.ctr("valid")
        self.rows = len(self._train)

    def trained_items(self, items: int) -> NDArray[np.bool_]:
        """For each of the data set's items whether a training row has it, as candidate or in its history."""
        seen = np.zeros(items, bool)
        for column in (self._train.candidates, self._train.histories.values):
            for block in blocks(column):
                seen[block] = True
        return seen

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy summed over the given training rows."""
        batch = self._train.take(rows)
        device = next(model.parameters()).device
        labels = torch.from_numpy(batch.labels).to(device, torch.float32)
        return F.binary_cross_entropy_with_logits(_logits(model, batch, device), labels, reduction="sum")

    def validate(self, model: nn.Module) -> float:
        """AUC over the validation users' rows; RbserveError when training has diverged."""
        device = next(model.parameters()).device
        rows = np.arange(len(self._valid))
        pieces = np.split(rows, range(VALIDATION_BATCH, len(rows), VALIDATION_BATCH))
        logits = np.concatenate(
            [_logits(model, self._valid.take(piece), device).cpu().numpy() for piece in pieces]
        )
        if not np.isfinite(logits).all():
            raise RbserveError(
                "training diverged: the model's scores are not finite", "a lower --lr may help"
            )
        return auc(self._valid.labels, logits)


def _logits(model: nn.Module, batch: CtrSplit, device: torch.device) -> Tensor:
    values, offsets = batch.histories.values, batch.histories.offsets
    logits: Tensor = model(
        torch.from_numpy(values).to(device, torch.int64),
        torch.from_numpy(offsets).to(device),
        torch.from_numpy(batch.candidates).to(device),
    )
    return logits
