"""Building identifiers: what is near shares codes, the same input gives the same bytes, stopping changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rbserve.core.errors import DataError, Interrupted, RbserveError, UsageError
from rbserve.core.settings import Settings
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.data.semantic_ids import FILES, SidReport, find_semantic_ids, sids_path
from rbserve.models.configs import SidSasRecConfig
from rbserve.models.rqvae_config import RqVaeConfig
from rbserve.train.encoders import embed
from rbserve.train.semantic_ids.assign_codes import Paths
from rbserve.train.semantic_ids.fit_codes import (
    Vectors,
    checkpoint_path,
    ensure_semantic_ids,
    make_semantic_ids,
    name_items,
    settings_with,
    train_rqvae,
)

CONFIG = RqVaeConfig(levels=3, codes=16, hidden=(32,), dim=8)
SETTINGS = settings_with({"batch": 64, "epochs": 8, "lr": 5e-3})
CLUSTERS = 12


def _clustered(items: int = 400, seed: int = 0) -> tuple[Vectors, np.ndarray]:
    """Vectors around CLUSTERS centres, far from the origin and of an odd scale, and the cluster of each."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(CLUSTERS, size=items)
    centres = rng.normal(size=(CLUSTERS, 20)) * 5
    vectors = 100 + 0.01 * (centres[cluster] + rng.normal(size=(items, 20)))
    return vectors.astype(np.float32), cluster


def build_semantic_ids(
    vectors: Vectors, config: RqVaeConfig, settings: Settings, checkpoint: Path
) -> tuple[Paths, SidReport]:
    """The codes of items, and their report, from an RQ-VAE that is trained on the items' vectors."""
    model, state = train_rqvae(vectors, config, settings, checkpoint)
    return name_items(model, vectors, state)


def test_items_of_a_cluster_share_the_beginning_of_their_paths(tmp_path: Path) -> None:
    vectors, cluster = _clustered()
    codes, report = build_semantic_ids(vectors, CONFIG, SETTINGS, tmp_path / "ck")
    first = codes[:, 0]
    together = (cluster[:, None] == cluster)[~np.eye(len(cluster), dtype=bool)]
    shared = (first[:, None] == first)[~np.eye(len(cluster), dtype=bool)]
    assert shared[together].mean() > 5 * shared[~together].mean()
    assert together[shared].mean() > 0.7
    assert report.levels[-1].unexplained < report.levels[0].unexplained < 0.8
    assert report.levels[-1].unexplained < 0.3


def test_the_report_says_what_the_codes_are(tmp_path: Path) -> None:
    vectors, _ = _clustered()
    vectors = np.concatenate([vectors[:200], vectors[:200]])  # every item twice: all collide
    codes, report = build_semantic_ids(vectors, CONFIG, SETTINGS, tmp_path / "ck")
    assert report.collision_rate == 1
    assert report.moved >= 200
    assert report.moved_earlier <= report.moved
    for level, one in enumerate(report.levels):
        assert one.distinct_prefixes == len(np.unique(codes[:, : level + 1], axis=0)) / 400
        assert 1 <= one.perplexity <= one.codes_used + 1e-9 <= 16 + 1e-9
    assert (report.epochs, report.levels[-1].distinct_prefixes) == (8, 1)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 5), st.sampled_from(["none", "last", "all"]))
@hypothesis_settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_vectors_get_distinct_paths(
    tmp_path: Path, seed: int, items: int, kinds: int, balance: str
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(kinds, 4))[rng.integers(kinds, size=items)].astype(np.float32)
    config = replace(CONFIG, levels=2, codes=7, balance=balance)
    codes, _ = build_semantic_ids(vectors, config, replace(SETTINGS, epochs=2), tmp_path / "ck")
    assert codes.shape == (items, 2)
    assert len(np.unique(codes, axis=0)) == items


def test_items_that_are_all_alike_get_distinct_paths(tmp_path: Path) -> None:
    vectors = np.full((60, 5), 0.1, np.float32)
    codes, report = build_semantic_ids(vectors, replace(CONFIG, levels=2, codes=8), SETTINGS, tmp_path / "ck")
    assert len(np.unique(codes, axis=0)) == 60
    assert report.collision_rate == 1


