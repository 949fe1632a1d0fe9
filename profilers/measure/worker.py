"""One fresh, pinned process that measures one variant: `python -m rbserve.profilers.worker`.

Reads a Job as JSON on standard input and writes a Report as JSON on standard output. Nothing that the
measured runtime does not need itself is imported before the clock of loading starts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import psutil

from rbserve.core.errors import RbserveError, memory_told
from rbserve.core.tasks import TASKS
from rbserve.core.types import Items, Ranker, Scorer, Scores, StagedRanker
from rbserve.core.variants import find_variant
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.columns import Ragged
from rbserve.data.dataset import ItemTable
from rbserve.machine.noise import Noise, Snapshot, between, snapshot
from rbserve.profilers.cost.call_cost import measure_cost
from rbserve.profilers.timing.calls import Exercise, list_wise, pair_wise
from rbserve.profilers.timing.latency import (
    FEWEST,
    PAID_WARMUP_CALLS,
    WARMUP_CALLS,
    Times,
    overhead_ns,
    time_calls,
)
from rbserve.profilers.timing.stages import Waterfall, time_stages
from rbserve.runs.measurement import DEPTH
from rbserve.runs.plan import WARM
from rbserve.runs.roofline import Cost
from rbserve.runs.samples import Samples
from rbserve.runtimes.endpoint_scorer import EndpointScorer, UnclearAnswersError
from rbserve.runtimes.evaluate import rank_rows, score_rows
from rbserve.runtimes.language import LanguageScorer
from rbserve.runtimes.opening import open_ranker, open_scorer, runtime_of
from rbserve.stats.listwise import ranks_in_lists

OBSERVED_CALLS = 100  # apart from the timed ones,
OBSERVED_PART = 0.25  # and as many as take this part of their seconds
WARM_USERS = 8  # are remembered at a time, however large a model's cache of one is

Model = Scorer | Ranker


class Job(msgspec.Struct, frozen=True):
    """The job of a worker. `inputs` is an .npz file of requests by slate and, for accuracy, the test rows.

    `cost`: measure the cost of the calls, and nothing else.
    """

    artifact: str
    variant: str
    inputs: str
    slates: list[int]
    threads: int
    runs: int
    seconds: float
    scopes: list[str]
    exclude_seen: bool
    process: int
    cores: list[int]
    accuracy: bool
    cost: bool = False


class Report(msgspec.Struct, frozen=True):
    """What one process measured, or the error that kept it from measuring.

    Of the test rows, a scorer has `scores`, a ranker the targets' `ranks`, a generative one its `illegal_share`;
    judging them took `accuracy_s` seconds. Of an endpoint's answers, `hard` had no log-probabilities and `unclear` were
    neither yes nor no; after too many of these judging was `stopped`, for this reason.
    """

    samples: list[Samples] = []
    costs: list[Cost] = []
    scores: list[float] = []
    ranks: list[int] = []
    illegal_share: float | None = None
    accuracy_s: float = 0.0
    hard: int = 0
    unclear: int = 0
    stopped: str | None = None
    error: str | None = None
    hint: str | None = None


class Inputs:
    """The arrays in the file that the harness wrote."""

    def __init__(self, path: str) -> None:
        with np.load(path) as file:
            self._arrays = dict(file)

    def histories(self, name: str) -> Ragged:
        """The histories of the test rows ("test") or of a slate's requests ("slate8")."""
        return Ragged(self._arrays[f"{name}_values"], self._arrays[f"{name}_offsets"])

    def requests(self, slate: int) -> list[Items]:
        """The histories of a slate's requests, one by one."""
        histories = self.histories(f"slate{slate}")
        return [histories[row] for row in range(len(histories))]

    def items(self, name: str) -> Items:
        """Candidates of a slate's requests int32[R, N], or candidates or targets of the test rows int32[R]."""
        items: Items = self._arrays[f"{name}_items"]
        return items


