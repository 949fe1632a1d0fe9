"""An index over item vectors: which kinds there are, how one is built and read, and the search for the best rows.

An index is a file of faiss. It is memory-mapped, so that processes share it; product quantisation is the exception,
whose codes faiss copies. Shapes: n items, d the width of the index's vectors, k rows that are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError, UsageError, first_line, needs_extra
from rbserve.core.types import Progress, Vectors, no_progress

Rows = NDArray[np.int64]
SAMPLED = 40
"""Vectors a list that k-means is fitted on."""
FEWEST = 16
"""Vectors that the codebooks of product quantisation are fitted on, at least."""
MOST_LISTS = 16_384
PIECE = 1 << 16
"""Vectors that are added at a time."""
SEED = 2024


class IndexKind(NamedTuple):
    """A kind of index.

    `factory` describes it to faiss, with `{lists}` lists of near items and codes of `{codes}` parts. Vectors are padded
    to a multiple of `multiple` numbers. `over` times as many rows are taken from it as are asked for, and `least` at
    least, since it knows rounded vectors. `efforts` are tried in turn at export, and those with each of `breadths`.
    """

    factory: str
    over: int = 1
    least: int = 0
    multiple: int = 1
    efforts: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512)
    breadths: tuple[int, ...] = (1,)

    @property
    def is_fitted(self) -> bool:
        """Whether lists or codes are fitted to a sample of the vectors."""
        return "IVF" in self.factory or "SQ" in self.factory


KINDS = {
    "hnsw": IndexKind("HNSW32,Flat", efforts=(16, 32, 64, 128, 256, 512, 1024)),
    "ivf": IndexKind("IVF{lists},Flat"),
    "ivf-int8": IndexKind("IVF{lists},SQ8", over=2, least=40, multiple=16),
    "ivf-pq": IndexKind("IVF{lists},PQ{codes}x4fs", over=16, least=800, multiple=4, breadths=(1, 4, 16)),
}
"""By precision of the variant: a graph of near neighbours; lists of near items with vectors in fp32, int8, or codes.

Products of vectors in int8 take six times as long where the width is no multiple of 8 (LOG.md).
"""


class IndexSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of an index that its file does not have: its kind, and the effort of a search.

    The effort is the number of lists that a search reads (nprobe), or of candidates that a search of a graph keeps
    (efSearch). So many times as many rows are taken as the kind says: its `breadth`.
    """

    kind: str
    effort: int
    breadth: int = 1


def read_settings(path: Path) -> IndexSettings:
    """Reads the settings of an index; ArtifactError where they are none."""
    try:
        settings = msgspec.json.decode(path.read_bytes(), type=IndexSettings)
        _ = KINDS[settings.kind]
    except (msgspec.DecodeError, KeyError) as error:
        raise ArtifactError(
            f"{path} has no settings of an index: {error}", "rbserve export --index"
        ) from None
    return settings


def padded(vectors: Vectors, multiple: int) -> Vectors:
    """Vectors float32[n, d] with columns of zeros, up to a multiple."""
    return np.pad(vectors, ((0, 0), (0, -vectors.shape[1] % multiple)))


def list_count(items: int) -> int:
    """The lists that items are divided into: four times the root of their number, of 39 items at least."""
    return max(1, min(int(4 * items**0.5), items // 39, MOST_LISTS))


def build_index(
    kind: str, sample: Vectors, pieces: Iterable[Vectors], count: int, progress: Progress = no_progress
) -> Any:
    """A new index over `count` vectors float32[n, d], which come in pieces; `sample` float32[m, d] fits its lists.

    On one thread (OMP_NUM_THREADS sets more) equal vectors give an equal file. UsageError for too few vectors.
    """
    faiss, row = import_faiss(), KINDS[kind]
    faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    sample = padded(sample, row.multiple)
    if "PQ" in row.factory and len(sample) < FEWEST:
        raise UsageError(
            f"{kind} needs {FEWEST} items at least, and there are {len(sample)}", "--index hnsw, or ivf"
        )
    width = sample.shape[1]
    factory = row.factory.format(lists=list_count(count), codes=width // 2)
    index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    if "IVF" in factory:
        faiss.extract_index_ivf(index).cp.min_points_per_centroid = 1  # it would print a warning
    if "PQ" in factory:
        index.pq.cp.min_points_per_centroid = 1
    if "HNSW" in factory:
        index.hnsw.efConstruction = 100
    progress(0, count, f"items in the index {kind}, fitting its lists")
    if not index.is_trained:
        index.train(np.ascontiguousarray(sample))
    for piece in pieces:
        index.add(np.ascontiguousarray(padded(piece, row.multiple)))
        progress(index.ntotal, count, f"items in the index {kind}")
    return index


def import_faiss() -> Any:
    """The library; UsageError where it is not installed."""
    with needs_extra("index", "an index over items"):
        import faiss
    return faiss


def load_index(path: Path, mapped: bool = True) -> Any:
    """The index in a file, memory-mapped unless it is to be changed; ArtifactError where the file is none."""
    faiss = import_faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        raise ArtifactError(
            f"faiss cannot read {path}: {first_line(error)}", "rbserve export --index writes it anew"
        ) from None


class ItemIndex:
    """A search for the items with the largest products. Safe for threads."""

    def __init__(self, index: Any, settings: IndexSettings, retired: Iterable[int] = ()) -> None:
        """`retired` rows are not found."""
        self._faiss, self._index, self.settings = import_faiss(), index, settings
        self._kind = KINDS[settings.kind]
        self._retired = np.array(sorted(retired), np.int64)
        self._batch = self._faiss.IDSelectorBatch(self._retired) if len(self._retired) else None
        self._selector = self._faiss.IDSelectorNot(self._batch) if self._batch else None
        self.count = int(index.ntotal) - len(self._retired)

    def available(self, rows: Rows) -> Rows:
        """The rows that are not retired."""
        return rows[~np.isin(rows, self._retired)] if len(self._retired) else rows

    def search(self, query: Vectors, k: int, effort: int | None = None) -> Rows:
        """At least min(k, count) rows for a query float32[d], the best that the index knows; no particular order.

        Where the lists that are read have fewer, more are read. Fewer rows come back only if no effort finds more.
        """
        wanted = min(k, self.count)
        if not wanted:
            return np.empty(0, np.int64)
        fetched = min(max(wanted * self._kind.over, self._kind.least) * self.settings.breadth, self.count)
        spent = effort or self.settings.effort
        point = padded(query[None].astype(np.float32), int(self._index.d))
        while True:
            nearest = self._index.search(point, fetched, params=self._parameters(fetched, spent))[1][0]
            rows: Rows = nearest[nearest >= 0]
            if len(rows) >= wanted or spent >= self.most_effort:
                return rows
            spent = min(2 * spent, self.most_effort)

    @property
    def most_effort(self) -> int:
        """The effort that reads everything."""
        return int(getattr(self._index, "nlist", self._index.ntotal))

    def _parameters(self, fetched: int, effort: int) -> Any:
        if hasattr(self._index, "nlist"):
            return self._faiss.SearchParametersIVF(nprobe=min(effort, self.most_effort), sel=self._selector)
        return self._faiss.SearchParametersHNSW(efSearch=max(effort, fetched), sel=self._selector)
