"""The runtime faiss: a ranking whose items are found by an index over their vectors (docs/large-catalogues.md).

The user's vector comes from a graph that takes the vectors of the history's items, which are looked up in a
memory-mapped table. The index finds candidates; their scores are computed anew from the table in fp32. A bias of the
score is one more number of an item's vector. What neighbours add to a score depends on the user, and no index has it:
the neighbours of the history's items are candidates as well.

Shapes: n items, d the width of an item vector, B users, T items of history, k items of the list.
"""

from __future__ import annotations

import importlib.util
from typing import cast

import numpy as np

from rbserve.core.errors import ArtifactError
from rbserve.core.types import Items, Ranker, Scorer, Scores, Vectors
from rbserve.core.variants import Variant
from rbserve.data.artifact import Artifact
from rbserve.models.configs import SasRecConfig
from rbserve.runtimes.contents import artifact_config
from rbserve.runtimes.item_index import ItemIndex, import_faiss, load_index, read_settings
from rbserve.runtimes.onnx import opening_of
from rbserve.runtimes.ranking import ScoringRanker
from rbserve.runtimes.session import Session
from rbserve.runtimes.vector_table import FOLDER, Rows, VectorTable, open_table

HINT = "pip install 'rbserve[index]', or choose an ONNX variant, which scans the catalogue"
ENCODER = f"{FOLDER}/encoder.onnx"
HISTORY_VECTORS = "vectors"
"""The encoder's input float32[B, T, d]."""
BLOCK = 1 << 16
"""Items that an exact scan reads at a time."""


def index_file(precision: str) -> str:
    """The member that has the index of a variant."""
    return f"{FOLDER}/{precision}.faiss"


def settings_file(precision: str) -> str:
    """The member that has its settings."""
    return f"{FOLDER}/{precision}.json"


def unavailable(artifact: Artifact, variant: Variant) -> str | None:  # noqa: ARG001
    """Why no index can be searched here, if so."""
    return "faiss-cpu is not installed" if importlib.util.find_spec("faiss") is None else None


def open(artifact: Artifact, variant: Variant, threads: int, user_cache: int) -> Scorer | Ranker:  # noqa: ARG001
    """The ranker over the encoder, the table and the index of a variant, its files verified."""
    record = artifact.exported(variant.name)
    assert record is not None
    files = {name: artifact.file(name) for name in record.files}
    import_faiss().omp_set_num_threads(threads)
    retired = artifact.items.retired
    index = ItemIndex(
        load_index(files[index_file(variant.precision)]),
        read_settings(files[settings_file(variant.precision)]),
        retired,
    )
    table = open_table(artifact.path)
    if {len(table), index.count + len(retired)} != {len(artifact.items)}:
        raise ArtifactError(
            f"the index of {artifact.name} {variant.name} is not over its {len(artifact.items)} items",
            f"rbserve export --model {artifact.path} --index {variant.precision} writes it anew",
        )
    config = cast(SasRecConfig, artifact_config(artifact))
    encoder = opening_of(artifact, threads)(files[ENCODER])
    return IndexRanker(IndexedScores(encoder, table, index), config.max_history)


class IndexedScores:
    """A model whose best items are found by an index; scores are those of the table."""

    def __init__(
        self, encoder: Session, table: VectorTable, index: ItemIndex, effort: int | None = None
    ) -> None:
        """`effort` takes the place of the index's own."""
        self.encoder, self.table, self.index, self._effort = encoder, table, index, effort

    def __call__(self, inputs: Items, k: int) -> tuple[Items, Scores]:
        """The best min(k, items that are not retired) for histories int32[B, T], and their scores."""
        users = zip(inputs, self.states(inputs), strict=True)
        return _stacked([self._best(history, state, k) for history, state in users])

    def exact(self, histories: Items, k: int) -> tuple[Items, Scores]:
        """The best items of a scan of the whole table."""
        users = zip(histories, self.states(histories), strict=True)
        return _stacked([self._scanned(history, state, k) for history, state in users])

    def states(self, histories: Items) -> Vectors:
        """The vectors float32[B, d] of users with histories int32[B, T]."""
        states: Vectors = self.encoder.run(None, {HISTORY_VECTORS: self.table.vectors[histories]})[0]
        return states

    def _best(self, history: Items, state: Vectors, k: int) -> tuple[Items, Scores]:
        wanted, neighbours = min(k, self.index.count), self.table.neighbours
        rows = self.index.search(self.table.query(state), wanted, self._effort)
        if len(rows) < wanted:  # items that no path of the index leads to
            return self._scanned(history, state, k)
        if neighbours is None:
            return _first(rows, self.table.scores(state, rows), wanted)
        scored = neighbours.of_history(history)
        rows = self.index.available(np.union1d(rows, neighbours.candidates(scored)))
        return _first(rows, self.table.scores(state, rows) + neighbours.added(rows, scored), wanted)

    def _scanned(self, history: Items, state: Vectors, k: int) -> tuple[Items, Scores]:
        begins = range(0, len(self.table), BLOCK)
        parts = [self.table.scores(state, slice(begin, begin + BLOCK)) for begin in begins]
        rows, scores = np.arange(len(self.table)), np.concatenate(parts)
        if self.table.neighbours is not None:
            scores += self.table.neighbours.added(rows, self.table.neighbours.of_history(history))
        rows = self.index.available(rows)
        if k < len(rows):
            rows = rows[np.argpartition(-scores[rows], k)[:k]]
        return _first(rows, scores[rows], k)


class IndexRanker(ScoringRanker):
    """Ranks the items that an index finds."""

    def __init__(self, scores: IndexedScores, max_history: int) -> None:
        super().__init__(scores, max_history)
        self._scores = scores

    def exact_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        """The best items of B users with histories int32[B, T] if the index missed none: int32[B, <=k], and scores."""
        return self._scores.exact(histories[:, -self._max_history :], k)

    def with_effort(self, effort: int) -> IndexRanker:
        """The ranker with another effort of its index."""
        own = self._scores
        return IndexRanker(IndexedScores(own.encoder, own.table, own.index, effort), self._max_history)


def _first(rows: Rows, scores: Scores, k: int) -> tuple[Items, Scores]:
    """The k rows with the largest scores, best first; of equal ones the lower row."""
    order = np.lexsort((rows, -scores))[:k]
    return rows[order].astype(np.int32), scores[order].astype(np.float32)


def _stacked(lists: list[tuple[Items, Scores]]) -> tuple[Items, Scores]:
    return np.stack([items for items, _ in lists]), np.stack([scores for _, scores in lists])
