"""The verb `adopt`: a model that was made elsewhere becomes an artefact, with the requests that it is judged on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import DATASET, Json
from rbserve.cli.records import FromRecord
from rbserve.core.adoption import AdoptOptions

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.data.artifact import Artifact
    from rbserve.data.request_set import RequestSet

FIELDS = ("label", "group", "user", "slate_dim", "score")
"""The fields of AdoptOptions that are options by themselves."""


def adopt(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="The model: its file or directory, or module:factory of a Python callable."
        ),
    ],
    requests: Annotated[
        Path, typer.Option(help="Table of requests: a Parquet, CSV or JSON lines file.", show_default=False)
    ],
    options: Annotated[dict[str, Any], FromRecord(AdoptOptions, FIELDS)],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="INPUT=COLUMN,…",
            help="Columns that fill an input, in the order of its last dimension; may be repeated.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            *DATASET,
            help="Prepared data set whose test rows the requests are (rbserve datasets export writes them).",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model (default that of its file, without the ending).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another model of this name.")] = False,
    as_json: Json = False,
) -> None:
    """Take in a model of yours (ONNX, trees, a reranker) and a table of its requests.

    The table has a row a candidate (--group names the column that tells the requests apart), or a row a request, with
    lists. Shows the inputs with the columns that fill them, the outputs, and what was guessed. Then export, profile,
    report, recommend, check and serve take the model by its name.

    Example: rbserve adopt ranker.onnx --requests clicks.parquet --group query --label click
    """
    from rbserve.pipeline.adopting import requests_of
    from rbserve.pipeline.home import Home

    artifact = Home().adopt(
        source,
        requests,
        options=options | {"map": tuple(mapping or ())},
        dataset=dataset,
        name=name,
        force=force,
    )
    if as_json:
        print_json({"path": str(artifact.path), "name": artifact.name, "adopted": artifact.manifest.adopted})
        return
    show_adopted(artifact, requests_of(artifact))


def show_adopted(artifact: Artifact, requests: RequestSet) -> None:
    """Prints the requests, the tensors and what was guessed of an adopted model."""
    from rbserve.cli.console import show
    from rbserve.data.request_table import describe

    adopted = artifact.manifest.adopted
    assert adopted is not None
    for line in describe(requests):
        typer.echo(line)
    show(tensors_table(artifact))
    for line in adopted.guessed:
        typer.echo(line)
    typer.echo(f"next: rbserve profile --model {artifact.name} --dataset {artifact.manifest.dataset.name}")


def tensors_table(artifact: Artifact) -> Table:
    """The inputs of a model with the columns that fill them, and its outputs."""
    from rich.markup import escape
    from rich.table import Table

    signature = artifact.signature
    table = Table("tensor", "type", "dimensions", "filled from", box=None, pad_edge=False)
    for spec in signature.inputs:
        columns = ", ".join(spec.columns)
        table.add_row(*map(escape, (spec.name, spec.dtype, _dimensions(spec.dims), columns)))
    for spec in signature.outputs:
        column = "" if signature.score_column is None else f", column {signature.score_column}"
        role = f"→ the scores{column}" if spec.name == signature.score else "→"
        table.add_row(*map(escape, (spec.name, spec.dtype, _dimensions(spec.dims), role)))
    return table


def _dimensions(dims: list[int | str]) -> str:
    return " × ".join(map(str, dims)) or "–"
