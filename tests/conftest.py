"""Shared fixtures: a planted data set, and a tiny model trained and exported on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import numpy as np
import pytest
from small import train_small

from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset, ItemTable
from rbserve.runs.measurement import Measurement

# A slow machine is no failure, and a run that failed can be repeated: no deadlines, no luck.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")

os.environ["RBSERVE_PROGRESS_SECONDS"] = "0"  # a slow machine adds no lines to what a test reads

PLANTED = {"users": 600, "items": 80, "topics": 4, "events_per_user": 40}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, for tests with the mark `browser.needs_browser`."""
    from browser import opened_browser

    with opened_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def few_validation_rows() -> Iterator[None]:
    """Language models are validated by 40 rows, of which one takes milliseconds: for tests of other things."""
    from rbserve.train.tasks import language, next_item

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "VALIDATION_ROWS", 40)
        patch.setattr(next_item, "VALIDATION_ROWS", 40)
        yield


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A planted data set small enough to train on in seconds. Its last two items occur in no event."""
    from small_dataset import build

    from rbserve.train.datasets import synthetic
    from rbserve.train.protocol.options import Protocol
    from rbserve.train.protocol.tally import Tally

    tally = Tally()
    events, items = synthetic.read(synthetic.Planted(**PLANTED), tally.dropped)
    items = ItemTable([*items.ids, "new0", "new1"], [*items.texts, "topic0word1", "topic1word2"])
    path = tmp_path_factory.mktemp("data") / "planted"
    return build(path, "synthetic", events, items, Protocol(), tally)


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Everybody likes items of the topics 0 and 2, nine times in ten, and the others once in ten.

    What `planted` has, a taste of one's own, takes more than seconds: history and candidate must be compared. That
    histories are read, the list-wise rows show.
    """
    from small_dataset import build

    from rbserve.train.protocol.options import Protocol
    from rbserve.train.protocol.sampling import Interactions
    from rbserve.train.protocol.tally import Tally

    users, events_each, n_items, topics = 300, 16, 40, 4
    rng, shape = np.random.default_rng(7), (users, events_each)
    items = np.stack([rng.choice(n_items, events_each, replace=False) for _ in range(users)]).astype(np.int32)
    labels = (rng.random(shape) < np.where(items % 2 == 0, 0.9, 0.1)).astype(np.int8)
    events = Interactions(
        np.repeat(np.arange(users, dtype=np.int32), events_each), items.ravel(), labels.ravel(),
        np.tile(np.arange(events_each, dtype=np.int64), users),
    )  # fmt: skip
    table = ItemTable(
        [f"i{item}" for item in range(n_items)],
        [f"topic{item % topics}word{item // topics}" for item in range(n_items)],
    )
    path = tmp_path_factory.mktemp("judged") / "judged"
    return build(path, "synthetic", events, table, Protocol(rows_per_label=5), Tally())


@pytest.fixture(scope="session")
def judged_tables(judged: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the rows of `judged` as flat tables."""
    from rbserve.data.dataset_export import export_dataset

    folder = tmp_path_factory.mktemp("tables") / "judged"
    export_dataset(judged, folder)
    return folder


@pytest.fixture(scope="session")
def trained(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small DNN trained on the planted data and exported at every precision. Do not change its files."""
    from rbserve.exporters.export import export

    return export(train_small("dnn", planted, tmp_path_factory.mktemp("artifacts") / "dnn"), planted)


@pytest.fixture(scope="session")
def measured(trained: Artifact, planted: Dataset) -> Measurement:
    """A real, short profile of the trained model."""
    from rbserve.profilers.measure.harness import default_plan, profile

    return profile(
        trained, planted, msgspec.structs.replace(default_plan(), processes=2, runs=30, slates=[1, 8])
    )
