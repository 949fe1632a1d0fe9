"""docs/examples/lightgbm_features.py: its features, that none of them has a row's own label, and what it writes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from docs_example import load_example
from numpy.typing import NDArray

from rbserve.core.adoption import AdoptOptions
from rbserve.data.request_table import write_request_set
from rbserve.exporters.adopt.adopt import adopt
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.pairwise import auc


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_example("lightgbm_features")


def vectors_of(texts: list[str], _encoder: str = "") -> NDArray[np.float32]:
    """Vectors float32[N, 8] of texts, the same for the same text."""
    rows = [np.random.default_rng(list(text.encode())).normal(size=8) for text in texts]
    return np.stack(rows).astype(np.float32)


def training(example: ModuleType, judged_tables: Path) -> tuple[Any, int, NDArray[np.float32]]:
    items = pq.read_table(judged_tables / "items.parquet")
    number = {item: row for row, item in enumerate(items["item"].to_pylist())}
    vectors = vectors_of(items["text"].to_pylist())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return example.read(pq.read_table(judged_tables / "train.parquet"), number), len(items), vectors


def test_features_are_what_their_names_say(example: ModuleType, judged_tables: Path) -> None:
    train, items, vectors = training(example, judged_tables)
    made = example.training_features(train, items, vectors)
    for row in range(0, len(made), 37):
        others = train.user % example.FOLDS != train.user[row] % example.FOLDS
        item, history = train.item[row], [place for place in train.history[row].tolist() if place >= 0]
        likes = {*train.user[others & (train.item == item) & (train.label == 1)].tolist()}
        dislikes = {*train.user[others & (train.item == item) & (train.label == 0)].tolist()}

        def having(one: int, others: NDArray[np.bool_] = others) -> set[int]:
            return {*train.user[others & (train.history == one).any(axis=1)].tolist()}

        alike = [float(vectors[item] @ vectors[place]) for place in history]
        together = [len(having(item) & having(place)) for place in history]
        values = dict(zip(example.FEATURES, made[row].tolist(), strict=True))
        assert values["likes"] == len(likes)
        assert values["dislikes"] == len(dislikes)
        assert values["in_histories"] == len(having(item))
        assert values["history_length"] == len(history)
        assert values["together_sum"] == sum(together)
        assert values["together_max"] == max(together, default=0)
        assert values["liked_together"] == sum(len(having(place) & likes) for place in history)
        if history:
            assert values["similarity_max"] == pytest.approx(max(alike), abs=1e-5)
            assert values["similarity_mean"] == pytest.approx(np.mean(alike), abs=1e-5)
            assert values["similarity_last"] == pytest.approx(alike[-1], abs=1e-5)
            assert values["similarity_spread"] == pytest.approx(np.std(alike), abs=1e-3)


def test_no_feature_of_a_training_row_has_its_label(example: ModuleType, judged_tables: Path) -> None:
    train, items, vectors = training(example, judged_tables)
    before = example.training_features(train, items, vectors)
    row = 11
    label = train.label.copy()
    label[row] = 1 - label[row]
    after = example.training_features(train._replace(label=label), items, vectors)
    np.testing.assert_array_equal(after[train.user == train.user[row]], before[train.user == train.user[row]])
    assert not np.array_equal(after, before), "the label is in the counts of other users"


def test_the_model_and_its_requests_are_adopted_and_score_as_it_said(
    example: ModuleType,
    judged_tables: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(example, "embed_texts", vectors_of)
    monkeypatch.setattr(
        sys, "argv", ["lightgbm_features.py", str(judged_tables), "--to", str(tmp_path / "ranker")]
    )
    example.main()
    told = re.search(r"test AUC (0\.\d+)", capsys.readouterr().out)
    assert told is not None
    options = AdoptOptions(label="label", group="request_id", user="user")
    requests = write_request_set(tmp_path / "ranker" / "test.parquet", tmp_path / "data", options, "test")
    artifact = adopt(str(tmp_path / "ranker" / "model.txt"), requests, options, tmp_path / "lightgbm")
    assert artifact.signature.columns == example.FEATURES
    for variant in ("native", "onnx-fp32"):
        scorer = open_scorer(artifact, variant)
        scores = [
            scorer.score(requests.request(artifact.signature, number)) for number in range(len(requests))
        ]
        assert requests.labels is not None
        assert auc(requests.labels, np.concatenate(scores)) == pytest.approx(float(told[1]), abs=2e-4)
    assert float(told[1]) > 0.75  # nine likes in ten of even items, one in ten of others
