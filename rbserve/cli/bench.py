"""The verb about many models and data sets at once: `bench`."""

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
from rbserve.cli.data import Json
from rbserve.cli.options import DATASET, MODEL, SLATE, VARIANT, counts, dataset_names, words
from rbserve.cli.options import options as config_changes
from rbserve.core.errors import Interrupted, RbserveError
from rbserve.core.names import plain_name
from rbserve.core.tasks import CTR, SEQREC
from rbserve.core.variants import check_variants
from rbserve.home.paths import report_path
from rbserve.progress import say

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.bench.estimate import Estimate
    from rbserve.bench.journal import Journal
    from rbserve.bench.matrix import Cell, Node
    from rbserve.core.types import ModelSpec
    from rbserve.runs.measurement import Plan

_training = {"rich_help_panel": "Training, where a model is not trained yet"}
_plan = {"rich_help_panel": "Measuring"}


def bench(
    models: Annotated[list[str], typer.Option(*MODEL, help="all, A, A-H, A,C or dnn,gdcn.")],
    datasets: Annotated[
        list[str] | None, typer.Option(*DATASET, help="Comma-separated, such as ml-100k,mind; ml-100k.")
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            *VARIANT, help="Comma-separated; torch-fp32,onnx-fp32,onnx-int8 where memory holds them."
        ),
    ] = None,
    weights: Annotated[
        Literal["learnt", "random"],
        typer.Option(help="random: true sizes, nothing learnt, for latency alone."),
    ] = "learnt",
    out: Annotated[
        str, typer.Option("--out", "--name", help="Name of the bench, below bench/; the same name continues.")
    ] = "matrix",
    report: Annotated[str | None, typer.Option(help="Render reports/NAME at the end.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells and what they may take; do nothing.")
    ] = False,
    options: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file: what some models are trained with, or judged by; docs/reference.toml is one."
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="Trainings and exports at a time; latency is always measured alone.", min=1)
    ] = 1,
    quiet: Annotated[
        Literal["machine", "core"], typer.Option(help="What a latency measurement has to itself.")
    ] = "machine",
    slates: Annotated[
        list[str] | None,
        typer.Option(*SLATE, help="Candidates a call of models that score; 1,100.", **_plan),
    ] = None,
    top: Annotated[
        list[str] | None,
        typer.Option(help="Items to ask for of models that rank the catalogue; 10.", **_plan),
    ] = None,
    scope: Annotated[str | None, typer.Option(help="forward, end_to_end or both.", **_plan)] = None,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Leave a history's own items out of its ranking.", **_plan)
    ] = False,
    threads: Annotated[int, typer.Option(help="Threads, each on a core of its own.", min=1, **_plan)] = 1,
    processes: Annotated[
        int | None, typer.Option(help="Fresh processes a variant; 5.", min=1, **_plan)
    ] = None,
    runs: Annotated[
        int | None, typer.Option(help="Timed calls a process and slate; 200.", min=1, **_plan)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="At most so many seconds of them; 10.", min=0, **_plan)
    ] = None,
    test_users: Annotated[
        int, typer.Option(help="Accuracy of so many test users; 0: all.", min=0, **_plan)
    ] = 0,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a value of the config of every model.", **_training
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="At most this many epochs.", min=1, **_training)] = None,
    batch: Annotated[int | None, typer.Option(help="Rows an update.", min=1, **_training)] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better metric.", min=1, **_training)
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure every model on every data set in every variant, making what is missing; the same command continues.

    Finished cells are not done again, whatever stopped the bench; a failed one does not stop the others.

    Example: rbserve bench --models A,C --datasets ml-100k,microlens --variants onnx-fp32,onnx-int8 --dry-run
    """
    from rbserve.bench import matrix
    from rbserve.bench.journal import Journal, trained_otherwise
    from rbserve.bench.options import Options, read_options
    from rbserve.models.zoo import select_models
    from rbserve.runs.measurement import check_scope

    if scope is not None:
        check_scope(scope)
    chosen, named = words(variants), dataset_names(datasets)
    check_variants(chosen)
    matrix.check_datasets(named)
    journal = Journal(plain_name(out, "--out", "for example --out matrix"))
    if report is not None:
        report_path(report)  # a name that it cannot have is refused now, not at the end
    rows, costly = matrix.without_endpoints(select_models(",".join(models)), words(models))
    if costly:
        say(f"{', '.join(costly)}: asks an endpoint, which costs money; --models takes it by its name alone")
    given: dict[str, Any] = {"scope": scope, "processes": processes, "runs": runs, "seconds": seconds}
    shared = {key: value for key, value in given.items() if value is not None}
    shared |= {"threads": threads, "test_users": test_users}

    sizes: dict[str, dict[str, Any]] = {
        CTR.name: {"slates": counts(slates)} if slates is not None else {},
        SEQREC.name: {
            "exclude_seen": exclude_seen,
            **({"slates": counts(top, "top")} if top is not None else {}),
        },
    }

    special = read_options(options) if options else Options()

    def plan_of(spec: ModelSpec, dataset: str) -> Plan:
        return matrix.plan_of(spec, shared | sizes[spec.task] | special.plan(spec, dataset))

    fitting = {"epochs": epochs, "batch": batch, "patience": patience}
    training = {key: value for key, value in fitting.items() if value is not None}

    def training_of(spec: ModelSpec, dataset: str) -> dict[str, Any]:
        return training | special.training(spec, dataset)

    changed = config_changes(changes)
    matrix.check_options(rows, changed)
    nodes = matrix.nodes(rows, named, plan_of, chosen, training_of, weights == "random", quiet, changed)
    if others := [node.cell.title for node in nodes if trained_otherwise(node.cell)]:
        say(
            f"trained before with other settings, and used as it is (rbserve train makes it anew): {', '.join(others)}"
        )
    if dry_run:
        _show_plan(nodes, journal, as_json)
        return
    _run(nodes, journal, jobs, threads if quiet == "core" else 0, report, as_json)


def _run(
    nodes: Sequence[Node],
    journal: Journal,
    jobs: int,
    kept_cores: int,
    report: str | None,
    as_json: bool,
) -> None:
    """Runs the cells, shows what came of them, and fails at the end where one of them did."""
    from rbserve.bench import schedule
    from rbserve.bench.display import show_cells
    from rbserve.bench.estimate import estimate
    from rbserve.bench.executor import LocalExecutor, only_bench
    from rbserve.bench.summary import machines, summarise, summary_table
    from rbserve.pipeline.home import Home

    with only_bench() as lock, LocalExecutor(journal.name, lock, jobs, kept_cores) as executor:
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
    """Ctrl-C and SIGTERM stop the bench, which says how to go on."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        say("stopping; what is at work saves itself")
        raise Interrupted(
            f"stopped; finished cells are in {journal.folder}", f"the same command continues: {_command()}"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _command() -> str:
    import shlex

    return shlex.join(["rbserve", *sys.argv[1:]])


def _show_plan(nodes: Sequence[Node], journal: Journal, as_json: bool) -> None:
    """What is to be done, how long it may take and where that figure comes from."""
    from rbserve.bench.estimate import estimate

    cells = [(node.cell, estimate(node.cell, journal)) for node in nodes]
    if as_json:
        print_json([{"id": cell.id, "cell": cell, "estimate": asdict(one)} for cell, one in cells])
        return
    from rbserve.cli.console import show

    show(plan_table(cells))
    say(what_it_takes([one for _, one in cells]))


def plan_table(cells: Sequence[tuple[Cell, Estimate]]) -> Table:
    """The cells of a matrix, and what each may take."""
    from rich.table import Table

    from rbserve.bench.display import in_hours

    table = Table("step", "data set", "model", "variants", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("time", "weights in memory", "to disk"):
        table.add_column(name, justify="right")
    table.add_column("estimated from")
    for cell, one in cells:
        time = "?" if one.seconds is None else "–" if one.source == "done" else in_hours(one.seconds)
        sizes = [f"{size / 2**20:,.0f} MiB" if size else "" for size in (one.memory, one.disk)]
        table.add_row(
            cell.step, cell.dataset, cell.name, ", ".join(cell.variants) if cell.step == "profile" else "",
            time, *sizes, one.source,
        )  # fmt: skip
    return table


def what_it_takes(estimates: Sequence[Estimate]) -> str:
    """One line: cells to do, their time one after another, and what is free."""
    import shutil

    import psutil

    from rbserve.bench.display import in_hours
    from rbserve.core.files import home
    from rbserve.runtimes.memory import in_gib

    todo = [one for one in estimates if one.source != "done"]
    seconds, unknown = sum(one.seconds or 0.0 for one in todo), sum(one.seconds is None for one in todo)
    bounds = sum(one.bound for one in todo)
    parts = [f"{len(todo)} of {len(estimates)} cells to do, about {in_hours(seconds)} one after another"]
    if bounds:
        parts.append(f"{bounds} of them counted with what their plan allows (processes x seconds)")
    if unknown:
        parts.append(f"{unknown} of them not counted: nothing like them was done here before")
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(home()).free
    parts.append(f"{in_gib(memory)} of memory and {in_gib(disk)} of disk are free")
    if large := sum((one.memory or 0) > memory for one in todo):
        parts.append(f"warning: {large} cells have variants that memory does not hold now")
    if (wanted := sum(one.disk or 0 for one in todo)) > disk:
        parts.append(f"warning: {in_gib(wanted)} are to be written")
    return "; ".join(parts)
