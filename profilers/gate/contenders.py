"""Which variants of a pair of models can be compared, by which plan and on which rows, and why others cannot.

Two adopted models may have come in different formats. What both can be run as is compared; where they share nothing,
such as a Python function and an ONNX graph, what each came as.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.tasks import TASKS
from rbserve.core.variants import device_of
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.data.request_set import RequestSet
from rbserve.machine.environment import environment
from rbserve.profilers.gate.config import GateConfig
from rbserve.profilers.gate.sides import Contender, Key, Pair, Scope, Side, is_accuracy
from rbserve.profilers.gate.verdict import (
    Line,
    Verdict,
)
from rbserve.profilers.measure.harness import (
    check_plan,
    default_plan,
    file_bytes,
    usual_slates,
)
from rbserve.profilers.measure.inputs import Report
from rbserve.profilers.measure.test_rows import open_test_rows
from rbserve.runs.measurement import Measurement, Predictions, comparability_key
from rbserve.runs.plan import Plan
from rbserve.runs.samples import Samples
from rbserve.stats.own_metrics import require_pairs

Data = Dataset | RequestSet


class Prepared(NamedTuple):
    """How a pair is measured. `inputs` has the file of each fingerprint that artefacts are asked with.

    `advisory` says why the result is only that, if it is: the sides were judged on other rows, or elsewhere.
    """

    plan: Plan
    rows: Predictions
    inputs: Mapping[str, Path]
    advisory: str | None


class VariantPair(NamedTuple):
    """What base and head are run as: the same variant, or what each came as."""

    base: str
    head: str

    @property
    def name(self) -> str:
        """One name for both: "onnx-fp32", "native to onnx-fp32"."""
        return self.base if self.base == self.head else f"{self.base} to {self.head}"


def contenders_of(
    pair: Pair,
    data_of: Callable[[Artifact], Data],
    config: GateConfig,
    scope: Scope,
    inputs: Path,
) -> tuple[list[Contender], list[Line]]:
    """A pair's variants, and a line for each that cannot be compared.

    What the artefacts are asked with is written to the folder `inputs`, which is made.
    """
    base, head = pair.base, pair.head
    if base is None or head is None:
        return [], [Line(pair.model, "all", Verdict.MISSING, reason=pair.reason)]
    if any(isinstance(side, Artifact) and side.is_endpoint for side in (base, head)):
        return [], [
            Line(pair.model, "all", Verdict.MISSING, reason="an endpoint answers for it; nothing runs here")
        ]
    differing = _difference(base, head)
    if differing:
        return [], [Line(pair.model, "all", Verdict.NOT_COMPARABLE, reason=differing)]
    variants, lines = _variants(pair.model, base, head, scope)
    try:
        prepared = _prepare(base, head, data_of, config, scope, inputs, variants)
    except UsageError:
        raise
    except RbserveError as error:
        return [], [Line(pair.model, "all", Verdict.MISSING, reason=error.message)]
    contenders = [_contender(pair, variant, prepared, scope) for variant in variants]
    return contenders, lines


def _contender(pair: Pair, variants: VariantPair, prepared: Prepared, scope: Scope) -> Contender:
    """One variant of a pair that can be compared."""
    assert pair.base is not None
    assert pair.head is not None
    plan, rows = prepared.plan, prepared.rows
    base = _side(pair.base, variants.base, pair.base_worker, prepared.inputs)
    head = _side(pair.head, variants.head, pair.head_worker, prepared.inputs)
    unlabelled = "accuracy is not compared: the requests have no labels" if not _is_labelled(rows) else None
    keys = _keys(pair.model, variants.name, plan, scope, pair.base)
    keys = [key for key in keys if not (unlabelled and is_accuracy(key.metric))]
    if 0 in (base.file_bytes, head.file_bytes) and base.file_bytes != head.file_bytes:
        keys = [
            key for key in keys if key.metric != "file_size"
        ]  # the code of a Python function is no file of it
    return Contender(
        pair.model, _task(pair.base), variants.name, plan, rows, base, head, keys, prepared.advisory,
        unlabelled if scope.judges else None,
    )  # fmt: skip


def _is_labelled(rows: Predictions) -> bool:
    """Whether the test rows say what is right; rows that differ between the sides have no users, and count as such."""
    return bool(rows.labels or rows.targets)


def _difference(base: Artifact | Measurement, head: Artifact | Measurement) -> str | None:
    """Why two sides can never be compared: another task, or other data."""
    subjects = [
        ("task", _task(base), _task(head)),
        ("data set", _fingerprint(base)[:12], _fingerprint(head)[:12]),
    ]
    for subject, before, after in subjects:
        if before != after:
            return f"base and head differ in their {subject}: {before} and {after}"
    return None


def _asked_with(artifact: Artifact) -> str:
    """The fingerprint of an adopted model's requests; of other models that of their data set."""
    adopted = artifact.manifest.adopted
    return adopted.requests.fingerprint if adopted else artifact.manifest.dataset.fingerprint


def _task(side: Artifact | Measurement) -> str:
    return side.task if isinstance(side, Measurement) else side.manifest.task


def _fingerprint(side: Artifact | Measurement) -> str:
    return side.dataset_fingerprint if isinstance(side, Measurement) else side.manifest.dataset.fingerprint


