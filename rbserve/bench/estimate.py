"""How long a cell may take and what it needs, from what was done before; where nothing was, from the plan's bounds.

An estimate plans an evening. It says where it comes from, and is no part of any result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median

import msgspec

from rbserve.bench.journal import Journal, artifact_of, bench_path, missing_variants
from rbserve.bench.matrix import Cell
from rbserve.core.errors import RbserveError
from rbserve.core.variants import HALF_REFERENCE, REFERENCE, USUAL_EXPORTS, exports_of, weights_size
from rbserve.data.artifact import Artifact
from rbserve.data.request_set import RequestSet
from rbserve.home.paths import readable_artifacts, runs_path
from rbserve.models.zoo import BACKBONES, MODELS, find_model
from rbserve.pipeline.data import open_rows
from rbserve.profilers.timing.latency import FEWEST, WARMUP_CALLS, WARMUP_NS
from rbserve.runs.measurement import Result
from rbserve.runs.plan import Plan
from rbserve.runtimes import memory

OPEN_S = 2.0  # of a process of which nothing is known: to start and load


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of a cell, None where nothing is known, and the `source` of the figure.

    `bound`: what the plan allows for its timed calls is in the sum, because nothing like them was measured.

    `memory` are bytes of the largest variant's weights, `disk` bytes to be written; None where not known.
    """

    seconds: float | None
    source: str
    bound: bool = False
    memory: int | None = None
    disk: int | None = None


def estimate(cell: Cell, journal: Journal) -> TimeEstimate:
    """What doing a cell takes; nothing where its outcome stands."""
    if journal.standing(cell):
        return TimeEstimate(0.0, "done")
    if cell.step == "profile":
        return _profile(cell)
    seconds, source = _as_before(cell) or (_training(cell) if cell.step == "build" else (None, "not known"))
    if cell.step == "prepare":
        return TimeEstimate(seconds, source)
    return TimeEstimate(seconds, source, memory=_memory(cell), disk=_disk(cell))


def _as_before(cell: Cell) -> tuple[float, str] | None:
    """The seconds of the newest such cell, of this or another bench, without a training that is not to be repeated."""
    earlier: list[tuple[float, float, str]] = []
    for file in bench_path().glob(f"*/journal/{cell.id}.json"):
        outcome = Journal(file.parent.parent.name).read(cell)
        if (
            outcome
            and outcome.status == "done"
            and (outcome.cell.training, outcome.cell.options) == (cell.training, cell.options)
        ):
            earlier.append((file.stat().st_mtime, outcome.seconds, f"bench {file.parent.parent.name}"))
    if not earlier:
        return None
    _, seconds, source = max(earlier)
    there = _artifact(cell) if cell.model else None
    return max(0.0, seconds - (there.manifest.training.seconds if there else 0.0)), source


def _training(cell: Cell) -> tuple[float | None, str]:
    """From trainings of like models on the same data set, else of the same model on another one."""
    if cell.random or _artifact(cell):
        return None, "not known"
    at_most = cell.training.get("epochs")
    alike: list[float] = []
    elsewhere: dict[str, float] = {}
    for artifact in _artifacts():
        record, trained_on = artifact.manifest.training, artifact.manifest.dataset.name
        if record.random or record.taken_from or not record.epochs:
            continue
        seconds = record.seconds * min(1.0, (at_most or record.epochs) / record.epochs)
        if trained_on == cell.dataset and _like(artifact.name, cell.model):
            alike.append(seconds)
        elif artifact.name == cell.model:
            elsewhere[trained_on] = seconds
    if alike:
        return median(alike), f"{len(alike)} trainings of its kind on {cell.dataset}"
    if elsewhere:
        return max((seconds, f"training on {dataset}") for dataset, seconds in elsewhere.items())
    return None, "not known"


def _like(name: str, model: str) -> bool:
    """Whether two rows are of one kind and size: the same recipe, backbone and way to train."""
    kinds = {spec.name: (spec.recipe, spec.backbone, spec.training) for spec in MODELS}
    return name == model or (name in kinds and kinds[name] == kinds.get(model))


