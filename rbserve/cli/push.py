"""The verb `push`: to a store that machines share."""

from __future__ import annotations

from typing import Annotated

import typer

from rbserve.cli.options import DATASET, Json, StoredNames, StoreUrl, words
from rbserve.cli.transfer_table import show_transfers


def push(
    names: StoredNames = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(*DATASET, help="Data set of the models; without NAME the data set itself."),
    ] = None,
    runs: Annotated[bool, typer.Option("--runs", help="All run files of this home.")] = False,
    store: StoreUrl = None,
    again: Annotated[
        bool, typer.Option("--again", help="Upload every file, in place of damaged ones in the store.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload data sets, models and runs to a store, which other machines share.

    NAME is a model (with --dataset), data/NAME, artifacts/DATASET/MODEL, runs/ID or bench/NAME; --dataset alone is the
    data set. A file that is there already is not uploaded again, and a push that was stopped continues.

    Example: rbserve push gdcn --dataset microlens --store s3://bucket/rbserve
    """
    from rbserve.pipeline.home import Home

    show_transfers(
        Home().push(names or (), words(dataset), runs=runs, store=store, again=again), "pushed", as_json
    )
