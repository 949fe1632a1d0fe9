"""Models small enough to train inside a test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rbserve.core.options import with_options
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.models.configs import ParallelSasRecConfig
from rbserve.models.sasrec import ParallelSasRec, build
from rbserve.models.zoo import find_model
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings


def drawn_parallel(items: int, **options: Any) -> ParallelSasRec:
    """A model that predicts all codes at once, with drawn weights that are large enough to tell items apart."""
    made = build(ParallelSasRecConfig(**options), items)
    assert isinstance(made, ParallelSasRec)
    torch.manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


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