def _profile(cell: Cell) -> TimeEstimate:
    """From the newest run of the model, of its data set if there is one; what that lacks counts with its bound."""
    assert cell.plan is not None
    variants = _variants(cell)
    run = _newest_run(cell)
    seconds, bound = 0.0, False
    for variant in variants:
        spent, at_most = _variant_seconds(cell.plan, variant, run.results if run else [], _test_rows(cell))
        seconds, bound = seconds + spent, bound or at_most
    source = f"run of {run.created[:10]} on {run.dataset}" if run else "the plan's seconds, without accuracy"
    if run and bound:
        source += "; in part the plan's seconds"
    return TimeEstimate(seconds, source, bound, memory=_memory(cell))


def _variant_seconds(plan: Plan, variant: str, known: list[Result], test_rows: int) -> tuple[float, bool]:
    """All processes of a variant, and whether a bound of the plan is in the sum.

    What was not measured of the variant counts like the slowest of the others.
    """
    ordered = sorted(known, key=lambda result: (result.variant != variant, -result.latency_ms.mean))
    opening = ordered[0].load_ms / 1e3 if ordered else OPEN_S
    spent, bound = 0.0, False
    for scope, slate in product(plan.scopes, plan.slates):
        row = next((result for result in ordered if (result.scope, result.slate) == (scope, slate)), None)
        if row is None:
            spent, bound = spent + plan.seconds + WARMUP_NS * 1e-9, True
            continue
        mean = row.latency_ms.mean / 1e3
        warm_up = min(WARMUP_CALLS * mean, max(WARMUP_NS * 1e-9, FEWEST * mean))
        spent += row.first_call_ms / 1e3 + warm_up + max(FEWEST * mean, min(plan.runs * mean, plan.seconds))
    smallest = min(ordered, key=lambda result: result.slate, default=None)
    judged = test_rows * smallest.latency_ms.mean / 1e3 if smallest else 0.0
    return plan.processes * (opening + spent) + judged, bound


def _test_rows(cell: Cell) -> int:
    """Rows that accuracy is measured on, 0 where they are not known."""
    assert cell.plan is not None
    if cell.random:
        return 0
    try:
        data = open_rows(cell.dataset)
    except RbserveError:
        return 0
    if isinstance(data, RequestSet):
        return data.manifest.rows if data.manifest.labels else 0
    artifact = _artifact(cell)
    task = artifact.manifest.task if artifact else find_model(cell.model).task
    test: dict[str, int] = data.manifest.counts[task]["test"]
    share = min(1.0, cell.plan.test_users / test["users"]) if cell.plan.test_users else 1.0
    return round(test["rows"] * share)


def _memory(cell: Cell) -> int | None:
    """Bytes of the largest variant's weights; of a language model that is not there, by its published size."""
    sizes = [size for variant in _variants(cell) if (size := _weights(cell, variant)) is not None]
    return max(sizes, default=None)


def _disk(cell: Cell) -> int | None:
    """Bytes that building writes: what is trained, and each exported variant that is missing."""
    artifact = _artifact(cell)
    if artifact:
        wanted: Sequence[str] = missing_variants(cell, artifact)
    else:
        wanted = [HALF_REFERENCE, *exports_of(_variants(cell))]  # the weights are packaged in 16 bits
    sizes = [_weights(cell, variant) for variant in wanted]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _weights(cell: Cell, variant: str) -> int | None:
    artifact = _artifact(cell)
    if artifact:
        return memory.needed(artifact, variant) if variant in artifact.can_have else None
    backbone = find_model(cell.model).backbone
    billions = BACKBONES[backbone].parameters if backbone else None
    return weights_size(variant, billions * 1e9) if billions else None


def _variants(cell: Cell) -> Sequence[str]:
    artifact = _artifact(cell)
    return cell.variants or (artifact.usual_variants if artifact else [REFERENCE, *USUAL_EXPORTS])


def _artifact(cell: Cell) -> Artifact | None:
    try:
        return artifact_of(cell)
    except RbserveError:
        return None


class _Run(msgspec.Struct):
    """What of a run file an estimate reads."""

    model: str
    dataset: str
    created: str
    results: list[Result]
    random: bool = False


def _newest_run(cell: Cell) -> _Run | None:
    runs = [
        run
        for file in runs_path().glob(f"*-{cell.model}-*.json")
        if (run := _read_run(file)) and (run.model, run.random) == (cell.model, cell.random)
    ]
    return max(runs, key=lambda run: (run.dataset == cell.dataset, run.created), default=None)


@cache
def _read_run(file: Path) -> _Run | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Run)
    except (OSError, msgspec.MsgspecError):
        return None


@cache
def _artifacts() -> list[Artifact]:
    return [*readable_artifacts()]
