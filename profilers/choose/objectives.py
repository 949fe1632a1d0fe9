"""Latency objectives of `rbserve recommend`: how they are written, and whether timed calls meet one."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import numpy as np

from rbserve.core.errors import UsageError
from rbserve.profilers.compare.uncertainty import Draws
from rbserve.stats.intervals import Interval, Statistic, certified_percentile, process_interval, runs_needed

UNITS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
EXAMPLE = "for example --slo 'p99<20ms'"


class Objective(msgspec.Struct, frozen=True):
    """An upper limit of a statistic of the time of a call: `mean`, or a percentile such as `p99`."""

    statistic: str
    limit_ms: float

    @property
    def text(self) -> str:
        """The objective as it is written: p99<20ms."""
        return f"{self.statistic}<{self.limit_ms:g}ms"

    @property
    def fraction(self) -> float | None:
        """The percentile as a fraction; None for the mean."""
        return None if self.statistic == "mean" else float(self.statistic[1:]) / 100

    @property
    def drawn_as(self) -> Statistic:
        """The statistic whose resamples are compared with the limit."""
        if self.fraction is None:
            return "mean"
        return "median" if self.fraction == 0.5 else self.fraction


class ObjectiveCheck(msgspec.Struct, frozen=True):
    """An objective and the `n` timed calls of a variant, of which `over` reach the limit.

    `runs_needed` calls certify the percentile (0 for the mean); with fewer, `measured_ms` is null. `ci95_ms` is the
    interval of a mean or a median. `between_processes` is the probability of meeting the objective by Student's t (for
    a single process by its resampled calls), `binomial` the bound by the calls over the limit, null for the mean;
    `probability` is the lower of the two.
    """

    objective: str
    measured_ms: float | None
    n: int
    processes: int
    over: int
    runs_needed: int
    between_processes: float
    binomial: float | None
    probability: float
    ci95_ms: Interval | None = None


def parse_objectives(text: str) -> list[Objective]:
    """ "p99<20ms" or several, "p50<2ms,p99<20ms". Raises UsageError for what is no upper limit of a latency."""
    objectives = [_objective(part.strip()) for part in text.split(",") if part.strip()]
    if not objectives:
        raise UsageError(f"--slo names no objective: {text!r}", EXAMPLE)
    return objectives


def _objective(text: str) -> Objective:
    match = re.fullmatch(r"([a-z]+[\d.]*)\s*<=?\s*([\d.]+)\s*([a-zµ]*)", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"--slo takes STATISTIC<TIME, not {text!r}", EXAMPLE)
    statistic, number, unit = match[1].lower(), match[2], match[3].lower()
    if not re.fullmatch(r"mean|p\d{1,2}(\.\d+)?", statistic) or statistic.strip("p0.") == "":
        hint = "mean, or a percentile from p1 to p99.99"
        if statistic == "max":
            hint = "the slowest of some calls says nothing of the next: take p99.9"
        raise UsageError(f"--slo cannot limit {match[1]!r}", hint)
    if unit not in UNITS:
        raise UsageError(
            f"--slo {text!r} has no unit of time" if not unit else f"unknown unit of time: {unit}", EXAMPLE
        )
    try:
        limit = float(number) * UNITS[unit]
    except ValueError:
        raise UsageError(f"--slo {text!r}: {number} is no number", EXAMPLE) from None
    if limit <= 0:
        raise UsageError(f"--slo {text!r}: no call takes no time", EXAMPLE)
    return Objective(statistic, limit)


def check_objective(objective: Objective, times: Sequence[Draws], between_processes: float) -> ObjectiveCheck:
    """An objective beside the times of the calls of each process, in ms."""
    runs = np.concatenate(times)
    q, drawn = objective.fraction, objective.drawn_as
    need = 0 if q is None else runs_needed(q)
    over = int(np.count_nonzero(runs >= objective.limit_ms))
    binomial = None if q is None else _binomial(over, len(runs), q)
    measured: float | None
    if q is None:
        measured = float(runs.mean())
    elif q == 0.5:  # as everywhere else: the median
        measured = float(np.median(runs))
    else:
        measured = certified_percentile(runs, q)
    return ObjectiveCheck(
        objective=objective.text,
        measured_ms=measured,
        n=len(runs),
        processes=len(times),
        over=over,
        runs_needed=need,
        between_processes=between_processes,
        binomial=binomial,
        probability=between_processes if binomial is None else min(between_processes, binomial),
        ci95_ms=process_interval(times, drawn) if drawn in ("mean", "median") else None,
    )


def _binomial(over: int, runs: int, q: float) -> float:
    """Chance of more calls past the limit than there were, if the percentile q were just at it (Clopper & Pearson)."""
    try:
        from scipy.stats import binom
    except ImportError:
        raise UsageError(
            "recommending needs scipy, which is not installed", "pip install 'rbserve[report]'"
        ) from None
    return float(binom.sf(over, runs, 1 - q))
