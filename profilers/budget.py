"""How many processes and runs fit into a budget of seconds, from what one pilot process of each variant cost.

More processes narrow the interval more than more runs do, and 200 runs in each of five are what certifies p99: so the
plan has five processes or more, as many as leave 200 runs to each variant. Variants share the time equally; what a fast
one cannot use, the slower ones get.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from rbserve.core.errors import UsageError

PROCESSES = (5, 30)  # fewest that show the spread between them, most that are worth starting
RUNS = 200  # wanted
MOST_RUNS = 1000
FEWEST_RUNS = 3
PILOT_RUNS = 10


class Cost(NamedTuple):
    """Seconds of a variant: of a process without its timed runs, and of one run of every scope and slate."""

    process_s: float
    run_s: float


class Schedule(NamedTuple):
    """Processes of every variant, runs of each, and about how many seconds that takes."""

    processes: int
    runs_of: dict[str, int]
    seconds: float


def schedule(costs: Mapping[str, Cost], seconds: float, processes: int = 0) -> Schedule:
    """The plan for what is left of a budget; `processes` fixes their number where it is not 0.

    Where the budget is too short for the fewest processes and runs, the plan is these, and takes longer.
    """
    fewest, most = (processes, processes) if processes else PROCESSES
    for count in range(most, fewest, -1):
        runs_of = _runs_of(costs, seconds, count)
        if min(runs_of.values()) >= RUNS:
            break
    else:
        count, runs_of = fewest, _runs_of(costs, seconds, fewest)
    return Schedule(count, runs_of, _seconds(costs, count, runs_of))


def check_budget(seconds: float) -> None:
    """Raises UsageError for what is no budget."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"--budget takes seconds above 0, not {seconds:g}", "for example --budget 60")


def _runs_of(costs: Mapping[str, Cost], seconds: float, processes: int) -> dict[str, int]:
    """Runs of each variant, the cheapest first: what it leaves of its share goes to the others."""
    left, runs_of = seconds, {}
    for done, (variant, cost) in enumerate(sorted(costs.items(), key=lambda item: item[1].run_s)):
        share = left / (len(costs) - done) / processes - cost.process_s
        runs = int(min(MOST_RUNS, max(FEWEST_RUNS, share / max(cost.run_s, 1e-9))))
        left -= processes * (cost.process_s + runs * cost.run_s)
        runs_of[variant] = runs
    return runs_of


def _seconds(costs: Mapping[str, Cost], processes: int, runs_of: Mapping[str, int]) -> float:
    return processes * sum(cost.process_s + runs_of[name] * cost.run_s for name, cost in costs.items())
