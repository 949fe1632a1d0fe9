"""The verb `train`: a model from a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rbserve.cli.options import (
    Changes,
    DatasetNames,
    Json,
    Many,
    Models,
    Out,
    Resume,
    Training,
    Weights,
    config_changes,
)
from rbserve.cli.selection import run_each, select
from rbserve.core.errors import UsageError

if TYPE_CHECKING:
    from rbserve.home.target import ModelName


def train(
    *,
    model: Models = None,
    many: Many = None,
    dataset: DatasetNames = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Language model (name, hub id or directory); --model is then a recipe, such as text."
        ),
    ] = None,
    change: Changes = None,
    api_base: Annotated[
        str | None,
        typer.Option(metavar="URL", help="OpenAI-compatible endpoint that zeroshot-gpt-3.5 asks."),
    ] = None,
    out: Out = None,
    settings: Training,
    weights: Weights = "learnt",
    init: Annotated[
        str | None,
        typer.Option(
            metavar="ARTEFACT",
            help="Begin with the weights and config of this artefact (a directory, or a row of the data set); items "
            "are matched by id.",
        ),
    ] = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a model on a data set.

    Stop it with Ctrl-C and continue with --resume; --init continues an artefact on new data.

    Examples: rbserve train --model gdcn --dataset ml-100k --set dim=32 --out artifacts/ml-100k/gdcn-32

    rbserve train --model gdcn --dataset shop-today --init artifacts/shop/gdcn --epochs 3
    """
    from rbserve.pipeline.home import Home

    config = config_changes(change)
    selection = select(model, many, dataset, recipe=backbone is not None)
    if (selection.is_many or many) and (out or resume or change or backbone or api_base or init):
        raise UsageError(
            "--models takes none of --out, --set, --backbone, --api-base, --init, --resume",
            "train the models one by one",
        )

    def train_model(name: str | ModelName, data: str) -> object:
        return Home().train(
            name, data, settings=settings, config=config, out=out, resume=resume, backbone=backbone,
            api_base=api_base, random=weights == "random", init=init,
        ).manifest  # fmt: skip

    run_each(selection, train_model, as_json)
