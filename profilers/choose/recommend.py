"""`rbserve recommend`: the most accurate variant that meets latency objectives, with the probability that it does.

The probability of meeting an objective comes from Student's t over the statistics of the processes, as the interval
beside it does: a limit inside the interval is never met for sure. For a percentile it is at most the binomial
probability that so few calls exceed the limit by luck, and `runs_needed` calls are needed to judge it at all. A
variant that was timed in a single process is not recommended, because the spread between processes is unknown.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from rbserve.core.errors import DataError, UsageError, unknown_name
from rbserve.core.tasks import TASKS
from rbserve.home.commands import (
    measured_path,
    profile_command,
    serve_command,
    training_command,
    why_absent,
)
from rbserve.machine.environment import environment
from rbserve.profilers.compare.baselines import gap_below, judge_of, levels_of
from rbserve.profilers.compare.points import BaselineGap, accuracy_interval, accuracy_of
from rbserve.profilers.compare.sections import aside, comparable, difference, shared_rows
from rbserve.profilers.compare.uncertainty import Draws, Evidence, interval_of, run_times
from rbserve.runs.baselines import forms_of
from rbserve.runs.changes import display_name
from rbserve.runs.measurement import Measurement, Result, baseline_title, key_here
from rbserve.runs.plan import Slate, in_order
from rbserve.runs.summary import by_scope
from rbserve.stats.intervals import Interval, Statistic, certified_percentile, process_interval, runs_needed
from rbserve.stats.metrics import METRICS, better_direction, metric_title

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


class Candidate(msgspec.Struct, frozen=True):
    """A variant of a model. `refused` is the reason why it is not recommended, null if it is allowed.

    `accuracy` is null where none was measured, such as on requests without labels; `unjudged` says why.
    `serve` is the command that serves it, null if the artefact is not where the run file says; `absent` says why, and
    which command makes it anew. `inconclusive` has the reasons why its latency is not settled, `warnings` the doubts
    about its accuracy. `below` is the gap to the best baseline where the accuracy is not above it. `probability` is
    that of meeting all objectives, null where a single process was timed.
    """

    model: str
    variant: str
    run: str
    accuracy: float | None
    accuracy_ci95: Interval | None
    p50_ms: float
    checks: list[ObjectiveCheck]
    probability: float | None
    refused: str | None
    serve: str | None
    absent: str | None = None
    inconclusive: list[str] = []
    warnings: list[str] = []
    below: BaselineGap | None = None
    unjudged: str | None = None

    @property
    def label(self) -> str:
        """The model and the variant: gdcn onnx-int8."""
        return f"{self.model} {self.variant}"


class Recommendation(msgspec.Struct, frozen=True):
    """The recommended variant, `pick`, which is null if no variant meets the objectives, and all others.

    `most_accurate_probability` is the share of resamples of the same users in which no other variant that meets the
    objectives is more accurate than the pick; null without predictions. `faster` is the fastest variant whose accuracy
    these users do not distinguish from the pick's. `metric_title` says what a ranking metric ranks. `baselines` are
    figures of predictions that ignore the user, on the pick's test rows; the `notes` name those that beat the pick.
    """

    dataset: str
    task: str
    metric: str
    objectives: list[str]
    slate: Slate
    scope: str
    threads: int
    confidence: float
    cpu: str
    comparability_key: str
    pick: Candidate | None
    most_accurate_probability: float | None
    faster: Candidate | None
    meets: list[Candidate]
    refused: list[Candidate]
    elsewhere: dict[str, str]
    notes: list[str]
    metric_title: str = ""
    baselines: dict[str, float] = {}


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
    runs = _of_dataset(runs, dataset)
    runs, metric = _of_task(runs, metric, task, slate)
    runs = _of_scope(runs, scope)
    runs = _of_threads(runs, threads)
    slate = _slate(runs, slate)
    group, others = _comparable_runs(runs, slate)
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
    sign = 1 if better_direction(metric, group[0].task) == "higher" else -1
    meets = sorted(
        (candidate for candidate in candidates if candidate.refused is None),
        key=lambda candidate: (
            bool(candidate.below),
            -sign * (candidate.accuracy or 0.0),
            candidate.p50_ms,
            candidate.label,
        ),
    )
    first = group[0]
    pick = meets[0] if meets else None
    baselines = {
        baseline_title(name, forms_of(judge)): level for name, level in levels_of(judge, metric).items()
    }
    draws = {
        (display_name(run), result.variant): evidence.accuracy(run, result.variant, metric)
        for run in group
        for result in run.results
    }
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
        most_accurate_probability=_most_accurate(meets, draws) if sign > 0 else None,
        faster=_faster(meets, draws) if sign > 0 else None,
        meets=meets,
        refused=sorted(
            (candidate for candidate in candidates if candidate.refused),
            key=lambda candidate: (candidate.p50_ms, candidate.label),
        ),
        elsewhere=_elsewhere(group, others, slate),
        notes=list(_notes(first, pick, metric, baselines)),
        metric_title=metric_title(metric, first.task),
        baselines=baselines,
    )


# ---- Which runs ----


def _of_dataset(runs: list[Measurement], dataset: str | None) -> list[Measurement]:
    names = sorted({run.dataset for run in runs})
    if dataset is None and len(names) > 1:
        raise UsageError(
            f"the runs are of several data sets: {', '.join(names)}", f"add --dataset {names[0]}"
        )
    if dataset is not None and dataset not in names:
        raise unknown_name("data set with runs", dataset, names)
    return [run for run in runs if dataset in (None, run.dataset)]


def _of_task(
    runs: list[Measurement], metric: str | None, task: str | None, slate: Slate | None
) -> tuple[list[Measurement], str]:
    """The runs of one task, and the metric, or the paper's of that task.

    The task is the one named, else the only one that has the metric, or the slate. Two tasks are never compared, though
    both have an nDCG@10: one ranks a user's candidates, the other the catalogue.
    """
    own = {name for run in runs for name in own_names(run)}
    names = {name: None for metrics in (*METRICS.values(), sorted(own)) for name in metrics}
    if metric is not None and metric not in names:
        raise unknown_name("metric", metric, names)
    if task is not None and task not in METRICS:
        raise unknown_name("task", task, METRICS)
    dataset = runs[0].dataset
    runs = [run for run in runs if task in (None, run.task)]
    if not runs:
        raise UsageError(f"no run of {dataset} is of task {task}", f"leave out --task {task}")
    tasks = sorted(
        {
            run.task
            for run in runs
            if metric is None or metric in METRICS[run.task] or metric in own_names(run)
        }
    )
    if len(tasks) > 1 and slate is not None:
        tasks = [
            name for name in tasks if any(run.task == name and slate in _slates([run]) for run in runs)
        ] or tasks
    if not tasks:
        raise UsageError(f"no run of {dataset} has a task with {metric}", f"leave out --metric {metric}")
    if len(tasks) > 1:
        choice = " or ".join(
            f"--task {name} ({metric_title(metric or TASKS[name].metric, name)})" for name in tasks
        )
        raise UsageError(f"the runs of {dataset} are of several tasks: {', '.join(tasks)}", f"add {choice}")
    return [run for run in runs if run.task == tasks[0]], metric or TASKS[tasks[0]].metric


def own_names(run: Measurement) -> set[str]:
    """The metrics of the user's own that a run has."""
    return {name for values in run.own_metrics.values() for name in values}


