"""How far an exported variant's scores are from the reference's, on real rows through the same `score`."""

from __future__ import annotations

import numpy as np

from rbserve.core.artifact import Parity
from rbserve.core.dataset import CtrSplit
from rbserve.core.metrics import auc
from rbserve.core.types import Scores


def compare(reference: Scores, scores: Scores, labels: np.ndarray) -> Parity:
    """Differences of two score vectors float32[R] of the same rows, and what they do to AUC."""
    difference = np.abs(scores.astype(np.float64) - reference.astype(np.float64))
    before, after = auc(labels, reference), auc(labels, scores)
    known = not np.isnan(before)
    return Parity(
        rows=len(labels),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        auc_reference=before if known else None,
        auc=after if known else None,
        auc_difference=after - before if known else None,
    )


def sample(split: CtrSplit, rows: int, seed: int) -> CtrSplit:
    """At most `rows` rows of a split, drawn by `seed`, in the order of the split."""
    if len(split) <= rows:
        return split
    return split.take(np.sort(np.random.default_rng(seed).choice(len(split), rows, replace=False)))
