"""The verb `report`: the accuracy-vs-latency front of what was measured."""

from __future__ import annotations

import json
from pathlib import Path
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
    for line in _below_baselines(folder):
        say(line)
    say(f"report -> {folder / 'report.html'}")


def _below_baselines(folder: Path) -> list[str]:
    """The models of each data set that are not above the best baseline: "ml-100k ctr, below popularity: dnn"."""
    from rbserve.profilers.report.chart_data import chart_sections

    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lines = [
        f"{section.dataset} {section.task}, {mark}: {', '.join(names)}"
        for section in chart_sections(report)
        for mark, names in section.below(section.points).items()
    ]
    return list(dict.fromkeys(lines))
