"""When requests come, and to which worker: a Poisson process or a file of times, dealt out among workers."""

from __future__ import annotations

import heapq
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import UsageError
from rbserve.profilers.capacity.plan import Balance
from rbserve.profilers.capacity.queueing import Seconds

FEWEST = 100
"""Requests of a file of arrivals, at least: fewer say nothing of a p99."""
EXAMPLE = "a number of seconds or a timestamp such as 2025-01-31T12:00:00.250 in each line"


def poisson(rate: float, requests: int, rng: np.random.Generator) -> Seconds:
    """The times [N] of a Poisson process of `rate` a second, from 0 on."""
    times: Seconds = np.cumsum(rng.exponential(1 / rate, requests))
    return times


def read_arrivals(file: Path, rng: np.random.Generator) -> Seconds:
    """The times [N] in a file, one a line, in seconds from the first on, rising.

    Times in whole seconds are spread over their second: a log that keeps no parts of one does not mean bursts. Raises
    UsageError for a line that is no time, and for a file of too few.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the arrivals in {file}: {error}", EXAMPLE) from None
    times = [_time_of(line.strip(), file, number) for number, line in enumerate(lines, 1) if line.strip()]
    if len(times) < FEWEST:
        raise UsageError(f"{file} has {len(times)} arrivals, and a p99 takes {FEWEST} at least", EXAMPLE)
    arrivals = np.sort(np.array(times))
    if arrivals[0] == arrivals[-1]:
        raise UsageError(f"all arrivals in {file} are at the same time", EXAMPLE)
    if (arrivals == np.floor(arrivals)).all():
        arrivals = np.sort(arrivals + rng.random(len(arrivals)))
    since_first: Seconds = arrivals - arrivals[0]
    return since_first


def _time_of(text: str, file: Path, number: int) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(f"{file}, line {number}: {text[:40]!r} is no time", EXAMPLE) from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not np.isfinite(seconds):
        raise UsageError(f"{file}, line {number}: {text[:40]!r} is no time", EXAMPLE)
    return seconds


def rate_of(arrivals: Seconds) -> float:
    """Requests a second of rising times."""
    return float((len(arrivals) - 1) / (arrivals[-1] - arrivals[0]))


def deal(
    arrivals: Seconds, work: Seconds, workers: int, balance: Balance, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The worker [N] of each request; `work` [N] are the seconds that each takes.

    Of `least` and `connections` the queues are followed as if nobody were refused.
    """
    if workers == 1 or balance == "random":
        return rng.integers(workers, size=len(arrivals))
    follow = {"least": _least, "shared": _shared, "connections": _kept_connections}[balance]
    return np.array(follow(arrivals.tolist(), work.tolist(), workers, rng), np.int64)


def _least(arrivals: list[float], work: list[float], workers: int, rng: np.random.Generator) -> list[int]:
    """Each request to one of the workers with the fewest."""
    counts, free_at = [0] * workers, [0.0] * workers
    ends: list[tuple[float, int]] = []
    chosen = []
    for now, seconds, start in zip(
        arrivals, work, rng.integers(workers, size=len(work)).tolist(), strict=True
    ):
        while ends and ends[0][0] <= now:
            counts[heapq.heappop(ends)[1]] -= 1
        fewest = min(counts)
        worker = counts.index(fewest, start) if fewest in counts[start:] else counts.index(fewest)
        counts[worker] += 1
        free_at[worker] = max(now, free_at[worker]) + seconds
        heapq.heappush(ends, (free_at[worker], worker))
        chosen.append(worker)
    return chosen


def _shared(arrivals: list[float], work: list[float], workers: int, rng: np.random.Generator) -> list[int]:
    """Each request to the worker that is free first: one queue for all, as in M/M/c."""
    del rng
    free = [(0.0, worker) for worker in range(workers)]
    chosen = []
    for now, seconds in zip(arrivals, work, strict=True):
        at, worker = free[0]
        heapq.heapreplace(free, (max(now, at) + seconds, worker))
        chosen.append(worker)
    return chosen


def _kept_connections(
    arrivals: list[float], work: list[float], workers: int, rng: np.random.Generator
) -> list[int]:
    """Each request over the connection that became free last; where none is free, over a new one, to any worker."""
    free_at = [0.0] * workers
    ends: list[tuple[float, int]] = []
    idle: list[int] = []
    chosen = []
    for now, seconds in zip(arrivals, work, strict=True):
        while ends and ends[0][0] <= now:
            idle.append(heapq.heappop(ends)[1])
        worker = idle.pop() if idle else int(rng.integers(workers))
        free_at[worker] = max(now, free_at[worker]) + seconds
        heapq.heappush(ends, (free_at[worker], worker))
        chosen.append(worker)
    return chosen
