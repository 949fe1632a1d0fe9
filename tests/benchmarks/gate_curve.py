"""The operating curve of `rbserve check`, by live trials: how often it cries wolf, and how often it sees one.

    python tests/benchmarks/gate_curve.py run --jobs 2           # make gate-curve; stop and start it as you like
    python tests/benchmarks/gate_curve.py table

A trial is one run of the gate over one model (onnx-fp32, slate 1) in fresh processes: the DNN at the paper's size on
planted data, or --artifact with the data set --data. Its conditions:

    same          base and head are the same files
    +5%, +10%     head's calls take so much longer: a wrapper spins for that share of each call's own time
    -0.002 AUC    head's scores carry noise that costs so much AUC on the test rows, another noise in each trial

After each trial one JSON file is written anew, and a stopped run continues there. With --jobs each trial has a core to
itself and the others for neighbours, as on a runner that many jobs share. The workers of all but `same` are
this very file: nothing in the package can slow a scorer. Both sides run the wrapper, base with a share of 0.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.requests import Request, slate_of
from rbserve.core.types import Items, Scores

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "docs" / "examples" / "onnx"))

from slowed_head import Slowed  # noqa: E402  (the example that slows the calls of adopted models)

WORK = ROOT / "build" / "gate-curve"
RESULTS = ROOT / "reports" / "gate-curve" / "curve.json"
TRIALS = {"same": 500, "+5%": 100, "+10%": 100, "-0.002 AUC": 40}
TARGETS = {"same": "<= 1%", "+5%": ">= 95%", "+10%": ">= 99%", "-0.002 AUC": "caught"}
SHARES = {"+5%": 0.05, "+10%": 0.10}
VARIANT, LOSS = "onnx-fp32", 0.002


class Trial(msgspec.Struct, frozen=True):
    """One run of the gate, the `number`th of its condition. `change` is that of p50, or the loss of AUC."""

    condition: str
    number: int
    verdict: str
    rounds: int
    seconds: float
    change: float | None
    low: float | None
    high: float | None
    created: str


class Curve(msgspec.Struct):
    """All trials, and what they were made with: trials of other settings or machines do not mix."""

    made_with: dict[str, Any]
    trials: list[Trial]
    summary: list[dict[str, Any]] = []


# ---- Workers: python gate_curve.py worker KIND VALUE [SEED] ----


class Noisy:
    """A scorer whose scores carry noise, the same whenever it is asked the same."""

    def __init__(self, scorer: Any, amplitude: float, seed: int) -> None:
        self._score, self._amplitude, self._seed = scorer.score, amplitude, seed

    def score(self, request: Request) -> Scores:
        history, candidates = slate_of(request)
        noise = np.array([noise_of(history, int(one), self._seed) for one in candidates])
        return with_noise(self._score(request), self._amplitude * noise)


def noise_of(history: Items, candidate: int, seed: int) -> float:
    """A standard normal number of its own for every history and candidate."""
    return float(np.random.default_rng([seed, zlib.crc32(history.tobytes()), candidate]).normal())


def with_noise(scores: Scores, noise: NDArray[np.float64]) -> Scores:
    """Click probabilities float32[N] moved by `noise` in log-odds."""
    from rbserve.stats.pairwise import log_odds

    moved: Scores = (1 / (1 + np.exp(-(log_odds(scores) + noise)))).astype(np.float32)
    return moved


def serve_as_worker(kind: str, *values: str) -> None:
    """A worker of the harness whose scorers are slowed or noisy."""
    from rbserve.profilers.measure import worker

    opened = worker.open_model

    def open_model(*arguments: Any) -> Any:
        scorer = opened(*arguments)
        if kind == "slowed":
            return Slowed(scorer, float(values[0]))
        return Noisy(scorer, float(values[0]), int(values[1]))

    worker.open_model = open_model  # type: ignore[assignment]
    worker.main()


# ---- Trials ----


def prepared() -> tuple[Any, Any]:
    """The data set (10,000 planted test users of four rows) and the DNN at the paper's size, made once."""
    from rbserve.data.dataset import open_dataset
    from rbserve.exporters.export import export
    from rbserve.models.zoo import find_model
    from rbserve.train.datasets import synthetic
    from rbserve.train.fit import train
    from rbserve.train.fitting.loop import Settings
    from rbserve.train.protocol.options import Protocol
    from rbserve.train.protocol.splitting import EventsInMemory, write_splits
    from rbserve.train.protocol.tally import Tally

    protocol = Protocol(rows_per_label=2, ctr_test_rows=40_000)
    if not (WORK / "data/manifest.json").is_file():
        tally = Tally()
        events, items = synthetic.read(synthetic.Planted(users=40_000, events_per_user=20), tally.dropped)
        held = EventsInMemory(events, items)
        write_splits(WORK / "data", "synthetic", held, protocol, tally, catalogue="all")
    dataset = open_dataset(WORK / "data")
    if not (WORK / "dnn/onnx/fp32.onnx").is_file():
        export(
            train(find_model("dnn"), dataset, WORK / "dnn", Settings(epochs=1, batch=500)), dataset, ["fp32"]
        )
    return opened(WORK / "dnn", WORK / "data")


