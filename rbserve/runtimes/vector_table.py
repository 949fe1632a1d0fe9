"""The item vectors of a ranking as memory-mapped columns, beside its graph: biases and neighbours included.

A score is the product of the user's vector with the item's, plus its bias, plus what the neighbours of the history's
items say of it. Processes share the pages of the columns, and read those that they use. The files stand in an
artefact's folder `index/`. Shapes: n items, d the width of a vector, T items of history, K neighbours of an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError
from rbserve.core.types import Items, Scores, Vectors
from rbserve.data.columns import ColumnWriter, open_column

FOLDER = "index"
TABLE, VECTORS, BIASES = f"{FOLDER}/table.json", f"{FOLDER}/vectors.npy", f"{FOLDER}/biases.npy"
NEIGHBOURS, WEIGHTS, PRIOR = (f"{FOLDER}/{name}.npy" for name in ("neighbours", "neighbour_weights", "prior"))

Rows = NDArray[np.int64]


class NeighbourSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How neighbours add to scores: weight * log(share of their scores + floor) (`models/itemknn.py`).

    `recency` has the weights of the places of a history, the last item's last. `popular` are the items with the largest
    prior, which are candidates of every list.
    """

    weight: float
    floor: float
    least: float
    recency: list[float]
    popular: list[int]


class TableSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The width of the item vectors; `bias_scale` divides a bias that is a number of the index's vectors."""

    dim: int
    bias_scale: float | None = None
    neighbours: NeighbourSettings | None = None

    @property
    def columns(self) -> list[str]:
        """The members that have a value, or a row of values, an item."""
        biases = [] if self.bias_scale is None else [BIASES]
        return [VECTORS, *biases, *([NEIGHBOURS, WEIGHTS, PRIOR] if self.neighbours else [])]


class ScoredNeighbours(NamedTuple):
    """Neighbours int64[m] of a history's items, sorted, their scores float32[m], and the sum of all items' scores."""

    rows: Rows
    scores: Scores
    total: float


class NeighbourShares:
    """What neighbours add to scores, from memory-mapped rows int32[n, K] and float32[n, K], prior float32[n]."""

    def __init__(self, settings: NeighbourSettings, items: Items, weights: Scores, prior: Scores) -> None:
        self._settings, self._items, self._weights, self._prior = settings, items, weights, prior
        self._recency = np.array(settings.recency, np.float32)
        self._popular = np.array(settings.popular, np.int64)
        self._prior_sum = float(prior.sum(dtype=np.float64))

    def of_history(self, history: Items) -> ScoredNeighbours:
        """The neighbours of the items of a history int32[T], oldest first."""
        recency = self._recency[len(self._recency) - len(history) :]
        weights = (self._weights[history] * recency[:, None]).ravel()
        rows, places = np.unique(self._items[history].ravel(), return_inverse=True)
        sums = np.bincount(places, weights, len(rows)).astype(np.float32)
        total = self._prior_sum + float(weights.sum(dtype=np.float64))
        return ScoredNeighbours(rows.astype(np.int64), sums, total)

    def candidates(self, scored: ScoredNeighbours) -> Rows:
        """Neighbours int64[m], and the items with the largest prior."""
        return np.concatenate([scored.rows, self._popular])

    def added(self, wanted: Rows, scored: ScoredNeighbours) -> Scores:
        """The neighbours' part of the scores float32[m] of items `wanted` int64[m]."""
        shares = self._prior[wanted].astype(np.float32)
        if len(scored.rows):
            places = np.minimum(np.searchsorted(scored.rows, wanted), len(scored.rows) - 1)
            shares += np.where(scored.rows[places] == wanted, scored.scores[places], np.float32(0))
        shares /= np.float32(max(scored.total, self._settings.least))
        added: Scores = np.log(shares + np.float32(self._settings.floor))
        return added * np.float32(self._settings.weight)


class VectorTable(NamedTuple):
    """Item vectors float32[n, d], biases float32[n] and neighbours, where the model has them."""

    settings: TableSettings
    vectors: Vectors
    biases: Scores | None = None
    neighbours: NeighbourShares | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def scores(self, state: Vectors, rows: Rows | slice) -> Scores:
        """The products float32[m] of a user's vector float32[d] with those of rows, and their biases."""
        scores: Scores = self.vectors[rows] @ state
        return scores if self.biases is None else scores + self.biases[rows]

    def indexed(self, rows: Rows | slice) -> Vectors:
        """The vectors float32[m, d'] of rows as an index has them: with the bias, if there is one."""
        vectors = np.array(self.vectors[rows])
        if self.biases is None or self.settings.bias_scale is None:
            return vectors
        column = self.biases[rows][:, None] / np.float32(self.settings.bias_scale)
        return np.concatenate([vectors, column], axis=1)

    def query(self, state: Vectors) -> Vectors:
        """The user's vector float32[d'] as an index takes it."""
        scale = self.settings.bias_scale
        return state if scale is None else np.append(state, np.float32(scale))


def open_table(folder: Path) -> VectorTable:
    """The table in an artefact's directory, whose files are verified elsewhere; ArtifactError where it is none."""
    try:
        settings = msgspec.json.decode((folder / TABLE).read_bytes(), type=TableSettings)
    except msgspec.DecodeError as error:
        raise ArtifactError(
            f"{folder / TABLE} is no table of vectors: {error}", "rbserve export --index writes it anew"
        ) from None
    columns: dict[str, NDArray[Any]] = {  # plain arrays: they are sliced faster than memory maps
        name: np.asarray(open_column(folder / name)) for name in settings.columns
    }
    vectors = columns[VECTORS].reshape(-1, settings.dim)
    neighbours = None
    if settings.neighbours:
        items, weights = (columns[name].reshape(len(vectors), -1) for name in (NEIGHBOURS, WEIGHTS))
        neighbours = NeighbourShares(settings.neighbours, items, weights, columns[PRIOR])
    return VectorTable(settings, vectors, columns.get(BIASES), neighbours)


def write_columns(
    folder: Path, settings: TableSettings, columns: Mapping[str, Sequence[NDArray[Any]]]
) -> None:
    """Writes a table of vectors; columns are by the names of their members, each in pieces."""
    (folder / TABLE).write_bytes(msgspec.json.encode(settings))
    for name in settings.columns:
        writer = ColumnWriter(folder / name, columns[name][0].dtype.type)
        for piece in columns[name]:
            writer.append(piece)
        writer.close()
