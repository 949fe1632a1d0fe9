"""New items behind those of an index and of its table of vectors, without a new fit: lists and codes stay as they are.

Needs no torch. Shapes: K new items, d the width of an item vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from rbserve.core.types import Scores, Vectors
from rbserve.core.variants import find_variant
from rbserve.data.artifact import Artifact
from rbserve.data.columns import open_column
from rbserve.runtimes.faiss import index_file
from rbserve.runtimes.item_index import import_faiss, load_index, padded
from rbserve.runtimes.vector_table import BIASES, TABLE, VECTORS, open_table, write_columns


def index_edits(
    artifact: Artifact, vectors: Vectors, biases: Scores | None
) -> Iterator[tuple[list[str], Callable[[Path], object]]]:
    """The members of an artefact's indexes that change, and what writes them into a folder; none without indexes."""
    precisions = [row.precision for row in map(find_variant, artifact.manifest.variants) if row.approximate]
    if precisions:
        table = [TABLE, *open_table(artifact.path).settings.columns]
        yield table, partial(append_to_table, artifact, vectors, biases)
    for precision in precisions:
        yield [index_file(precision)], partial(append_to_index, artifact, precision, vectors, biases)


def append_to_table(artifact: Artifact, vectors: Vectors, biases: Scores | None, folder: Path) -> None:
    """Writes an artefact's table into `folder` with vectors float32[K, d] and biases float32[K] of new items behind it.

    New items are nobody's neighbours and have none.
    """
    settings = open_table(artifact.path).settings
    new = {VECTORS: vectors, BIASES: biases}
    columns = {}
    for name in settings.columns:
        known = open_column(artifact.file(name))
        width = settings.dim if name == VECTORS else len(known) // len(artifact.items)
        added = new.get(name)
        columns[name] = [known, np.zeros(len(vectors) * width, known.dtype) if added is None else added]
    write_columns(folder, settings, columns)


def append_to_index(
    artifact: Artifact, precision: str, vectors: Vectors, biases: Scores | None, folder: Path
) -> None:
    """Writes an artefact's index into `folder` with vectors float32[K, d] and biases float32[K] of new items."""
    index = load_index(artifact.file(index_file(precision)), mapped=False)
    settings = open_table(artifact.path).settings
    if settings.bias_scale is not None and biases is not None:
        vectors = np.concatenate([vectors, biases[:, None] / np.float32(settings.bias_scale)], axis=1)
    index.add(np.ascontiguousarray(padded(vectors.astype(np.float32), int(index.d))))
    import_faiss().write_index(index, str(folder / index_file(precision)))
