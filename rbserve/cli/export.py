"""The verb `export`: ONNX files of a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rbserve.cli.options import DatasetNames, Json, Model, words
from rbserve.cli.selection import run_each, select
from rbserve.core.variants import check_precisions

if TYPE_CHECKING:
    from rbserve.home.target import ModelName


def export(
    model: Model,
    dataset: DatasetNames = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            "--precisions",
            help="Precisions, comma-separated: fp32, int8, and int4 of language models (default fp32,int8, "
            "without those that would change nothing).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write ONNX files and check that they score like the trained model.

    Example: rbserve export --model gdcn --precision fp32,int8
    """
    from rbserve.pipeline.home import Home

    precisions = words(precision) or None
    check_precisions(precisions or ())

    def export_model(name: str | ModelName, data: str) -> object:
        return Home().export(name, data, precisions).manifest.variants

    run_each(select(model, None, dataset), export_model, as_json)
