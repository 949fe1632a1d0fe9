"""Exports a ranking as an index over its item vectors: encoder, table of vectors, index, and the effort of a search.

The encoder takes vectors instead of items, so that no graph holds the table. The columns of the table and the index
stand in the artefact's folder `index/` (`runtimes/vector_table.py`, `runtimes/faiss.py`). The effort is the smallest
that finds the share `recall` of the ten best items of validation users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.files import replacing
from rbserve.core.types import Progress, Vectors, no_progress
from rbserve.core.variants import exported_variant, find_variant
from rbserve.data.artifact import Artifact, Parity, VariantRecord
from rbserve.data.columns import Ragged
from rbserve.data.dataset import Dataset
from rbserve.data.golden import write_checks
from rbserve.exporters.graph import origin, save, trace
from rbserve.exporters.parity import ListReference
from rbserve.models.configs import SasRecConfig
from rbserve.runtimes.contents import artifact_config
from rbserve.runtimes.evaluate import by_length, mean_share
from rbserve.runtimes.faiss import (
    ENCODER,
    HISTORY_VECTORS,
    IndexedScores,
    IndexRanker,
    index_file,
    settings_file,
)
from rbserve.runtimes.item_index import (
    KINDS,
    PIECE,
    SAMPLED,
    SEED,
    IndexSettings,
    ItemIndex,
    build_index,
    import_faiss,
    list_count,
    load_index,
)
from rbserve.runtimes.onnx import opening_of
from rbserve.runtimes.vector_table import (
    BIASES,
    FOLDER,
    NEIGHBOURS,
    PRIOR,
    TABLE,
    VECTORS,
    WEIGHTS,
    NeighbourSettings,
    TableSettings,
    VectorTable,
    open_table,
    write_columns,
)

if TYPE_CHECKING:
    from rbserve.models.itemknn import WeightedNeighbours
    from rbserve.models.sasrec import SasRec

RECALL = 0.99
"""The share of the ten best items that an index is to find on validation users, unless the user says otherwise."""
TUNED_USERS, TUNED_K = 200, 10
HOPELESS = 0.5
"""The share from which on a small gain says that more effort does not help."""
POPULAR = 500
"""Items with the largest prior that are candidates of every list, where a model has neighbours."""


def export_indexes(
    artifact: Artifact,
    dataset: Dataset,
    folder: Path,
    precisions: Sequence[str],
    reference: ListReference,
    recall: float = RECALL,
    tower: Sequence[str] = (),
    progress: Progress = no_progress,
) -> dict[str, VariantRecord]:
    """Writes the indexes of an artefact into it, by way of `folder`; returns their records by variant.

    Raises UsageError where faiss is not installed, and where there are too few items.
    """
    import_faiss()  # before work is done in vain
    (folder / FOLDER).mkdir()
    shared = _write_shared(artifact, folder, precisions[0])
    table = open_table(folder)
    encoder = opening_of(artifact)(folder / ENCODER)
    histories = _histories(dataset)
    records = {}
    for precision in precisions:
        path = folder / index_file(precision)
        write_index(path, precision, table, progress)
        index = load_index(path)
        ranker, settings = _tuned(encoder, table, index, precision, artifact, histories, recall)
        (folder / settings_file(precision)).write_bytes(msgspec.json.encode(settings))
        compared = reference.compare_ranker(ranker, approximate=True)
        checks = f"{FOLDER}/{precision}.checks.json"
        variant = find_variant(exported_variant(precision))
        write_checks(folder / checks, compared.checks, variant.tolerance)
        own = [index_file(precision), settings_file(precision)]
        _move(artifact, folder, [*own, checks])
        records[variant.name] = VariantRecord(
            ENCODER, compared.parity, _warnings(precision, compared.parity, recall),
            data_files=[*own, *shared], checks=checks, tower=[*tower],
        )  # fmt: skip
    _move(artifact, folder, [ENCODER, *shared])
    return records


def write_index(path: Path, kind: str, table: VectorTable, progress: Progress = no_progress) -> None:
    """Writes a new index over the vectors of a table to `path`."""
    count = len(table)
    drawn = np.random.default_rng(SEED).permutation(count)[: SAMPLED * list_count(count)]
    drawn = np.sort(drawn) if KINDS[kind].is_fitted else drawn[:1]
    index = build_index(kind, table.indexed(drawn), pieces(table), count, progress)
    import_faiss().write_index(index, str(path))


def pieces(table: VectorTable, begin: int = 0) -> Iterator[Vectors]:
    """The vectors of a table from row `begin` on, as an index has them, in pieces."""
    for first in range(begin, len(table), PIECE):
        yield table.indexed(slice(first, first + PIECE))


def _write_shared(artifact: Artifact, folder: Path, precision: str) -> list[str]:
    """Writes the encoder and the table; returns the table's members."""
    from rbserve.runtimes.torch import load_model

    model: SasRec = load_model(artifact).folded()
    _write_encoder(artifact, model, folder / ENCODER, precision)
    columns: dict[str, NDArray[Any]] = {VECTORS: model.items.detach().numpy()}
    scale = None
    if model.biases is not None:
        columns[BIASES] = model.biases.detach().numpy()
        scale = bias_scale(columns[VECTORS], columns[BIASES])
    neighbours = None
    if model.neighbours is not None and float(model.neighbours.weight):
        neighbours = _neighbours(model.neighbours, columns)
    settings = TableSettings(columns[VECTORS].shape[1], scale, neighbours)
    write_columns(folder, settings, {name: [column] for name, column in columns.items()})
    return [TABLE, *settings.columns]


