"""Group A at full size on real data. Minutes long: `make test-slow`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rbserve.core.tasks import CTR
from rbserve.data.artifact import WEIGHTS
from rbserve.data.dataset import Dataset
from rbserve.models.zoo import find_model, models
from rbserve.runs.baselines import baselines
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.pairwise import auc
from rbserve.train.datasets.sources import prepare
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def ml(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepare("ml-100k", tmp_path_factory.mktemp("data") / "ml-100k")


@pytest.mark.parametrize("name", [spec.name for spec in models("A")])
def test_a_group_a_model_beats_popularity_on_the_test_users(ml: Dataset, tmp_path: Path, name: str) -> None:
    artifact = train(find_model(name), ml, tmp_path / name, Settings())
    test = ml.ctr("test")
    reached = auc(
        test.labels, score_rows(open_scorer(artifact, "torch-fp32"), test.histories, test.candidates)
    )
    popularity = baselines(ml, CTR.name).figures["popularity"]["auc"]
    print(f"{name}: AUC {reached:.4f}, popularity {popularity:.4f}")
    assert reached > popularity


def test_the_same_seed_gives_the_same_weights_at_full_size(ml: Dataset, tmp_path: Path) -> None:
    for copy in ("one", "other"):
        train(find_model("gdcn"), ml, tmp_path / copy, Settings(epochs=2))
    one, other = load_file(tmp_path / "one" / WEIGHTS), load_file(tmp_path / "other" / WEIGHTS)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
