"""Documents and tables on standard output, and the tables of models."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def print_json(data: Any) -> None:
    """A document on standard output."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data)).decode() + "\n")


def show(table: Table) -> None:
    """Prints a table to standard output, as wide as its content when that is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    console.print(table)


def models_table(rows: list[dict[str, object]], title: str | None = None) -> Table:
    """Models of the zoo, a row each, below a title."""
    from rich.table import Table

    table = Table(
        "model", "group", "task", "items as", "paper's name", "needs",
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows:
        needs = row["needs"]
        assert isinstance(needs, tuple)
        table.add_row(
            str(row["name"]),
            str(row["group"]),
            str(row["task"]),
            str(row["item_form"]),
            str(row["paper_name"] or "–"),
            "; ".join(needs) or "–",
        )
    return table


def adopted_table(rows: list[dict[str, object]], title: str) -> Table:
    """Models that were made elsewhere: what they came as, the data that they are judged on, and their variants."""
    from rich.table import Table

    table = Table(
        "model", "group", "task", "came as", "on", "variants",
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows:
        variants = row["variants"]
        assert isinstance(variants, list)
        cells = (str(row[key]) for key in ("name", "group", "task", "adopted", "dataset"))
        table.add_row(*cells, ", ".join(variants))
    return table


def backbones_table(rows: list[dict[str, object]]) -> Table:
    """The language models, and what their weights take: in bf16 two bytes each, in int4 five eighths."""
    from rich.table import Table

    table = Table("language model", "architecture", box=None, pad_edge=False, caption_justify="left", caption=(
        "--weights random gives any of them its true shape without its weights, for its latency alone"))  # fmt: skip
    for name in ("billion weights", "GiB in bf16", "GiB in int4"):
        table.add_column(name, justify="right")
    table.add_column("licence")
    table.add_column("needs")
    for row in rows:
        billions = row["billion_parameters"]
        sizes = ["–"] * 3
        if isinstance(billions, float):
            gib = [f"{billions * 1e9 * each / 2**30:.1f}" for each in (2, 0.625)]
            sizes = [f"{billions:.3f}", *gib]
        table.add_row(
            str(row["name"]), str(row["architecture"]), *sizes, str(row["licence"]), str(row["needs"])
        )
    return table