def _of_scope(runs: list[Measurement], scope: str | None) -> list[Measurement]:
    """The runs of a scope; forward, which every profile has, unless another is named or is all there is."""
    known = sorted({run.plan.scope for run in runs})
    chosen = scope or ("forward" if "forward" in known else known[0])
    if chosen not in known:
        raise unknown_name("scope with runs", chosen, known)
    return [run for run in runs if run.plan.scope == chosen]


def _of_threads(runs: list[Measurement], threads: int | None) -> list[Measurement]:
    known = sorted({run.plan.threads for run in runs})
    if threads is not None and threads not in known:
        raise UsageError(
            f"no run used {threads} threads; there are {_listing(known)}", "rbserve profile --threads"
        )
    chosen = threads or known[0]
    return [run for run in runs if run.plan.threads == chosen]


def _slate(runs: Sequence[Measurement], slate: Slate | None) -> Slate:
    known = _slates(runs)
    if slate is None:
        if len(known) > 1:
            raise UsageError(f"the runs are of several slates: {_listing(known)}", f"add --slate {known[-1]}")
        return known[0]
    if slate not in known:
        first = runs[0]
        where = f"--model {first.model} --dataset {shlex.quote(first.dataset)}"
        raise UsageError(
            f"no run of {first.dataset} has slate {slate}; there are {_listing(known)}",
            f"rbserve profile {where} --slates {slate}",
        )
    return slate


def _slates(runs: Sequence[Measurement]) -> list[Slate]:
    return in_order(result.slate for run in runs for result in run.results)


def _comparable_runs(
    runs: Sequence[Measurement], slate: Slate
) -> tuple[list[Measurement], list[list[Measurement]]]:
    """The runs to choose from, all comparable, and the others: this machine's first, then the newest."""
    machine = environment()

    def standing(group: list[Measurement]) -> tuple[bool, str]:
        first = group[0]
        return (first.comparability_key == key_here(first, machine), first.created)

    groups = [group for group in comparable(runs) if slate in _slates(group)]
    # Lists without seen items are another task than lists with them: the plain ones unless there is nothing else.
    groups.sort(key=lambda group: (not group[0].plan.exclude_seen, standing(group)), reverse=True)
    return groups[0], groups[1:]


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
        checks.append(_check(objective, times, float(below.mean())))
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


def _check(objective: Objective, times: Sequence[Draws], between_processes: float) -> ObjectiveCheck:
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
        display_name(run): f"not measured at slate {slate}, but at {_listing(_slates([run]))}"
        for run in group
        if slate not in _slates([run])
    }
    chosen = {display_name(run) for run in group if slate in _slates([run])}
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


def _listing(values: Sequence[Slate]) -> str:
    return ", ".join(str(value) for value in values)
