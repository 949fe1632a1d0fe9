"""`rbserve recommend`: the most accurate variant that meets latency objectives, with the probability that it does.

The probability of meeting an objective comes from Student's t over the statistics of the processes, as the interval
beside it does: a limit inside the interval is never met for sure. For a percentile it is at most the binomial
probability that so few calls exceed the limit by luck, and `runs_needed` calls are needed to judge it at all. A
variant that was timed in a single process is not recommended, because the spread between processes is unknown.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from rbserve.core.errors import DataError, UsageError
from rbserve.home.commands import (
    measured_path,
    profile_command,
    serve_command,
    training_command,
    why_absent,
)
from rbserve.machine.environment import environment
from rbserve.profilers.choose.asked_runs import asked_runs, listing, slates_of
from rbserve.profilers.choose.objectives import Objective, ObjectiveCheck, check_objective
from rbserve.profilers.choose.recommendation import Candidate, Recommendation
from rbserve.profilers.compare.baselines import gap_below, judge_of, levels_of
from rbserve.profilers.compare.points import accuracy_interval, accuracy_of
from rbserve.profilers.compare.sections import aside, difference, shared_rows
from rbserve.profilers.compare.uncertainty import Draws, Evidence, interval_of, run_times
from rbserve.runs.baselines import forms_of
from rbserve.runs.changes import display_name
from rbserve.runs.measurement import Measurement, Result, baseline_title, key_here
from rbserve.runs.plan import Slate
from rbserve.runs.summary import by_scope
from rbserve.stats.intervals import runs_needed
from rbserve.stats.metrics import better_direction, metric_title


def recommend(
    measurements: Sequence[Measurement],
    objectives: Sequence[Objective],
    *,
    slate: Slate | None = None,
    dataset: str | None = None,
    metric: str | None = None,
    task: str | None = None,
    scope: str | None = None,
    threads: int | None = None,
    confidence: float = 0.95,
) -> Recommendation:
    """The most accurate variant that meets every objective with a probability of at least `confidence`.

    Where the runs' requests have no labels, the fastest of those variants. An argument may be None where all runs
    agree in it. Where runs may not be compared with each other, the newest of this machine are taken, else the newest.
    Raises UsageError for an argument that has to be given, DataError where calls are too few to certify a percentile.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"--confidence must lie between 0 and 1, not {confidence:g}", "for example 0.95")
    runs = [part for measurement in measurements for part in by_scope(measurement)]
    group, others, metric, slate = asked_runs(runs, slate, dataset, metric, task, scope, threads)
    evidence = Evidence()
    shared = shared_rows(group)
    judge = judge_of(group, shared)
    candidates = [
        _candidate(run, result, objectives, metric, confidence, aside(run, shared), evidence, judge)
        for run in group
        for result in run.results
        if result.slate == slate
    ]
    _check_certified(candidates, objectives, slate, group)
    first = group[0]
    rises = better_direction(metric, first.task) == "higher"
    meets = _best_first(candidates, rises)
    pick = meets[0] if meets else None
    baselines = {
        baseline_title(name, forms_of(judge)): level for name, level in levels_of(judge, metric).items()
    }
    draws = _draws(group, evidence, metric)
    return Recommendation(
        dataset=first.dataset,
        task=first.task,
        metric=metric,
        objectives=[objective.text for objective in objectives],
        slate=slate,
        scope=first.plan.scope,
        threads=first.plan.threads,
        confidence=confidence,
        cpu=first.environment.cpu,
        comparability_key=first.comparability_key,
        pick=pick,
        most_accurate_probability=_most_accurate(meets, draws) if rises else None,
        faster=_faster(meets, draws) if rises else None,
        meets=meets,
        refused=_fastest_first(candidates),
        elsewhere=_elsewhere(group, others, slate),
        notes=list(_notes(first, pick, metric, baselines)),
        metric_title=metric_title(metric, first.task),
        baselines=baselines,
    )


def _draws(
    group: Sequence[Measurement], evidence: Evidence, metric: str
) -> dict[tuple[str, str], Draws | None]:
    """The accuracy of every variant of the runs in paired resamples, by model and variant."""
    return {
        (display_name(run), result.variant): evidence.accuracy(run, result.variant, metric)
        for run in group
        for result in run.results
    }


def _best_first(candidates: Sequence[Candidate], rises: bool) -> list[Candidate]:
    """Those that are not refused: the most accurate first, behind them those below a baseline; then by p50 and name."""
    return sorted(
        (candidate for candidate in candidates if candidate.refused is None),
        key=lambda candidate: (
            bool(candidate.below),
            -(candidate.accuracy or 0.0) if rises else candidate.accuracy or 0.0,
            candidate.p50_ms,
            candidate.label,
        ),
    )