def _variants(
    model: str, base: Artifact | Measurement, head: Artifact | Measurement, scope: Scope
) -> tuple[list[VariantPair], list[Line]]:
    """The variants that both sides have, and a line for each requested variant that a side lacks.

    Where nobody named variants and adopted models of different kinds have none in common: what each came as.
    """
    there = [_available(side) for side in (base, head)]
    wanted = list(scope.variants or _served(base))
    common = [VariantPair(variant, variant) for variant in wanted if all(variant in has for has in there)]
    if not common and not scope.variants and _kind(base) != _kind(head):
        return [VariantPair(_reference(base), _reference(head))], []
    lines = [
        Line(model, "all", Verdict.MISSING, variant=variant, reason=f"{side} has no {variant}")
        for variant in wanted
        for side, has in zip(("base", "head"), there, strict=True)
        if variant not in has
    ]
    return common, lines


def _kind(side: Artifact | Measurement) -> str | None:
    """What an artefact is run as; None of a run file."""
    return side.kind if isinstance(side, Artifact) else None


def _reference(side: Artifact | Measurement) -> str:
    """The variant that all others of a model are held against."""
    return side.variants[0] if isinstance(side, Artifact) else _available(side)[0]


def _available(side: Artifact | Measurement) -> list[str]:
    if isinstance(side, Measurement):
        return list(dict.fromkeys(sample.variant for sample in side.samples))
    return side.can_open


def _served(side: Artifact | Measurement) -> list[str]:
    """The exported variants; the reference where there is none."""
    if isinstance(side, Measurement):
        return _available(side)
    return list(side.manifest.variants) or [_reference(side)]


def _prepare(
    base: Artifact | Measurement,
    head: Artifact | Measurement,
    data_of: Callable[[Artifact], Data],
    config: GateConfig,
    scope: Scope,
    inputs: Path,
    variants: Sequence[VariantPair],
) -> Prepared:
    """The plan and the test rows of a pair. Writes what its artefacts are asked with to files of the folder `inputs`.

    Two models of one data set may be asked with other columns; they are judged on the same users and labels.
    """
    plan = _plan(base, config, scope)
    stored = [side for side in (base, head) if isinstance(side, Measurement)]
    sides = ((base, [pair.base for pair in variants]), (head, [pair.head for pair in variants]))
    artifacts = [(side, names) for side, names in sides if isinstance(side, Artifact)]
    keys = [side.comparability_key for side in stored]
    rows = [side.predictions for side in stored]
    device = device_of(name for _, names in artifacts for name in names)
    files: dict[str, Path] = {}
    inputs.mkdir()
    for artifact, names in artifacts:
        data, fingerprint = data_of(artifact), _asked_with(artifact)
        check_plan(artifact, data, plan, names)
        if fingerprint in files:
            continue
        test = open_test_rows(artifact, data, plan)
        files[fingerprint] = inputs / f"{len(files)}.npz"
        test.write(files[fingerprint], plan)
        rows.append(test.unanswered)
        keys.append(comparability_key(environment(device), plan.threads, test.fingerprint))
    first = rows[0]
    if any(other.rows_key != first.rows_key for other in rows[1:]):
        unjudged = msgspec.structs.replace(first, users=[])
        return Prepared(plan, unjudged, files, "base and head were judged on other test rows")
    elsewhere = "the baseline is of another machine, thread count or library" if len({*keys}) > 1 else None
    return Prepared(plan, first, files, elsewhere)


def _plan(base: Artifact | Measurement, config: GateConfig, scope: Scope) -> Plan:
    """The baseline's shapes and threads, else the task's and the configuration's."""
    if isinstance(base, Measurement):
        plan = base.plan
    else:
        usual = default_plan(_task(base))
        plan = msgspec.structs.replace(
            usual, slates=usual_slates(base), scope="forward", threads=config.threads,
            test_users=config.test_users, seed=config.seed,
        )  # fmt: skip
    return msgspec.structs.replace(
        plan,
        processes=config.max_rounds,
        runs=config.runs,
        seconds=config.seconds,
        slates=list(scope.slates or plan.slates),
        scope=scope.scope or plan.scope,
    )


def _side(
    side: Artifact | Measurement, variant: str, worker: Sequence[str], inputs: Mapping[str, Path]
) -> Side:
    if isinstance(side, Artifact):
        return Side(file_bytes(side, variant), [], variant, side, worker, inputs[_asked_with(side)])
    by_process: dict[int, list[Samples]] = {}
    for sample in side.samples:
        if sample.variant == variant:
            by_process.setdefault(sample.process, []).append(sample)
    reports = [Report(samples) for samples in by_process.values()]
    predictions = side.predictions
    reports[0] = Report(
        reports[0].samples,
        scores=predictions.scores.get(variant, []),
        ranks=predictions.ranks.get(variant, []),
    )
    return Side(side.file_bytes[variant], reports, variant)


def _keys(model: str, variant: str, plan: Plan, scope: Scope, base: Artifact | Measurement) -> list[Key]:
    random = base.random if isinstance(base, Measurement) else base.is_random
    keys = [
        Key(model, variant, "p50", scope_name, slate)
        for scope_name in plan.scopes
        for slate in plan.slates
        if "p50" in scope.metrics
    ]
    keys += [Key(model, variant, metric) for metric in ("peak_rss", "file_size") if metric in scope.metrics]
    if "accuracy" in scope.metrics and not random:
        keys.append(Key(model, variant, TASKS[_task(base)].metric))
    own = [] if random else scope.own_metrics
    require_pairs(own, TASKS[_task(base)].ranks)
    return keys + [Key(model, variant, metric) for metric in own]