def test_the_same_input_gives_the_same_codes_and_another_seed_others(tmp_path: Path) -> None:
    vectors, _ = _clustered(200)
    runs = [
        build_semantic_ids(vectors, CONFIG, replace(SETTINGS, seed=seed), tmp_path / "ck")
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not np.array_equal(runs[0][0], runs[2][0])


def test_vectors_that_are_not_finite_or_too_many_are_errors(tmp_path: Path) -> None:
    vectors, _ = _clustered(100)
    with pytest.raises(DataError, match="too few for 100 items"):
        build_semantic_ids(vectors, replace(CONFIG, levels=2, codes=9), SETTINGS, tmp_path / "ck")
    vectors[3, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        build_semantic_ids(vectors, CONFIG, SETTINGS, tmp_path / "ck")


def test_training_that_diverges_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RbserveError, match="diverged"):
        build_semantic_ids(_clustered()[0], CONFIG, replace(SETTINGS, lr=1e30), tmp_path / "ck")


@pytest.fixture
def dataset(planted: Dataset, tmp_path: Path) -> Dataset:
    shutil.copytree(planted.path, tmp_path / "planted")
    return open_dataset(tmp_path / "planted")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Puts clustered vectors in the place of a language model's, and tells who asked for them."""
    asked: list[tuple[str, str]] = []

    def vectors(dataset: Dataset, encoder: str, pooling: str, progress: Callable[..., None]) -> Vectors:
        asked.append((encoder, pooling))
        return _clustered(len(dataset.items))[0]

    monkeypatch.setattr(embed, "item_vectors", vectors)
    return asked


def test_identifiers_are_made_once_and_then_reused(
    dataset: Dataset, calls: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbserve.train.semantic_ids.fit_codes.SID_SETTINGS", SETTINGS)
    config = SidSasRecConfig(levels=2, codes=16, pooling="last")
    made = ensure_semantic_ids(dataset, config)
    again = ensure_semantic_ids(dataset, config)
    assert calls == [("minilm-l6", "last")]
    assert made.path == again.path == dataset.path / "sids" / "minilm-l6.last.2x16.2024"
    assert np.array_equal(made.codes, again.codes)
    assert len(made) == len(dataset.items)
    ensure_semantic_ids(dataset, replace(config, levels=3))
    assert len(calls) == 2
    assert {path.name for path in (dataset.path / "sids").iterdir()} == {
        "minilm-l6.last.2x16.2024",
        "minilm-l6.last.3x16.2024",
    }


def test_made_again_they_are_the_same_bytes(dataset: Dataset, calls: list[tuple[str, str]]) -> None:
    one = make_semantic_ids(dataset, CONFIG, SETTINGS)
    before = {name: (one.path / name).read_bytes() for name in FILES}
    make_semantic_ids(dataset, CONFIG, SETTINGS)
    assert {name: (one.path / name).read_bytes() for name in FILES} == before


def test_a_stopped_run_that_is_continued_gives_the_same_bytes(
    dataset: Dataset, calls: list[tuple[str, str]]
) -> None:
    whole = make_semantic_ids(dataset, CONFIG, SETTINGS).codes
    path = sids_path(dataset, CONFIG)
    shutil.rmtree(path)

    def stop(done: int, total: int, line: str) -> None:
        if done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        make_semantic_ids(dataset, CONFIG, SETTINGS, progress=stop)
    assert caught.value.hint is not None
    assert "rbserve sids --resume" in caught.value.hint
    assert not path.exists()
    assert checkpoint_path(path).is_file()
    assert np.array_equal(make_semantic_ids(dataset, CONFIG, SETTINGS, resume=True).codes, whole)
    assert not checkpoint_path(path).exists()


def test_identifiers_of_other_items_are_refused(dataset: Dataset, calls: list[tuple[str, str]]) -> None:
    made = make_semantic_ids(dataset, CONFIG, SETTINGS)
    manifest = made.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace(dataset.fingerprint, "0123456789abcdef"))
    with pytest.raises(UsageError, match="0123456789ab") as caught:
        find_semantic_ids(dataset, CONFIG)
    assert dataset.fingerprint[:12] in caught.value.message
