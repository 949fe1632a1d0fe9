"""The verbs `items add` and `items retire`: a trained model's items, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import DatasetName, Json, dataset_name, words
from rbserve.core.errors import UsageError
from rbserve.progress import say

if TYPE_CHECKING:
    from rbserve.data.artifact import Artifact
    from rbserve.pipeline.catalogue import Changed

Model = Annotated[str, typer.Argument(metavar="ARTEFACT", help="An artefact's directory, or a zoo row.")]
IdColumn = Annotated[str, typer.Option("--id", help="Column of the item's id.")]
Delimiter = Annotated[
    str | None, typer.Option(help="Character between columns (default a comma or a tab, as in the header).")
]

items = typer.Typer(
    name="items",
    add_completion=False,
    no_args_is_help=True,
    help="Add items to a trained model without training, or retire some.",
)


@items.command()
def add(
    model: Model,
    file: Annotated[Path, typer.Option("--items", help="Table of new items: CSV, TSV or Parquet.")],
    item: IdColumn = "item_id",
    text: Annotated[str, typer.Option(help="Column of the item's text.")] = "title",
    fields: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated columns with item fields that the model reads, under the fields' names; of a field "
            "that is left out, new items have no value."
        ),
    ] = None,
    delimiter: Delimiter = None,
    dataset: DatasetName = None,
    as_json: Json = False,
) -> None:
    """Add items to a model that represents items by texts or fields: rows -text, -emb, gbdt, zeroshot-, text-, sid-.

    The artefact is replaced as a whole; its scores of other items do not change. A server loads it on SIGHUP, or on
    POST /v1/admin/reload.

    Example: rbserve items add artifacts/shop/gdcn-text --items new.csv --id sku --text name
    """
    from rbserve.pipeline import items

    changed = items.add_items(_artifact(model, dataset), file, item, text, delimiter, words(fields))
    _show(changed, as_json)


@items.command()
def retire(
    model: Model,
    file: Annotated[Path | None, typer.Option("--items", help="Table with the ids to retire.")] = None,
    ids: Annotated[str | None, typer.Option(help="Comma-separated ids to retire.")] = None,
    item: IdColumn = "item_id",
    delimiter: Delimiter = None,
    dataset: DatasetName = None,
    as_json: Json = False,
) -> None:
    """Retire items of any model: they are no candidates any more, and never recommended.

    Histories may still have them. `items add` takes a retired item back.

    Example: rbserve items retire artifacts/shop/gdcn --ids A17,A23
    """
    from rbserve.pipeline import items

    if (file is None) == (ids is None):
        raise UsageError("give either --items or --ids", "--ids A17,A23")
    _show(items.retire_items(_artifact(model, dataset), file or words(ids), item, delimiter), as_json)


def _artifact(model: str, dataset: list[str] | None) -> Artifact:
    from rbserve.data.artifact import open_artifact
    from rbserve.home.target import model_path

    return open_artifact(model_path(model, dataset_name(dataset)))


def _show(changed: Changed, as_json: bool) -> None:
    if as_json:
        print_json(changed)
        return
    counts = {
        "added": changed.added,
        "taken back": changed.returned,
        "retired": changed.retired,
        "already so": changed.known,
        "repeated": changed.repeated,
        **{f"left out, {reason}": count for reason, count in changed.left_out.items()},
    }
    summary = ", ".join(f"{count:,} {title}" for title, count in counts.items() if count) or "nothing to do"
    say(f"{changed.model}: {summary}; {changed.items:,} items")
