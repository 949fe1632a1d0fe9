"""Holds adopted models against themselves with calls that take 10% longer: a gate must find every one of them.

    python docs/examples/onnx/slowed_head.py mlp                       # exit code 3: REGRESSED
    python docs/examples/onnx/slowed_head.py mlp trees xgb --share 0.05 --slates 1,100

Base and head are the same artefact in fresh processes. The processes of head are this file: its calls spin for 10% of
the time that the model takes, its input and output are the same. Base runs the same code with a share of 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from rbserve.core.requests import Request
from rbserve.core.types import Scores
from rbserve.profilers.gate.findings import markdown
from rbserve.profilers.gate.verdict import Suite


class Slowed:
    """A scorer whose calls take `share` longer, by spinning: a sleep would let the core rest."""

    def __init__(self, scorer: Any, share: float) -> None:
        self._score, self._factor = scorer.score, 1 + share

    def score(self, request: Request) -> Scores:
        """The scores float32[N] of a request, later than they were there."""
        start = time.perf_counter_ns()
        scores: Scores = self._score(request)
        end = start + (time.perf_counter_ns() - start) * self._factor
        while time.perf_counter_ns() < end:
            pass
        return scores


def measure(share: float) -> None:
    """Does the job of a process of one side, with a slowed scorer."""
    from rbserve.profilers.measure import worker

    opened = worker.open_model
    worker.open_model = lambda *arguments: Slowed(opened(*arguments), share)  # type: ignore[assignment, arg-type]
    worker.main()


def check(models: list[str], slates: list[int], share: float) -> Suite:
    """The verdicts of the gate over p50 of each model and slate."""
    from rbserve.data.artifact import open_artifact
    from rbserve.home.target import resolve
    from rbserve.pipeline.data import rows_of
    from rbserve.profilers.gate import rounds
    from rbserve.profilers.gate.config import read_config
    from rbserve.profilers.gate.sides import Pair, Scope

    worker = (sys.executable, str(Path(__file__).resolve()), "--process")
    pairs = []
    for model in models:
        artifact = open_artifact(resolve(model).path)
        pairs.append(Pair(model, artifact, artifact, "", (*worker, "0"), (*worker, str(share))))
    scope = Scope(["onnx-fp32"], slates, metrics=["p50"])
    return rounds.check(pairs, rows_of, read_config(None), scope).suite


def main() -> None:
    """See the module's docstring."""
    if sys.argv[1:2] == ["--process"]:
        measure(float(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--slates", default="1,100")
    parser.add_argument("--share", type=float, default=0.10)
    parser.add_argument("--json", action="store_true", help="print the verdicts as data")
    given = parser.parse_args()
    suite = check(given.models, [int(slate) for slate in given.slates.split(",")], given.share)
    print(msgspec.json.encode(suite).decode() if given.json else markdown(suite))
    sys.exit(suite.exit_code)


if __name__ == "__main__":
    main()