def _fastest_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that are refused, by p50, then by name."""
    refused = (candidate for candidate in candidates if candidate.refused)
    return sorted(refused, key=lambda candidate: (candidate.p50_ms, candidate.label))


# ---- One variant ----


def _candidate(
    run: Measurement,
    result: Result,
    objectives: Sequence[Objective],
    metric: str,
    confidence: float,
    apart: str | None,
    evidence: Evidence,
    judge: Measurement,
) -> Candidate:
    times = run_times(run, result.variant, result.slate)
    checks, shares = [], []
    for objective in objectives if times else ():
        draws = evidence.latency(run, result.variant, result.slate, objective.drawn_as)
        assert draws is not None
        below = draws < objective.limit_ms
        shares.append(below)
        checks.append(check_objective(objective, times, float(below.mean())))
    bounds = [check.binomial for check in checks if check.binomial is not None]
    together = float(np.logical_and.reduce(shares).mean()) if shares else None
    probability = None if together is None or len(times) == 1 else min([together, *bounds])
    accuracy = accuracy_of(run, result, metric)
    return Candidate(
        model=display_name(run),
        variant=result.variant,
        run=run.id,
        accuracy=accuracy,
        accuracy_ci95=accuracy_interval(run, result, metric),
        p50_ms=result.latency_ms.p50,
        checks=checks,
        probability=probability,
        refused=_refusal(run, accuracy, metric, checks, probability, confidence, apart),
        serve=serve_command(run, result.variant),
        absent=_absence(run),
        inconclusive=result.inconclusive,
        warnings=result.warnings,
        below=gap_below(run if apart else judge, run, result, metric, evidence),
        unjudged=run.unjudged,
    )


def _absence(run: Measurement) -> str | None:
    """Why the measured artefact cannot be served from here, and what makes it anew; None where it can."""
    reason = why_absent(run)
    if reason is None:
        return None
    if measured_path(run).is_dir():
        return f"{reason}; {profile_command(run)} measures what is there now"
    making = training_command(run)
    return f"{reason}; {making} makes it" if making else reason


def _refusal(
    run: Measurement,
    accuracy: float | None,
    metric: str,
    checks: Sequence[ObjectiveCheck],
    probability: float | None,
    confidence: float,
    apart: str | None,
) -> str | None:
    """The reason that rules a variant out; a certain miss of an objective comes before missing evidence."""
    for check in checks:
        if check.between_processes < 1 - confidence and check.over:
            return (
                f"misses {check.objective}: {check.over:,} of {check.n:,} calls took longer{_measured(check)}"
            )
    if run.random:
        return "its weights are random: latency only"
    if accuracy is None and not run.unjudged:
        return f"no {metric_title(metric, run.task)} was measured"
    if apart:
        return f"{apart}: its accuracy cannot be compared"
    if not checks:
        return "its run file keeps no raw samples"
    for check in checks:
        if check.n < check.runs_needed:
            return f"{check.objective} is not certified: {check.n:,} timed calls, {check.runs_needed:,} are needed"
    if probability is None:
        worst = min(checks, key=lambda check: check.probability)
        return f"one process was timed: how far processes differ is unknown, --processes 5 tells{_measured(worst)}"
    if probability < confidence:
        worst = min(checks, key=lambda check: check.probability)
        known = f"with probability {probability:.2f}, less than {confidence:g}"
        return f"meets {worst.objective} {known}{_measured(worst)}"
    return None


def _measured(check: ObjectiveCheck) -> str:
    if check.measured_ms is None:
        return ""
    interval = f" [{check.ci95_ms[0]:.3g}, {check.ci95_ms[1]:.3g}]" if check.ci95_ms else ""
    return f", {check.objective.partition('<')[0]} is {check.measured_ms:.3g}{interval} ms"


def _check_certified(
    candidates: Sequence[Candidate],
    objectives: Sequence[Objective],
    slate: Slate,
    group: Sequence[Measurement],
) -> None:
    """Raises DataError where no variant has the calls that certify a percentile, and none certainly misses it."""
    lacking = [
        candidate for candidate in candidates if candidate.refused and "is not certified" in candidate.refused
    ]
    if not lacking or any(
        candidate.refused is None or "with probability" in candidate.refused for candidate in candidates
    ):
        return
    q = max(objective.fraction or 0.0 for objective in objectives)
    most, need = max(check.n for candidate in lacking for check in candidate.checks), runs_needed(q)
    first, runs = group[0], math.ceil(need / 5)
    best = sorted(lacking, key=lambda candidate: -(candidate.accuracy or 0.0))
    rows = [name for name in dict.fromkeys(candidate.model for candidate in best) if "(" not in name][:4]
    models = (
        ",".join(rows) or "ARTEFACT"
    )  # of other options than the zoo's, a model is named by its directory
    raise DataError(
        f"p{100 * q:g} is not certified by these runs: at most {most:,} timed calls of a variant at slate {slate}, "
        f"{need:,} are needed",
        f"rbserve profile --models {models} --dataset {shlex.quote(first.dataset)} --slates {slate} "
        f"--processes 5 --runs {runs} --seconds 600",
    )


# ---- How sure ----


def _most_accurate(meets: Sequence[Candidate], draws: dict[tuple[str, str], Draws | None]) -> float | None:
    """Share of resamples in which the first of `meets` is no less accurate than the others."""
    own = [draws.get((candidate.model, candidate.variant)) for candidate in meets]
    known = [sample for sample in own if sample is not None]
    if not known or len(known) < len(meets):
        return None
    values = np.stack(known)
    values = values[:, ~np.isnan(values).any(axis=0)]
    return float(np.mean(values[0] >= values.max(axis=0))) if values.shape[1] else None


def _faster(meets: Sequence[Candidate], draws: dict[tuple[str, str], Draws | None]) -> Candidate | None:
    """The fastest that is faster than the pick and whose accuracy paired resamples do not tell from the pick's."""
    if not meets:
        return None
    best = draws.get((meets[0].model, meets[0].variant))
    alike = []
    for candidate in meets[1:]:
        own = draws.get((candidate.model, candidate.variant))
        if best is None or own is None or candidate.p50_ms >= meets[0].p50_ms:
            continue
        if candidate.below and not meets[0].below:
            continue
        gap = interval_of(best - own)
        if gap and gap[0] <= 0:
            alike.append(candidate)
    return min(alike, key=lambda candidate: candidate.p50_ms) if alike else None


