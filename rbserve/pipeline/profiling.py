"""From a model to a run file: missing data, artefacts and exports are made, then the variants are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.files import require_writable
from rbserve.core.tasks import TASKS
from rbserve.core.variants import HALF_REFERENCE, REFERENCE, REMEMBERING, exported_variant
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.home.paths import runs_path
from rbserve.home.target import Target
from rbserve.pipeline.baselines import further_baselines
from rbserve.pipeline.data import rows_of
from rbserve.pipeline.exporting import ensure_exported
from rbserve.pipeline.training import ensure_artifact
from rbserve.progress import progress_bar, say
from rbserve.runtimes import memory
from rbserve.runtimes.opening import unavailable

if TYPE_CHECKING:
    from rbserve.runs.measurement import Measurement
    from rbserve.runs.plan import Plan
    from rbserve.stats.own_metrics import OwnMetrics


ENDPOINT_PLAN = {"processes": 1, "runs": 50, "seconds": 60.0, "slates": [1]}  # every timed call costs money


def profile(
    target: Target,
    settings: Mapping[str, Any] | None = None,
    variants: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
    indexes: Sequence[str] = (),
) -> Measurement:
    """Profiles a model, making what is missing upstream, and writes the measurement to runs/<id>.json.

    `settings` changes the default plan of the model's task. Without `variants`, those whose weights do not fit into
    memory are left out, and torch-bf16 takes the place of torch-fp32. `metrics` are of the user's own: module:function.
    `indexes` are measured beside these variants.
    """
    from rbserve.profilers.measure.harness import profile as measure
    from rbserve.profilers.measure.test_rows import data_set_of
    from rbserve.runs.run_file import write_measurement
    from rbserve.stats.own_metrics import load_metrics, require_pairs

    target.check_precisions(indexes)
    searched = [exported_variant(index) for index in indexes]
    plan = plan_of(target, settings or {}, [*(variants or ()), *searched])
    require_pairs(metrics, TASKS[target.task].ranks)
    own = load_metrics(metrics)
    artifact = ensure_artifact(target)
    left_out: dict[str, str] = {}
    if artifact.is_endpoint:
        chosen = list(variants or artifact.variants)
    else:
        chosen, left_out = _to_measure(artifact, variants)
        chosen = list(dict.fromkeys([*chosen, *searched]))
        artifact = ensure_exported(artifact, chosen)
    data = rows_of(artifact)
    require_writable(runs_path())
    if isinstance(data, Dataset) and artifact.is_endpoint:
        _say_what_it_takes(artifact, data, plan)
    known = data if isinstance(data, Dataset) else data_set_of(artifact, data)
    further = further_baselines(artifact, known, plan.exclude_seen)
    with progress_bar(f"profile {artifact.name}") as progress:
        measurement = measure(artifact, data, plan, chosen, progress, left_out, further)
    path = write_measurement(runs_path(), measurement)
    if own:
        with progress_bar(f"metrics of {artifact.name}"):
            measurement = _with_own_metrics(measurement, own, path)
        write_measurement(runs_path(), measurement)
    if artifact.is_endpoint and not (measurement.random or measurement.predictions.scores):
        from rbserve.runtimes.endpoint_scorer import UnclearAnswersError

        reasons = [warning for warnings in measurement.variant_warnings.values() for warning in warnings]
        raise UnclearAnswersError(f"{artifact.name}: {'; '.join(reasons)}", f"what was measured is in {path}")
    say(f"profiled {artifact.name} -> {path}")
    return measurement


def _with_own_metrics(measurement: Measurement, own: OwnMetrics, path: Path) -> Measurement:
    """The measurement with the user's own metrics of each variant; where one fails the run is kept without them."""
    import msgspec

    from rbserve.stats.own_metrics import compute_own, own_intervals

    predictions = measurement.predictions
    rows = {variant: predictions.judged_rows(variant) for variant in predictions.scores}
    try:
        values = {variant: compute_own(own, judged) for variant, judged in rows.items()}
        intervals = {variant: own_intervals(own, judged) for variant, judged in rows.items()}
    except RbserveError as error:
        raise type(error)(error.message, f"what was measured is in {path}; {error.hint}") from None
    return msgspec.structs.replace(measurement, own_metrics=values, own_intervals=intervals)


def plan_of(model: Target, settings: Mapping[str, Any], variants: Sequence[str] = ()) -> Plan:
    """The plan of a model's profile; UsageError for settings or variants that it cannot be measured with."""
    import msgspec

    from rbserve.profilers.measure.harness import (
        check_numbers,
        default_plan,
        refuse_table,
        refuse_warm,
        usual_slates,
    )
    from rbserve.runs.plan import TABLE

    model.check_variants(variants)
    if model.is_endpoint and settings.get("budget_s") is not None:
        raise UsageError(
            "--budget is for models that run here; calls of an endpoint cost money", "give --runs"
        )
    artifact = model.artifact
    usual = ENDPOINT_PLAN if model.is_endpoint else {"slates": usual_slates(artifact)} if artifact else {}
    plan = msgspec.structs.replace(
        default_plan(model.task, settings.get("budget_s")), **{**usual, **settings}
    )
    check_numbers(model.name, model.task, plan)
    if TABLE in plan.slates and not (artifact and artifact.has_own_requests):
        refuse_table(model.name)
    if plan.warm and (TASKS[model.task].ranks or model.kind not in REMEMBERING):
        refuse_warm(model.name)
    return plan


def _to_measure(artifact: Artifact, named: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The variants to measure, and the reasons why others are left out; named variants are never left out."""
    if named:
        return list(named), {}
    chosen = list(dict.fromkeys([*artifact.usual_variants, *artifact.manifest.variants]))
    left_out = {name: reason for name in chosen if (reason := memory.shortage(artifact, name))}
    if REFERENCE in left_out and HALF_REFERENCE in artifact.can_open:
        chosen.append(HALF_REFERENCE)
    left_out |= {name: reason for name in chosen if (reason := unavailable(artifact, name))}
    for name, reason in left_out.items():
        say(f"{artifact.name} {name} is not measured: {reason}")
    return [name for name in chosen if name not in left_out], left_out


def _say_what_it_takes(artifact: Artifact, data: Dataset, plan: Plan) -> None:
    from rbserve.profilers.measure.test_rows import DatasetRows
    from rbserve.profilers.timing.latency import PAID_WARMUP_CALLS, most_calls
    from rbserve.runs.plan import TABLE
    from rbserve.runtimes.endpoint import estimate

    rows = DatasetRows(artifact, data, plan).split
    assert isinstance(rows, CtrSplit)
    taken = estimate(artifact, rows.histories, rows.candidates)
    calls = plan.processes * len(plan.scopes) * most_calls(plan.runs, PAID_WARMUP_CALLS)
    timed = calls * sum(slate for slate in plan.slates if slate != TABLE)  # a request a candidate
    say(
        f"{artifact.name}: {taken.requests:,} requests to make ({taken.answered:,} answered before), "
        f"about {taken.prompt_tokens:,} prompt tokens, {taken.usd:.2f} USD at the config's prices; "
        f"and at most {timed:,} to time it, warm-up included. Requests that fail are made again. Ctrl-C keeps what is "
        "answered."
    )
