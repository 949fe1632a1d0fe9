"""Times of artefacts of language models beside each other, on a machine that does other work as well.

    python tests/benchmarks/interleaved.py DATASET ARTEFACT [ARTEFACT ...] --calls 60

Each request is scored by every artefact in turn, cold and with its user remembered. Printed are medians of wall time
and of the processor time of the calling thread, which other processes do not lengthen as much, and their ratios to the
first artefact with 95% intervals (bootstrap over requests).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from rbserve.core.requests import slate_request
from rbserve.data.artifact import open_artifact
from rbserve.data.dataset import open_dataset
from rbserve.runtimes.language import LanguageScorer
from rbserve.runtimes.opening import open_scorer

WARM_UP = 3
DRAWS = 1_000


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--variant", default="onnx-int8")
    parser.add_argument("--slate", type=int, default=20)
    parser.add_argument("--calls", type=int, default=60)
    options = parser.parse_args()
    scorers: dict[str, LanguageScorer] = {}
    for path in options.artifacts:
        scorer = open_scorer(open_artifact(path), options.variant)
        assert isinstance(scorer, LanguageScorer), f"{path} reads no prompts"
        scorers[path.name] = scorer
    times = measure(scorers, requests(options.dataset, options.slate, options.calls + WARM_UP))
    report(times, next(iter(scorers)))


def requests(dataset: Path, slate: int, calls: int) -> list[Any]:
    """Requests of different test users, with candidates drawn from all items."""
    rng, data = np.random.default_rng(1), open_dataset(dataset)
    histories = data.ctr("test").histories
    return [
        slate_request(
            np.array(histories[row]), rng.choice(len(data.items), slate, replace=False).astype(np.int32)
        )
        for row in rng.permutation(len(histories))[:calls].tolist()
    ]


def measure(scorers: dict[str, LanguageScorer], slates: list[Any]) -> dict[tuple[str, str, str], list[float]]:
    """Seconds of each call, by artefact, "cold" or "warm", and "wall" or "cpu"."""
    rng, times = np.random.default_rng(1), {}
    for call, request in enumerate(slates):
        for name in rng.permutation(list(scorers)).tolist():
            warm = scorers[name].remembering(1 << 30)
            warm.score(request)
            for kind, scorer in (("cold", scorers[name]), ("warm", warm)):
                wall, processor = time.perf_counter(), time.thread_time()
                scorer.score(request)
                spent = {"wall": time.perf_counter() - wall, "cpu": time.thread_time() - processor}
                for clock, seconds in spent.items() if call >= WARM_UP else ():
                    times.setdefault((name, kind, clock), []).append(seconds)
    return times


def report(times: dict[tuple[str, str, str], list[float]], base: str) -> None:
    """Prints a line for each artefact, kind and clock."""
    rng = np.random.default_rng(1)
    for (name, kind, clock), seconds in times.items():
        own, other = np.array(seconds), np.array(times[base, kind, clock])
        draws = rng.integers(0, len(own), (DRAWS, len(own)))
        low, high = np.quantile(np.median(other[draws], 1) / np.median(own[draws], 1), (0.025, 0.975))
        ratio = np.median(other) / np.median(own)
        print(
            f"{name} {kind} {clock}: {1e3 * np.median(own):.3f} ms, {ratio:.2f}x of {base} [{low:.2f}, {high:.2f}]"
        )


if __name__ == "__main__":
    main()
