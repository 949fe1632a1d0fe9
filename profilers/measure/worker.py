"""One fresh, pinned process that measures one variant: `python -m rbserve.profilers.worker`.

Reads a Job as JSON on standard input and writes a Report as JSON on standard output. Nothing that the
measured runtime does not need itself is imported before the clock of loading starts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec
import psutil

from rbserve.core.errors import RbserveError, memory_told
from rbserve.core.tasks import TASKS
from rbserve.core.variants import find_variant
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.machine.noise import Noise, Snapshot, between, snapshot
from rbserve.profilers.cost.call_cost import measure_cost
from rbserve.profilers.measure.inputs import Inputs, Model, Report, open_inputs
from rbserve.profilers.timing.calls import Exercise
from rbserve.profilers.timing.latency import (
    FEWEST,
    PAID_WARMUP_CALLS,
    WARMUP_CALLS,
    Times,
    overhead_ns,
    time_calls,
)
from rbserve.profilers.timing.stages import Waterfall, time_stages
from rbserve.runs.plan import FORWARD, WARM, Slate
from rbserve.runs.roofline import Cost
from rbserve.runs.samples import Samples
from rbserve.runtimes.histories import RememberingScorer
from rbserve.runtimes.opening import open_ranker, open_scorer, runtime_of
from rbserve.runtimes.request_scores import failures_told

OBSERVED_CALLS = 100  # apart from the timed ones,
OBSERVED_PART = 0.25  # and as many as take this part of their seconds
WARM_USERS = 8  # are remembered at a time, however large a model's cache of one is


class Job(msgspec.Struct, frozen=True):
    """The job of a worker. `inputs` is an .npz file of requests by slate and, for accuracy, the test rows.

    `cost`: measure the cost of the calls, and nothing else.
    """

    artifact: str
    variant: str
    inputs: str
    slates: list[Slate]
    threads: int
    runs: int
    seconds: float
    scopes: list[str]
    exclude_seen: bool
    process: int
    cores: list[int]
    accuracy: bool
    cost: bool = False


def measure(job: Job) -> Report:
    """Loads the variant; times every scope and slate, and judges test rows if the job says so; or measures its cost."""
    artifact = open_artifact(Path(job.artifact))
    with failures_told(f"requests of {artifact.name}") if artifact.is_adopted else nullcontext():
        return _measured(job, artifact)


def _measured(job: Job, artifact: Artifact) -> Report:
    inputs = open_inputs(job.inputs, artifact, job.exclude_seen)
    if job.cost:
        return Report(costs=_costs(artifact, inputs, job))
    runtime_of(find_variant(job.variant))  # finding and importing our module is no part of loading
    start = time.perf_counter_ns()
    model = open_model(artifact, job.variant, job.threads)
    load_ns = time.perf_counter_ns() - start
    loaded = rss_bytes()
    if not artifact.is_endpoint:
        samples = _sampled(job, artifact, model, inputs, load_ns, loaded)
        report = _judged(job, model, inputs)
        return msgspec.structs.replace(report, samples=samples)
    # An endpoint is judged first: answers that say nothing are not worth paying for more of them.
    report = _judged(job, model, inputs)
    timed = msgspec.structs.replace(job, runs=min(job.runs, FEWEST)) if report.stopped else job
    return msgspec.structs.replace(report, samples=_sampled(timed, artifact, model, inputs, load_ns, loaded))


def _sampled(
    job: Job, artifact: Artifact, model: Model, inputs: Inputs, load_ns: int, loaded: int
) -> list[Samples]:
    """The times of every scope and slate."""
    samples: list[Samples] = []
    for scope in job.scopes:
        if scope == WARM and not isinstance(model, RememberingScorer):
            continue  # the paper's way remembers nobody
        load_ns += inputs.prepare(scope)
        for slate in job.slates:
            exercise = inputs.exercise(model, slate, scope)
            if scope == WARM:
                exercise = _remembered(model, exercise)
            times, noise = _timed(exercise, job, PAID_WARMUP_CALLS if artifact.is_endpoint else WARMUP_CALLS)
            empty_ns = overhead_ns(exercise.requests)
            waterfall = Waterfall()
            if not artifact.is_endpoint:  # whose every call costs money
                seconds = OBSERVED_PART * job.seconds
                waterfall = time_stages(exercise, min(OBSERVED_CALLS, job.runs), seconds)
            sample = _samples(
                job, scope, slate, load_ns, loaded, times, noise, empty_ns, waterfall, inputs.lengths(slate)
            )
            sizes = timed_values(inputs.sizes(slate), times)
            samples.append(msgspec.structs.replace(sample, slate_sizes=sizes))
    return samples


def open_model(artifact: Artifact, variant: str, threads: int) -> Model:
    """The scorer of a pair-wise artefact, the ranker of a list-wise one."""
    open_variant = open_ranker if TASKS[artifact.manifest.task].ranks else open_scorer
    return open_variant(artifact, variant, threads)


def _remembered(model: Model, exercise: Exercise) -> Exercise:
    """The first requests, after the model has read each user once."""
    assert isinstance(model, RememberingScorer)
    scorer, requests = model.remembering(sys.maxsize), exercise.requests[:WARM_USERS]
    for request in requests:
        scorer.score(*request)
    return Exercise(scorer.score, requests, scorer.score_staged)


def _timed(exercise: Exercise, job: Job, warmup_calls: int) -> tuple[Times, Noise]:
    """The times of an exercise, and the disturbances of this process and its cores during the timed runs."""
    looks: list[Snapshot] = []
    times = time_calls(
        exercise.call,
        exercise.requests,
        job.runs,
        job.seconds,
        mark=lambda: looks.append(snapshot(job.cores)),
        warmup_calls=warmup_calls,
    )
    before, after = looks
    return times, between(before, after)


def _costs(artifact: Artifact, inputs: Inputs, job: Job) -> list[Cost]:
    def open_variant() -> Callable[[Slate], Exercise]:
        model = open_model(artifact, job.variant, job.threads)
        return lambda slate: inputs.exercise(model, slate, FORWARD)

    return measure_cost(artifact, job.variant, job.slates, job.threads, open_variant)


def _samples(
    job: Job,
    scope: str,
    slate: Slate,
    load_ns: int,
    loaded_rss_bytes: int,
    times: Times,
    noise: Noise,
    empty_ns: int,
    waterfall: Waterfall,
    lengths: list[int],
) -> Samples:
    calls = len(waterfall.unobserved_ns)
    return Samples(
        variant=job.variant,
        scope=scope,
        slate=slate,
        threads=job.threads,
        process=job.process,
        core=job.cores[0] if job.cores else None,
        load_ns=load_ns,
        first_call_ns=times.first_call_ns,
        warmup_ns=times.warmup_ns,
        runs_ns=times.runs_ns,
        peak_rss_bytes=max(
            peak_rss_bytes(), loaded_rss_bytes
        ),  # the kernel's peak may lag behind its figure of now
        stages_ns=waterfall.stages_ns,
        overhead_ns=empty_ns,
        settled=times.settled,
        noise=noise,
        loaded_rss_bytes=loaded_rss_bytes,
        observed_ns=waterfall.observed_ns,
        unobserved_ns=waterfall.unobserved_ns,
        history_lengths=[lengths[call % len(lengths)] for call in range(calls)],
    )


def timed_values(values: list[int], times: Times) -> list[int]:
    """Of a value of each request, those of the timed runs, which begin behind the first call and the warm-up."""
    begin = 1 + len(times.warmup_ns)
    return [values[(begin + run) % len(values)] for run in range(len(times.runs_ns))] if values else []


def _judged(job: Job, model: Model, inputs: Inputs) -> Report:
    """The report on the test rows, without samples; an empty one unless the job includes accuracy."""
    if not job.accuracy:
        return Report()
    start = time.perf_counter_ns()
    report = inputs.judge(model)
    return msgspec.structs.replace(report, accuracy_s=(time.perf_counter_ns() - start) / 1e9)


def rss_bytes() -> int:
    """Resident memory of this process now, bytes: interpreter, libraries and the loaded model."""
    return int(psutil.Process().memory_info().rss)


def peak_rss_bytes() -> int:
    """This process's peak resident memory.

    Linux counts it per program in VmHWM; getrusage would inherit the parent's peak across exec.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Runs the job on standard input."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    if job.cores:
        os.sched_setaffinity(0, job.cores)
    try:
        with memory_told(f"measuring {job.variant}", "a smaller --slates, or a smaller row"):
            report = measure(job)
    except RbserveError as error:
        report = Report(error=error.message, hint=error.hint)
    sys.stdout.buffer.write(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