def opened(artifact: Path, data: Path) -> tuple[Any, Any]:
    """A model and its data set."""
    from rbserve.data.artifact import open_artifact
    from rbserve.data.dataset import open_dataset

    return open_artifact(artifact), open_dataset(data)


def run_trial(condition: str, number: int, artifact: Any, dataset: Any, scores: Scores) -> Trial:
    """One run of the gate under a condition; `scores` are what the model says of the test rows."""
    from rbserve.profilers.gate.config import GateConfig
    from rbserve.profilers.gate.rounds import check
    from rbserve.profilers.gate.sides import Pair, Scope
    from rbserve.profilers.measure.harness import WORKER

    base, head = WORKER, WORKER
    config, metrics = GateConfig(test_users=200), ("p50", "peak_rss")  # few users: requests alone are read
    if condition in SHARES:
        base, head = command("slowed", "0"), command("slowed", str(SHARES[condition]))
    if condition == "-0.002 AUC":
        config, metrics = GateConfig(), ("accuracy",)
        head = command("noisy", str(amplitude(dataset, scores, number)), str(number))
    pair = Pair(artifact.name, artifact, artifact, base_worker=base, head_worker=head)
    suite = check([pair], lambda _: dataset, config, Scope([VARIANT], [1], metrics=metrics)).suite
    line = next(one for one in suite.lines if one.metric in ("p50", "auc"))
    figures = line.change, line.low, line.high
    return Trial(condition, number, suite.verdict.value, suite.rounds, suite.seconds, *figures, suite.created)


def command(*words: str) -> tuple[str, ...]:
    """How a worker of this file is started."""
    return (sys.executable, str(HERE), "worker", *words)


def amplitude(dataset: Any, scores: Scores, seed: int) -> float:
    """How much of that seed's noise costs LOSS of AUC on the test rows."""
    from rbserve.stats.pairwise import auc

    test = dataset.ctr("test")
    noise = np.array(
        [noise_of(test.histories[row], int(item), seed) for row, item in enumerate(test.candidates)]
    )
    whole, low, high = auc(test.labels, scores), 0.0, 4.0
    for _ in range(30):
        middle = (low + high) / 2
        lost = whole - auc(test.labels, with_noise(scores, middle * noise))
        low, high = (low, middle) if lost > LOSS else (middle, high)
    return high


class Runner:
    """What a process that runs trials has opened once: the model, its data set and what the one says of the other."""

    opened: Runner

    def __init__(self, artifact: Path, data: Path) -> None:
        from rbserve.runtimes.evaluate import score_rows
        from rbserve.runtimes.opening import open_scorer

        self._artifact, self._dataset = opened(artifact, data)
        test = self._dataset.ctr("test")
        self._scores = score_rows(open_scorer(self._artifact, VARIANT), test.histories, test.candidates)

    @classmethod
    def begin(cls, cores: Any, artifact: Path, data: Path) -> None:
        """The process begins, on a core of its own where there are `cores` to take one from."""
        if cores is not None:
            os.sched_setaffinity(0, {cores.get()})
        cls.opened = cls(artifact, data)

    @classmethod
    def trial(cls, condition: str, number: int) -> Trial:
        """One trial in this process."""
        return run_trial(condition, number, cls.opened._artifact, cls.opened._dataset, cls.opened._scores)


def run(path: Path, trials: dict[str, int], artifact: Any, dataset: Any, jobs: int) -> None:
    """Trials until there are so many of each condition, the conditions in turn, `jobs` at a time."""
    from rbserve.core.files import write_bytes
    from rbserve.machine.environment import environment
    from rbserve.profilers.gate.config import GateConfig

    machine = environment()
    made_with = msgspec.to_builtins(
        {"cpu": machine.cpu, "cores": machine.cores, "libraries": machine.libraries, "config": GateConfig(),
         "model": artifact.name, "dataset": dataset.name, "fingerprint": dataset.fingerprint,
         "variant": VARIANT, "slate": 1, "test_users": len({*dataset.ctr("test").users}), "jobs": jobs}
    )  # fmt: skip
    curve = read(path) if path.is_file() else Curve(made_with, [])
    if curve.made_with != made_with:
        sys.exit(
            f"error: {path} was made with other settings or on another machine\nhint: move it away to start anew"
        )
    with executor(jobs, artifact.path, dataset.path) as pool:
        waiting = [pool.submit(Runner.trial, *one) for one in left(trials, curve.trials)]
        try:
            for done in as_completed(waiting):
                trial = done.result()
                curve.trials.append(trial)
                curve.summary = summarise(curve.trials)
                write_bytes(path, msgspec.json.format(msgspec.json.encode(curve)))
                print(f"{trial.condition} {trial.number + 1}/{trials[trial.condition]}: {trial.verdict}, "
                      f"{trial.rounds} rounds, {trial.seconds:.1f} s", file=sys.stderr, flush=True)  # fmt: skip
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    table(path)


