"""The verbs `models` and `models show`: the rows of the zoo, and the options of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import MODEL, Json, words
from rbserve.core.errors import UsageError
from rbserve.core.options import default_text, option_fields

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.core.types import ModelSpec

models = typer.Typer(name="models", add_completion=False, invoke_without_command=True, no_args_is_help=False)


@models.callback()
def list_models(
    context: typer.Context,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", *MODEL, help="Groups or rows to list, such as A or A,C (default all)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models; `show MODEL` lists the options of one.

    These are the rows of the paper's Tables 3 to 5 with what each needs, the students distilled here, rows beyond
    the paper, which --model X selects and --model all leaves out, and the models that were adopted here.

    Example: rbserve models --group A
    """
    if context.invoked_subcommand:
        return
    from rbserve.home.adopted import adopted_rows
    from rbserve.home.students import student_rows
    from rbserve.models.zoo import BEYOND, BEYOND_GROUP, MODELS, select_models

    specs = select_models(",".join(group)) if group else (*MODELS, *BEYOND)
    rows = [_row(spec) for spec in specs] + student_rows({spec.name: spec for spec in specs})
    adopted = [] if group and BEYOND_GROUP not in words(group) else adopted_rows()
    if as_json:
        print_json(rows + adopted)
        return
    from rbserve.cli.console import adopted_table, models_table, show

    of_paper = [row for row in rows if row["group"] != BEYOND_GROUP]
    beyond = [row for row in rows if row["group"] == BEYOND_GROUP]
    if of_paper:
        show(models_table(of_paper))
    if beyond:
        show(models_table(beyond, "\nBeyond the paper:"))
    if adopted:
        show(adopted_table(adopted, "\nAdopted here:"))


@models.command("show")
def show_model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A zoo row, such as gdcn.")],
    as_json: Json = False,
) -> None:
    """List a model's options with their defaults, limits and meaning: its config, and how it is trained.

    rbserve train --set KEY=VALUE changes the config; the options of training have the same names there.

    Example: rbserve models show gdcn
    """
    from rbserve.core.settings import Settings
    from rbserve.home.target import is_adopted
    from rbserve.models.zoo import find_model

    if is_adopted(name):
        raise UsageError(f"{name} was adopted: it has no options", "what it is: rbserve models")
    spec = find_model(name)
    parts = {
        "config": list(_options(type(spec.config), vars(spec.config))),
        "training": list(_options(Settings, spec.training)),
    }
    if as_json:
        print_json({**_row(spec), **parts})
        return
    from rbserve.cli.console import show

    for title, rows in zip(_titles(spec), parts.values(), strict=True):
        show(options_table(title, rows))


def options_table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Options with their defaults, what they take and what they are for."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in ("option", "default", "takes", "meaning"):
        table.add_column(column, overflow="fold")
    for row in rows:
        default = default_text(row["default"]) or row["note"]
        table.add_row(row["name"], *map(escape, (default, row["takes"], row["meaning"])))
    return table


def _titles(spec: ModelSpec) -> tuple[str, str]:
    origin = spec.paper_name or "beyond the paper"
    return (
        f"{spec.name} ({origin}): config, rbserve train --model {spec.name} --set KEY=VALUE",
        f"\n{spec.name}: training, the options of rbserve train",
    )


def _options(record: type[Any], own: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options of a record, with the defaults that a model has of its own."""
    for name, field in option_fields(record).items():
        default = own.get(name, field.default)
        yield {
            "name": name,
            "default": default,
            "note": field.note,
            "takes": field.takes,
            "limits": field.limits,
            "meaning": field.description,
        }


def _row(spec: ModelSpec) -> dict[str, object]:
    return {
        "name": spec.name,
        "group": spec.group,
        "task": spec.task,
        "item_form": spec.item_form,
        "paper_name": spec.paper_name,
        "recipe": spec.recipe,
        "backbone": spec.backbone,
        "runnable": True,  # every row is, and readers of this document may ask
        "needs": spec.needs,
    }
