"""`--precision auto`: the fastest variant of an artefact whose accuracy is held, and why another is not it.

The reference is the artefact in fp32. A variant is allowed when its scores are the reference's, or when the interval of
its loss lies within the tolerance: a bootstrap over users, who are drawn alike for both, of AUC or nDCG@10 on the same
test rows. What these users cannot tell is refused. The fastest has the lowest p50 at one size of request, measured in
one run. That run is the newest profile that has all this, else a short one made for the purpose.
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
from rbserve.core.tasks import CTR, TASKS
from rbserve.core.variants import FP32, device_of, find_variant
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.machine.environment import environment
from rbserve.profilers.compare.uncertainty import Evidence, interval_of
from rbserve.profilers.measure.harness import test_rows
from rbserve.runs.measurement import Measurement, Plan, Result, comparability_key
from rbserve.runs.run_file import read_measurement
from rbserve.runtimes import memory
from rbserve.runtimes.opening import unavailable
from rbserve.stats.intervals import FEWEST_USERS, Interval
from rbserve.stats.listwise import ndcg_at_k
from rbserve.stats.pairwise import auc

SCHEMA = 1
TOLERANCE = 0.002  # of AUC or nDCG@10, as the warning of an export
MANY_USERS = 10_000_000
ROWS = 2000  # test rows of a run made for the purpose
PROCESSES, RUNS, SECONDS = 3, 100, 2.0
SCOPE = "forward"


class Question(msgspec.Struct, frozen=True):
    """What an answer depends on. Machine, libraries and this program's version are in `comparability_key`.

    `newest_run` is the newest profile of the artefact, empty without one: a newer one may know better.
    """

    artifact_digest: str
    comparability_key: str
    slate: int
    threads: int
    tolerance: float
    newest_run: str

    @property
    def file_name(self) -> str:
        """A file name that no other question has."""
        return f"{hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]}.json"


class Loss(msgspec.Struct, frozen=True):
    """Accuracy of the reference minus that of a variant on the same rows of so many users, with its 95% interval.

    `same`: all scores (of a model that ranks, all ranks) are equal. Users whose next item is in neither list say
    nothing: where the others are fewer than FEWEST_USERS, these are the `users`, and equal ranks are no proof.
    """

    change: float
    ci95: Interval
    users: int
    same: bool = False


class Option(msgspec.Struct, frozen=True):
    """One variant, and why it is refused; null where it is not. What was not measured has neither p50 nor loss.

    `disturbed` is why its p50 is not to be relied on; empty where it is.
    """

    variant: str
    p50_ms: float | None = None
    loss: Loss | None = None
    refused: str | None = None
    disturbed: list[str] = []


class Choice(msgspec.Struct, frozen=True):
    """The answer, made of the profile `run`; `measured` where that was made for it."""

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
    artifact: Artifact, runs: Path, slate: int | None, threads: int, tolerance: float
) -> Question:
    """What is asked of an artefact on this machine. UsageError for an endpoint."""
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
    """Raises UsageError for what is no loss of an accuracy."""
    if not 0 <= tolerance < 1:  # nor nan
        raise UsageError(
            f"--tolerance must be 0 or more and below 1, not {tolerance:g}", f"--tolerance {TOLERANCE:g}"
        )


def default_slate(artifact: Artifact) -> int:
    """The size of a request that variants are chosen for: the largest that is profiled, but 20 for language models."""
    task = TASKS[artifact.manifest.task]
    return 20 if artifact.is_language_model and not task.ranks else task.default_sizes[-1]


def runs_of(artifact: Artifact, runs: Path) -> list[Path]:
    """The run files of this very artefact, by their names, newest first."""
    digest = sha256(artifact.path / "manifest.json")
    return sorted(runs.glob(f"*-{digest[:8]}.json"), reverse=True)


def earlier_runs_of(artifact: Artifact, runs: Path) -> list[Path]:
    """The run files of artefacts of this name and data set that are not this very one, by their names."""
    named = f"*Z-{artifact.manifest.dataset.name}-{artifact.name}-????????.json"
    return sorted({*runs.glob(named)} - {*runs_of(artifact, runs)})


# ---- What there is to choose from ----


def candidates(artifact: Artifact) -> list[str]:
    """The variants of an artefact that may be chosen."""
    return [name for name in artifact.can_open if find_variant(name).automatic]


def absent(artifact: Artifact) -> dict[str, str]:
    """The variants that such a model can have and this one has not, or not here, or not with one accuracy; and why."""
    reasons = {
        name: f"not exported: rbserve export --model {artifact.path} --precision {find_variant(name).precision}"
        for name in artifact.can_export
        if name not in artifact.manifest.variants
    }
    for name in filter(lambda name: find_variant(name).automatic, artifact.can_have):
        if reason := unavailable(artifact, name) or artifact.slate_dependence(name):
            reasons[name] = reason
    return reasons


def unusable(artifact: Artifact, variants: Sequence[str]) -> dict[str, str]:
    """The variants that cannot be opened now, and why: a file is missing or damaged, or memory too small."""
    reasons = {one: shortage for one in variants if (shortage := memory.shortage(artifact, one))}
    for one in variants:
        try:
            for name in artifact.variant_files(one):
                artifact.file(name)
        except ArtifactError as error:
            reasons[one] = error.message
    return reasons


# ---- Where the figures come from ----


def plan_of(artifact: Artifact, dataset: Dataset, question: Question) -> Plan:
    """A short profile at the question's size: so many test users as have about `ROWS` rows, at most a few seconds."""
    plan = Plan(PROCESSES, RUNS, SECONDS, [question.slate], question.threads, SCOPE, seed=2024)
    rows = test_rows(artifact, dataset, plan)
    if len(rows) <= ROWS:
        return plan
    users = len(np.unique(rows.users))
    return msgspec.structs.replace(plan, test_users=max(1, users * ROWS // len(rows)))


def known_run(
    files: Sequence[Path], question: Question, variants: Sequence[str], least_users: int
) -> Measurement | None:
    """The first of the run files that answers the question for all variants, judged on no fewer users."""
    for file in files:
        run = read_measurement(file)
        if suffices(run, question, variants, least_users):
            return run
    return None


def suffices(run: Measurement, question: Question, variants: Sequence[str], least_users: int) -> bool:
    """Whether a profile is of this artefact and machine, and has a settled p50 and the accuracy of every variant."""
    if (run.artifact_digest, run.comparability_key) != (question.artifact_digest, question.comparability_key):
        return False
    timed = {one.variant for one in _timed(run, question.slate) if not one.inconclusive}
    judged = run.random or ({*variants} <= _said(run).keys() and len({*run.predictions.users}) >= least_users)
    return {*variants} <= timed and judged and not run.plan.exclude_seen


def _timed(run: Measurement, slate: int) -> list[Result]:
    return [one for one in run.results if (one.scope, one.slate) == (SCOPE, slate)]


def _said(run: Measurement) -> Mapping[str, Sequence[float] | Sequence[int]]:
    """By variant, the scores of all test rows, or the ranks of their targets."""
    return run.predictions.scores or run.predictions.ranks


# ---- The rule ----


def choose(
    run: Measurement, question: Question, refused: Mapping[str, str], measured: bool = False
) -> Choice:
    """The fastest allowed variant of a profile. `refused` are those that it cannot speak for, and why.

    Raises UsageError where no fp32 variant was measured.
    """
    timed = {one.variant: one for one in _timed(run, question.slate) if one.variant not in refused}
    reference = check_reference(run.model, [*timed], refused)
    metric, evidence = TASKS[run.task].metric, Evidence()
    options = []
    for variant, result in timed.items():
        loss = None if run.random else loss_of(run, reference, variant, metric, evidence)
        options.append(
            Option(
                variant,
                result.latency_ms.p50,
                loss,
                None if variant == reference else _refusal(run, variant, loss, question.tolerance, metric),
                result.inconclusive,
            )
        )
    fastest = min((one for one in options if one.refused is None), key=lambda one: one.p50_ms or math.inf)
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
        options=options + [Option(one, refused=reason) for one, reason in refused.items()],
    )


def check_reference(model: str, variants: Sequence[str], refused: Mapping[str, str]) -> str:
    """The variant that the others are held against; UsageError where none of them is in fp32."""
    for one in FP32:
        if one in variants:
            return one
    reasons = "; ".join(f"{one}: {refused[one]}" for one in FP32 if one in refused) or "none was measured"
    raise UsageError(
        f"{model} has no fp32 variant here to hold the others against ({reasons})",
        "--variant serves the one that you name",
    )


def loss_of(run: Measurement, reference: str, variant: str, metric: str, evidence: Evidence) -> Loss | None:
    """What a variant loses against the reference; None where the rows do not define the metric."""
    before, after = _said(run)[reference], _said(run)[variant]
    users = len({*run.predictions.users})
    if run.predictions.ranks:
        ranked = sum(1 for ranks in zip(before, after, strict=True) if any(ranks))
        users = users if ranked >= FEWEST_USERS else ranked
    if before == after and (run.predictions.scores or users >= FEWEST_USERS):
        return Loss(0.0, (0.0, 0.0), users, same=True)
    base, head = (evidence.accuracy(run, one, metric) for one in (reference, variant))
    assert base is not None
    assert head is not None
    interval = interval_of(base - head)
    if metric == CTR.metric:
        change = auc(run.predictions.labels, before) - auc(run.predictions.labels, after)
    else:
        change = ndcg_at_k(before, 10) - ndcg_at_k(after, 10)
    if math.isnan(change) or interval is None:
        return None
    return Loss(change, interval, users)


def _refusal(run: Measurement, variant: str, loss: Loss | None, tolerance: float, metric: str) -> str | None:
    """Why a variant may not be served in the reference's place; None where it may."""
    if run.random:
        return None if variant in FP32 else "the weights are random: there is no accuracy to hold"
    if loss is None:
        return f"{metric.upper()} is not defined on these test rows"
    if loss.same:
        return None
    if loss.users < FEWEST_USERS:
        told = "test users" if run.predictions.scores else "test users whose next item it lists"
        return f"INCONCLUSIVE: {loss.users:,} {told} are too few, {FEWEST_USERS} the fewest to judge by"
    low, high = loss.ci95
    if high <= tolerance:
        return None
    if low > tolerance:
        return f"loses more {metric.upper()} than {tolerance:g}"
    needed = users_needed(loss, tolerance)
    enough = f"about {needed:,}" if needed < MANY_USERS else f"more than {MANY_USERS:,}"
    return f"INCONCLUSIVE: {loss.users:,} test users do not tell its loss from {tolerance:g}, {enough} might"


def users_needed(loss: Loss, tolerance: float) -> int:
    """Roughly how many users would tell the loss from the tolerance: an interval narrows with the root of their number.

    Two digits, and no more than `MANY_USERS`.
    """
    low, high = loss.ci95
    side = high - loss.change if loss.change < tolerance else loss.change - low
    gap = abs(tolerance - loss.change)
    if side >= gap * math.sqrt(MANY_USERS / loss.users):
        return MANY_USERS
    exact = max(loss.users + 1, math.ceil(loss.users * (side / gap) ** 2))
    digit: int = 10 ** max(0, len(str(exact)) - 2)
    return -(-exact // digit) * digit
