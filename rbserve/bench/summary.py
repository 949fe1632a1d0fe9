"""The results of a bench: a row for each model, data set and variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from rbserve.bench.journal import Outcome
from rbserve.bench.matrix import Cell
from rbserve.core.tasks import TASKS
from rbserve.runs.measurement import Result

if TYPE_CHECKING:
    from rich.table import Table


class Row(msgspec.Struct, frozen=True):
    """One variant of one model on one data set; `reason` says why it has no results.

    `variant` is "" where a cell ended before it was known which variants there are. `kept`: measured by an earlier
    start of the bench. `baseline_mark` is "below popularity" where the best baseline is no worse. `machine` is the kind
    of machine, where the bench measured on every kind.
    """

    dataset: str
    model: str
    variant: str
    status: Literal["measured", "absent", "failed", "not run"]
    reason: str = ""
    kept: bool = False
    run: str = ""
    results: list[Result] = []
    baseline_mark: str = ""
    machine: str = ""


def summarise(outcomes: Sequence[Outcome]) -> list[Row]:
    """The rows of all models, in the order of the matrix."""
    by_id = {outcome.cell.id: outcome for outcome in outcomes}
    rows: list[Row] = []
    for profile in outcomes:
        if profile.cell.step == "profile":
            build = by_id[msgspec.structs.replace(profile.cell, step="build", machine="").id]
            rows += _rows(build, profile)
    return rows


def machines(outcomes: Sequence[Outcome]) -> int:
    """How many machines that may not be compared a data set was measured on; 1 if all runs are comparable."""
    keys: dict[str, set[str]] = {}
    for outcome in outcomes:
        if outcome.comparability_key:
            keys.setdefault(outcome.cell.dataset, set()).add(outcome.comparability_key)
    return max(map(len, keys.values()), default=0)


def summary_table(rows: Sequence[Row]) -> Table:
    """The table of the results: latency at each slate (k where a model ranks items), accuracy, or the failure."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "data set", "model", "variant", "", "p50 ms a call", "accuracy",
        box=None, pad_edge=False, padding=(0, 2, 0, 0),
        caption="p50 by scope and slate (of models that rank: k); kept: measured by an earlier start",
        caption_justify="left",
    )  # fmt: skip
    for row in rows:
        status = "kept" if row.kept else row.status
        latency = ", ".join(
            f"{result.scope} {result.slate}: {result.latency_ms.p50:.3g}" for result in row.results
        )
        table.add_row(
            row.dataset, row.model, row.variant or "–", status, latency or escape(row.reason), _headline(row),
        )  # fmt: skip
    return table


def _rows(build: Outcome, profile: Outcome) -> list[Row]:
    """One row a variant: what was measured, what cannot be, what failed."""
    cell = profile.cell
    if not profile.ok:
        status: Any = "failed" if "failed" in (build.status, profile.status) else "not run"
        reason = (build if not build.ok else profile).error or ""
        return [_row(cell, variant, status, reason=reason) for variant in cell.variants or [""]]
    measured: dict[str, list[Result]] = {}
    for result in profile.results:
        measured.setdefault(result.variant, []).append(result)
    kept = profile.status == "there"
    by_variant = {
        **{variant: _row(cell, variant, "measured", kept=kept, run=profile.run, results=results,
                         baseline_mark=profile.baseline_marks.get(variant, ""))
           for variant, results in measured.items()},
        **{variant: _row(cell, variant, "absent", reason=why)
           for variant, why in (build.absent | profile.absent).items()},
        **{variant: _row(cell, variant, "failed", reason=why)
           for variant, why in (build.failed | profile.failed).items()},
    }  # fmt: skip
    lost = "it was neither exported nor measured; the logs of the bench may say why"
    named = [
        by_variant.get(variant) or _row(cell, variant, "failed", reason=lost) for variant in cell.variants
    ]
    return named or [*by_variant.values()]


def _row(cell: Cell, variant: str, status: Any, **fields: Any) -> Row:
    return Row(cell.dataset, cell.name, variant, status, machine=cell.machine, **fields)


def _headline(row: Row) -> str:
    """The headline metric of a row, with its interval and the mark of a baseline that is no worse."""
    accuracy = row.results[0].accuracy if row.results else {}
    for task in TASKS.values():
        metric = task.metric
        value, interval = accuracy.get(metric), accuracy.get(f"{metric}_ci95")
        if isinstance(value, float):
            between = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if isinstance(interval, tuple) else ""
            return f"{metric} {value:.4f}{between}{row.baseline_mark and f', {row.baseline_mark}'}"
    return ""
