"""The verb `train`: a model from a data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import (
    Address,
    Changes,
    DatasetNames,
    Engine,
    Json,
    Many,
    Models,
    Out,
    Resume,
    Training,
    Weights,
    Workers,
    config_changes,
    without_options,
)
from rbserve.cli.selection import Selection, run_each, select
from rbserve.core.errors import UsageError

if TYPE_CHECKING:
    from rbserve.home.target import ModelName


class ClusterOptions(NamedTuple):
    """The engine of a training, and of a cluster its address and the number of processes."""

    engine: str
    address: str | None
    workers: int | None


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
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Train a model on a data set.

    Stop it with Ctrl-C and continue with --resume; --init continues an artefact on new data.

    Examples: rbserve train --model gdcn --dataset ml-100k --set dim=32 --out artifacts/ml-100k/gdcn-32

    rbserve train --model gdcn --dataset shop-today --init artifacts/shop/gdcn --epochs 3
    """
    from rbserve.pipeline.home import Home

    selection = select(model, many, dataset, recipe=backbone is not None)
    if (selection.is_many or many) and (out or resume or change or backbone or api_base or init):
        raise UsageError(
            "--models takes none of --out, --set, --backbone, --api-base, --init, --resume",
            "train the models one by one",
        )

    def train_model(name: str | ModelName, data: str) -> object:
        return Home().train(
            name, data, settings=settings, config=config_changes(change), out=out, resume=resume, backbone=backbone,
            api_base=api_base, random=weights == "random", init=init,
        ).manifest  # fmt: skip

    if engine == "ray" or address or workers:
        _train_on_cluster(selection, ClusterOptions(engine, address, workers), out, settings, as_json)
    else:
        run_each(selection, train_model, as_json)


def _train_on_cluster(
    selection: Selection, where: ClusterOptions, out: Path | None, settings: dict[str, Any], as_json: bool
) -> None:
    """Trains one model in processes on a cluster, which run this command without the options of the cluster."""
    from rbserve.home.paths import artifact_path
    from rbserve.pipeline.ray_training import train_on_cluster

    if where.engine != "ray":
        option = "--address" if where.address else "--workers"
        raise UsageError(f"{option} is of a cluster", f"add --engine ray, or leave out {option}")
    if selection.as_list:
        raise UsageError(
            "--engine ray trains one model", "rbserve bench --engine ray trains many side by side"
        )
    name, data = selection.pairs[0]
    line = without_options(sys.argv[1:], ("--engine", "--address", "--workers"))
    path = out or artifact_path(str(name), data)
    trained = train_on_cluster(line, data, path, where.address, where.workers, settings.get("threads", 0))
    if as_json:
        print_json(trained.manifest)
