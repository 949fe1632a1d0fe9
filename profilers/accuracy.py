"""What accuracy is compared with: baselines that know items but no user."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rbserve.core.dataset import CtrSplit, Dataset
from rbserve.core.metrics import auc, gauc

PRIOR_ROWS = 5


def baselines(dataset: Dataset) -> dict[str, dict[str, float]]:
    """AUC and GAUC on the test split of two scores that are the same for every user.

    `popularity` is the number of an item's clicks in the training split; `item_mean` is its click rate
    there, drawn towards the overall rate by 5 rows.
    """
    train, test = dataset.ctr("train"), dataset.ctr("test")
    clicks, rate = _item_statistics(train, len(dataset.items))
    return {
        name: {
            "auc": auc(test.labels, score[test.candidates]),
            "gauc": gauc(test.labels, score[test.candidates], test.users),
        }
        for name, score in (("popularity", clicks), ("item_mean", rate))
    }


def _item_statistics(train: CtrSplit, items: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    clicks = np.bincount(train.candidates, weights=train.labels, minlength=items).astype(np.float64)
    shown = np.bincount(train.candidates, minlength=items)
    return clicks, (clicks + PRIOR_ROWS * train.labels.mean()) / (shown + PRIOR_ROWS)
