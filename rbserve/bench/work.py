"""The work of one cell: a function of the cell alone, which writes below RBSERVE_HOME and says how it ended.

Whatever engine runs cells calls `work`. What it makes is made by the pipeline; this module adds what a matrix needs:
a variant that cannot be made does not cost its model the others, and a training that was cut off goes on.
"""

from __future__ import annotations

import time
from dataclasses import replace

import msgspec

from rbserve.bench.journal import SCHEMA, Journal, Outcome, artifact_of, impossible, missing_variants
from rbserve.bench.matrix import Cell
from rbserve.core.errors import Interrupted, RbserveError
from rbserve.core.files import file_error, sha256
from rbserve.core.tasks import TASKS
from rbserve.core.types import Progress, no_progress
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import check_same_data
from rbserve.home.target import Target, resolve
from rbserve.pipeline import data, exporting, profiling, training
from rbserve.profilers.compare.baselines import marks_of
from rbserve.progress import progress_to, say
from rbserve.runtimes import memory


def work(cell: Cell, bench: str, progress: Progress = no_progress) -> Outcome:
    """Does a cell and keeps its outcome in the journal of `bench`; a failure is an outcome too.

    Raises Interrupted or KeyboardInterrupt when it is stopped: then there is no outcome.
    """
    started = time.monotonic()
    try:
        with progress_to(progress):
            outcome = _STEPS[cell.step](cell)
    except Interrupted:
        raise
    except RbserveError as error:
        outcome = Outcome(SCHEMA, cell, "failed", error=error.message, hint=error.hint)
    except OSError as error:
        explained = file_error(error)
        outcome = Outcome(SCHEMA, cell, "failed", error=explained.message, hint=explained.hint)
    outcome = msgspec.structs.replace(outcome, seconds=time.monotonic() - started)
    Journal(bench).write(outcome)
    return outcome


def _prepare(cell: Cell) -> Outcome:
    return Outcome(SCHEMA, cell, "done", fingerprint=data.ensure_rows(cell.dataset).fingerprint)


def _build(cell: Cell) -> Outcome:
    """Trains and exports what is missing; an adopted model is there, and only exported."""
    artifact = _trained(cell)
    artifact, failed = _exported(artifact, missing_variants(cell, artifact))
    return Outcome(
        SCHEMA,
        cell,
        "done",
        fingerprint=artifact.manifest.dataset.fingerprint,
        artifact_digest=_digest(artifact),
        absent=impossible(cell, artifact),
        failed=failed,
    )


def _trained(cell: Cell) -> Artifact:
    """The artefact, trained where there is none; from its checkpoint where a training was cut off."""
    target = _target(cell)
    if target.artifact is None:
        from rbserve.train.fit import checkpoint_path

        cut_off = checkpoint_path(target.path).is_file()
        if cut_off:
            say(f"the training of {target.path.name} goes on where it was cut off")
        spec = replace(target.spec, random=cell.random)
        return training.train(spec, cell.dataset, cell.training, cell.options, target.path, cut_off)
    if target.artifact.is_adopted:
        return target.artifact
    fingerprint = target.artifact.manifest.dataset.fingerprint
    check_same_data(target.name, fingerprint, data.ensure_dataset(cell.dataset))
    return target.artifact


def _target(cell: Cell) -> Target:
    return resolve(cell.model, cell.dataset, cell.random)


def _exported(artifact: Artifact, variants: list[str]) -> tuple[Artifact, dict[str, str]]:
    """The artefact with the variants, and of those whose export failed why. Together they share the reference."""
    if not variants:
        return artifact, {}
    try:
        return exporting.ensure_exported(artifact, variants), {}
    except RbserveError as error:
        if len(variants) == 1:
            return artifact, {variants[0]: error.message}
    failed: dict[str, str] = {}
    for variant in variants:
        artifact, why = _exported(artifact, [variant])
        failed |= why
    return artifact, failed


def _profile(cell: Cell) -> Outcome:
    """Measures the variants that there are and that memory holds."""
    assert cell.plan is not None
    artifact = artifact_of(cell)
    chosen, absent = _to_measure(cell, artifact)
    done = Outcome(SCHEMA, cell, "done", fingerprint=artifact.manifest.dataset.fingerprint, absent=absent)
    if cell.variants and not chosen:
        return msgspec.structs.replace(done, artifact_digest=_digest(artifact))
    settings = msgspec.structs.asdict(cell.plan)
    target = _target(cell)
    metrics = () if TASKS[target.task].ranks else cell.metrics
    measurement = profiling.profile(target, settings, chosen or None, metrics)
    return msgspec.structs.replace(
        done,
        artifact_digest=measurement.artifact_digest,
        comparability_key=measurement.comparability_key,
        run=f"{measurement.id}.json",
        results=measurement.results,
        absent=absent | measurement.left_out,
        failed=measurement.failed,
        baseline_marks=marks_of(measurement),
    )


def _to_measure(cell: Cell, artifact: Artifact) -> tuple[list[str], dict[str, str]]:
    """Those of the named variants that can be opened here, and why others cannot; of a failed export its cell tells."""
    there = [variant for variant in cell.variants if variant in artifact.can_open]
    too_large = {variant: reason for variant in there if (reason := memory.shortage(artifact, variant))}
    return [variant for variant in there if variant not in too_large], impossible(cell, artifact) | too_large


def _digest(artifact: Artifact) -> str:
    return sha256(artifact.path / "manifest.json")


_STEPS = {"prepare": _prepare, "build": _build, "profile": _profile}