def bias_scale(vectors: NDArray[np.float32], biases: NDArray[np.float32]) -> float:
    """What biases are divided by, so that they are spread like a number of a vector: 1 where they do not differ."""
    spread = float(biases.std())
    return float(np.float32(spread / float(vectors.std(axis=0).mean()))) if spread else 1.0


def _neighbours(model: WeightedNeighbours, columns: dict[str, NDArray[Any]]) -> NeighbourSettings:
    """The settings of a model's neighbours, whose rows become columns."""
    from rbserve.models import itemknn

    items = model.items
    columns |= {
        NEIGHBOURS: items.neighbours.numpy().astype(np.int32),
        WEIGHTS: items.weights.numpy(),
        PRIOR: items.prior.numpy(),
    }
    popular = np.argsort(-columns[PRIOR], kind="stable")[:POPULAR]
    return NeighbourSettings(
        float(model.weight), itemknn.FLOOR, itemknn.PRIOR, items.recency.tolist(), np.sort(popular).tolist()
    )


def _write_encoder(artifact: Artifact, model: SasRec, path: Path, precision: str) -> None:
    """Writes the graph of users' vectors [B, d] from the vectors of their items [B, T, d]."""
    import torch  # imported here: items are added without it
    from torch import Tensor, nn

    from rbserve.exporters.layers import traceable

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = model.transformer

        def forward(self, vectors: Tensor) -> Tensor:
            return self.transformer.last_of(vectors)

    table = model.transformer.token_embedding
    example = torch.zeros(2, 4, table.embedding_dim)
    del model.transformer.token_embedding  # no part of the graph
    try:
        with traceable(model), torch.no_grad():
            graph = trace(Encoder(), (example,), {HISTORY_VECTORS: {0: "B", 1: "T"}}, {"states": {0: "B"}})
    finally:
        model.transformer.token_embedding = table
    described = origin(artifact, precision)
    save(graph, path, {key: value for key, value in described.items() if key != "rbserve.variant"})


def _histories(dataset: Dataset) -> Ragged:
    """Histories of validation users, on which the effort is chosen; of training users where there are none."""
    split = dataset.seqrec("valid") if len(dataset.seqrec("valid")) else dataset.seqrec("train")
    rows = np.random.default_rng(SEED).permutation(len(split))[:TUNED_USERS]
    return split.take(np.sort(rows)).histories


def _tuned(
    encoder: Any,
    table: VectorTable,
    index: Any,
    kind: str,
    artifact: Artifact,
    histories: Ragged,
    recall: float,
) -> tuple[IndexRanker, IndexSettings]:
    """The ranker with the smallest effort that finds enough, and the index's settings."""
    longest, retired = cast(SasRecConfig, artifact_config(artifact)).max_history, artifact.items.retired

    def ranker_of(settings: IndexSettings) -> IndexRanker:
        return IndexRanker(IndexedScores(encoder, table, ItemIndex(index, settings, retired)), longest)

    users = [seen for _, seen in by_length(histories, 64)]
    exact = [ranker_of(IndexSettings(kind, 1)).exact_batch(seen, TUNED_K)[0] for seen in users]

    def share(settings: IndexSettings) -> float:
        ranker = ranker_of(settings)
        return mean_share([ranker.top_k_batch(seen, TUNED_K)[0] for seen in users], exact)

    settings = tuned(kind, share, recall, ItemIndex(index, IndexSettings(kind, 1), retired).most_effort)
    return ranker_of(settings), settings


def tuned(kind: str, share: Callable[[IndexSettings], float], recall: float, most: int) -> IndexSettings:
    """The settings of the smallest effort up to `most` whose share of the best items is `recall`, else the best ones.

    A larger breadth is tried where more effort no longer helps.
    """
    best, best_share = IndexSettings(kind, 1), -1.0
    for breadth in KINDS[kind].breadths:
        before = -1.0
        for effort in KINDS[kind].efforts:
            settings = IndexSettings(kind, effort, breadth)
            reached = share(settings)
            if reached > best_share:
                best, best_share = settings, reached
            if reached >= recall:
                return settings
            if effort >= most or (before > HOPELESS and reached - before < 0.001):
                break
            before = reached
    return best


def _move(artifact: Artifact, folder: Path, names: Sequence[str]) -> None:
    """Moves written files into the artefact, each whole or not at all."""
    for name in names:
        with replacing(artifact.path / name) as partial:
            (folder / name).replace(partial)


def _warnings(precision: str, parity: Parity, recall: float) -> list[str]:
    if parity.recall is None or parity.recall >= recall - 0.02:
        return []
    return [
        f"{precision} finds {parity.recall:.1%} of the {parity.k} best items of {parity.rows} test users; "
        f"{recall:.0%} were asked for"
    ]
