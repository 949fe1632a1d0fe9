"""What counting learns from the rows that a model was trained on: python same_rows.py --model text-smollm2-135m

A language model that reads a thousand users in an hour is held against `popularity`, which has counted the clicks of
all of them. Here `popularity` counts those of the rows that the model had read when it was at its best, and no others.
"""

from __future__ import annotations

import argparse

import numpy as np

from rbserve.core.tasks import CTR
from rbserve.data.artifact import open_artifact
from rbserve.data.dataset import open_dataset
from rbserve.home.paths import artifact_path, dataset_path
from rbserve.runs.baselines import baselines
from rbserve.stats.pairwise import auc
from rbserve.train.fitting.loop import Settings, epoch_order
from rbserve.train.tasks.language import users_begin


def main() -> None:
    """Prints the AUC on all test rows, and on the first that the model was judged by."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="text-smollm2-135m")
    parser.add_argument("--dataset", default="microlens")
    options = parser.parse_args()
    dataset = open_dataset(dataset_path(options.dataset))
    trained = open_artifact(artifact_path(options.model, options.dataset)).manifest.training
    train, test = dataset.ctr("train"), dataset.ctr("test")
    begins, settings = users_begin(train), Settings(**trained.settings)
    drawn = [epoch_order(len(begins) - 1, settings, epoch)[0] for epoch in range(trained.best_epoch)]
    read = np.unique(np.concatenate(drawn))
    rows = np.concatenate([np.arange(begins[one], begins[one + 1]) for one in read])
    whole = baselines(dataset, CTR.name).figures["popularity"]["auc"]
    clicked = train.candidates[rows][train.labels[rows] > 0]
    counts = np.bincount(clicked, minlength=len(dataset.items))
    same = auc(test.labels, counts[test.candidates])
    print(f"{options.model} on {options.dataset}: {sum(map(len, drawn)):,} users read, {len(read):,} different ones of "
          f"{len(begins) - 1:,}; popularity of their rows: AUC {same:.4f}, of all rows {whole:.4f} "
          f"({len(test):,} test rows)")  # fmt: skip


if __name__ == "__main__":
    main()
