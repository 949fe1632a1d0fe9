"""Profiles an artefact: latency in fresh pinned processes, accuracy of the very same variants.

Variants are interleaved: every round starts one new process a variant, and the order turns around from
round to round, so that a machine that drifts slows all of them alike.
"""

from __future__ import annotations

import datetime
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from rbserve.core.errors import RbserveError, UsageError, unknown_name
from rbserve.core.files import sha256
from rbserve.core.tasks import CTR, TASKS
from rbserve.core.types import Progress, no_progress
from rbserve.core.variants import REMEMBERING, device_of, find_variant
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.data.request_set import RequestSet
from rbserve.home.commands import option_of
from rbserve.machine.environment import allowed_cores, environment
from rbserve.profilers.cost.call_cost import LOOKS_INTO
from rbserve.profilers.measure.budget import PILOT_RUNS, Pace, schedule
from rbserve.profilers.measure.inputs import Report
from rbserve.profilers.measure.test_rows import TestRows, check_data, open_test_rows
from rbserve.profilers.measure.worker import Job
from rbserve.runs import roofline
from rbserve.runs.measurement import SCHEMA, Measurement, Predictions, comparability_key
from rbserve.runs.plan import TABLE, Plan, Slate, check_scope
from rbserve.runs.popularity import Answers
from rbserve.runs.provenance import command_line, git_state
from rbserve.runs.summary import summarise
from rbserve.runtimes.contents import artifact_prompts

WORKER = (sys.executable, "-m", "rbserve.profilers.worker")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def default_plan(task: str = CTR.name, budget_s: float | None = None) -> Plan:
    """Five processes of 200 runs a shape: the paper's 1,000 runs, enough to certify p99; with a budget, 0."""
    plan = Plan(slates=[*TASKS[task].default_sizes], scope=TASKS[task].default_scope)
    return plan if budget_s is None else msgspec.structs.replace(plan, processes=0, budget_s=budget_s)


def usual_slates(artifact: Artifact) -> list[Slate]:
    """The sizes that an artefact is timed at where none are named: its task's, behind the requests of its own table."""
    sizes = TASKS[artifact.manifest.task].default_sizes
    return [TABLE, *sizes] if artifact.has_own_requests else [*sizes]


def profile(
    artifact: Artifact,
    data: Dataset | RequestSet,
    plan: Plan,
    variants: Sequence[str] | None = None,
    progress: Progress = no_progress,
    left_out: Mapping[str, str] | None = None,
    further: Mapping[str, Answers] | None = None,
) -> Measurement:
    """Measures every variant (or those named) and derives the table's figures.

    A variant whose process dies is `failed` and costs the others nothing; where none is left, its error is raised.
    `left_out` says of variants that are not measured why, for the record. `further` has the answers of baselines beside
    those of `runs.baselines` to all test rows of the data set, by their names.
    """
    started = time.monotonic()
    variants = list(variants or artifact.variants)
    check_plan(artifact, data, plan, variants)
    test = open_test_rows(artifact, data, plan)
    with tempfile.TemporaryDirectory(prefix="rbserve-profile-") as folder:
        inputs = Path(folder) / "inputs.npz"
        test.write(inputs, plan)
        processes = Processes(artifact, inputs, variants, progress, test.labelled)
        plan, reports, costs = processes.measure(plan)
    variants = processes.left
    machine = environment(device_of(variants))
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    digest = sha256(artifact.path / "manifest.json")
    known = test.baselines(plan.exclude_seen, further or {})
    measurement = Measurement(
        schema=SCHEMA,
        id=f"{now:%Y%m%dT%H%M%SZ}-{test.dataset}-{artifact.name}-{digest[:8]}{machine.kind and f'-{machine.kind}'}",
        created=now.isoformat(),
        dataset=test.dataset,
        dataset_fingerprint=test.fingerprint,
        artifact_digest=digest,
        comparability_key=comparability_key(machine, plan.threads, test.fingerprint),
        environment=machine,
        plan=plan,
        file_bytes={variant: file_bytes(artifact, variant) for variant in variants},
        variant_warnings=_warnings(artifact, variants, processes.unseen, _stopped(reports)),
        baselines=known.figures,
        baseline_forms=known.forms,
        baseline_answers={name: answers.tolist() for name, answers in known.answers.items()},
        data_sketch=test.sketch(),
        judging=test.judging(),
        samples=[sample for _, report in reports for sample in report.samples],
        predictions=_predictions(test, reports),
        left_out=dict(left_out or {}),
        command=command_line(),
        git=git_state(Path.cwd()),
        seconds=time.monotonic() - started,
        costs=[cost for cost in costs if cost.variant in variants],
        failed=processes.failed,
        **_model_of(artifact),
    )
    return msgspec.structs.replace(measurement, results=summarise(measurement))


