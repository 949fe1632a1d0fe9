"""One fresh, pinned process that measures one variant: `python -m rbserve.profilers.worker`.

Reads a Job as JSON on standard input and writes a Report as JSON on standard output. Nothing that the
measured runtime does not need itself is imported before the clock of loading starts.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from rbserve.core.artifact import open_artifact
from rbserve.core.columns import Ragged
from rbserve.core.errors import RbserveError
from rbserve.core.measurement import Samples
from rbserve.profilers.latency import time_calls
from rbserve.runtime import open_scorer, score_rows


class Job(msgspec.Struct, frozen=True):
    """What to measure. `inputs` is an .npz of requests by slate and, for accuracy, the test rows."""

    artifact: str
    variant: str
    inputs: str
    slates: list[int]
    threads: int
    runs: int
    seconds: float
    scope: str
    process: int
    cores: list[int]
    accuracy: bool


class Report(msgspec.Struct, frozen=True):
    """What one process measured, or the error that kept it from measuring."""

    samples: list[Samples] = []
    scores: list[float] = []
    error: str | None = None
    hint: str | None = None


def measure(job: Job) -> Report:
    """Loads the variant, times every slate, and scores the test rows if asked to."""
    artifact = open_artifact(Path(job.artifact))
    with np.load(job.inputs) as inputs:
        arrays = dict(inputs)
    start = time.perf_counter_ns()
    scorer = open_scorer(artifact, job.variant, job.threads)
    load_ns = time.perf_counter_ns() - start
    samples = []
    for slate in job.slates:
        histories = Ragged(arrays[f"slate{slate}_values"], arrays[f"slate{slate}_offsets"])
        candidates = arrays[f"slate{slate}_candidates"]
        requests = [(histories[row], candidates[row]) for row in range(len(candidates))]
        times = time_calls(scorer.score, requests, job.runs, job.seconds)
        samples.append(
            Samples(
                variant=job.variant,
                scope=job.scope,
                slate=slate,
                threads=job.threads,
                process=job.process,
                core=job.cores[0] if job.cores else None,
                load_ns=load_ns,
                first_call_ns=times.first_call_ns,
                warmup_ns=times.warmup_ns,
                runs_ns=times.runs_ns,
                peak_rss_bytes=peak_rss_bytes(),
            )
        )
    scores: list[float] = []
    if job.accuracy:
        histories = Ragged(arrays["test_values"], arrays["test_offsets"])
        scores = score_rows(scorer, histories, arrays["test_candidates"]).tolist()
    return Report(samples, scores)


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
        report = measure(job)
    except RbserveError as error:
        report = Report(error=error.message, hint=error.hint)
    sys.stdout.buffer.write(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
