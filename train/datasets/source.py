"""Data sources, and the SQL that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbserve.core.errors import UsageError
from rbserve.data.dataset import ItemTable
from rbserve.train.datasets.click_log import ClickLog
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.workspace import Workspace
from rbserve.train.protocol.sampling import Interactions
from rbserve.train.protocol.tally import Tally

Load = Callable[[Path, Workspace, Reading], None]


@dataclass(frozen=True)
class DataSource:
    """A data source: what `rbserve prepare` can make a data set of.

    `load` reads a folder's files into a workspace; `defaults` are values of the protocol that differ from the usual
    ones; `needs` names the files that the user must provide, empty if `fetch` downloads them; `paper` is the source's
    column in Table 2. A source without files has `make` instead of `load`. `own`: the user's own tables, whose columns
    `Reading` names. `times`: whether its events have times, not only an order. `by_line`: what a line of
    its interactions means depends on no other line. `log` instead of
    `load`: its file is a log of clicks, without users and histories.
    """

    about: str
    load: Load | None = None
    needs: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fetch: Callable[[], Path] | None = None
    make: Callable[[Tally], tuple[Interactions, ItemTable]] | None = None
    paper: str | None = None
    own: bool = False
    times: bool = True
    by_line: bool = False
    log: ClickLog | None = None


def no_times(table: str, hint: str = "divide the users: --split users") -> UsageError:
    """The error for a split by time of events that have an order and no times."""
    return UsageError(f"{table} has an order of rows and no times: a split by time needs times", hint)


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
