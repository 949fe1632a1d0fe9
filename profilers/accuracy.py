"""What accuracy is compared with: baselines that know items but no user."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rbserve.core.dataset import CtrSplit, Dataset, SeqSplit
from rbserve.core.metrics import auc, gauc, ndcg_at_k, recall_at_k

PRIOR_ROWS = 5


def baselines(
    dataset: Dataset, test: CtrSplit | SeqSplit, exclude_seen: bool = False
) -> dict[str, dict[str, float]]:
    """The headline metrics, on test rows of the data set, of what is the same for every user."""
    if isinstance(test, CtrSplit):
        return _pair_wise(dataset, test)
    return _list_wise(dataset, test, exclude_seen)


def _pair_wise(dataset: Dataset, test: CtrSplit) -> dict[str, dict[str, float]]:
    """AUC and GAUC of two scores.

    `popularity` is the number of an item's clicks in the training split; `item_mean` is its click rate
    there, drawn towards the overall rate by 5 rows.
    """
    train = dataset.ctr("train")
    clicks, rate = _item_statistics(train, len(dataset.items))
    return {
        name: {
            "auc": auc(test.labels, score[test.candidates]),
            "gauc": gauc(test.labels, score[test.candidates], test.users),
        }
        for name, score in (("popularity", clicks), ("item_mean", rate))
    }


def _list_wise(dataset: Dataset, test: SeqSplit, exclude_seen: bool) -> dict[str, dict[str, float]]:
    """NDCG and recall of one ranking: by how often an item stands in the training split's sequences."""
    train = dataset.seqrec("train")
    sequences = np.concatenate((train.targets, train.histories.values))
    ranks = popularity_ranks(np.bincount(sequences, minlength=len(dataset.items)), test, exclude_seen)
    return {"popularity": {"ndcg@10": ndcg_at_k(ranks, 10), "recall@10": recall_at_k(ranks, 10)}}


def popularity_ranks(counts: NDArray[np.int64], test: SeqSplit, exclude_seen: bool) -> NDArray[np.int64]:
    """1-based rank int64[R] of each target by counts int64[n_items]; ties rank before their target.

    `exclude_seen` leaves the items of the row's history out of its list; a target among them has rank 0.
    """
    ranks = len(counts) - np.searchsorted(np.sort(counts), counts[test.targets])
    if exclude_seen:
        for row, target in enumerate(test.targets):
            seen = np.unique(test.histories[row])
            left_out = np.count_nonzero(counts[seen] >= counts[target])
            ranks[row] = 0 if target in seen else ranks[row] - left_out
    return ranks


def _item_statistics(train: CtrSplit, items: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    clicks = np.bincount(train.candidates, weights=train.labels, minlength=items).astype(np.float64)
    shown = np.bincount(train.candidates, minlength=items)
    return clicks, (clicks + PRIOR_ROWS * train.labels.mean()) / (shown + PRIOR_ROWS)
