"""int8 as it is exported now beside version 0.1's: speed, AUC, and how far a score moves with its slate.

    python tests/benchmarks/int8.py --models A,sasrec-3l --dataset ml-100k

Both graphs are made of one artefact's fp32 graph, 0.1's as its exporter made it (`old_int8.py`). Requests are test
users with slates of catalogue items; each is answered by both in turn, so that a machine that slows down slows both.
A ratio is 0.1's processor time over the new one's (one thread; what others do on the machine is not counted), the
median over pairs of calls with its interval by order statistics: above 1, the new graph is faster.
A list-wise model is asked for ten items, of 1 or of several users at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from old_int8 import with_old_int8

from rbserve.core.files import write_bytes
from rbserve.core.requests import slate_request
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.machine.environment import environment
from rbserve.models.zoo import select_models
from rbserve.runtimes.evaluate import rank_rows, score_rows
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.stats.listwise import ndcg_at_k, ranks_in_lists
from rbserve.stats.pairwise import auc

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 3

Call = Callable[[], Any]


def paired_calls(old: Artifact, new: Artifact, dataset: Dataset, size: int) -> Iterator[list[Call]]:
    """Requests of one size without end, each as a call of version 0.1's graph and one of the new graph."""
    rng, pair_wise = np.random.default_rng(2024), new.manifest.task == "ctr"
    split = dataset.ctr("test") if pair_wise else dataset.seqrec("test")
    opened = [(open_scorer if pair_wise else open_ranker)(artifact, "onnx-int8") for artifact in (old, new)]
    while True:
        history = split.histories[int(rng.integers(len(split)))]
        if pair_wise:
            slate = rng.integers(len(new.items), size=size, dtype=np.int32)
            yield [partial(scorer.score, history, slate) for scorer in opened]
        else:
            yield [partial(ranker.top_k_batch, np.tile(history, (size, 1)), 10) for ranker in opened]


def timed(pairs: Iterator[list[Call]], calls: int, seconds: float) -> dict[str, float]:
    """Medians in milliseconds, and the ratio with its 95% interval; the order turns around from pair to pair."""
    spent: list[tuple[float, float]] = []
    end = time.process_time() + seconds
    for number, pair in enumerate(pairs):
        took = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            start = time.process_time()
            pair[side]()
            took[side] = time.process_time() - start
        if number >= WARM_UP:
            spent.append((took[0], took[1]))
        if len(spent) >= calls or (time.process_time() > end and len(spent) > 10):
            break
    ratios = np.sort([before / after for before, after in spent])
    low = int(stats.binom.ppf(0.025, len(ratios), 0.5))
    before, after = 1e3 * np.median(spent, axis=0)
    return {"pairs": len(ratios), "old_ms": float(before), "new_ms": float(after), "ratio": float(np.median(ratios)),
            "low": float(ratios[low]), "high": float(ratios[-1 - low])}  # fmt: skip


def accuracy(artifact: Artifact, dataset: Dataset) -> float:
    """AUC on all test rows, or nDCG@10 on all test users."""
    if artifact.manifest.task == "ctr":
        test = dataset.ctr("test")
        return auc(
            test.labels, score_rows(open_scorer(artifact, "onnx-int8"), test.histories, test.candidates)
        )
    lists = dataset.seqrec("test")
    return ndcg_at_k(
        ranks_in_lists(rank_rows(open_ranker(artifact, "onnx-int8"), lists.histories, 10), lists.targets), 10
    )


def moved(artifact: Artifact, dataset: Dataset, users: int = 40) -> float:
    """How far the score of a candidate moves at most between a slate of its own and one of 20."""
    rng, worst = np.random.default_rng(7), 0.0
    if artifact.manifest.task == "ctr":
        scorer, histories = open_scorer(artifact, "onnx-int8"), dataset.ctr("test").histories
        for _ in range(users):
            history = histories[int(rng.integers(len(histories)))]
            slate = rng.integers(len(artifact.items), size=20, dtype=np.int32)
            alone = np.concatenate(
                [scorer.score(slate_request(history, slate[place : place + 1])) for place in range(20)]
            )
            worst = max(worst, float(np.abs(scorer.score(slate_request(history, slate)) - alone).max()))
        return worst
    ranker = open_ranker(artifact, "onnx-int8")
    histories = rng.integers(len(artifact.items), size=(users, 10), dtype=np.int32)
    _, together = ranker.top_k_batch(histories, 10)
    for row, history in enumerate(histories):
        worst = max(worst, float(np.abs(together[row] - ranker.top_k_batch(history[None], 10)[1][0]).max()))
    return worst


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="A")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument(
        "--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[1, 20, 100]
    )
    parser.add_argument("--calls", type=int, default=300, help="pairs of calls a size, at most")
    parser.add_argument("--seconds", type=float, default=4.0, help="a size, at most")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "int8")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])

    from rbserve.home.target import resolve
    from rbserve.pipeline.data import ensure_dataset
    from rbserve.pipeline.training import ensure_artifact

    dataset, rows = ensure_dataset(options.dataset), []
    print(
        "| model | AUC or nDCG@10: 0.1, now | a score moves by: 0.1, now | slate: times as fast as 0.1 [95%] |"
    )
    print("|---|--:|--:|---|")
    for spec in select_models(options.models):
        new = export(ensure_artifact(resolve(spec.name, options.dataset)), dataset, ["fp32", "int8"])
        with tempfile.TemporaryDirectory(prefix="rbserve-int8-") as folder:
            old = with_old_int8(new, Path(folder) / new.name)
            row = {
                "model": new.name,
                "accuracy": [accuracy(artifact, dataset) for artifact in (old, new)],
                "moved": [moved(artifact, dataset) for artifact in (old, new)],
                "speed": {
                    size: timed(paired_calls(old, new, dataset, size), options.calls, options.seconds)
                    for size in options.sizes
                },
            }
        rows.append(row)
        print(line(row), flush=True)
    found = {"dataset": dataset.name, "environment": msgspec.to_builtins(environment()), "models": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    write_bytes(options.out / f"{dataset.name}.json", msgspec.json.format(msgspec.json.encode(found)))


def line(row: dict[str, Any]) -> str:
    """A row of the Markdown table."""
    speed = "; ".join(
        f"{size}: {one['ratio']:.2f} [{one['low']:.2f}, {one['high']:.2f}] ({one['new_ms']:.3g} ms)"
        for size, one in row["speed"].items()
    )
    accuracies, moves = row["accuracy"], row["moved"]
    return f"| {row['model']} | {accuracies[0]:.5f}, {accuracies[1]:.5f} | {moves[0]:.1e}, {moves[1]:.1e} | {speed} |"


if __name__ == "__main__":
    main()