# ---- Words ----


def _elsewhere(
    group: Sequence[Measurement], others: Sequence[Sequence[Measurement]], slate: Slate
) -> dict[str, str]:
    """Why models that were measured could not be chosen, by their names."""
    reasons = {
        display_name(run): f"not comparable: {difference(group[0], run)}"
        for other_group in others
        for run in other_group
    }
    reasons |= {
        display_name(run): f"not measured at slate {slate}, but at {listing(slates_of([run]))}"
        for run in group
        if slate not in slates_of([run])
    }
    chosen = {display_name(run) for run in group if slate in slates_of([run])}
    return {name: reason for name, reason in sorted(reasons.items()) if name not in chosen}


def _notes(
    run: Measurement, pick: Candidate | None, metric: str, baselines: Mapping[str, float]
) -> Iterator[str]:
    """Sentences about the limits of the answer."""
    if pick:
        yield from _cautions(pick, run.task, metric, baselines)
    machine = environment()
    if key_here(run, machine) != run.comparability_key:
        now = msgspec.structs.replace(run, environment=machine)
        yield f"Measured elsewhere or earlier, not on this machine as it is now: {difference(run, now)}."
    if run.plan.scope == "forward":
        yield (
            "Scope forward: looking ids up and HTTP are not in these times; rbserve profile --scope end_to_end has the "
            "first."
        )


def _cautions(pick: Candidate, task: str, metric: str, baselines: Mapping[str, float]) -> Iterator[str]:
    """What speaks against the pick: a better baseline, a disturbed latency, a doubtful accuracy."""
    better = {
        name: value
        for name, value in baselines.items()
        if pick.accuracy is not None and _is_better(value, pick.accuracy, metric, task)
    }
    for name, value in sorted(better.items()):
        yield (
            f"{name}, a baseline, has {metric_title(metric, task)} {value:.4f}, better than the "
            f"pick's {pick.accuracy:.4f}."
        )
    if pick.below:
        yield f"No variant that meets the limits is above the best baseline: the pick is {pick.below.text}."
    if pick.unjudged:
        yield f"Accuracy was not measured: {pick.unjudged}. The pick is the fastest variant that meets the limits."
    yield from (f"INCONCLUSIVE, the pick's latency: {reason}." for reason in pick.inconclusive)
    yield from (f"The pick: {warning}." for warning in pick.warnings)


def _is_better(value: float, other: float, metric: str, task: str) -> bool:
    return value > other if better_direction(metric, task) == "higher" else value < other
