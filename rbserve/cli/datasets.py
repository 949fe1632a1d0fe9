"""The verbs `datasets`, `datasets show` and `datasets export`: which there are, what one holds, its rows as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import Json

if TYPE_CHECKING:
    from rbserve.data.request_set import RequestSet

datasets = typer.Typer(
    name="datasets", add_completion=False, invoke_without_command=True, no_args_is_help=False
)


@datasets.callback()
def list_datasets(context: typer.Context, as_json: Json = False) -> None:
    """List the data sets; `show NAME` inspects one, `export NAME` writes its rows.

    Says where each comes from, and whether it is prepared.

    Example: rbserve datasets
    """
    if context.invoked_subcommand:
        return
    from rbserve.pipeline.data import dataset_rows

    rows = dataset_rows()
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    from rbserve.cli.console import show

    table = Table("data set", "prepared", "about", "to be brought (--raw)", box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            str(row["name"]), "yes" if row["prepared"] else "no", str(row["about"]), str(row["needs"] or "–")
        )
    show(table)


@datasets.command("show")
def show_dataset(
    name: Annotated[str, typer.Argument(help="A prepared data set, or its directory.")], as_json: Json = False
) -> None:
    """Inspect a prepared data set: sizes, what was dropped and why, leakage checks, the paper's Table 2.

    Exit code 1 when a leakage check fails. Of a request set: requests, columns, labels, what was left out.

    Example: rbserve datasets show ml-100k
    """
    from rbserve.cli.integrity_tables import show_integrity
    from rbserve.features.field_report import leak_warnings
    from rbserve.pipeline import data
    from rbserve.progress import say

    requests = data.find_requests(name)
    if requests is not None:
        _show_requests(requests, as_json)
        return
    report = data.inspect_dataset(name)
    if as_json:
        print_json(report)
    else:
        show_integrity(report)
        for line in leak_warnings(report.fields):
            say(line)
    if not report.ok:
        raise typer.Exit(1)


def _show_requests(requests: RequestSet, as_json: bool) -> None:
    """Prints what a request set holds."""
    from rbserve.data.request_table import describe

    if as_json:
        print_json(requests.manifest)
        return
    for line in describe(requests):
        typer.echo(line)


@datasets.command("export")
def export_tables(
    name: Annotated[str, typer.Argument(help="A prepared data set, or its directory.")],
    to: Annotated[Path, typer.Option(help="Folder of the tables: a new or an empty one.")],
    form: Annotated[
        Literal["parquet", "csv"], typer.Option("--format", help="Format of the tables (default parquet).")
    ] = "parquet",
    counted: Annotated[
        bool, typer.Option("--counted", help="Add the counts of training rows as columns of each row.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the rows of a data set as tables, for a model that is made elsewhere.

    Writes train, valid and test rows of click prediction, sequences of next-item prediction, and the items, with the
    fields of the data set as raw values. A model
    whose requests are the test table is adopted with `--dataset NAME`, and shares a front with the zoo's models.

    Example: rbserve datasets export ml-100k --to tables
    """
    from rbserve.pipeline.home import Home

    tables = Home().export_dataset(name, to, form, counted)
    if as_json:
        print_json([str(table) for table in tables])
