"""Test AUC over the number of training users: python learning_curves.py --models gbdt,bst-emb --shares 0.01,0.1,1

Of each share the copy NAME-<share> of a data set keeps the training rows of that many users, drawn once: a smaller
share is a part of the larger ones. Validation and test stay whole. Where a row
has a number of epochs, it is divided by the square root of the share, since little data have to be read more often;
other rows stop early as ever. The best on validation stays. Test AUC is that of
onnx-fp32, with the interval over users, on all test rows and on those whose candidate no training row has (`cold`).
What is trained on the copies stays below RBSERVE_HOME.

A model is a row, or a row with options: item-smollm2-135m:start=drawn:layers=2. `--precision` is that of training.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from leak_probes import changed_copy
from rich.console import Console
from rich.table import Table

from rbserve import Home
from rbserve.core.tasks import CTR
from rbserve.data.artifact import Artifact
from rbserve.data.columns import ColumnWriter, RaggedWriter
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.home.paths import dataset_path
from rbserve.models.zoo import find_model
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.bootstrap import auc_draws, draws_interval
from rbserve.stats.pairwise import auc
from rbserve.train.tasks.ctr import trained_items

SEED = 7


def with_share(dataset: Dataset, share: float) -> str:
    """Makes the copy with a share of the training users, and returns its name."""
    if share == 1:
        return dataset.name
    train = dataset.ctr("train")
    users = np.random.default_rng(SEED).permutation(np.unique(train.users))
    rows = np.flatnonzero(np.isin(train.users, users[: round(share * len(users))]))

    def take(folder: Path) -> None:
        split = folder / CTR.name / "train"
        for file in split.glob("*.npy"):
            if not file.name.startswith("history."):
                column = np.load(file)[rows]
                writer = ColumnWriter(file, column.dtype.type)
                writer.append(column)
                writer.close()
        histories = RaggedWriter(split, "history")
        histories.append(train.histories.take(rows))
        histories.close()

    return changed_copy(dataset, f"{share:g}", take)


def trained(home: Home, model: str, name: str, share: float, precision: str) -> Artifact:
    """The model, `row:option=value:...`, trained on the copy of a share."""
    row, *options = model.split(":")
    spec = find_model(row)
    settings: dict[str, Any] = {"precision": precision} if row.startswith("item-") else {}
    if epochs := spec.training.get("epochs"):  # the learning rate falls over them; other rows stop early
        more = math.ceil(epochs / math.sqrt(share))
        settings |= {"epochs": more, "patience": more}
    config: Mapping[str, str] = dict(option.split("=", 1) for option in options)
    out = Path("artifacts") / name / model.replace(":", "-").replace("=", "-")
    return home.train(row, name, settings=settings, config=config, out=home.path / out)


def cells(artifact: Artifact, dataset: Dataset) -> tuple[str, str]:
    """Test AUC with its interval, and that of the rows whose candidate training never saw."""
    test = dataset.ctr("test")
    scores = score_rows(open_scorer(artifact, "onnx-fp32"), test.histories, test.candidates, test.extras)
    cold = ~trained_items(dataset.ctr("train"), len(dataset.items))[np.array(test.candidates)]
    return figure(test.labels, scores, test.users), figure(test.labels[cold], scores[cold], test.users[cold])


def figure(labels: Any, scores: Any, users: Any) -> str:
    """An AUC with its 95% interval over users, and its rows."""
    low, high = draws_interval(auc_draws(labels, scores, users))
    return f"{auc(labels, scores):.4f} [{low:.4f}, {high:.4f}] ({len(labels):,})"


def main() -> None:
    """Prints a table for each share."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", required=True)
    parser.add_argument("--dataset", default="microlens")
    parser.add_argument(
        "--shares", type=lambda text: [float(one) for one in text.split(",")], default=[0.01, 0.1, 0.25, 1.0]
    )
    parser.add_argument("--precision", default="fp32", help="of training, of rows that have a language model")
    options = parser.parse_args()
    home, whole = Home(), open_dataset(dataset_path(options.dataset))
    for share in options.shares:
        dataset = open_dataset(dataset_path(with_share(whole, share)))
        users = len(np.unique(dataset.ctr("train").users))
        table = Table(f"{users:,} training users", "test AUC (rows)", "cold candidates")
        for model in options.models.split(","):
            artifact = trained(home, model, dataset.name, share, options.precision)
            table.add_row(model, *cells(home.export(artifact.path, dataset.name, ["fp32"]), dataset))
        Console(width=140).print(table)


if __name__ == "__main__":
    main()
