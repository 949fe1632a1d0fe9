"""The verb `profile`: latency and accuracy of each variant of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rbserve.cli.options import (
    VARIANT,
    DatasetNames,
    Indexes,
    Json,
    Many,
    Models,
    OwnMetrics,
    Scope,
    Slates,
    Weights,
    counts,
    given,
    slates_of,
    words,
)
from rbserve.cli.records import FromRecord
from rbserve.cli.selection import run_each, select
from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.variants import check_indexes, check_variants
from rbserve.runs.plan import Plan

if TYPE_CHECKING:
    from rbserve.home.target import ModelName
    from rbserve.runs.measurement import Measurement

DEFAULTS = {"cost": True}
"""Values of a plan that this command has, and runs of `bench` and `check` do not."""
FIELDS = ("budget_s", "processes", "runs", "seconds", "test_users", "exclude_seen", "warm", "cost")


def profile(
    *,
    model: Models = None,
    many: Many = None,
    dataset: DatasetNames = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            *VARIANT,
            help="Variants, comma-separated, such as torch-fp32,onnx-int8 (default those that memory holds).",
        ),
    ] = None,
    index: Indexes = None,
    weights: Weights = "learnt",
    slates: Slates = None,
    scope: Scope = None,
    threads: Annotated[
        list[str] | None,
        typer.Option(
            help="Threads of a call, each on a core of its own; 1,2 measures with one and with two (default 1)."
        ),
    ] = None,
    metric: OwnMetrics = None,
    plan: Annotated[dict[str, Any], FromRecord(Plan, FIELDS, panel="Measuring", defaults=DEFAULTS)],
    as_json: Json = False,
) -> None:
    """Measure latency and accuracy of each variant of a model, making what is missing.

    Examples: rbserve profile --model gdcn --slates 1,100; rbserve profile --model sasrec-3l --slates 10 --exclude-seen
    """
    from rbserve.pipeline.home import Home

    _check_budget(plan)
    sizes = slates_of(slates) if slates is not None else None
    whole = DEFAULTS | given(slates=sizes, scope=scope) | plan
    thread_counts = counts(threads if threads is not None else "1", "threads", "1,2")
    named = words(variants) or None
    check_variants(named or [])
    indexes = words(index)
    check_indexes(indexes)
    failed: dict[str, str] = {}

    def profile_model(name: str | ModelName, data: str) -> object:
        documents = []
        for count in thread_counts:
            measurement = Home().profile(
                name, data, plan=whole | {"threads": count}, variants=named, random=weights == "random",
                metrics=words(metric), indexes=indexes,
            )  # fmt: skip
            failed.update({f"{name} {variant}": reason for variant, reason in measurement.failed.items()})
            documents.append(_document(measurement, as_json))
        return documents if len(thread_counts) > 1 else documents[0]

    run_each(select(model, many, dataset), profile_model, as_json)
    _raise_failed(failed)


def _check_budget(plan: Mapping[str, Any]) -> None:
    if "budget_s" in plan and plan.keys() & {"runs", "seconds"}:
        raise UsageError(
            "--budget plans the runs; it takes neither --runs nor --seconds", "give one or the other"
        )


def _raise_failed(failed: Mapping[str, str]) -> None:
    """Raises RbserveError for the variants that could not be measured, with their reasons, if there are any."""
    if failed:
        raise RbserveError(
            "; ".join(f"{variant}: {reason}" for variant, reason in failed.items()),
            "the other variants were measured, and their run is kept",
        )


def _document(measurement: Measurement, as_json: bool) -> object:
    """The measurement as --json prints it; shows its table where that is not wanted."""
    from rbserve.runs.run_file import public

    if not as_json:
        from rbserve.cli.console import show
        from rbserve.cli.profile_table import results_table

        show(results_table(measurement))
    return public(measurement)
