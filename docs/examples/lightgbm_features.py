"""Trains LightGBM on 16 features that are made of the tables of `rbserve datasets export`, and of nothing else.

    rbserve datasets export ml-100k --to tables
    python docs/examples/lightgbm_features.py tables --to ranker
    rbserve adopt ranker/model.txt --requests ranker/test.parquet --dataset ml-100k \
        --group request_id --user user --label label --name lightgbm

A row's features say how often training users liked its item, how alike its title is to the titles of the user's
history, and how often the two occurred together in training. The rows of a tenth of the training users are counted by
the others: counts with a row's own label in them, or with only that label taken out, tell the label.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rbserve.stats.pairwise import auc
from rbserve.train.encoders.embed import embed_texts

FEATURES = [
    "likes", "dislikes", "like_rate", "in_histories", "history_length", "similarity_max", "similarity_mean",
    "similarity_last", "similarity_second", "similarity_of_mean", "similarity_spread", "together_sum",
    "together_max", "together_normalised", "liked_together", "history_popularity",
]  # fmt: skip
SETTINGS = {
    "objective": "binary", "metric": "auc", "num_leaves": 31, "learning_rate": 0.05, "min_data_in_leaf": 50,
    "feature_fraction": 0.8, "bagging_fraction": 0.8, "bagging_freq": 1, "num_threads": 1, "seed": 1, "verbose": -1,
}  # fmt: skip
BLOCK, FOLDS = 2_000, 10
Array = NDArray[Any]


class Split(NamedTuple):
    """Rows of a table: numbers of items and users, labels, and histories padded with -1: int[R, L]."""

    item: Array
    user: Array
    label: Array
    history: Array


class Counts(NamedTuple):
    """Who liked, disliked or had in her history what: user × item. Pairs of items of one user: item × item."""

    liked: csr_array
    disliked: csr_array
    seen: csr_array
    together: csr_array
    liked_together: csr_array


def read(table: pa.Table, number: dict[str, int]) -> Split:
    """The rows of a table, items by their number."""
    histories = [[number[item] for item in items] for items in table["history"].to_pylist()]
    history = np.full((len(histories), max(map(len, histories))), -1)
    for row, items in enumerate(histories):
        history[row, : len(items)] = items
    item = np.array([number[item] for item in table["item"].to_pylist()])
    user = np.unique(table["user"].to_pylist(), return_inverse=True)[1]
    return Split(item, user, table["label"].to_numpy(), history)


def count(train: Split, items: int) -> Counts:
    """Counts of the training rows; each user counts once for an item."""

    def matrix(users: Array, columns: Array) -> csr_array:
        pairs = np.unique(np.stack([users, columns]), axis=1)
        return csr_array((np.ones(pairs.shape[1]), pairs), shape=(train.user.max() + 1, items))

    liked, disliked = (matrix(train.user[train.label == k], train.item[train.label == k]) for k in (1, 0))
    row, place = np.nonzero(train.history >= 0)
    seen = matrix(train.user[row], train.history[row, place])
    return Counts(liked, disliked, seen, (seen.T @ seen).tocsr(), (seen.T @ liked).tocsr())


def features(rows: Split, counts: Counts, vectors: Array) -> Array:
    """The FEATURES float32[R, 16] of rows whose users are not among those that were counted."""
    blocks = [
        _block(take(rows, slice(at, at + BLOCK)), counts, vectors) for at in range(0, len(rows.item), BLOCK)
    ]
    return np.concatenate(blocks)


def training_features(train: Split, items: int, vectors: Array) -> Array:
    """The FEATURES of the training rows: a tenth of the users is counted by the other nine tenths, ten times."""
    made = np.zeros((len(train.item), len(FEATURES)), np.float32)
    for fold in range(FOLDS):
        inside = train.user % FOLDS == fold
        made[inside] = features(take(train, inside), count(take(train, ~inside), items), vectors)
    return made


def take(rows: Split, places: Any) -> Split:
    """Some of the rows."""
    return Split(*(part[places] for part in rows))


def _block(rows: Split, counts: Counts, vectors: Array) -> Array:
    item, known = rows.item, rows.history >= 0
    history, length = np.where(known, rows.history, 0), np.maximum(known.sum(axis=1), 1)

    def pairs(matrix: csr_array) -> Array:
        values = matrix[history.ravel(), np.repeat(item, history.shape[1])].reshape(history.shape)
        return np.where(known, values, 0)

    def mean(values: Array) -> Array:
        return np.where(known, values, 0).sum(axis=1) / length

    likes, dislikes, seen = (
        matrix.sum(axis=0)[item] for matrix in (counts.liked, counts.disliked, counts.seen)
    )
    together, popularity = pairs(counts.together), counts.seen.sum(axis=0)[history]
    alike = np.where(known, np.einsum("bd,bld->bl", vectors[item], vectors[history]), -1)
    best = -np.sort(-np.pad(alike, ((0, 0), (0, 1)), constant_values=-1), axis=1)
    centre = np.where(known[..., None], vectors[history], 0).sum(axis=1)
    centre /= np.maximum(np.linalg.norm(centre, axis=1, keepdims=True), 1e-9)
    columns = [
        likes, dislikes, (likes + 1) / (likes + dislikes + 2), seen, known.sum(axis=1),
        best[:, 0], mean(alike), alike[np.arange(len(item)), length - 1], best[:, 1],
        (centre * vectors[item]).sum(axis=1), np.sqrt(np.maximum(mean(alike**2) - mean(alike) ** 2, 0)),
        together.sum(axis=1), together.max(axis=1),
        (together / np.sqrt((popularity + 1) * (seen[:, None] + 1))).sum(axis=1),
        pairs(counts.liked_together).sum(axis=1), mean(np.log1p(popularity)),
    ]  # fmt: skip
    return np.stack(columns, axis=1).astype(np.float32)


def main() -> None:
    """Writes model.txt and test.parquet, the test rows in their order with their features."""
    parser = argparse.ArgumentParser(description="Train LightGBM on features of exported tables.")
    parser.add_argument("tables", type=Path, help="folder with the tables that rbserve datasets export wrote")
    parser.add_argument("--to", type=Path, required=True, help="folder for model.txt and test.parquet")
    options = parser.parse_args()
    items = pq.read_table(options.tables / "items.parquet")
    number = {item: row for row, item in enumerate(items["item"].to_pylist())}
    tables = {name: pq.read_table(options.tables / f"{name}.parquet") for name in ("train", "valid", "test")}
    splits = {name: read(table, number) for name, table in tables.items()}
    vectors = embed_texts(items["text"].to_pylist(), "minilm-l6")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    counts = count(splits["train"], len(items))
    made = {name: features(splits[name], counts, vectors) for name in ("valid", "test")}
    made["train"] = training_features(splits["train"], len(items), vectors)
    train = lightgbm.Dataset(made["train"], splits["train"].label, feature_name=FEATURES)
    valid = lightgbm.Dataset(made["valid"], splits["valid"].label, reference=train)
    stop = lightgbm.early_stopping(50, verbose=False)
    model = lightgbm.train(SETTINGS, train, 2_000, [valid], callbacks=[stop])
    options.to.mkdir(parents=True, exist_ok=True)
    model.save_model(options.to / "model.txt")
    rows = {name: tables["test"][name] for name in ("request_id", "user", "item", "label")}
    pq.write_table(
        pa.table(rows | dict(zip(FEATURES, made["test"].T, strict=True))), options.to / "test.parquet"
    )
    scores = model.predict(made["test"]).astype(np.float32)
    print(f"{model.best_iteration} trees, test AUC {auc(splits['test'].label, scores):.4f}")


if __name__ == "__main__":
    main()
