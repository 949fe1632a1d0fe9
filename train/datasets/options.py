"""How raw files are read: the options of `rbserve prepare` about a source's files and a user's own tables.

Nothing here imports NumPy or DuckDB.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from rbserve.core.errors import UsageError
from rbserve.core.fields import SEPARATOR
from rbserve.core.options import Count, Names, Options

Quotes = Literal["auto", "csv", "literal"]
Format = Literal["csv", "json", "parquet"]


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written; without an encoding it is UTF-8, or what its byte order mark says."""

    delimiter: str = ","
    quotes: Quotes = "auto"
    encoding: str | None = None

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n\0':
            raise UsageError(
                f"--delimiter takes one character, not {self.delimiter!r}", "for example --delimiter ';'"
            )
        if self.encoding:
            _require_known_encoding(self.encoding)


@dataclass(frozen=True)
class Reading(Options):
    """How raw rows are read: rating bounds, and for a user's own tables their files, format and columns.

    A column that is None is not there: without a time, rows stand in time order; with neither a label nor a rating,
    every row is a like.
    """

    like_from: Annotated[float, Meta(description="Ratings of at least this are likes.")] = 4.0
    dislike_to: Annotated[float, Meta(description="Ratings of at most this are dislikes.")] = 2.0
    rating_none: Annotated[
        float | None, Meta(description="Rating that means that there is none; its rows are left out.")
    ] = None
    interactions: Annotated[
        Path | None, Meta(description="Table of interactions: a file, or a folder of part files.")
    ] = None
    items: Annotated[Path | None, Meta(description="Table of items: a file, or a folder of part files.")] = (
        None
    )
    user: Annotated[str, Meta(description="Column of the user.")] = "user_id"
    item: Annotated[str, Meta(description="Column of the item.")] = "item_id"
    time: Annotated[
        str | None,
        Meta(description="Column of the time, numbers or dates.", extra={"note": "rows are in time order"}),
    ] = None
    label: Annotated[str | None, Meta(description="Column that says liked (1, true) or not (0, false).")] = (
        None
    )
    rating: Annotated[
        str | None, Meta(description="Column of a rating; see --like-from and --dislike-to.")
    ] = None
    item_key: Annotated[
        str | None,
        Meta(description="Column of the id in the table of items.", extra={"note": "that of --item"}),
    ] = None
    text: Annotated[str, Meta(description="Column of the text in the table of items.")] = "title"
    delimiter: Annotated[
        str | None,
        Meta(description="Character between the columns of both tables.", extra={"note": "a comma or a tab"}),
    ] = None
    format: Annotated[
        Format | None, Meta(description="Format of both tables.", extra={"note": "found by their content"})
    ] = None
    histories: Annotated[
        Path | None, Meta(description="Parquet file of users and lists of items that they liked before.")
    ] = None
    histories_items: Annotated[str, Meta(description="Column of these lists.")] = "history"
    quotes: Annotated[
        Quotes, Meta(description="csv: quotes enclose a field; literal: they are letters; auto: csv, or ask.")
    ] = "auto"
    encoding: Annotated[
        str | None,
        Meta(
            description="Encoding of both tables.",
            extra={"note": "UTF-8; UTF-16 and UTF-32 by their byte order mark"},
        ),
    ] = None
    item_features: Annotated[
        Names,
        Meta(
            description="Column of the items that models can read, as NAME or NAME:KIND, several times; kinds: "
            "category, numeric, multi (several categories), text (its words)."
        ),
    ] = ()
    user_features: Annotated[
        Names,
        Meta(
            description="Column of the users that models can read: of --users, else of the interactions, where a "
            "user's first value counts."
        ),
    ] = ()
    context: Annotated[
        Names,
        Meta(description="Column of the interactions that models can read: what is known when it is asked."),
    ] = ()
    users: Annotated[Path | None, Meta(description="Table of users: a file, or a folder of part files.")] = (
        None
    )
    user_key: Annotated[
        str | None,
        Meta(description="Column of the id in the table of users.", extra={"note": "that of --user"}),
    ] = None
    separator: Annotated[
        str,
        Meta(min_length=1, description="What stands between several categories of a feature of kind multi."),
    ] = SEPARATOR
    most_values: Annotated[
        Count,
        Meta(description="Distinct values of a feature above which its codes are hashes, of this number."),
    ] = 1_000_000
    min_count_value: Annotated[
        Count,
        Meta(description="Training rows that a value of a category must occur in; rarer ones are unseen."),
    ] = 10
    allow_loss: Annotated[bool, Meta(description="Go on where more than 5% of the rows are lost.")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        Dialect(self.delimiter or ",", self.quotes, self.encoding)  # is refused here, before any work
        if not self.dislike_to < self.like_from:
            raise UsageError(
                f"dislikes go up to {self.dislike_to:g}, likes start at {self.like_from:g}: they overlap",
                "--dislike-to below --like-from",
            )


def _require_known_encoding(name: str) -> None:
    """UsageError for an encoding that Python cannot decode."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name)
    except (LookupError, ValueError):
        raise UsageError(
            f"unknown encoding: {name}", "for example --encoding gbk, cp1252, latin-1 or utf-16"
        ) from None