def executor(jobs: int, artifact: Path, data: Path) -> ProcessPoolExecutor:
    """Processes for trials; of several each has a core of its own."""
    from rbserve.machine.environment import allowed_cores

    context = multiprocessing.get_context("spawn")
    cores = None
    if jobs > 1:
        allowed = allowed_cores()
        if jobs > len(allowed):
            sys.exit(f"error: {jobs} jobs need as many cores; this process may use {len(allowed)}")
        cores = context.Queue()
        for core in allowed[-jobs:]:
            cores.put(core)
    return ProcessPoolExecutor(jobs, context, Runner.begin, (cores, artifact, data))


def left(trials: dict[str, int], done: Sequence[Trial]) -> list[tuple[str, int]]:
    """The trials that are still to be made, the conditions in proportion."""
    made = {(one.condition, one.number) for one in done}
    wanted = [
        (number / most, condition, number) for condition, most in trials.items() for number in range(most)
    ]
    return [(condition, number) for _, condition, number in sorted(wanted) if (condition, number) not in made]


def summarise(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Counts of each condition; the interval is Clopper and Pearson's of the share called REGRESSED."""
    from scipy.stats import binomtest

    rows = []
    for condition in dict.fromkeys(trial.condition for trial in trials):
        some = [trial for trial in trials if trial.condition == condition]
        verdicts = {
            one: sum(trial.verdict == one for trial in some) for one in ("REGRESSED", "PASS", "INCONCLUSIVE")
        }
        interval = binomtest(verdicts["REGRESSED"], len(some)).proportion_ci(0.95)
        seconds = np.array([trial.seconds for trial in some])
        rows.append(
            {"condition": condition, "target": TARGETS[condition], "trials": len(some), **verdicts,
             "regressed_share": verdicts["REGRESSED"] / len(some), "ci95": [float(interval.low), float(interval.high)],
             "rounds_mean": float(np.mean([trial.rounds for trial in some])), "seconds_mean": float(seconds.mean()),
             "seconds_p50": float(np.median(seconds)), "seconds_max": float(seconds.max())}
        )  # fmt: skip
    return rows


def read(path: Path) -> Curve:
    return msgspec.json.decode(path.read_bytes(), type=Curve)


def table(path: Path) -> None:
    """The summary in Markdown."""
    curve = read(path)
    print(
        "| head | trials | REGRESSED [95%] | wanted | PASS | INCONCLUSIVE | rounds | seconds a model, mean (max) |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for row in curve.summary:
        low, high = row["ci95"]
        print(
            f"| {row['condition']} | {row['trials']} | {row['regressed_share']:.1%} [{low:.1%}, {high:.1%}] | "
            f"{row['target']} | {row['PASS'] / row['trials']:.1%} | {row['INCONCLUSIVE'] / row['trials']:.1%} | "
            f"{row['rounds_mean']:.1f} | {row['seconds_mean']:.0f} ({row['seconds_max']:.0f}) |"
        )
    made = curve.made_with
    print(f"\nOn {made['cpu']}, {made['cores']} cores, {made['jobs']} trials at a time.")


def main() -> None:
    """See the module's docstring."""
    if sys.argv[1:2] == ["worker"]:
        serve_as_worker(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--file", type=Path, default=RESULTS)
    parser.add_argument("--scale", type=float, default=1.0, help="0.04 makes a 25th of the trials")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time, each on a core of its own")
    parser.add_argument("--artifact", type=Path, help="another model, with its --data")
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    if given.action == "table":
        table(given.file)
        return
    if (given.artifact is None) != (given.data is None):
        parser.error("--artifact and --data go together")
    found = opened(given.artifact, given.data) if given.artifact else prepared()
    run(
        given.file,
        {one: max(1, round(most * given.scale)) for one, most in TRIALS.items()},
        *found,
        given.jobs,
    )


if __name__ == "__main__":
    main()
