"""Measures base against head for the gate: round after round of fresh processes, until every metric is decided."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.tasks import CTR
from rbserve.core.types import Progress, no_progress
from rbserve.data.artifact import Artifact
from rbserve.machine.environment import environment
from rbserve.profilers.gate.accuracy import accuracy_loss, figures
from rbserve.profilers.gate.config import CONFIG_FILE, GateConfig, Tolerance
from rbserve.profilers.gate.contenders import Data, contenders_of
from rbserve.profilers.gate.sides import METRICS, Contender, Key, Pair, Scope, is_accuracy, job_of
from rbserve.profilers.gate.verdict import (
    FEWEST_PROCESSES,
    FIRST_LOOK,
    Decision,
    Estimate,
    Line,
    SequentialTest,
    Suite,
    Verdict,
    exact,
    judged,
    looks,
    suite_of,
)
from rbserve.profilers.measure.harness import run_job
from rbserve.runs.plan import Slate
from rbserve.stats.own_metrics import is_own, load_metrics

EVERYTHING = Scope()
NO_SPREAD = (
    "no spread between processes was seen, so that it is unknown: a clock too coarse, or copied figures"
)


class GateOutcome(NamedTuple):
    """The suite, and the samples behind it."""

    suite: Suite
    contenders: list[Contender]


def check(
    pairs: Sequence[Pair],
    data_of: Callable[[Artifact], Data],
    config: GateConfig,
    scope: Scope = EVERYTHING,
    progress: Progress = no_progress,
    clock: Callable[[], float] = time.monotonic,
) -> GateOutcome:
    """Measures the pairs within the budget of seconds, and judges every metric of every pair."""
    begin = clock()
    check_scope(scope, config)
    with tempfile.TemporaryDirectory(prefix="rbserve-check-") as folder:
        lines: list[Line] = []
        contenders: list[Contender] = []
        for number, pair in enumerate(pairs):
            comparable, missing = contenders_of(pair, data_of, config, scope, Path(folder) / str(number))
            contenders += comparable
            lines += missing
        gate = _Gate(contenders, config, scope, begin + config.budget, progress, clock)
        rounds = gate.run()
        lines += gate.lines()
    notes = dict.fromkeys(contender.note for contender in contenders if contender.note)
    return GateOutcome(suite_of(lines, config, environment(), rounds, clock() - begin, [*notes]), contenders)


def check_scope(scope: Scope, config: GateConfig) -> None:
    """Raises UsageError for a metric that the gate does not know, for none, and for one of the user's own that has no
    tolerance or is no function."""
    own = scope.own_metrics
    unknown = {*scope.metrics} - {*METRICS, *own}
    if unknown or not scope.metrics:
        raise UsageError(
            f"unknown metric: {', '.join(sorted(unknown)) or 'none'}",
            f"known: {', '.join(METRICS)}, and your own MODULE:FUNCTION",
        )
    if own and config.tolerance.own is None:
        raise UsageError(
            f"how much less of {own[0]} is no regression is not said",
            f"--metric-tolerance 0.01, or own = 0.01 below [tolerance] in {CONFIG_FILE}",
        )
    load_metrics(own)


class _Gate:
    """Runs rounds until everything is decided or the budget is spent."""

    def __init__(
        self,
        contenders: list[Contender],
        config: GateConfig,
        scope: Scope,
        deadline: float,
        progress: Progress,
        clock: Callable[[], float],
    ) -> None:
        self._contenders, self._config, self._scope = contenders, config, scope
        self._deadline, self._progress, self._clock = deadline, progress, clock
        self._decisions: dict[Key, Decision] = {}
        self._rounds = 0

    def run(self) -> int:
        """Measures and judges; returns how many rounds it took."""
        test: SequentialTest[Key] | None = None
        planned = self._most_rounds()
        schedule: set[int] = set()
        round_seconds = 0.0
        while self._rounds < planned and self._waiting(test):
            begin = self._clock()
            if self._rounds >= 2 and begin + round_seconds > self._deadline:
                break
            for contender in self._waiting(test):
                self._round(contender, _undecided_slates(contender, test))
            self._rounds += 1
            round_seconds = self._clock() - begin
            if self._rounds == 2:  # the first also judges the test rows
                planned = self._affordable(round_seconds, planned)
                test = self._sequential_test(planned)
                schedule = set(looks(planned))
            if test and self._rounds in schedule:
                test.look(self._rounds, self._estimates(test))
        if test is None:
            test = self._sequential_test(max(1, self._rounds))
        if self._rounds not in schedule:
            test.look(max(1, self._rounds), self._estimates(test))
        self._decisions |= test.decisions
        self._judge_accuracy()
        return self._rounds

    def _most_rounds(self) -> int:
        if not any(contender.live for contender in self._contenders):
            return 0
        if {"p50", "peak_rss"} & {*self._scope.metrics}:
            return self._config.max_rounds
        return 1 if self._scope.judges else 0

    def _affordable(self, round_seconds: float, most: int) -> int:
        """How many rounds the budget has room for, an even number: errors are spent over no more than these."""
        left = int((self._deadline - self._clock()) / round_seconds)
        return max(2, min(most, self._rounds + left) // 2 * 2)

    def _sequential_test(self, rounds: int) -> SequentialTest[Key]:
        """The test of the metrics that more rounds can decide, of contenders that are not advisory."""
        tolerances = {
            key: self._tolerance(contender, key)
            for contender in self._contenders
            if contender.advisory is None
            for key in contender.keys
            if key.metric in ("p50", "peak_rss")
        }
        return SequentialTest(tolerances, self._config.alpha / 2, self._config.beta, rounds)

    def _tolerance(self, contender: Contender, key: Key) -> float:
        """The tolerance in the unit of estimates: a log ratio, or the loss of an accuracy."""
        tolerance: Tolerance = self._config.tolerance
        if key.metric == "p50":
            return float(np.log1p(tolerance.p50 if len(contender.live) == 2 else tolerance.p50_baseline))
        if key.metric in ("peak_rss", "file_size"):
            return float(np.log1p(getattr(tolerance, key.metric)))
        if is_own(key.metric):
            assert tolerance.own is not None
            return tolerance.own
        return tolerance.auc if key.metric == CTR.metric else tolerance.ndcg

    def _waiting(self, test: SequentialTest[Key] | None) -> list[Contender]:
        """The contenders to measure in the next round."""
        undecided = {(key.model, key.variant) for key in test.undecided} if test else set()

        def waits(contender: Contender) -> bool:
            if not contender.judgeable or not test:
                return self._rounds < FIRST_LOOK
            return (contender.model, contender.variant) in undecided

        return [
            contender
            for contender in self._contenders
            if contender.live and not contender.failed and waits(contender)
        ]

    def _round(self, contender: Contender, slates: Sequence[Slate]) -> None:
        """A fresh process of each live side, the order turned around from round to round."""
        self._progress(
            self._rounds, self._config.max_rounds, f"rounds at most, {contender.model} {contender.variant}"
        )
        for side in contender.live if self._rounds % 2 == 0 else contender.live[::-1]:
            job = job_of(contender, side, slates, self._rounds)
            try:
                side.reports.append(run_job(job, side.worker))
            except RbserveError as error:
                name = "base" if side is contender.base else "head"
                contender.failed = f"{name} could not be measured: {error.message}"
                return

    def _estimates(self, test: SequentialTest[Key]) -> dict[Key, Estimate]:
        return {
            key: contender.estimate(key)
            for contender in self._contenders
            if not contender.failed
            for key in contender.keys
            if key in test.undecided
        }

    def _judge_accuracy(self) -> None:
        """Judges accuracies, which are measured once and have their own half of alpha."""
        tolerances, estimates = {}, {}
        for contender in self._contenders:
            for key in contender.keys:
                if is_accuracy(key.metric) and contender.advisory is None:
                    tolerances[key] = self._tolerance(contender, key)
                    estimate = accuracy_loss(contender, key)
                    if estimate:
                        estimates[key] = estimate
        test = SequentialTest(tolerances, self._config.alpha / 2, self._config.beta, 1)
        test.look(1, estimates)
        self._decisions |= test.decisions

    # ---- Lines ----

    def lines(self) -> list[Line]:
        """A line for every figure."""
        return [self._line(contender, key) for contender in self._contenders for key in contender.keys]

    def _line(self, contender: Contender, key: Key) -> Line:
        line = Line(
            key.model, key.metric, Verdict.MISSING, key.variant, key.scope, key.slate,
            rounds=contender.head.processes(key), reason=contender.failed,
        )  # fmt: skip
        if contender.failed:
            return line
        relative = not is_accuracy(key.metric)
        decision = self._decisions.get(key) or self._exact_or_advisory(contender, key)
        if decision is None:
            unjudged = Verdict.NOT_COMPARABLE if contender.advisory else Verdict.MISSING
            reason = contender.advisory or "nothing was measured"
            return msgspec.structs.replace(line, verdict=unjudged, reason=reason)
        before, after = figures(contender, key)
        line = msgspec.structs.replace(line, base=before, head=after)
        line = judged(line, decision, self._tolerance(contender, key), relative)
        if contender.advisory:
            return msgspec.structs.replace(line, verdict=Verdict.NOT_COMPARABLE, reason=contender.advisory)
        return msgspec.structs.replace(line, reason=self._missing_evidence(contender, line))

    def _exact_or_advisory(self, contender: Contender, key: Key) -> Decision | None:
        """The decision on a figure that is exact (a file's size), or advisory."""
        if key.metric == "file_size":
            estimate: Estimate | None = exact(contender.base.file_bytes, contender.head.file_bytes)
        elif not contender.advisory:
            return None
        else:
            estimate = (
                contender.estimate(key)
                if key.metric in ("p50", "peak_rss")
                else accuracy_loss(contender, key)
            )
        if estimate is None:
            return None
        test = SequentialTest(
            {key: self._tolerance(contender, key)}, self._config.alpha, self._config.beta, 1
        )
        test.look(1, {key: estimate})
        return test.decisions[key]

    def _missing_evidence(self, contender: Contender, line: Line) -> str | None:
        """What an inconclusive line lacks; None for other lines."""
        if line.verdict is not Verdict.INCONCLUSIVE:
            return None
        if is_accuracy(line.metric):
            return f"{len(set(contender.rows.users)):,} test users are too few to tell so small a loss"
        fewest = FIRST_LOOK if len(contender.live) == 2 else FEWEST_PROCESSES
        for name, side in (("base", contender.base), ("head", contender.head)):
            if len(side.reports) < fewest:
                return f"{name} has {len(side.reports)} process(es), and {fewest} are the fewest to judge by"
        if line.low is None and line.high is None:
            return NO_SPREAD
        return f"{line.rounds} processes were too few for so large a spread; raise the budget, or quieten the machine"


def _undecided_slates(contender: Contender, test: SequentialTest[Key] | None) -> Sequence[Slate]:
    """The slates to measure: all of them while memory is undecided, whose peak is that of all slates of a process."""
    if not any(key.metric in ("p50", "peak_rss") for key in contender.keys):
        return contender.plan.slates[:1]  # a process has to time something
    if test is None or not contender.judgeable:
        return contender.plan.slates
    undecided = [key for key in contender.keys if key in test.undecided]
    if any(key.metric == "peak_rss" for key in undecided):
        return contender.plan.slates
    return [slate for slate in contender.plan.slates if any(key.slate == slate for key in undecided)]
