"""The verb `pull`: from a store that machines share."""

from __future__ import annotations

from typing import Annotated

import typer

from rbserve.cli.options import DATASET, Json, StoredNames, StoreUrl, words
from rbserve.cli.transfer_table import show_transfers


def pull(
    names: StoredNames = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(*DATASET, help="Data set of the models; without NAME the data set itself."),
    ] = None,
    runs: Annotated[bool, typer.Option("--runs", help="All run files in the store.")] = False,
    store: StoreUrl = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what was changed here and was not pushed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring data sets, models and runs from a store, and check every file.

    NAME is a model (with --dataset), data/NAME, artifacts/DATASET/MODEL, runs/ID or bench/NAME; --dataset alone is the
    data set. A file that is here already is not read again, and a pull that was stopped continues. What was
    changed here and not pushed stays, unless --force replaces it.

    Example: rbserve pull gdcn --dataset microlens --store s3://bucket/rbserve
    """
    from rbserve.pipeline.home import Home

    show_transfers(
        Home().pull(names or (), words(dataset), runs=runs, store=store, force=force), "pulled", as_json
    )
