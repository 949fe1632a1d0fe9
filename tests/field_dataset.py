"""A planted data set with fields of every scope and kind, and a small model that reads all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.fields import FIRST, MISSING, UNSEEN, WORDS, FieldSpec
from rbserve.core.options import with_options
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import SPLITS, Dataset, open_dataset
from rbserve.data.dataset_writer import DatasetWriter
from rbserve.models.zoo import find_model
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

COUNTRIES, PAGES, TAGS = ("DE", "FR", "3"), ("home", "search"), ("red", "green", "blue")
OWN = (
    FieldSpec("price", "item", "number"),
    FieldSpec("tags", "item", "multi", size=FIRST + 3, width=2),
    FieldSpec("country", "user", "category", size=FIRST + 3),
    FieldSpec("age", "user", "number"),
    FieldSpec("likes_of", "user", "multi", size=FIRST + 3, width=2),
    FieldSpec("hour", "context", "number"),
    FieldSpec("page", "context", "category", size=FIRST + 2),
    FieldSpec("town", "user", "category", size=FIRST + 5, hashed=True),
    FieldSpec("words", "context", "multi", size=FIRST + 7, width=2, hashed=True, separator=WORDS),
)
VALUES = {"country": COUNTRIES, "page": PAGES, "tags": TAGS, "likes_of": TAGS}


def with_fields(dataset: Dataset, folder: Path) -> Dataset:
    """A copy of a data set that has the fields OWN; the hour tells something of the label, numbers have odd digits."""
    writer, rng = DatasetWriter(folder), np.random.default_rng(3)
    for split in SPLITS:
        ctr, sequences = dataset.ctr(split), dataset.seqrec(split)
        writer.add_ctr(split, ctr, *(dataset.column(f"ctr/{split}", name) for name in ("time", "newest")))
        writer.add_seqrec(
            split, sequences, *(dataset.column(f"seqrec/{split}", name) for name in ("time", "newest"))
        )
    writer.close()
    users = writer.users()
    writer.add_items([([*dataset.items.ids], [*dataset.items.texts])])
    writer.add_users(users, [[f"u{user}" for user in users.tolist()]])
    words = pq.read_table(dataset.file("text/words.parquet"))
    writer.add_tokens(words["word"].to_pylist(), words["items"].to_numpy(), dataset.tokens, 64)
    for spec in OWN:
        writer.add_field(spec, VALUES.get(spec.name, ()))
        for split in SPLITS if spec.scope == "context" else (None,):
            of_rows = dataset.ctr(split).labels if split else None
            rows = (
                len(of_rows)
                if of_rows is not None
                else {"item": len(dataset.items)}.get(spec.scope, len(users))
            )
            with closing(writer.field_writer(spec, split)) as column:
                column.append(_values(spec, rows, of_rows, rng))
    writer.seal(
        name="withfields", source="synthetic", seed=0, options=dataset.manifest.options,
        counts={"source": dataset.manifest.counts["source"]}, dropped={}, repaired={},
    )  # fmt: skip
    return open_dataset(folder)


def _values(
    spec: FieldSpec, rows: int, labels: NDArray[np.int8] | None, rng: np.random.Generator
) -> NDArray[Any]:
    if spec.is_number:
        numbers = (rng.normal(size=rows) + (0 if labels is None else labels) + 0.1).astype(np.float32)
        numbers[rng.random(rows) < 0.05] = np.nan
        return numbers
    if spec.width == 1:
        unseen = () if spec.hashed else (UNSEEN,)
        return rng.choice([MISSING, *unseen, *range(FIRST, spec.size)], rows).astype(np.int32)
    first = rng.integers(FIRST, spec.size, rows)
    second = np.where(rng.random(rows) < 0.5, rng.integers(FIRST, spec.size, rows), MISSING)
    return np.column_stack([first, second]).astype(np.int32)


def train_with_fields(
    name: str, dataset: Dataset, folder: Path, fields: str = "all", epochs: int = 3
) -> Artifact:
    """A narrow version of a zoo row that reads fields, trained for a few epochs."""
    spec = find_model(name)
    options: Mapping[str, str] = {
        key: value
        for key, value in {"dim": "16", "hidden": "64,32", "trees": "40"}.items()
        if hasattr(spec.config, key)
    }
    spec = dataclasses.replace(spec, config=with_options(spec.config, {**options, "fields": fields}))
    return train(spec, dataset, folder, Settings(batch=500, micro_batch=500, lr=5e-3, epochs=epochs, seed=1))