def measure(job: Job) -> Report:
    """Loads the variant; times every scope and slate, and judges test rows if the job says so; or measures its cost."""
    artifact, inputs = open_artifact(Path(job.artifact)), Inputs(job.inputs)
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
        if scope == WARM and not isinstance(model, LanguageScorer):
            continue  # the paper's way remembers nobody
        items = None
        if scope == "end_to_end":
            items, lookup_ns = _open_items(artifact)
            load_ns += lookup_ns
        for slate in job.slates:
            exercise = _exercise(model, inputs, slate, job.exclude_seen, items)
            if scope == WARM:
                exercise = _remembered(model, exercise)
            times, noise = _timed(exercise, job, PAID_WARMUP_CALLS if artifact.is_endpoint else WARMUP_CALLS)
            empty_ns = overhead_ns(exercise.requests)
            waterfall = Waterfall()
            if not artifact.is_endpoint:  # whose every call costs money
                seconds = OBSERVED_PART * job.seconds
                waterfall = time_stages(exercise, min(OBSERVED_CALLS, job.runs), seconds)
            lengths = [len(history) for history in inputs.requests(slate)]
            samples.append(
                _samples(job, scope, slate, load_ns, loaded, times, noise, empty_ns, waterfall, lengths)
            )
    return samples


def open_model(artifact: Artifact, variant: str, threads: int) -> Model:
    """The scorer of a pair-wise artefact, the ranker of a list-wise one."""
    open_variant = open_ranker if TASKS[artifact.manifest.task].ranks else open_scorer
    return open_variant(artifact, variant, threads)


def _open_items(artifact: Artifact) -> tuple[ItemTable, int]:
    """The item table, ready to look ids up in, and the nanoseconds that took."""
    start = time.perf_counter_ns()
    items = artifact.items
    assert len(items.index) == len(items)
    return items, time.perf_counter_ns() - start


def _exercise(
    model: Model, inputs: Inputs, slate: int, exclude_seen: bool, items: ItemTable | None
) -> Exercise:
    histories = inputs.requests(slate)
    if isinstance(model, Scorer):
        return pair_wise(model, histories, [*inputs.items(f"slate{slate}")], items)
    return list_wise(model, histories, slate, exclude_seen, items)


def _remembered(model: Model, exercise: Exercise) -> Exercise:
    """The first requests, after the model has read each user once."""
    assert isinstance(model, LanguageScorer)
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
    def open_variant() -> Callable[[int], Exercise]:
        model = open_model(artifact, job.variant, job.threads)
        return lambda slate: _exercise(model, inputs, slate, job.exclude_seen, None)

    return measure_cost(artifact, job.variant, job.slates, job.threads, open_variant)


def _samples(
    job: Job,
    scope: str,
    slate: int,
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


def _judged(job: Job, model: Model, inputs: Inputs) -> Report:
    """The report on the test rows, without samples; an empty one unless the job includes accuracy."""
    if not job.accuracy:
        return Report()
    start = time.perf_counter_ns()
    report = _scored(model, inputs) if isinstance(model, Scorer) else _ranked(model, inputs, job.exclude_seen)
    return msgspec.structs.replace(report, accuracy_s=(time.perf_counter_ns() - start) / 1e9)


def _scored(model: Scorer, inputs: Inputs) -> Report:
    """The scores of the test rows; or, where an endpoint's answers are unclear, the reason why there are none."""
    endpoint = model if isinstance(model, EndpointScorer) else None
    try:
        scores = score_rows(model, inputs.histories("test"), inputs.items("test"))
    except UnclearAnswersError as error:
        return Report(stopped=error.message)
    return Report(
        scores=scores.tolist(),
        hard=endpoint.hard_answers if endpoint else 0,
        unclear=endpoint.unclear if endpoint else 0,
    )


def _ranked(ranker: Ranker, inputs: Inputs, exclude_seen: bool) -> Report:
    """The rank of each test row's target in a list of DEPTH items of the whole catalogue."""
    tally = _PathTally(ranker)
    lists = rank_rows(tally, inputs.histories("test"), DEPTH, exclude_seen=exclude_seen)
    ranks = ranks_in_lists(lists, inputs.items("test"))
    illegal = tally.illegal / tally.paths if isinstance(ranker, StagedRanker) and ranker.generates else None
    return Report(ranks=ranks.tolist(), illegal_share=illegal)


class _PathTally:
    """A ranker that counts the generated paths, and those that name no item."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        self.top_k = ranker.top_k
        self.paths, self.illegal = 0, 0

    def top_k_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        items, scores = self._ranker.top_k_batch(histories, k)
        self.paths += int((scores > -np.inf).sum())
        self.illegal += int(((scores > -np.inf) & (items < 0)).sum())
        return items, scores


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
