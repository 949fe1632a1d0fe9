"""Shared fixtures: a planted data set, and a tiny model trained and exported on it."""

from __future__ import annotations

import hypothesis
import msgspec
import pytest
from small import train_small

from rbserve.core.artifact import Artifact
from rbserve.core.dataset import Dataset, ItemTable
from rbserve.core.measurement import Measurement

# A slow machine is no failure, and a run that failed can be repeated: no deadlines, no luck.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

PLANTED = {"users": 600, "items": 80, "topics": 4, "events_per_user": 40}


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A planted data set small enough to train on in seconds. Its last two items occur in no event."""
    from rbserve.train.datasets import synthetic
    from rbserve.train.datasets.sources import build
    from rbserve.train.sampling import Protocol
    from rbserve.train.tally import Tally

    tally = Tally()
    events, items = synthetic.read(synthetic.Planted(**PLANTED), tally.dropped)
    items = ItemTable([*items.ids, "new0", "new1"], [*items.texts, "topic0word1", "topic1word2"])
    path = tmp_path_factory.mktemp("data") / "planted"
    return build(path, "synthetic", events, items, Protocol(), tally)


@pytest.fixture(scope="session")
def trained(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small DNN trained on the planted data and exported at every precision. Do not change its files."""
    from rbserve.exporters.export import export

    return export(train_small("dnn", planted, tmp_path_factory.mktemp("artifacts") / "dnn"), planted)


@pytest.fixture(scope="session")
def measured(trained: Artifact, planted: Dataset) -> Measurement:
    """A real, short profile of the trained model."""
    from rbserve.profilers.harness import default_plan, profile

    return profile(
        trained, planted, msgspec.structs.replace(default_plan(), processes=2, runs=30, slates=[1, 8])
    )
