"""The verb `export`: ONNX files of a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rbserve.cli.options import DatasetNames, Indexes, Json, Model, words
from rbserve.cli.selection import run_each, select
from rbserve.core.variants import check_indexes, check_precisions

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
    index: Indexes = None,
    recall: Annotated[
        float | None,
        typer.Option(help="Share of the ten best items that an index is to find (default 0.99)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write ONNX files and check that they score like the trained model.

    Examples: rbserve export --model gdcn --precision fp32,int8; rbserve export --model hstu --index hnsw,ivf-pq
    """
    from rbserve.pipeline.home import Home

    precisions = words(precision) or None
    indexes = words(index)
    check_precisions(precisions or ())
    check_indexes(indexes)

    def export_model(name: str | ModelName, data: str) -> object:
        return Home().export(name, data, precisions, indexes=indexes, recall=recall).manifest.variants

    run_each(select(model, None, dataset), export_model, as_json)
