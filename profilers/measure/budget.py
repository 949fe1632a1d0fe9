"""How many processes and runs fit into a budget of seconds, from what one pilot process of each variant cost.

More processes narrow the interval more than more runs do, and 200 runs in each of five are what certifies p99: so the
plan has five processes or more, as many as leave 200 runs to each variant; fewer than five only where five do not fit.
A process that takes long to start makes at least the runs that a tenth of that time holds. What is left is shared
equally; what a fast variant cannot use, the slower ones get.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

FEWEST_PROCESSES = 2
PROCESSES = 5  # enough to show the spread between them
MOST_PROCESSES = 30
RUNS = 200  # wanted
MOST_RUNS = 1000
FEWEST_RUNS = 3
RUNS_TO_START = 0.1  # seconds of runs for a second of starting, as far as 200 runs go
PILOT_RUNS = 10


class Pace(NamedTuple):
    """Seconds that a variant takes: a process without its timed runs, and one run of every scope and slate."""

    process_s: float
    run_s: float


class Schedule(NamedTuple):
    """Processes of every variant, runs of each, and about how many seconds that takes."""

    processes: int
    runs_of: dict[str, int]
    seconds: float


def schedule(paces: Mapping[str, Pace], seconds: float, processes: int = 0) -> Schedule:
    """The schedule for the rest of a budget; `processes` fixes the number of processes where it is not 0.

    Where the budget is too short for the fewest processes and runs, the plan is these, and takes longer.
    """
    for count in (processes,) if processes else range(MOST_PROCESSES, PROCESSES, -1):
        runs_of = _runs_of(paces, seconds / count)
        if processes or min(runs_of.values()) >= RUNS:
            return Schedule(count, runs_of, _seconds(paces, count, runs_of))
    for count in range(PROCESSES, FEWEST_PROCESSES - 1, -1):
        runs_of = _runs_of(paces, seconds / count)
        if _seconds(paces, count, runs_of) <= seconds:
            break
    return Schedule(count, runs_of, _seconds(paces, count, runs_of))


def _runs_of(paces: Mapping[str, Pace], seconds: float) -> dict[str, int]:
    """Runs of each variant in a round of so many seconds: the fewest, and an equal share of what these leave."""
    runs_of = {variant: _fewest(pace) for variant, pace in paces.items()}
    left = seconds - _seconds(paces, 1, runs_of)
    for done, (variant, pace) in enumerate(sorted(paces.items(), key=lambda item: item[1].run_s)):
        share = max(0.0, left) / (len(paces) - done)
        more = int(min(MOST_RUNS - runs_of[variant], share / max(pace.run_s, 1e-9)))
        runs_of[variant] += more
        left -= more * pace.run_s
    return runs_of


def _fewest(pace: Pace) -> int:
    return int(max(FEWEST_RUNS, min(RUNS, RUNS_TO_START * pace.process_s / max(pace.run_s, 1e-9))))


def _seconds(paces: Mapping[str, Pace], processes: int, runs_of: Mapping[str, int]) -> float:
    return processes * sum(pace.process_s + runs_of[name] * pace.run_s for name, pace in paces.items())
