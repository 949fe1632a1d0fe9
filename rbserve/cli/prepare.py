"""The verb `prepare`: a data set from raw files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from msgspec import Meta

from rbserve.cli.console import print_json
from rbserve.cli.options import Json
from rbserve.cli.records import FromRecord
from rbserve.core.errors import UsageError
from rbserve.core.options import Count, Options
from rbserve.progress import say
from rbserve.train.datasets.options import Reading
from rbserve.train.protocol.options import Catalogue, Protocol, WordLimits

if TYPE_CHECKING:
    from rbserve.data.dataset import DatasetManifest

PROTOCOL = "Protocol (a source may have its own defaults)"
TABLES = "Your own tables (csv, json, parquet)"
FEATURES = "Features of your own tables"
LOGS = "Logs of clicks (criteo, avazu)"
TEXTS = "Texts"
RESOURCES = "Resources"
PARTITIONS = 4

PROTOCOL_FIELDS = (
    "split", "negatives_by", "seed", "held_out", "history", "min_history", "rows_per_label", "ctr_test_rows",
    "ctr_finetune_rows", "seqrec_test_rows", "seqrec_finetune_rows", "valid_users", "max_rows",
)  # fmt: skip
LOG_FIELDS = ("min_count_value",)
RATING_FIELDS = ("like_from", "dislike_to", "rating_none")
TABLE_FIELDS = (
    "interactions", "items", "user", "item", "time", "label", "rating", "item_key", "text", "delimiter",
    "histories", "histories_items", "quotes", "encoding", "allow_loss",
)  # fmt: skip
FEATURE_FIELDS = (
    "item_features", "user_features", "context", "users", "user_key", "separator", "most_values",
)  # fmt: skip
SHARES = {"valid_users": {"ge": 0.01, "le": 0.9}}
FLAGS = {
    "ctr_test_rows": "--ctr-test",
    "ctr_finetune_rows": "--ctr-finetune",
    "seqrec_test_rows": "--seqrec-test",
    "seqrec_finetune_rows": "--seqrec-finetune",
    "item_key": "--items-id",
    "user_key": "--users-id",
    "item_features": "--item-feature",
    "user_features": "--user-feature",
    "min_count": "--min-word-count",
}
"""Options whose names are not those of their fields."""


@dataclass(frozen=True)
class Resources(Options):
    """What reading and sorting may use."""

    memory_limit: Annotated[str, Meta(description="Memory for reading and sorting; more goes to disk.")] = (
        "2GB"
    )
    temp_dir: Annotated[
        Path | None,
        Meta(description="Folder for what memory does not hold.", extra={"note": "beside the data set"}),
    ] = None
    engine: Annotated[
        Literal["local", "ray"],
        Meta(description="What reads and sorts: this process, or tasks of a Ray cluster (extra ray)."),
    ] = "local"
    partitions: Annotated[
        Count | None,
        Meta(
            description="Parts of the users with --engine ray, each a task with the memory of --memory-limit.",
            extra={"note": "4"},
        ),
    ] = None
    address: Annotated[
        str | None,
        Meta(
            description="Ray cluster, host:port; its nodes see --raw and --temp-dir.",
            extra={"note": "that of RAY_ADDRESS, or one of this machine"},
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine == "local" and (self.partitions or self.address):
            raise UsageError("--partitions and --address are for --engine ray", "--engine ray")


def prepare(
    *,
    name: Annotated[
        str, typer.Argument(metavar="DATASET", help="Source of the data (see rbserve datasets).")
    ],
    raw: Annotated[
        Path | None,
        typer.Option(help="Folder of the raw files; of criteo and avazu also the file (default: fetched)."),
    ] = None,
    called: Annotated[
        str | None, typer.Option("--name", help="Name of the data set (default the source's).")
    ] = None,
    negatives: Annotated[
        str | None,
        typer.Option(
            metavar="native|N",
            rich_help_panel=PROTOCOL,
            help="Negative items of a user: the own dislikes (native), or N random ones (default native).",
        ),
    ] = None,
    protocol: Annotated[
        dict[str, Any],
        FromRecord(Protocol, PROTOCOL_FIELDS, PROTOCOL, FLAGS, limits=SHARES),
    ],
    catalogue: Annotated[
        Catalogue,
        typer.Option(
            rich_help_panel=PROTOCOL,
            help="Items of the data set: used in the splits, seen in any event, or all that have a text.",
        ),
    ] = "used",
    ratings: Annotated[dict[str, Any], FromRecord(Reading, RATING_FIELDS, PROTOCOL)],
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=TEXTS, help="GloVe file of words (default words of the training texts)."
        ),
    ] = None,
    texts: Annotated[dict[str, Any], FromRecord(WordLimits, panel=TEXTS, flags=FLAGS)],
    tables: Annotated[dict[str, Any], FromRecord(Reading, TABLE_FIELDS, TABLES, FLAGS)],
    features: Annotated[dict[str, Any], FromRecord(Reading, FEATURE_FIELDS, FEATURES, FLAGS)],
    logs: Annotated[dict[str, Any], FromRecord(Reading, LOG_FIELDS, LOGS, FLAGS)],
    table_format: Annotated[
        Literal["auto", "csv", "json", "parquet"],
        typer.Option(
            "--format",
            rich_help_panel=TABLES,
            help="Format of both tables: CSV or TSV, JSON lines, Parquet, plain or gzip; auto: by content.",
        ),
    ] = "auto",
    resources: Annotated[Resources, FromRecord(Resources, panel=RESOURCES)],
    as_json: Json = False,
) -> None:
    """Turn raw files into a clean data set with a training, a validation and a test split.

    Examples: rbserve prepare ml-100k

    rbserve prepare ml-100k --split time

    rbserve prepare microlens --raw ~/MicroLens-50k

    rbserve prepare criteo --raw train.txt.gz

    rbserve prepare csv --name shop --interactions clicks.csv --items goods.csv --user customer --item sku
    --time at --text name

    rbserve prepare csv --name shop --interactions clicks.csv --items goods.csv --label clicked
    --item-feature price:numeric --item-feature brand --context hour:numeric --users people.csv --user-feature country

    rbserve prepare json --name beauty --interactions All_Beauty.jsonl.gz --items meta_All_Beauty.jsonl.gz
    --item parent_asin --time timestamp --rating rating
    """
    from rbserve.pipeline.home import Home

    if negatives is not None:
        protocol["negatives"] = _negatives(negatives)
    if "delimiter" in tables:
        tables["delimiter"] = _delimiter(tables["delimiter"])
    if table_format != "auto":
        tables["format"] = table_format
    made = Home().prepare(
        name,
        raw,
        name=called,
        protocol=protocol,
        reading=ratings | tables | features | logs,
        vocabulary=vocabulary,
        texts=texts,
        catalogue=catalogue,
        memory=_bytes(resources.memory_limit),
        temporary=resources.temp_dir,
        partitions=(resources.partitions or PARTITIONS) if resources.engine == "ray" else None,
        address=resources.address,
    )
    if as_json:
        print_json(made.manifest)
    else:
        _say_losses(made.manifest)


def _say_losses(manifest: DatasetManifest) -> None:
    """Says how many rows were left out or repaired, a line for each reason."""
    for reason, count in manifest.dropped.items():
        say(f"  left out, {reason}: {count:,}")
    for reason, count in manifest.repaired.items():
        is_kept = reason.startswith(("letters lost", "record over", "item record over"))
        say(f"  {'kept' if is_kept else 'mended'}, {reason}: {count:,}")


def _negatives(text: str) -> int:
    """Random negatives per user; 0 stands for the users' own dislikes."""
    if text == "native":
        return 0
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


def _delimiter(text: str) -> str:
    """The character between columns; \\t typed in a shell, and the word tab, are a tab."""
    character = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(character) != 1:
        raise UsageError(f"--delimiter takes one character, not {text!r}", "for example --delimiter ';'")
    return character
