"""The verb `report`: the accuracy-vs-latency front of what was measured."""

from __future__ import annotations

from typing import Annotated

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import DATASET, Json, Runs, words
from rbserve.progress import say


def report(
    name: Annotated[str, typer.Option(help="Folder of the report, below reports/.")] = "latest",
    dataset: Annotated[
        list[str] | None,
        typer.Option(*DATASET, help="Data sets whose runs are drawn, comma-separated (default all)."),
    ] = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Draw the accuracy-vs-latency front of the newest profile of every model.

    Example: rbserve report --name ml-100k
    """
    from rbserve.pipeline.home import Home

    folder = Home().report(name, datasets=words(dataset), runs=runs)
    files = sorted(str(file) for file in folder.rglob("*") if file.is_file())
    if as_json:
        print_json({"folder": str(folder), "files": files})
        return
    say(f"report -> {folder / 'report.html'}")
