"""Profiles an artefact: latency in fresh pinned processes, accuracy of the very same variants.

Variants are interleaved: every round starts one new process a variant, and the order turns around from
round to round, so that a machine that drifts slows all of them alike.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rbserve.core.artifact import Artifact
from rbserve.core.columns import Ragged
from rbserve.core.dataset import CtrSplit, Dataset, check_same_data
from rbserve.core.environment import allowed_cores, environment
from rbserve.core.errors import RbserveError, UsageError, unknown_name
from rbserve.core.files import sha256
from rbserve.core.measurement import (
    SCHEMA,
    Measurement,
    Plan,
    Predictions,
    comparability_key,
    summarise,
)
from rbserve.core.types import Progress, no_progress
from rbserve.profilers.accuracy import baselines
from rbserve.profilers.worker import Job, Report

REQUESTS = 256
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def default_plan() -> Plan:
    """Five processes of 200 runs a shape: the paper's 1,000 runs, enough to certify p99."""
    return Plan(processes=5, runs=200, seconds=10.0, slates=[1, 100], threads=1, scope="forward", seed=2024)


def profile(
    artifact: Artifact,
    dataset: Dataset,
    plan: Plan,
    variants: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> Measurement:
    """Measures every variant (or those named) and derives the table's figures."""
    variants = list(variants or artifact.variants)
    _check(artifact, dataset, plan, variants)
    test = dataset.ctr("test")
    with tempfile.TemporaryDirectory(prefix="rbserve-profile-") as folder:
        inputs = Path(folder) / "inputs.npz"
        _write_inputs(inputs, dataset, test, plan)
        reports = _run(artifact, plan, variants, inputs, progress)
    machine = environment()
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    manifest = artifact.manifest
    digest = sha256(artifact.path / "manifest.json")
    measurement = Measurement(
        schema=SCHEMA,
        id=f"{now:%Y%m%dT%H%M%SZ}-{dataset.name}-{artifact.name}-{digest[:8]}",
        created=now.isoformat(),
        model=artifact.name,
        group=manifest.group,
        task=manifest.task,
        item_form=manifest.item_form,
        dataset=dataset.name,
        dataset_fingerprint=dataset.fingerprint,
        artifact_digest=digest,
        comparability_key=comparability_key(machine, plan.threads, dataset.fingerprint),
        environment=machine,
        plan=plan,
        file_bytes={one: manifest.files[artifact.variant_file(one)].bytes for one in variants},
        variant_warnings={one: record.warnings for one, record in manifest.variants.items()},
        baselines=baselines(dataset),
        samples=[sample for _, report in reports for sample in report.samples],
        predictions=Predictions(
            users=test.users.tolist(),
            labels=test.labels.tolist(),
            scores={variant: report.scores for variant, report in reports if report.scores},
        ),
    )
    return msgspec.structs.replace(measurement, results=summarise(measurement))


def _check(artifact: Artifact, dataset: Dataset, plan: Plan, variants: list[str]) -> None:
    check_same_data(artifact.name, artifact.manifest.dataset.fingerprint, dataset)
    for variant in variants:
        if variant not in artifact.variants:
            raise unknown_name(f"variant of {artifact.name}", variant, artifact.variants)
    if plan.processes < 1 or plan.runs < 1 or plan.threads < 1 or not plan.slates or min(plan.slates) < 1:
        raise UsageError("processes, runs, threads and slates must all be at least 1")
    cores = allowed_cores()
    if cores and plan.threads > len(cores):
        raise UsageError(f"{plan.threads} threads need as many cores; this process may use {len(cores)}")


def _run(
    artifact: Artifact, plan: Plan, variants: list[str], inputs: Path, progress: Progress
) -> list[tuple[str, Report]]:
    """Every round's processes, one after another; the first round also scores the test rows."""
    cores = allowed_cores()[-plan.threads :]
    total = plan.processes * len(variants)
    reports: list[tuple[str, Report]] = []
    for process in range(plan.processes):
        for variant in variants if process % 2 == 0 else variants[::-1]:
            progress(
                len(reports), total, f"{artifact.name} {variant}, process {process + 1}/{plan.processes}"
            )
            job = Job(
                artifact=str(artifact.path),
                variant=variant,
                inputs=str(inputs),
                slates=plan.slates,
                threads=plan.threads,
                runs=plan.runs,
                seconds=plan.seconds,
                scope=plan.scope,
                process=process,
                cores=cores,
                accuracy=process == 0,
            )
            reports.append((variant, _start(job)))
    progress(total, total, f"{artifact.name} measured")
    order = {variant: index for index, variant in enumerate(variants)}
    return sorted(reports, key=lambda pair: order[pair[0]])


def _start(job: Job) -> Report:
    """Runs a job in a fresh process and waits for its report."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(job.threads))
    done = subprocess.run(
        [sys.executable, "-m", "rbserve.profilers.worker"],
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


def _write_inputs(path: Path, dataset: Dataset, test: CtrSplit, plan: Plan) -> None:
    """Real requests, drawn once by the plan's seed: the same for every variant and process.

    Slate 1 is a test row as it is. A longer slate is a test user's history and that many items of the
    catalogue, drawn without repetition where the catalogue has enough.
    """
    rng = np.random.default_rng(plan.seed)
    arrays: dict[str, np.ndarray[Any, Any]] = _ragged("test", test.histories) | {
        "test_candidates": test.candidates
    }
    for slate in plan.slates:
        rows = rng.choice(len(test), size=min(REQUESTS, len(test)), replace=False)
        if slate == 1:
            candidates = test.candidates[rows][:, None]
        else:
            repeat = slate > len(dataset.items)
            candidates = np.stack([rng.choice(len(dataset.items), slate, replace=repeat) for _ in rows])
        arrays |= _ragged(f"slate{slate}", test.histories.take(rows))
        arrays[f"slate{slate}_candidates"] = np.ascontiguousarray(candidates, np.int32)
    np.savez(path, allow_pickle=False, **arrays)


def _ragged(name: str, histories: Ragged) -> dict[str, np.ndarray[Any, Any]]:
    return {f"{name}_values": histories.values, f"{name}_offsets": histories.offsets}
