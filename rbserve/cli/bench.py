"""The verb `bench`: many models on many data sets, in every variant."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import (
    CLUSTER,
    MODEL,
    SLATE,
    VARIANT,
    Address,
    DatasetNames,
    Engine,
    Json,
    OwnMetrics,
    Scope,
    Weights,
    config_changes,
    counts,
    dataset_names,
    given,
    slates_of,
    words,
)
from rbserve.cli.records import FromRecord
from rbserve.core.errors import Interrupted, RbserveError
from rbserve.core.names import plain_name
from rbserve.core.settings import Settings
from rbserve.core.tasks import CTR, SEQREC
from rbserve.core.variants import check_variants
from rbserve.progress import say
from rbserve.runs.plan import Plan

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.bench.engines import BenchEngine
    from rbserve.bench.estimate import TimeEstimate
    from rbserve.bench.journal import Journal
    from rbserve.bench.matrix import Cell, Node

TRAINING = "Training, where a model is not trained yet"
MEASURING = "Measuring"
PLAN_FIELDS = ("exclude_seen", "threads", "processes", "runs", "seconds", "test_users")
TRAINING_FIELDS = ("epochs", "batch", "patience")


def bench(
    *,
    models: Annotated[list[str], typer.Option(*MODEL, help="Models: all, A, A-H, A,C or dnn,gdcn.")],
    datasets: DatasetNames = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            *VARIANT,
            help="Variants, comma-separated (default torch-fp32,onnx-fp32,onnx-int8 where memory holds them).",
        ),
    ] = None,
    weights: Weights = "learnt",
    out: Annotated[
        str, typer.Option("--out", "--name", help="Name of the bench, below bench/; the same name continues.")
    ] = "matrix",
    report: Annotated[str | None, typer.Option(help="Draw reports/NAME at the end.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells and the time they may take; do nothing.")
    ] = False,
    options: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with options of training and measuring for some models; docs/reference.toml is one."
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            help="Trainings and exports at a time, of a cluster on each node; latency is always measured alone.",
            min=1,
        ),
    ] = 1,
    quiet: Annotated[
        Literal["machine", "core"], typer.Option(help="What a latency measurement has to itself.")
    ] = "machine",
    engine: Engine = "local",
    address: Address = None,
    machines: Annotated[
        str,
        typer.Option(
            metavar="LABEL",
            help="Measure on every kind of machine: a node's kind is the value of this label of Ray.",
            rich_help_panel=CLUSTER,
        ),
    ] = "",
    slates: Annotated[
        list[str] | None,
        typer.Option(
            *SLATE,
            rich_help_panel=MEASURING,
            help="Candidates per call of models that score (default 1,100; table,1,100 for an adopted model, "
            "whose own requests are table).",
        ),
    ] = None,
    top: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=MEASURING, help="Items to ask for of models that rank the catalogue (default 10)."
        ),
    ] = None,
    scope: Scope = None,
    metric: OwnMetrics = None,
    plan: Annotated[dict[str, Any], FromRecord(Plan, PLAN_FIELDS, MEASURING)],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            rich_help_panel=TRAINING,
            help="Change an option of the config of every model; may be repeated.",
        ),
    ] = None,
    settings: Annotated[dict[str, Any], FromRecord(Settings, TRAINING_FIELDS, TRAINING)],
    as_json: Json = False,
) -> None:
    """Measure many models on many data sets in every variant.

    Makes what is missing. The same command continues a bench that was stopped: finished cells are not done
    again. A failed cell does not stop the others.

    Example: rbserve bench --models A,C --datasets ml-100k,microlens --variants onnx-fp32,onnx-int8 --dry-run
    """
    from rbserve.bench.engines import BenchEngine
    from rbserve.bench.journal import Journal, trained_otherwise
    from rbserve.bench.matrix import with_metrics
    from rbserve.bench.options import Overrides, read_overrides
    from rbserve.bench.selection import CellOptions, select
    from rbserve.home.paths import report_path
    from rbserve.stats.own_metrics import load_metrics

    chosen, own_metrics = words(variants), [*load_metrics(words(metric))]
    check_variants(chosen)
    selected = select(words(models), dataset_names(datasets))
    journal = Journal(plain_name(out, "--out", "for example --out matrix"))
    kept_cores = plan.get("threads", 1) if quiet == "core" else 0
    where = BenchEngine(engine, address, machines, jobs, kept_cores)
    if report is not None:
        report_path(report)  # a name that it cannot have is refused now, not at the end
    exclude_seen = plan.pop("exclude_seen", False)
    work = CellOptions(
        overrides=read_overrides(options) if options else Overrides(),
        sizes=_sizes(slates, top),
        of_rankers={"exclude_seen": exclude_seen},
        plan=plan | given(scope=scope),
        training=settings,
        config=config_changes(changes),
    )
    nodes = with_metrics(work.nodes(selected, chosen, weights == "random", quiet), own_metrics)
    if others := [node.cell.title for node in nodes if trained_otherwise(node.cell)]:
        say(
            f"trained before with other settings, and used as it is (rbserve train makes it anew): {', '.join(others)}"
        )
    with where.connected(only_looked_at=dry_run):
        nodes = where.spread(nodes)
        if dry_run:
            _show_plan(nodes, journal, as_json)
        else:
            _run(nodes, journal, where, report, as_json)


def _sizes(slates: list[str] | None, top: list[str] | None) -> dict[str, dict[str, Any]]:
    """The slates of a plan, by the task of the model."""
    return {
        CTR.name: given(slates=slates_of(slates) if slates is not None else None),
        SEQREC.name: given(slates=counts(top, "top") if top is not None else None),
    }


def _run(
    nodes: Sequence[Node],
    journal: Journal,
    engine: BenchEngine,
    report: str | None,
    as_json: bool,
) -> None:
    """Runs the cells, shows their outcomes, and fails at the end where a row was not measured."""
    from rbserve.bench import schedule
    from rbserve.bench.display import show_cells
    from rbserve.bench.estimate import estimate
    from rbserve.bench.summary import machines, summarise, summary_table
    from rbserve.pipeline.home import Home

    with engine.executor(journal, nodes) as (executor, jobs):
        estimates = {node.cell.id: estimate(node.cell, journal) for node in nodes}
        with _stoppable(journal), show_cells(estimates, jobs) as display:
            outcomes = schedule.run(nodes, journal, executor, display)
    rows = summarise(outcomes)
    if as_json:
        print_json({"bench": journal.name, "rows": rows})
    else:
        from rbserve.cli.console import show

        show(summary_table(rows))
    if machines(outcomes) > 1:
        say(
            "warning: not all cells were measured on like machines with like libraries; a report keeps them apart"
        )
    if any(row.status == "measured" for row in rows):
        if report is not None:
            say(f"report -> {Home().report(report) / 'report.html'}")
        else:
            say(f"rbserve report --name {journal.name} draws what was measured")
    bad = [row for row in rows if row.status in ("failed", "not run")]
    if bad:
        raise RbserveError(
            f"{len(bad)} of {len(rows)} rows were not measured",
            "the same command tries them, and them alone, again",
        )


@contextmanager
def _stoppable(journal: Journal) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into Interrupted, with the command that continues the bench."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        say("stopping; running trainings are saved")
        raise Interrupted(
            f"stopped; finished cells are in {journal.folder}", f"the same command continues: {_command()}"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _command() -> str:
    import shlex

    return shlex.join(["rbserve", *sys.argv[1:]])


def _show_plan(nodes: Sequence[Node], journal: Journal, as_json: bool) -> None:
    """Shows the cells to do, the time that they may take, and what that estimate comes from."""
    from rbserve.bench.estimate import estimate

    cells = [(node.cell, estimate(node.cell, journal)) for node in nodes]
    if as_json:
        print_json([{"id": cell.id, "cell": cell, "estimate": asdict(cost)} for cell, cost in cells])
        return
    from rbserve.cli.console import show

    show(plan_table(cells))
    say(what_it_takes([cost for _, cost in cells]))


def plan_table(cells: Sequence[tuple[Cell, TimeEstimate]]) -> Table:
    """The cells of a matrix with their estimated time, memory and disk."""
    from rich.table import Table

    from rbserve.bench.display import in_hours

    table = Table("step", "data set", "model", "variants", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("time", "weights in memory", "to disk"):
        table.add_column(name, justify="right")
    table.add_column("estimated from")
    for cell, cost in cells:
        time = "?" if cost.seconds is None else "–" if cost.source == "done" else in_hours(cost.seconds)
        sizes = [f"{size / 2**20:,.0f} MiB" if size else "" for size in (cost.memory, cost.disk)]
        table.add_row(
            cell.step, cell.dataset, cell.name, ", ".join(cell.variants) if cell.step == "profile" else "",
            time, *sizes, cost.source,
        )  # fmt: skip
    return table


def what_it_takes(estimates: Sequence[TimeEstimate]) -> str:
    """One line: cells to do, their time one after another, and what is free."""
    import shutil

    import psutil

    from rbserve.bench.display import in_hours
    from rbserve.core.files import home
    from rbserve.runtimes.memory import in_gib

    todo = [cost for cost in estimates if cost.source != "done"]
    seconds, unknown = sum(cost.seconds or 0.0 for cost in todo), sum(cost.seconds is None for cost in todo)
    bounds = sum(cost.bound for cost in todo)
    parts = [f"{len(todo)} of {len(estimates)} cells to do, about {in_hours(seconds)} one after another"]
    if bounds:
        parts.append(f"{bounds} of them counted with what their plan allows (processes x seconds)")
    if unknown:
        parts.append(f"{unknown} of them not counted: nothing like them was done here before")
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(home()).free
    parts.append(f"{in_gib(memory)} of memory and {in_gib(disk)} of disk are free")
    if large := sum((cost.memory or 0) > memory for cost in todo):
        parts.append(f"warning: {large} cells have variants that memory does not hold now")
    if (wanted := sum(cost.disk or 0 for cost in todo)) > disk:
        parts.append(f"warning: {in_gib(wanted)} are to be written")
    return "; ".join(parts)
