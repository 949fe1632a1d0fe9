"""Models small enough to train inside a test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from rbserve.core.options import with_options
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.models.zoo import find_model
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings


def train_small(
    name: str,
    dataset: Dataset,
    path: Path,
    epochs: int = 12,
    seed: int = 2024,
    lr: float = 5e-3,
    further: Mapping[str, str] | None = None,
) -> Artifact:
    """A narrow version of a zoo row, trained for a few epochs, with `further` options of its config."""
    spec = find_model(name)
    narrow = {"dim": 16, "hidden": "64,32", "second_hidden": "64,32"}
    options = {key: value for key, value in narrow.items() if hasattr(spec.config, key)} | {**(further or {})}
    spec = dataclasses.replace(spec, config=with_options(spec.config, options))
    return train(spec, dataset, path, Settings(batch=500, micro_batch=500, lr=lr, epochs=epochs, seed=seed))
