"""The verb `sids`: semantic identifiers of a data set's items."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import DatasetName, Json, Resume, dataset_name
from rbserve.cli.records import FromRecord
from rbserve.core.settings import SID_SETTINGS, Settings
from rbserve.models.rqvae_config import RqVaeConfig
from rbserve.progress import say

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.data.dataset import Dataset
    from rbserve.data.semantic_ids import SemanticIds


CONFIG_FIELDS = ("encoder", "pooling", "levels", "codes", "balance")
TRAINING_FIELDS = ("seed", "epochs", "batch", "lr")


def sids(
    *,
    dataset: DatasetName = None,
    config: Annotated[dict[str, Any], FromRecord(RqVaeConfig, CONFIG_FIELDS)],
    settings: Annotated[
        dict[str, Any], FromRecord(Settings, TRAINING_FIELDS, "Training", defaults=asdict(SID_SETTINGS))
    ],
    sample: Annotated[int, typer.Option(help="Items to show with their neighbours.", min=0)] = 5,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make the identifiers anew where there are some.")
    ] = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Give every item a semantic identifier, for models that read or generate them.

    An identifier is a path of codes, whose beginning similar items share.

    Shows how well the codes are used, and for a few items those that share 3, 2 and 1 of their codes.

    Example: rbserve sids --dataset microlens --sample 10
    """
    from rbserve.cli.console import show
    from rbserve.pipeline import semantic_ids

    made, data = semantic_ids.semantic_ids(dataset_name(dataset), config, settings, rebuild, resume)
    rows = neighbours(made, data, sample)
    if as_json:
        print_json({"path": str(made.path), "manifest": made.manifest, "sample": rows})
        return
    show(levels_table(made))
    for row in rows:
        show(neighbours_table(row))
    if rows:
        say(
            "bold: an item's path and text; below: how many items share exactly so many codes, and some of them"
        )


def neighbours(sids: SemanticIds, dataset: Dataset, sample: int, most: int = 3) -> list[dict[str, Any]]:
    """Items drawn with a fixed seed; for each, at most `most` that share all codes but one, all but two, …"""
    import numpy as np

    rng = np.random.default_rng(0)
    texts = dataset.items.texts
    rows = []
    for item in np.sort(rng.permutation(len(sids))[:sample]).tolist():
        shared = []
        for length in range(sids.levels - 1, 0, -1):
            near = sids.sharing(item, length)
            shown = np.sort(rng.permutation(near)[:most])
            shared.append({"codes": length, "items": len(near), "texts": [texts[row] for row in shown]})
        path = sids.codes[item].tolist()
        rows.append({"item": dataset.items.ids[item], "path": path, "text": texts[item], "shared": shared})
    return rows


def levels_table(sids: SemanticIds) -> Table:
    """How well the codes of each level are used."""
    from rich.table import Table

    config, report = sids.manifest.config, sids.manifest.report
    table = Table(
        title=f"{sids.manifest.dataset}: {len(sids):,} items, {config['encoder']} ({config['pooling']})",
        caption=f"{report.collision_rate:.2%} of the items shared their path before they were told apart; "
        f"{report.moved:,} moved to another code, {report.moved_earlier:,} of them before the last level",
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 3, 0, 0),
    )
    for name in ("level", "codes used", "perplexity", "distinct prefixes", "variance left"):
        table.add_column(name, justify="right")
    for number, level in enumerate(report.levels, start=1):
        table.add_row(
            str(number),
            f"{level.codes_used} of {sids.vocabulary}",
            f"{level.perplexity:.1f}",
            f"{level.distinct_prefixes:.1%}",
            f"{level.unexplained:.1%}",
        )
    return table


def neighbours_table(row: dict[str, Any]) -> Table:
    """An item and its path; below, by the number of shared codes, how many items share them and some of these."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True, min_width=16)
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_row("")
    table.add_row(
        f"[bold]{' '.join(map(str, row['path']))}[/]", f"[bold]{escape(row['text']) or '(no text)'}[/]"
    )
    for shared in row["shared"]:
        for line, text in enumerate(shared["texts"]):
            label = f"{shared['codes']} codes: {shared['items']:,}" if line == 0 else ""
            table.add_row(label, escape(text) or "(no text)")
    return table
