"""Whether `rbserve size` predicts what a server does: p50, p99 and goodput, predicted and measured, side by side.

    python tests/benchmarks/size_check.py --model dnn --dataset ml-100k      # about ten minutes of two cores
    python tests/benchmarks/size_check.py --workers 1 --shares 0.5,0.95 --seconds 10

Takes the newest profile of the model (`rbserve profile --scope end_to_end --slates 100`; without one, makes it), starts
`rbserve serve` with one and with two workers, measures with `verify` what HTTP adds to a call, predicts, then offers
shares of the predicted capacity with `rbserve load`'s generator. One worker has core 0 and the generator core 1; two
workers share both cores with the generator, whose lag makes a run void where it matters.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from rbserve.home.paths import runs_path
from rbserve.home.target import resolve
from rbserve.pipeline import data, training
from rbserve.pipeline.home import Home
from rbserve.profilers.capacity.plan import CapacityPlan
from rbserve.profilers.capacity.service_times import Overhead, ServiceTimes, service_times
from rbserve.profilers.capacity.sizing import Simulation
from rbserve.profilers.client.load import Load, run_load
from rbserve.profilers.client.plan import LoadPlan
from rbserve.profilers.client.verify import verify
from rbserve.profilers.report.render import collect
from rbserve.runs.run_file import read_measurement

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serving import OWN_CORE, Asked, rbserve

from rbserve.core.tasks import CTR


def profiled(options: argparse.Namespace) -> ServiceTimes:
    """The newest end-to-end times of the variant at the slate; measured now where there are none."""
    artifact = training.ensure_artifact(resolve(options.model, options.dataset))
    runs = [
        read_measurement(path)
        for path in sorted(runs_path().glob("*.json"))
        if f"-{artifact.manifest.dataset.name}-{artifact.name}-" in path.name
    ]
    usable = [
        run for run in runs
        if any((result.variant, result.scope, result.slate) == (options.variant, "end_to_end", options.slate)
               for result in run.results)
    ]  # fmt: skip
    if options.profile or not usable:
        plan = {"scope": "end_to_end", "slates": [options.slate], "processes": 5}
        Home().profile(
            str(artifact.path), artifact.manifest.dataset.name, variants=[options.variant], plan=plan
        )
    known = [run for run in collect(runs_path()) if run.model == artifact.name]
    return service_times(
        known, None, artifact.manifest.dataset.name, options.variant, options.slate, "end_to_end", None
    )


def predict(
    times: ServiceTimes, overhead: Overhead, workers: int, rate: float, options: argparse.Namespace
) -> str:
    """p50, p99 of the answered requests in ms, and goodput a second: each with its 95% interval."""
    plan = CapacityPlan(
        rate=rate, workers=workers, deadline_ms=options.deadline, balance="connections",
        requests=int(rate * options.seconds), draws=20, refusal_ms=options.refusal,
    )  # fmt: skip
    simulation = Simulation(times, overhead, [], plan)
    figures = []
    for number in range(plan.draws):
        drawn = simulation.draw(workers, number) * 1000
        met = drawn[np.isfinite(drawn)]
        figures.append((*np.quantile(met, [0.5, 0.99]), rate * float(np.mean(drawn <= options.deadline))))
    return " | ".join(interval(column) for column in np.array(figures).T)


def interval(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.025, 0.5, 0.975])
    return f"{middle:.4g} [{low:.3g}, {high:.3g}]"


def measured(load: Load) -> str:
    met = load.latency_ms
    p50, p99 = (None, None) if met is None else (met.p50, met.p99)
    shown = ["–" if figure is None else f"{figure:.4g}" for figure in (p50, p99)]
    return " | ".join([*shown, f"{load.goodput_per_s:.4g}", load.void or "valid"])


def main() -> None:
    """Prints a table for each number of workers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="dnn")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--variant", default="onnx-int8")
    parser.add_argument("--slate", type=int, default=100)
    parser.add_argument("--deadline", type=float, default=50.0)
    parser.add_argument(
        "--refusal", type=float, help="ms of a worker that a refusal takes (default overhead / 4)"
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--shares", default="0.5,0.8,0.95,1.2")
    parser.add_argument("--rounds", type=int, default=10, help="of verify")
    parser.add_argument("--profile", action="store_true", help="measure the calls anew")
    options = parser.parse_args()
    mask = os.sched_getaffinity(0)
    times = profiled(options)
    artifact = training.ensure_artifact(resolve(options.model, options.dataset))
    dataset = data.ensure_dataset(artifact.manifest.dataset.name)
    asked = Asked(artifact, dataset, options.slate)
    print(
        "| workers | of capacity | rate | predicted p50 ms | p99 ms | goodput/s | measured p50 ms | p99 ms "
        "| goodput/s | |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for workers in map(int, options.workers.split(",")):
        with rbserve("--deadline", f"{options.deadline:g}", model=str(artifact.path), dataset=None,
                     variant=options.variant, workers=workers) as server:  # fmt: skip
            os.sched_setaffinity(0, [OWN_CORE] if OWN_CORE in mask else mask)
            compared = verify(artifact, dataset, server.url, options.slate, rounds=options.rounds)
            low, high = compared.overhead_ci95
            overhead = Overhead(compared.overhead_ms, (high - low) / 2, compared.rounds)
            capacity = workers / (float(times.pooled.mean()) + overhead.ms / 1000)
            print(f"<!-- a call {times.pooled.mean() * 1000:.3g} ms, HTTP adds {overhead.ms:.3g} ms "
                  f"[{low:.3g}, {high:.3g}]; {compared.ratio:.2f} times the echo -->")  # fmt: skip
            for share in map(float, options.shares.split(",")):
                rate = capacity * share
                plan = LoadPlan(rate, options.seconds, warm_up_s=2.0, deadline_ms=options.deadline)
                load = run_load(server.url, CTR.path, asked.bodies(), plan)
                print(f"| {workers} | {share:.0%} | {rate:.1f} | {predict(times, overhead, workers, rate, options)} | "
                      f"{measured(load)} |", flush=True)  # fmt: skip
            os.sched_setaffinity(0, mask)


if __name__ == "__main__":
    main()