def _model_of(artifact: Artifact) -> dict[str, Any]:
    """What a run file says of the model, whatever was measured."""
    manifest = artifact.manifest
    return {
        "model": artifact.name,
        "group": manifest.group,
        "task": manifest.task,
        "item_form": manifest.item_form,
        "random": artifact.is_random,
        "config": manifest.config,
        "model_digest": artifact.model_digest,
        "distilled": manifest.training.distilled,
        "artifact": option_of(artifact),
        "settings": manifest.training.settings,
        "continued": manifest.training.continued.said if manifest.training.continued else "",
        "adopted": manifest.adopted.format if manifest.adopted else "",
    }


def check_plan(artifact: Artifact, data: Dataset | RequestSet, plan: Plan, variants: list[str]) -> None:
    """Raises UsageError for a plan that cannot be carried out with this artefact and data."""
    check_data(artifact, data)
    for variant in variants:
        if variant not in artifact.can_open:
            raise unknown_name(f"variant of {artifact.name}", variant, artifact.can_open)
    check_numbers(artifact.name, artifact.manifest.task, plan)
    if TABLE in plan.slates and not artifact.has_own_requests:
        refuse_table(artifact.name)
    if plan.warm and not _remembers(artifact):
        refuse_warm(artifact.name)


def refuse_table(model: str) -> NoReturn:
    """Raises UsageError for a model without a request table of its own."""
    raise UsageError(
        f"{model} is measured on the rows of a data set, which has no requests as they come",
        "name sizes, such as --slates 1,100; table is for models adopted with requests of their own",
    )


def refuse_warm(model: str) -> NoReturn:
    """Raises UsageError for a model that cannot be measured warm."""
    raise UsageError(
        f"{model} has nothing to remember of a user",
        "--warm is for language models that score candidates and read the history before them",
    )


def check_numbers(model: str, task: str, plan: Plan) -> None:
    """Raises UsageError for a plan that no model of the task, called so, can be measured by."""
    if plan.processes < 1 and plan.budget_s is None:
        raise UsageError(
            f"invalid option: processes={plan.processes}", "processes takes an integer of at least 1"
        )
    check_scope(plan.scope)
    if plan.exclude_seen and not TASKS[task].ranks:
        raise UsageError(
            f"{model} scores the candidates it is given; it leaves out none",
            "--exclude-seen is for models that rank the catalogue",
        )
    cores = allowed_cores()
    if cores and plan.threads > len(cores):
        raise UsageError(f"{plan.threads} threads need as many cores; this process may use {len(cores)}")


def _remembers(artifact: Artifact) -> bool:
    """Whether the model reads all candidates behind one shared history, which can be cached."""
    if TASKS[artifact.manifest.task].ranks or artifact.kind not in REMEMBERING:
        return False
    return not artifact.is_language_model or artifact_prompts(artifact).pieces.shared


def _stopped(reports: Sequence[tuple[str, Report]]) -> dict[str, str]:
    """Why the test rows of a variant were not all judged, by variant."""
    return {variant: report.stopped for variant, report in reports if report.stopped}


