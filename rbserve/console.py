"""What people see: messages and progress on standard error, tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rbserve.core.types import Progress, no_progress

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.core.measurement import Measurement, Result


def say(message: str) -> None:
    """One line to the user."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar with steps, a line of status and the time left; silent when standard error is no terminal."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.fields[title]}"),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TextColumn("at most"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description}"),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", title=title, total=None)
        yield lambda done, total, line: bar.update(task, completed=done, total=total, description=line)


def show(table: Table) -> None:
    """Prints a table to standard output, as wide as its content when that is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    console.print(table)


def models_table(rows: list[dict[str, object]]) -> Table:
    """The zoo, a row a model."""
    from rich.table import Table

    table = Table(
        "model", "group", "task", "items as", "paper's name", "runnable", "needs", box=None, pad_edge=False
    )
    for row in rows:
        needs = row["needs"]
        assert isinstance(needs, tuple)
        table.add_row(
            str(row["name"]),
            str(row["group"]),
            str(row["task"]),
            str(row["item_form"]),
            str(row["paper_name"]),
            "yes" if row["runnable"] else "no",
            "; ".join(needs) or "–",
        )
    return table


def results_table(measurement: Measurement) -> Table:
    """A profile: one row a variant and slate, latency in milliseconds a call, accuracy beside it."""
    from rich.table import Table

    plan, machine = measurement.plan, measurement.environment
    table = Table(
        title=f"{measurement.model} on {measurement.dataset}",
        caption=(
            f"{plan.scope}, {plan.threads} thread(s) on {machine.cpu}; ms per call; "
            f"[ ] 95% interval; – too few runs to certify"
        ),
        caption_justify="left",
        title_justify="left",
    )
    for name in ("variant", "slate", "p50 [95%]", "mean", "p90", "p99", "max", "AUC [95%]", "GAUC"):
        table.add_column(name, justify="left" if name == "variant" else "right", no_wrap=True)
    for name in ("RSS MB", "load ms", "first ms", "file MB", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in measurement.results:
        table.add_row(*_result_cells(result), end_section=result is _last_of_variant(measurement, result))
    for variant, warnings in measurement.variant_warnings.items():
        for warning in warnings:
            table.caption = f"{table.caption}\nwarning: {variant}: {warning}"
    for name, values in measurement.baselines.items():
        table.caption = (
            f"{table.caption}\nbaseline {name}: AUC {values['auc']:.4f}, GAUC {values['gauc']:.4f}"
        )
    return table


def _result_cells(result: Result) -> list[str]:
    latency = result.latency_ms
    return [
        result.variant,
        str(result.slate),
        f"{_ms(latency.p50)} [{_ms(latency.ci95[0])}, {_ms(latency.ci95[1])}]",
        _ms(latency.mean),
        _ms(latency.p90),
        _ms(latency.p99),
        _ms(latency.max),
        f"{_accuracy(result.accuracy['auc'])} {_interval(result.accuracy.get('auc_ci95'))}",
        _accuracy(result.accuracy["gauc"]),
        f"{result.peak_rss_mb:.0f}",
        f"{result.load_ms:.0f}",
        _ms(result.first_call_ms),
        f"{result.file_mb:.1f}",
        str(result.n),
    ]


def _last_of_variant(measurement: Measurement, result: Result) -> Result:
    return [one for one in measurement.results if one.variant == result.variant][-1]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _accuracy(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "–"


def _interval(value: object) -> str:
    return f"[{value[0]:.3f}, {value[1]:.3f}]" if isinstance(value, tuple) else ""
