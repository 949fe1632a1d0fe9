"""`--precision auto`: the fastest variant of an artefact that holds the accuracy of fp32, and why others are refused.

The reference is the artefact in fp32. A variant is allowed if its scores equal the reference's, or if the interval of
its loss of AUC or nDCG@10 on the same test rows lies within the tolerance (a paired bootstrap over users). A variant
whose loss these users do not settle is refused. The fastest variant has the lowest p50 at a single size of request in
a single run: the newest profile that has these figures for every variant, else a short one made for the purpose.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.files import sha256
from rbserve.core.tasks import TASKS
from rbserve.core.variants import FP32, device_of, export_option, find_variant
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.data.request_set import RequestSet
from rbserve.machine.environment import environment
from rbserve.profilers.compare.baselines import gap_below
from rbserve.profilers.compare.points import BaselineGap
from rbserve.profilers.compare.uncertainty import Evidence, interval_of
from rbserve.profilers.measure.test_rows import open_test_rows
from rbserve.runs.measurement import Measurement, Result, comparability_key
from rbserve.runs.plan import Plan, Slate
from rbserve.runs.run_file import read_measurement
from rbserve.runtimes import memory
from rbserve.runtimes.opening import unavailable
from rbserve.stats.intervals import FEWEST_USERS, Interval
from rbserve.stats.metrics import METRICS

SCHEMA = 1
TOLERANCE = 0.002  # of AUC or nDCG@10, as the warning of an export
MANY_USERS = 10_000_000
ROWS = 2000  # test rows of a run made for the purpose
PROCESSES, RUNS, SECONDS = 3, 100, 2.0
SCOPE = "forward"


class Question(msgspec.Struct, frozen=True):
    """The artefact, machine and limits that a choice is made for; a choice for an equal question stands.

    Machine, libraries and the version of rbserve are in `comparability_key`. `newest_run` is the newest profile of the
    artefact, empty if there is none.
    """

    artifact_digest: str
    comparability_key: str
    slate: Slate
    threads: int
    tolerance: float
    newest_run: str

    @property
    def file_name(self) -> str:
        """A file name that no other question has."""
        return f"{hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]}.json"


class Loss(msgspec.Struct, frozen=True):
    """Accuracy of the reference minus that of a variant on the same rows of so many users, with its 95% interval.

    `same`: all scores (all ranks of a model that ranks the catalogue) are equal. Users whose next item is in neither
    list are no evidence: where the others are fewer than FEWEST_USERS, `users` counts the others alone, and equal ranks
    prove nothing.
    """

    change: float
    ci95: Interval
    users: int
    same: bool = False


class Option(msgspec.Struct, frozen=True):
    """A variant. `refused` is the reason why it is not allowed, null if it is; only measured ones have figures.

    `disturbed` has the reasons why its p50 is inconclusive, `below` the gap to the best baseline where the accuracy is
    not above it.
    """

    variant: str
    p50_ms: float | None = None
    loss: Loss | None = None
    refused: str | None = None
    disturbed: list[str] = []
    below: BaselineGap | None = None


class Choice(msgspec.Struct, frozen=True):
    """The variant that was chosen by the profile `run`; `measured`: the profile was made for this choice."""

    schema: int
    question: Question
    model: str
    dataset: str
    task: str
    metric: str
    run: str
    measured: bool
    reference: str
    chosen: str
    options: list[Option]


def question_of(
    artifact: Artifact, runs: Path, slate: Slate | None, threads: int, tolerance: float
) -> Question:
    """The question for an artefact on this machine. UsageError for an endpoint, which has a single variant."""
    if artifact.is_endpoint:
        refuse_endpoint(artifact.name)
    newest = next(iter(runs_of(artifact, runs)), None)
    machine = environment(device_of(candidates(artifact)))
    return Question(
        artifact_digest=sha256(artifact.path / "manifest.json"),
        comparability_key=comparability_key(machine, threads, artifact.manifest.dataset.fingerprint),
        slate=default_slate(artifact) if slate is None else slate,
        threads=threads,
        tolerance=tolerance,
        newest_run=newest.stem if newest else "",
    )


def refuse_endpoint(model: str) -> NoReturn:
    """Raises UsageError for a model that an endpoint answers."""
    raise UsageError(
        f"{model} is answered by an endpoint: it has no variants to choose from", "--variant endpoint"
    )


def check_tolerance(tolerance: float) -> None:
    """Raises UsageError for a tolerance that is not between 0 and 1."""
    if not 0 <= tolerance < 1:  # nor nan
        raise UsageError(
            f"--tolerance must be 0 or more and below 1, not {tolerance:g}", f"--tolerance {TOLERANCE:g}"
        )


def default_slate(artifact: Artifact) -> int:
    """The size of a request that variants are chosen for: the largest that is profiled, but 20 for language models."""
    task = TASKS[artifact.manifest.task]
    return 20 if artifact.is_language_model and not task.ranks else task.default_sizes[-1]


def runs_of(artifact: Artifact, runs: Path) -> list[Path]:
    """The run files of exactly this artefact, newest first, recognised by the digest in their names."""
    digest = sha256(artifact.path / "manifest.json")
    return sorted(runs.glob(f"*-{digest[:8]}.json"), reverse=True)


def earlier_runs_of(artifact: Artifact, runs: Path) -> list[Path]:
    """The run files of earlier artefacts of this name and data set."""
    named = f"*Z-{artifact.manifest.dataset.name}-{artifact.name}-????????.json"
    return sorted({*runs.glob(named)} - {*runs_of(artifact, runs)})


# ---- What there is to choose from ----


def candidates(artifact: Artifact) -> list[str]:
    """The variants of an artefact that may be chosen."""
    return [name for name in artifact.can_open if find_variant(name).automatic]


def absent(artifact: Artifact) -> dict[str, str]:
    """The variants that such a model can have and this one has not, or not here, or not with one accuracy; and why."""
    reasons = {
        name: f"not exported: rbserve export --model {artifact.path} {export_option(name)}"
        for name in artifact.can_export
        if name not in artifact.manifest.variants
    }
    for name in filter(lambda name: find_variant(name).automatic, artifact.can_have):
        if reason := unavailable(artifact, name) or artifact.slate_dependence(name):
            reasons[name] = reason
    return reasons


def unusable(artifact: Artifact, variants: Sequence[str]) -> dict[str, str]:
    """The variants that cannot be opened now, and why: a file is missing or damaged, or memory too small."""
    reasons = {variant: shortage for variant in variants if (shortage := memory.shortage(artifact, variant))}
    for variant in variants:
        try:
            for name in artifact.variant_files(variant):
                artifact.file(name)
        except ArtifactError as error:
            reasons[variant] = error.message
    return reasons


# ---- Where the figures come from ----


def plan_of(artifact: Artifact, data: Dataset | RequestSet, question: Question) -> Plan:
    """A short profile at the question's size: so many test users as have about `ROWS` rows, at most a few seconds."""
    plan = Plan(PROCESSES, RUNS, SECONDS, [question.slate], question.threads, SCOPE, seed=2024)
    rows = open_test_rows(artifact, data, plan)
    if len(rows) <= ROWS:
        return plan
    users = len(np.unique(rows.users))
    return msgspec.structs.replace(plan, test_users=max(1, users * ROWS // len(rows)))


def known_run(
    files: Sequence[Path], question: Question, variants: Sequence[str], least_users: int
) -> Measurement | None:
    """The first of the run files that answers the question for all variants, on at least so many test users."""
    for file in files:
        run = read_measurement(file)
        if suffices(run, question, variants, least_users):
            return run
    return None


def suffices(run: Measurement, question: Question, variants: Sequence[str], least_users: int) -> bool:
    """Whether a profile is of this artefact and machine, and has a settled p50 and the accuracy of every variant."""
    if (run.artifact_digest, run.comparability_key) != (question.artifact_digest, question.comparability_key):
        return False
    timed = {result.variant for result in _timed(run, question.slate) if not result.inconclusive}
    judged = run.unjudged or (
        {*variants} <= _said(run).keys() and len({*run.predictions.users}) >= least_users
    )
    return {*variants} <= timed and bool(judged) and not run.plan.exclude_seen


def _timed(run: Measurement, slate: Slate) -> list[Result]:
    return [result for result in run.results if (result.scope, result.slate) == (SCOPE, slate)]


def _said(run: Measurement) -> Mapping[str, Sequence[float] | Sequence[int]]:
    """The scores of all test rows, or the ranks of their targets, by variant."""
    return run.predictions.scores or run.predictions.ranks


# ---- The rule ----


def choose(
    run: Measurement, question: Question, refused: Mapping[str, str], measured: bool = False
) -> Choice:
    """The fastest allowed variant of a profile, of those above the best baseline if any is.

    `refused` has the reasons why others are not considered. Raises UsageError where no fp32 variant was measured.
    """
    timed = {
        result.variant: result for result in _timed(run, question.slate) if result.variant not in refused
    }
    reference = check_reference(run.model, [*timed], refused)
    metric, evidence = TASKS[run.task].metric, Evidence()
    options = []
    for variant, result in timed.items():
        loss = None if run.unjudged else loss_of(run, reference, variant, metric, evidence)
        options.append(
            Option(
                variant,
                result.latency_ms.p50,
                loss,
                None if variant == reference else _refusal(run, variant, loss, question.tolerance, metric),
                result.inconclusive,
                gap_below(run, run, result, metric, evidence),
            )
        )
    allowed = [option for option in options if option.refused is None]
    fastest = min(allowed, key=lambda option: (bool(option.below), option.p50_ms or math.inf))
    return Choice(
        schema=SCHEMA,
        question=question,
        model=run.model,
        dataset=run.dataset,
        task=run.task,
        metric=metric,
        run=run.id,
        measured=measured,
        reference=reference,
        chosen=fastest.variant,
        options=options + [Option(variant, refused=reason) for variant, reason in refused.items()],
    )


def check_reference(model: str, variants: Sequence[str], refused: Mapping[str, str]) -> str:
    """The fp32 variant that the others are compared with; UsageError where there is none."""
    for variant in FP32:
        if variant in variants:
            return variant
    why = [f"{variant}: {refused[variant]}" for variant in FP32 if variant in refused]
    raise UsageError(
        f"{model} has no fp32 variant here to hold the others against ({'; '.join(why) or 'none was measured'})",
        "--variant serves the variant that you name",
    )


def loss_of(run: Measurement, reference: str, variant: str, metric: str, evidence: Evidence) -> Loss | None:
    """The loss of accuracy of a variant against the reference; None where the rows do not define the metric."""
    before, after = _said(run)[reference], _said(run)[variant]
    users = len({*run.predictions.users})
    if run.predictions.ranks:
        ranked = sum(1 for ranks in zip(before, after, strict=True) if any(ranks))
        users = users if ranked >= FEWEST_USERS else ranked
    if before == after and (run.predictions.scores or users >= FEWEST_USERS):
        return Loss(0.0, (0.0, 0.0), users, same=True)
    base, head = (evidence.accuracy(run, name, metric) for name in (reference, variant))
    assert base is not None
    assert head is not None
    interval = interval_of(base - head)
    compute = METRICS[run.task][metric].compute
    change = compute(*run.predictions.judged_rows(reference)) - compute(*run.predictions.judged_rows(variant))
    if math.isnan(change) or interval is None:
        return None
    return Loss(change, interval, users)


def _refusal(run: Measurement, variant: str, loss: Loss | None, tolerance: float, metric: str) -> str | None:
    """Why a variant may not be served in the reference's place; None where it may."""
    if run.unjudged:
        return None if variant in FP32 else f"{run.unjudged}: there is no accuracy to hold"
    if loss is None:
        return f"{metric.upper()} is not defined on these test rows"
    if loss.same:
        return None
    if loss.users < FEWEST_USERS:
        users = "test users" if run.predictions.scores else "test users whose next item it lists"
        return f"INCONCLUSIVE: {loss.users:,} {users} are too few, {FEWEST_USERS} the fewest to judge by"
    low, high = loss.ci95
    if high <= tolerance:
        return None
    if low > tolerance:
        return f"loses more {metric.upper()} than {tolerance:g}"
    needed = users_needed(loss, tolerance)
    enough = f"about {needed:,}" if needed < MANY_USERS else f"more than {MANY_USERS:,}"
    return f"INCONCLUSIVE: {loss.users:,} test users do not tell its loss from {tolerance:g}, {enough} might"


def users_needed(loss: Loss, tolerance: float) -> int:
    """About how many test users would settle whether the loss exceeds the tolerance, to two digits, up to MANY_USERS.

    An interval narrows with the square root of the number of users.
    """
    low, high = loss.ci95
    side = high - loss.change if loss.change < tolerance else loss.change - low
    gap = abs(tolerance - loss.change)
    if side >= gap * math.sqrt(MANY_USERS / loss.users):
        return MANY_USERS
    exact = max(loss.users + 1, math.ceil(loss.users * (side / gap) ** 2))
    digit: int = 10 ** max(0, len(str(exact)) - 2)
    return -(-exact // digit) * digit
