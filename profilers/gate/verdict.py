"""Whether a change made a model worse: estimates, repeated looks, verdicts. Nothing here measures or prints.

The statistic. A process's latency is the median of its timed calls (the one statistic, fixed beforehand). A round
runs base and head in a fresh process each; its change is log(head / base). Processes differ more than calls do, so a
round is one observation, and the change is the mean over rounds, trimmed by a fifth at either end, with Yuen's
standard error (Yuen, 1974): on a shared machine a few processes in a hundred are disturbed by a neighbour. What drifts
hits both sides of a round, and the order turns around from round to round.

The verdict. Two one-sided tests against the tolerance: REGRESSED when the lower bound lies above it, PASS when the
upper bound does not, else INCONCLUSIVE, which asks for more rounds.

What is exact. The size of a file, and the scores of the same rows where all are equal. A time never is: where processes
show no spread at all, their spread is not 0 but unknown, and so is the change.

The errors. `alpha` is the chance that a suite with no change beyond tolerance is called REGRESSED, over all models,
metrics and looks. Half is for what is measured once (accuracies), half for what more rounds change. That half is spent
in proportion to the rounds (a linear spending function; the sum over looks bounds the error whatever their
dependence), and at each look Holm's procedure divides it among the hypotheses. `beta` bounds a false PASS of each
metric, spent alike; a suite passes only if all do, which needs no further correction (intersection-union).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbserve.core.tasks import CTR
from rbserve.machine.environment import Environment
from rbserve.profilers.gate.config import GateConfig
from rbserve.runs.plan import Slate
from rbserve.stats.bootstrap import RESAMPLES
from rbserve.stats.intervals import FEWEST_USERS
from rbserve.stats.listwise import gains_at_k
from rbserve.stats.metrics import CTR_METRICS, Metric, Rows

FIRST_LOOK = 6  # rounds; on a machine with two speeds, fewer may agree by chance and look certain
FEWEST_PROCESSES = 5  # of each side, where they did not run in turn
GROWTH = 4 / 3  # from look to look
TRIM = 0.2

Key = TypeVar("Key", bound=Hashable)


class Verdict(StrEnum):
    """The verdict on one metric, or on a suite."""

    PASS = "PASS"
    REGRESSED = "REGRESSED"
    INCONCLUSIVE = "INCONCLUSIVE"
    MISSING = "MISSING"
    NOT_COMPARABLE = "NOT-COMPARABLE"


# Worst first: a suite's verdict is the first that any of its metrics has. 1 is a failure, 2 usage, 130 an interruption.
EXIT_CODES = {
    Verdict.REGRESSED: 3,
    Verdict.MISSING: 5,
    Verdict.NOT_COMPARABLE: 6,
    Verdict.INCONCLUSIVE: 4,
    Verdict.PASS: 0,
}


def suite_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """The worst verdict; MISSING where there is none, because a gate that measured nothing must not pass."""
    return next((verdict for verdict in EXIT_CODES if verdict in verdicts), Verdict.MISSING)


# ---- Estimates ----


@dataclass(frozen=True)
class Estimate:
    """A change (above 0: worse), its standard error, and the degrees of freedom of Student's t.

    An error of 0 is a change known exactly (`exact`, equal scores); an infinite one, a change that cannot be judged.
    """

    change: float
    error: float
    freedom: float = math.inf

    def p_value(self, tolerance: float) -> float:
        """The probability of a change at least this large when the true change is the tolerance."""
        if self.error == 0 or math.isinf(self.error):
            return float(self.change <= tolerance or self.error > 0)
        from scipy.special import stdtr

        return float(stdtr(self.freedom, (tolerance - self.change) / self.error))

    def lower(self, level: float) -> float:
        """The bound below which the true change lies with chance `level` at most."""
        return self.change - self._margin(level)

    def upper(self, level: float) -> float:
        """The bound above which the true change lies with chance `level` at most."""
        return self.change + self._margin(level)

    def _margin(self, level: float) -> float:
        if self.error == 0:
            return 0.0
        if level <= 0 or math.isinf(self.error):
            return math.inf
        from scipy.special import stdtrit

        return float(-stdtrit(self.freedom, level)) * self.error


UNKNOWN = Estimate(math.nan, math.inf)


def paired(base: ArrayLike, head: ArrayLike) -> Estimate:
    """Log ratio of head to base over rounds [R]: trimmed mean and Yuen's error.

    The error is unknown (infinite) of fewer than FIRST_LOOK rounds, and where no spread is seen.
    """
    changes = np.sort(np.log(np.asarray(head, np.float64)) - np.log(np.asarray(base, np.float64)))
    rounds = len(changes)
    if rounds < FIRST_LOOK:
        return Estimate(float(np.median(changes)), math.inf) if rounds else UNKNOWN
    cut = int(TRIM * rounds)
    untrimmed = rounds - 2 * cut
    winsorised = np.clip(changes, changes[cut], changes[rounds - 1 - cut])
    error = winsorised.std(ddof=1) * math.sqrt(rounds - 1) / math.sqrt(untrimmed * (untrimmed - 1))
    return Estimate(float(changes[cut : rounds - cut].mean()), _seen(float(error)), untrimmed - 1)


def unpaired(base: ArrayLike, head: ArrayLike) -> Estimate:
    """Log ratio of head [Q] to base [P], processes that did not run in turn (`welch`).

    The error is unknown (infinite) where a side has fewer than FEWEST_PROCESSES.
    """
    estimate = welch(base, head)
    few = min(np.size(base), np.size(head)) < FEWEST_PROCESSES
    return Estimate(estimate.change, math.inf) if few else estimate


def welch(base: ArrayLike, head: ArrayLike) -> Estimate:
    """Log ratio of head [Q] to base [P], each side with its own spread (Welch, 1947); infinite error without one."""
    logs = [np.log(np.asarray(side, np.float64)) for side in (base, head)]
    if not all(len(side) for side in logs):
        return UNKNOWN
    change = float(logs[1].mean() - logs[0].mean())
    shares = [float(side.var(ddof=1)) / len(side) if len(side) > 1 else 0.0 for side in logs]
    if min(shares) == 0:
        return Estimate(change, math.inf)
    variance = sum(shares)
    freedom = variance**2 / sum(share**2 / (len(side) - 1) for share, side in zip(shares, logs, strict=True))
    return Estimate(change, math.sqrt(variance), freedom)


def _seen(error: float) -> float:
    """A standard error of measurements; 0 means that no spread was seen, and is unknown (infinite)."""
    return error or math.inf


def exact(base: float, head: float) -> Estimate:
    """Log ratio of two figures without spread."""
    if base == head:
        return Estimate(0.0, 0.0)
    return Estimate(
        math.log(head / base) if min(base, head) > 0 else math.copysign(math.inf, head - base), 0.0
    )


def auc_loss(labels: ArrayLike, users: ArrayLike, base: ArrayLike, head: ArrayLike) -> Estimate:
    """AUC of base minus that of head on the same rows [n]: `scores_loss` of labels, scores and users."""
    rows = [(np.asarray(labels), np.asarray(scores), np.asarray(users)) for scores in (base, head)]
    return scores_loss(CTR_METRICS[CTR.metric], rows[0], rows[1], users)


def scores_loss(metric: Metric, base: Rows, head: Rows, users: ArrayLike) -> Estimate:
    """A metric of base minus that of head on the same rows; the error is a bootstrap's over users [n], paired.

    Equal scores lose exactly nothing. Other scores whose resamples show no spread do so only where at least
    FEWEST_USERS lose nothing; else the error is unknown.
    """
    assert metric.draws is not None
    number = len(np.unique(np.asarray(users)))
    if all(np.array_equal(before, after) for before, after in zip(base, head, strict=True)):
        return Estimate(0.0, 0.0, number - 1)
    drawn = metric.draws(*base, resamples=RESAMPLES, seed=0) - metric.draws(
        *head, resamples=RESAMPLES, seed=0
    )
    drawn = drawn[~np.isnan(drawn)]
    change = metric.compute(*base) - metric.compute(*head)
    if math.isnan(change) or len(drawn) < 2:
        return UNKNOWN
    return _loss(change, float(drawn.std(ddof=1)), number - 1, number)


def ndcg_loss(base: ArrayLike, head: ArrayLike) -> Estimate:
    """nDCG@10 of base minus that of head, from the ranks [U] of the same users' targets (0: not in the list).

    A row is a user, so that the bootstrap over users has this error in closed form. Users none of whose targets is in
    either list are no evidence: without a spread, at least FEWEST_USERS others must lose nothing.
    """
    losses: NDArray[np.float64] = gains_at_k(base, 10) - gains_at_k(head, 10)
    if len(losses) < 2:
        return UNKNOWN
    ranked = int(np.count_nonzero(np.asarray(base) + np.asarray(head)))
    error = float(losses.std(ddof=1) / math.sqrt(len(losses)))
    return _loss(float(losses.mean()), error, len(losses) - 1, ranked)


def _loss(change: float, error: float, freedom: int, users: int) -> Estimate:
    """An estimate whose error of 0 counts only where `users` that lose nothing are enough to believe it."""
    known = error > 0 or (change == 0 and users >= FEWEST_USERS)
    return Estimate(change, error if known else math.inf, max(freedom, 1))


# ---- Repeated looks ----


class Decision(NamedTuple):
    """A verdict, and the bounds of the change that it rests on."""

    verdict: Verdict
    estimate: Estimate
    low: float
    high: float


class SequentialTest(Generic[Key]):
    """A family of changes held against their tolerances, looked at again and again while rounds come in.

    `rounds` is how many there can be: errors are spent in proportion to them. A decided change stays decided.
    """

    def __init__(self, tolerances: Mapping[Key, float], alpha: float, beta: float, rounds: int) -> None:
        self.tolerances = dict(tolerances)
        self.decisions: dict[Key, Decision] = {}
        self.rounds = rounds
        self._alpha, self._beta = alpha, beta
        self._seen = 0

    @property
    def undecided(self) -> set[Key]:
        return {
            key
            for key in self.tolerances
            if key not in self.decisions or self.decisions[key].verdict is Verdict.INCONCLUSIVE
        }

    def look(self, rounds: int, estimates: Mapping[Key, Estimate]) -> None:
        """Judges the undecided changes after `rounds` rounds.

        Holm's divisor counts every hypothesis that was not rejected before, those that passed as well: how many
        are left undecided depends on the data, and would make the test too bold.
        """
        assert self._seen < rounds <= self.rounds
        share = (rounds - self._seen) / self.rounds
        self._seen = rounds
        waiting = [key for key in self.tolerances if key in self.undecided and key in estimates]
        rejected = sum(decision.verdict is Verdict.REGRESSED for decision in self.decisions.values())
        levels = holm_levels(
            [estimates[key].p_value(self.tolerances[key]) for key in waiting],
            self._alpha * share,
            len(self.tolerances) - rejected,
        )
        for key, level in zip(waiting, levels, strict=True):
            self.decisions[key] = _decide(estimates[key], self.tolerances[key], level, self._beta * share)


def _decide(estimate: Estimate, tolerance: float, alpha: float, beta: float) -> Decision:
    low, high = estimate.lower(alpha), estimate.upper(beta)
    verdict = (
        Verdict.REGRESSED if low > tolerance else Verdict.PASS if high <= tolerance else Verdict.INCONCLUSIVE
    )
    return Decision(verdict, estimate, low, high)


def holm_levels(p_values: Sequence[float], alpha: float, hypotheses: int | None = None) -> list[float]:
    """The level that each p-value is held against (Holm, 1979): reject where it is not above.

    alpha / m for the smallest of m, alpha / (m - 1) for the next, and so on until one is not rejected; the rest are
    held against that one's level. `hypotheses` is m where some have no p-value here: they count, and are not rejected.
    """
    left = hypotheses if hypotheses is not None else len(p_values)
    levels = [0.0] * len(p_values)
    for index in sorted(range(len(p_values)), key=lambda place: p_values[place]):
        levels[index] = alpha / left
        if p_values[index] <= levels[index] and left > 1:
            left -= 1
    return levels


def looks(rounds: int) -> list[int]:
    """The rounds after which to look: a third more from look to look, and the last round.

    Even numbers, so that base and head have run first equally often.
    """
    taken = [min(FIRST_LOOK, rounds)]
    while taken[-1] < rounds:
        taken.append(min(rounds, max(taken[-1] + 2, 2 * round(taken[-1] * GROWTH / 2))))
    return taken


# ---- Results ----


class Line(msgspec.Struct, frozen=True):
    """The verdict on one metric of one model.

    `base` and `head` are in the metric's unit: ms, MB, or the accuracy itself. `change` with its bounds, and the
    `tolerance`, are shares (of an accuracy the absolute loss), above 0 where head is worse. A bound that does not
    exist is null. `rounds` is how many processes of head it rests on.
    """

    model: str
    metric: str
    verdict: Verdict
    variant: str | None = None
    scope: str | None = None
    slate: Slate | None = None
    base: float | None = None
    head: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    tolerance: float | None = None
    rounds: int = 0
    reason: str | None = None

    @property
    def name(self) -> str:
        """Where the figure was taken: "onnx-fp32 forward slate 1"."""
        parts = [self.variant, self.scope, None if self.slate is None else f"slate {self.slate}"]
        return " ".join(part for part in parts if part)


class Suite(msgspec.Struct, frozen=True):
    """The result of a gate: its lines, and the worst of their verdicts. `notes` say what is not compared, and why."""

    schema: int
    created: str
    verdict: Verdict
    exit_code: int
    rounds: int
    seconds: float
    config: GateConfig
    environment: Environment | None
    lines: list[Line]
    notes: list[str] = []


def suite_of(
    lines: list[Line],
    config: GateConfig,
    machine: Environment | None,
    rounds: int = 0,
    seconds: float = 0.0,
    notes: Sequence[str] = (),
) -> Suite:
    """The suite of all lines, the worst first."""
    verdict = suite_verdict([line.verdict for line in lines])
    order = list(EXIT_CODES)
    created = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    lines = sorted(lines, key=lambda line: order.index(line.verdict))
    return Suite(1, created, verdict, EXIT_CODES[verdict], rounds, seconds, config, machine, lines, [*notes])


def judged(line: Line, decision: Decision, tolerance: float, relative: bool) -> Line:
    """The line with its decision; `relative` changes are log ratios, and are written as shares."""

    def as_share(value: float) -> float | None:
        if not abs(value) < 700:  # unbounded
            return None
        return math.expm1(value) if relative else value

    return msgspec.structs.replace(
        line,
        verdict=decision.verdict,
        change=as_share(decision.estimate.change),
        low=as_share(decision.low),
        high=as_share(decision.high),
        tolerance=round(as_share(tolerance) or 0.0, 12),
    )
