"""The verbs about data: `prepare`, `datasets` and `datasets show`."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rbserve.cli.console import print_json
from rbserve.core.errors import UsageError
from rbserve.progress import say

Catalogue = Literal["used", "seen", "all"]
Quotes = Literal["auto", "csv", "literal"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
_protocol = partial(typer.Option, rich_help_panel="Protocol (the paper's values by default)")
_tables = partial(typer.Option, rich_help_panel="Your own tables (csv, json, parquet)")
_texts = partial(typer.Option, rich_help_panel="Texts")
_resources = partial(typer.Option, rich_help_panel="Resources")

FORMAT = (
    "Of both tables; auto (default): each by its content. CSV or TSV, JSON lines, Parquet; plain or gzip."
)

datasets = typer.Typer(invoke_without_command=True, no_args_is_help=False)


@datasets.callback()
def list_datasets(context: typer.Context, as_json: Json = False) -> None:
    """List the data sets: where each comes from, and whether it is prepared; `show NAME` inspects one.

    Example: rbserve datasets
    """
    if context.invoked_subcommand:
        return
    from rbserve.pipeline.data import dataset_rows

    rows = dataset_rows()
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    from rbserve.cli.console import show

    table = Table("data set", "prepared", "about", "to be brought (--raw)", box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            str(row["name"]), "yes" if row["prepared"] else "no", str(row["about"]), str(row["needs"] or "–")
        )
    show(table)


@datasets.command("show")
def show_dataset(
    name: Annotated[str, typer.Argument(help="A prepared data set, or its directory.")], as_json: Json = False
) -> None:
    """Inspect a prepared data set: sizes, what was dropped and why, leakage checks, the paper's Table 2.

    Exit code 1 when a leakage check fails.

    Example: rbserve datasets show ml-100k
    """
    from rbserve.cli.console import show_integrity
    from rbserve.pipeline import data

    report = data.inspect_dataset(name)
    if as_json:
        print_json(report)
    else:
        show_integrity(report)
    if not report.ok:
        raise typer.Exit(1)


def prepare(
    name: Annotated[str, typer.Argument(metavar="DATASET", help="A source (see rbserve datasets).")],
    raw: Annotated[Path | None, typer.Option(help="Folder of the raw files; fetched when left out.")] = None,
    called: Annotated[
        str | None, typer.Option("--name", help="What to call the data set; the source's name by default.")
    ] = None,
    seed: Annotated[int | None, _protocol(help="Seed of every random choice; 2024.", min=0)] = None,
    negatives: Annotated[str | None, _protocol(metavar="native|N", help="Own dislikes, or N random items.")] = None,
    held_out: Annotated[int | None, _protocol(help="Last likes that are rows; 0: every event.", min=0)] = None,
    history: Annotated[int | None, _protocol(help="Items of history at most; 20.", min=1)] = None,
    min_history: Annotated[int | None, _protocol(help="Items of history at least.", min=0)] = None,
    rows_per_label: Annotated[int | None, _protocol(help="Rows of a label a user; 10.", min=1)] = None,
    ctr_test: Annotated[int | None, _protocol(help="Click-prediction test rows; 20,000.", min=1)] = None,
    ctr_finetune: Annotated[int | None, _protocol(help="Click-prediction finetune rows; 100,000.", min=1)] = None,
    seqrec_test: Annotated[int | None, _protocol(help="Test sequences; 5,000.", min=1)] = None,
    seqrec_finetune: Annotated[int | None, _protocol(help="Finetune sequences; 40,000.", min=1)] = None,
    valid_users: Annotated[float | None, _protocol(help="Share of finetune users; 0.1.", min=0.01, max=0.9)] = None,
    max_rows: Annotated[int | None, _protocol(help="Raw rows to read; 0: all.", min=0)] = None,
    catalogue: Annotated[Catalogue, _protocol(help="Items: of the splits, of any event, or all with a text.")] = "used",
    like_from: Annotated[float, _protocol(help="Ratings from here on are likes.")] = 4.0,
    dislike_to: Annotated[float, _protocol(help="Ratings up to here are dislikes.")] = 2.0,
    rating_none: Annotated[float | None, _protocol(help="A rating that means none: its rows are left out.")] = None,
    vocabulary: Annotated[Path | None, _texts(help="A GloVe file; without one, words of the training texts.")] = None,
    min_word_count: Annotated[int, _texts(help="Texts a learned word must occur in.", min=1)] = 2,
    max_words: Annotated[int, _texts(help="Words of a text to keep.", min=1)] = 64,
    interactions: Annotated[Path | None, _tables(help="The interactions: a file, or a folder of part files.")] = None,
    items: Annotated[Path | None, _tables(help="The items: a file, or a folder of part files.")] = None,
    format_: Annotated[str, _tables("--format", metavar="auto|csv|json|parquet", help=FORMAT)] = "auto",
    user: Annotated[str, _tables(help="Column of the user.")] = "user_id",
    item: Annotated[str, _tables(help="Column of the item.")] = "item_id",
    time: Annotated[str | None, _tables(help="Numbers or dates; without one, rows are in time order.")] = None,
    label: Annotated[str | None, _tables(help="Column that says liked (1, true) or not (0, false).")] = None,
    rating: Annotated[str | None, _tables(help="Column of a rating, see --like-from and --dislike-to.")] = None,
    items_id: Annotated[str | None, _tables(help="The id in the items table; --item by default.")] = None,
    text: Annotated[str, _tables(help="The items table's column of the text.")] = "title",
    delimiter: Annotated[str | None, _tables(help="Of both tables; a comma or a tab by default.")] = None,
    histories: Annotated[Path | None, _tables(help="Parquet of users and lists of items they liked before.")] = None,
    histories_items: Annotated[str, _tables(help="The column of these lists.")] = "history",
    quotes: Annotated[Quotes, _tables(help="csv: they quote fields; literal: mere signs; auto: csv or ask.")] = "auto",
    encoding: Annotated[str | None, _tables(help="UTF-8 by default; UTF-16 and UTF-32 by their mark.")] = None,
    allow_loss: Annotated[bool, _tables("--allow-loss", help="Go on though over 5% of the rows are lost.")] = False,
    memory_limit: Annotated[str, _resources(help="Of reading and sorting; more goes to disk.")] = "2GB",
    temp_dir: Annotated[Path | None, _resources(help="Where it goes; beside the data set by default.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Turn raw files into a clean, user-disjointly split data set.

    Examples: rbserve prepare ml-100k

    rbserve prepare microlens --raw ~/MicroLens-50k

    rbserve prepare csv --name shop --interactions clicks.csv --items goods.csv --user customer --item sku
    --time at --text name

    rbserve prepare json --name beauty --interactions All_Beauty.jsonl.gz --items meta_All_Beauty.jsonl.gz
    --item parent_asin --time timestamp --rating rating
    """
    from rbserve.pipeline.home import Home
    from rbserve.train.datasets.formats import check_format

    chosen = {
        "seed": seed, "negatives": _negatives(negatives), "held_out": held_out, "history": history,
        "min_history": min_history, "rows_per_label": rows_per_label, "ctr_test_rows": ctr_test,
        "ctr_finetune_rows": ctr_finetune, "seqrec_test_rows": seqrec_test,
        "seqrec_finetune_rows": seqrec_finetune, "valid_users": valid_users, "max_rows": max_rows,
    }  # fmt: skip
    reading = {
        "like_from": like_from, "dislike_to": dislike_to, "rating_none": rating_none,
        "interactions": interactions, "items": items, "format": check_format(format_), "user": user,
        "item": item, "time": time, "label": label, "rating": rating, "item_key": items_id, "text": text,
        "delimiter": _tab(delimiter), "histories": histories, "histories_items": histories_items,
        "quotes": quotes, "encoding": encoding, "allow_loss": allow_loss,
    }  # fmt: skip
    made = Home().prepare(
        name,
        raw,
        name=called,
        protocol={option: value for option, value in chosen.items() if value is not None},
        reading=reading,
        vocabulary=vocabulary,
        texts={"min_count": min_word_count, "max_words": max_words},
        catalogue=catalogue,
        memory=_bytes(memory_limit),
        temporary=temp_dir,
    )
    manifest = made.manifest
    if as_json:
        print_json(manifest)
        return
    for reason, count in manifest.dropped.items():
        say(f"  left out, {reason}: {count:,}")
    for reason, count in manifest.repaired.items():
        kept_as_it_is = reason.startswith(("letters lost", "record over", "item record over"))
        say(f"  {'kept' if kept_as_it_is else 'mended'}, {reason}: {count:,}")


def _negatives(text: str | None) -> int | None:
    """None: not given; 0: the users' own dislikes; else how many to sample."""
    if text is None or text == "native":
        return None if text is None else 0
    if not text.isdecimal() or not 1 <= int(text) <= 1_000:
        raise UsageError(f"--negatives takes native or a number from 1 to 1000, not {text}", "--negatives 2")
    return int(text)


def _bytes(text: str) -> int:
    """2GB, 1.5 GiB, 512MB as bytes; a GB is taken as 2^30."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MG])(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(match[1]) * (1 << 20 if match[2].upper() == "M" else 1 << 30)) if match else 0
    if size < 128 << 20:
        raise UsageError(f"--memory-limit takes a size of at least 128MB, not {text}", "--memory-limit 2GB")
    return size


def _tab(delimiter: str | None) -> str | None:
    """A delimiter as it is meant: \\t typed in a shell is a tab."""
    if delimiter is None:
        return None
    meant: Any = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if len(meant) != 1:
        raise UsageError(f"--delimiter takes one character, not {delimiter!r}", "for example --delimiter ';'")
    return str(meant)