def _warnings(
    artifact: Artifact, variants: list[str], unseen: Mapping[str, str], stopped: Mapping[str, str]
) -> dict[str, list[str]]:
    """Warnings by variant: those of its export, and history items that the prompts have no room for.

    `unseen` has the reasons where a call's cost could not be measured, `stopped` where there is no accuracy.
    """
    manifest = artifact.manifest
    lost = [line for split, fit in manifest.prompts.items() if (line := fit.said(split))]
    exported = {variant: record.warnings for variant, record in manifest.variants.items()}
    hidden = {variant: [f"what a call costs is not known: {why}"] for variant, why in unseen.items()}
    unjudged = {variant: [f"no accuracy: {why}"] for variant, why in stopped.items()}
    return {
        variant: [
            *exported.get(variant, []),
            *lost,
            *hidden.get(variant, []),
            *unjudged.get(variant, []),
            *filter(None, [artifact.slate_dependence(variant)]),
        ]
        for variant in dict.fromkeys((*variants, *exported))
    }


def file_bytes(artifact: Artifact, variant: str) -> int:
    """The size of what a variant's weights are loaded from."""
    return sum(artifact.manifest.files[name].bytes for name in artifact.variant_files(variant))


class Processes:
    """The worker processes of one profile. A variant whose process dies is `failed`, and is not started again."""

    def __init__(
        self, artifact: Artifact, inputs: Path, variants: Sequence[str], progress: Progress, labelled: bool
    ) -> None:
        self._artifact, self._inputs, self._progress = artifact, inputs, progress
        self._is_judged = labelled and not artifact.is_random
        self._variants = [*variants]
        self._errors: dict[str, RbserveError] = {}
        self.unseen: dict[str, str] = {}

    @property
    def failed(self) -> dict[str, str]:
        """The error of each failed variant."""
        return {variant: error.message for variant, error in self._errors.items()}

    @property
    def left(self) -> list[str]:
        """The variants that did not fail. Raises the first error where all failed."""
        left = [variant for variant in self._variants if variant not in self._errors]
        if not left:
            raise next(iter(self._errors.values()))
        return left

    def run(self, plan: Plan, judge: bool = True, deadline: float = math.inf) -> list[tuple[str, Report]]:
        """Every round's processes, one after another; the first round also scores the test rows if they are to `judge`.

        Rounds end early, but not before the second, when another would pass the `deadline` of the monotonic clock.
        """
        reports: dict[str, list[Report]] = {variant: [] for variant in self.left}
        made, total = 0, plan.processes * len(reports)
        for process in range(plan.processes):
            started = time.monotonic()
            for variant in self.left if process % 2 == 0 else self.left[::-1]:
                self._say(made, total, f"{variant}, process {process + 1}/{plan.processes}")
                judged = judge and process == 0 and self._is_judged
                if report := self._start(plan, variant, process=process, accuracy=judged):
                    reports[variant].append(report)
                made += 1
            round_s = time.monotonic() - started
            if process > 0 and time.monotonic() + round_s > deadline:
                break
        self._say(total, total, "measured")
        return [(variant, report) for variant in self.left for report in reports[variant]]

    def measure(self, plan: Plan) -> tuple[Plan, list[tuple[str, Report]], list[roofline.Cost]]:
        """What the plan asks for, within its budget where it has one: the plan as carried out, reports, and costs."""
        if plan.budget_s is not None:
            return self.run_within(plan, plan.budget_s)
        return plan, self.run(plan), self.costs(plan) if plan.cost else []

    def run_within(
        self, plan: Plan, budget_s: float
    ) -> tuple[Plan, list[tuple[str, Report]], list[roofline.Cost]]:
        """Plans by a pilot process a variant, and measures within a budget: the plan, the reports, and the costs.

        The pilot judges the test rows and shows how long a process and a run take; the number of both is then planned
        for what is left of the budget when the calls' costs have been looked into. Its samples are not kept.
        """
        deadline = time.monotonic() + budget_s
        pilot = msgspec.structs.replace(plan, runs=PILOT_RUNS, seconds=min(plan.seconds, budget_s / 20))
        judged: dict[str, Report] = {}
        paces: dict[str, Pace] = {}
        for variant in self._variants:
            self._say(len(judged), len(self._variants), f"{variant}, pilot")
            started = time.monotonic()
            report = self._start(pilot, variant, accuracy=self._is_judged)
            if report is None:
                continue
            runs = [sample.runs_ns for sample in report.samples]
            took_s = time.monotonic() - started - report.accuracy_s
            run_s = sum(sum(shape) / len(shape) for shape in runs) / 1e9
            paces[variant] = Pace(took_s - sum(map(sum, runs)) / 1e9, run_s)
            judged[variant] = msgspec.structs.replace(report, samples=[])
        costs = self.costs(plan) if plan.cost else []
        planned = schedule(
            {variant: paces[variant] for variant in self.left}, deadline - time.monotonic(), plan.processes
        )
        plan = msgspec.structs.replace(
            plan,
            processes=planned.processes,
            runs=max(planned.runs_of.values()),
            seconds=budget_s,
            runs_of=planned.runs_of,
        )
        reports = self.run(plan, judge=False, deadline=deadline)
        plan = msgspec.structs.replace(plan, processes=len(reports) // len(self.left))
        return plan, [(variant, judged[variant]) for variant in self.left] + reports, costs

    def costs(self, plan: Plan) -> list[roofline.Cost]:
        """The cost of each variant's calls, measured in processes of their own; that of an endpoint cannot be measured.

        Each process measures the machine's peaks. It has one of a kind: the highest that any of them saw. One that dies
        costs its variant no more than this: it is `unseen`.
        """
        costs: list[roofline.Cost] = []
        variants = [] if self._artifact.is_endpoint else self.left
        for place, variant in enumerate(variants):
            self._progress(place, len(variants), f"variants looked into, {variant}: what a call costs")
            runtime = find_variant(variant).runtime
            if runtime not in LOOKS_INTO:
                self.unseen[variant] = f"the operators of {runtime} are not looked into"
                continue
            try:
                costs += run_job(self._job(plan, variant, cost=True)).costs
            except RbserveError as error:
                self.unseen[variant] = error.message
        peaks: dict[str, float] = {}
        for cost in costs:
            for kind, gflops in cost.peak_gflops.items():
                peaks[kind] = max(gflops or 0.0, peaks.get(kind, 0.0))
        return [
            msgspec.structs.replace(
                cost, peak_gflops={kind: peaks[kind] or None for kind in cost.peak_gflops}
            )
            for cost in costs
        ]

    def _start(self, plan: Plan, variant: str, **changes: Any) -> Report | None:
        """The report of a process; None where it dies, and the variant then is `failed`."""
        try:
            return run_job(self._job(plan, variant, **changes))
        except RbserveError as error:
            self._errors[variant] = error
            return None

    def _job(self, plan: Plan, variant: str, **changes: Any) -> Job:
        job = Job(
            artifact=str(self._artifact.path),
            variant=variant,
            inputs=str(self._inputs),
            slates=plan.slates,
            threads=plan.threads,
            runs=plan.runs_of.get(variant, plan.runs),
            seconds=plan.seconds,
            scopes=[*plan.scopes],
            exclude_seen=plan.exclude_seen,
            process=0,
            cores=allowed_cores()[-plan.threads :],
            accuracy=False,
        )
        return msgspec.structs.replace(job, **changes)

    def _say(self, done: int, total: int, description: str) -> None:
        self._progress(done, total, f"processes, {description}")


def run_job(job: Job, worker: Sequence[str] = WORKER) -> Report:
    """Runs a job in a fresh process and waits for its report. `worker` is the command to start."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(job.threads))
    done = subprocess.run(
        [*worker],
        input=msgspec.json.encode(job),
        capture_output=True,
        env=os.environ | threads,
    )
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise RbserveError(f"the process measuring {job.variant} died (exit {done.returncode}): {last[0]}")
    report = msgspec.json.decode(done.stdout, type=Report)
    if report.error is not None:
        raise RbserveError(report.error, report.hint)
    return report


def _predictions(test: TestRows, reports: list[tuple[str, Report]]) -> Predictions:
    """The test rows with each variant's answers, from the reports of the first round's processes."""
    return msgspec.structs.replace(
        test.unanswered,
        scores={variant: report.scores for variant, report in reports if report.scores},
        hard={variant: report.hard for variant, report in reports if report.hard},
        unclear={variant: report.unclear for variant, report in reports if report.unclear},
        ranks={variant: report.ranks for variant, report in reports if report.ranks},
        exact_recall={variant: report.exact_recall for variant, report in reports if report.exact_recall},
        illegal_share={
            variant: report.illegal_share for variant, report in reports if report.illegal_share is not None
        },
    )
