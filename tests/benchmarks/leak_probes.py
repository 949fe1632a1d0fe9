"""Trains models on copies of a data set that were spoiled on purpose: python leak_probes.py --models gbdt,bst-emb

- **labels**: the labels of training and validation rows are dealt anew. A model that reads no label that it should not
  read has a test AUC of 0.5.
- **histories**: each user, of every split, gets the history of another user of that split. A model falls to what can be
  said without the user, which `popularity` and `gbdt on counts` show.

The copies are data sets of their own, NAME-labels-dealt and NAME-histories-dealt, below RBSERVE_HOME; what is trained
on them stays there too. Accuracies are those of `rbserve profile` on all test rows, in onnx-fp32. The intervals are
those of the test users: labels that are dealt in another order give another AUC, above or below 0.5.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from rbserve import Home
from rbserve.core.files import digest, replacing_directory, write_bytes
from rbserve.core.tasks import CTR
from rbserve.data.columns import ColumnWriter, RaggedWriter
from rbserve.data.dataset import SPLITS, Dataset, Split, open_dataset
from rbserve.data.dataset_writer import content_fingerprint
from rbserve.home.paths import dataset_path
from rbserve.runs.measurement import Accuracy

SEED = 7
ONE_CALL: dict[str, Any] = {"processes": 1, "runs": 1, "slates": (1,)}
Spoil = Callable[[Dataset, Split, Path], None]


def deal_labels(dataset: Dataset, split: Split, folder: Path) -> None:
    """Writes the labels of a split in another order, except of the test split."""
    if split != "test":
        writer = ColumnWriter(folder / "label.npy", np.int8)
        labels = np.array(dataset.ctr(split).labels)
        writer.append(np.random.default_rng(SEED).permutation(labels))
        writer.close()


def deal_histories(dataset: Dataset, split: Split, folder: Path) -> None:
    """Writes the histories of a split such that the users have exchanged them."""
    rows = dataset.ctr(split)
    _, first, user_of_row = np.unique(rows.users, return_index=True, return_inverse=True)
    dealt = np.random.default_rng(SEED).permutation(first)[user_of_row]
    writer = RaggedWriter(folder, "history")
    writer.append(rows.histories.take(dealt))
    writer.close()


PROBES: dict[str, Spoil] = {"labels-dealt": deal_labels, "histories-dealt": deal_histories}


def spoiled(dataset: Dataset, probe: str) -> str:
    """Makes the spoiled copy of a data set, and returns its name."""

    def spoil(folder: Path) -> None:
        for split in SPLITS:
            PROBES[probe](dataset, split, folder / CTR.name / split)

    return changed_copy(dataset, probe, spoil)


def changed_copy(dataset: Dataset, suffix: str, change: Callable[[Path], None]) -> str:
    """Makes a copy of a data set whose files are changed in its folder, NAME-suffix, and returns its name."""
    name = f"{dataset.name}-{suffix}"
    with replacing_directory(dataset_path(name)) as folder:
        for file in dataset.manifest.files:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(dataset.file(file), target)
        change(folder)
        manifest = msgspec.structs.replace(
            dataset.manifest, name=name, fingerprint=content_fingerprint(folder, dataset.manifest.fields),
            files={file: digest(folder / file) for file in dataset.manifest.files})  # fmt: skip
        write_bytes(folder / "manifest.json", msgspec.json.encode(manifest))
    return name


def main() -> None:
    """Prints the test AUC of each model, and of the baselines, on the data set and on its spoiled copies."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="gbdt")
    parser.add_argument("--dataset", default="microlens")
    parser.add_argument("--epochs", type=int, help="at most (default the model's)")
    options = parser.parse_args()
    home, dataset = Home(), open_dataset(dataset_path(options.dataset))
    names = [dataset.name, *(spoiled(dataset, probe) for probe in PROBES)]
    settings = {"epochs": options.epochs} if options.epochs else None
    figures: dict[str, list[str]] = {}
    for model in options.models.split(","):
        for name in names:
            home.train(model, name, settings=settings)
            run = home.profile(model, name, plan=ONE_CALL, variants=["onnx-fp32"])
            figures.setdefault(model, []).append(with_interval(run.results[0].accuracy))
            for baseline, its in run.baselines.items():
                of_baseline = figures.setdefault(baseline, [])
                if len(of_baseline) < len(names):
                    of_baseline.append(f"{its[CTR.metric]:.4f}")
    table = Table("test AUC", *names)
    for model, cells in figures.items():
        table.add_row(model, *cells)
    Console(width=140).print(table)


def with_interval(accuracy: Accuracy) -> str:
    """An AUC with its 95% interval."""
    low, high = cast("tuple[float, float]", accuracy["auc_ci95"])
    return f"{accuracy['auc']:.4f} [{low:.4f}, {high:.4f}]"


if __name__ == "__main__":
    main()
