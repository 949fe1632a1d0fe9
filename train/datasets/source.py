"""Data sources, and the options with which their raw files are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbserve.core.errors import UsageError
from rbserve.data.dataset import ItemTable
from rbserve.train.datasets.delimited import Dialect, Quotes
from rbserve.train.datasets.formats import Format
from rbserve.train.datasets.workspace import Workspace
from rbserve.train.protocol.sampling import Interactions
from rbserve.train.protocol.tally import Tally


@dataclass(frozen=True)
class Reading:
    """How raw rows are read: rating bounds, and for a user's own tables their files, format and columns.

    A rating of `rating_none` means that there is none. A column that is None does not exist: without a time column,
    rows are in time order; with neither a label nor a rating column, every row is a like.
    """

    like_from: float = 4.0
    dislike_to: float = 2.0
    rating_none: float | None = None
    interactions: Path | None = None
    items: Path | None = None
    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None
    label: str | None = None
    rating: str | None = None
    item_key: str | None = None
    text: str = "title"
    delimiter: str | None = None
    format: Format | None = None
    histories: Path | None = None
    histories_items: str = "history"
    quotes: Quotes = "auto"
    encoding: str | None = None
    allow_loss: bool = False

    def __post_init__(self) -> None:
        Dialect(self.delimiter or ",", self.quotes, self.encoding)  # checks the options before any work
        if not self.dislike_to < self.like_from:
            raise UsageError(
                f"dislikes go up to {self.dislike_to:g}, likes start at {self.like_from:g}: they overlap",
                "--dislike-to below --like-from",
            )


Load = Callable[[Path, Workspace, Reading], None]


@dataclass(frozen=True)
class Source:
    """A data source: what `rbserve prepare` can make a data set of.

    `load` reads a folder's files into a workspace; `defaults` are values of the protocol that differ from the usual
    ones; `needs` names the files that the user must provide, empty if `fetch` downloads them; `paper` is the source's
    column in Table 2. A source without files has `make` instead of `load`. `own`: the user's own tables, whose columns
    `Reading` names.
    """

    about: str
    load: Load | None = None
    needs: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fetch: Callable[[], Path] | None = None
    make: Callable[[Tally], tuple[Interactions, ItemTable]] | None = None
    paper: str | None = None
    own: bool = False


NEITHER = "rating that is neither liked nor disliked"


def rating_label(column: str, reading: Reading) -> str:
    """SQL for the label of a rating: 1 from `like_from`, 0 up to `dislike_to`, -1 between, null for no number.

    A rating of `rating_none` is -2: it means that the user gave none.
    """
    value = f"try_cast({column} as double)"
    none = "" if reading.rating_none is None else f"when {value} = {reading.rating_none} then -2 "
    return (
        f"case when {value} is null or not isfinite({value}) then null {none}"
        f"when {value} >= {reading.like_from} then 1 when {value} <= {reading.dislike_to} then 0 else -1 end"
    )


def whole_number(column: str) -> str:
    """SQL for a column's number rounded to an integer; null for no number."""
    return f"coalesce(try_cast({column} as bigint), try_cast(try_cast({column} as double) as bigint))"


def in_file_order(relation: str) -> str:
    """SQL for the relation with a column `position`, the number of the row in the file."""
    return f"select *, row_number() over () as position from ({relation})"
