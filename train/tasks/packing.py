"""Training rows packed behind their history: those of one user with one history, which a model reads once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbserve.data.columns import list_places, runs
from rbserve.data.dataset import CtrSplit
from rbserve.train.fitting.loop import Rows


def users_begin(split: CtrSplit) -> NDArray[np.int64]:
    """The first row of each run of rows with one user and one history, and the end of the split: int64[runs + 1]."""
    return np.union1d(runs(split.histories), np.flatnonzero(np.diff(split.users)) + 1)


@dataclass(frozen=True)
class Packs:
    """R rows in G packs: those of pack g are order[begins[g]:begins[g + 1]]."""

    order: Rows
    begins: NDArray[np.int64]

    @classmethod
    def of(cls, split: CtrSplit, owners: Rows) -> Packs:
        """Packs of R pairs, each with the user and the history of row `owners[r]` of a split."""
        run = np.searchsorted(users_begin(split), owners, side="right") - 1
        order = np.argsort(run, kind="stable")
        begins = np.flatnonzero(np.diff(run[order], prepend=-1))
        return cls(order, np.append(begins, len(owners)))

    def __len__(self) -> int:
        return len(self.begins) - 1

    def rows(self, packs: Rows) -> Rows:
        """The rows of the given packs, pack after pack."""
        begins = self.begins[packs]
        return self.order[list_places(begins, self.begins[packs + 1] - begins)]
