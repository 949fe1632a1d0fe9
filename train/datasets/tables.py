"""A user's own data: an interactions and an items table, as CSV, TSV, JSON lines or Parquet, columns named by options.

Interactions have a user, an item and, optionally, a time, and a label (1 or 0, true or false) or a rating. Items have
an id and a text. Each table may have columns that models read as fields, and so may a table of users. Without times,
rows are in time order. Without label and rating, every row is a like and negatives
are sampled. Histories have a user and a list of items that were liked before, as in RecBench's `users.parquet`.
"""

from __future__ import annotations

from pathlib import Path

from rbserve.core.errors import DataError, UsageError
from rbserve.train.datasets.delimited import find_dialect
from rbserve.train.datasets.formats import Table, locate_table, open_table
from rbserve.train.datasets.item_file import TableStyle, read_item_fields, read_user_fields
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.source import NEITHER, DataSource, in_file_order, rating_label
from rbserve.train.datasets.times import time_sql
from rbserve.train.datasets.workspace import Workspace

LABEL = """coalesce(try_cast(try_cast({0} as boolean) as tinyint),
    case try_cast({0} as double) when 1 then 1 when 0 then 0 end)"""  # pandas writes 1.0 where others are missing


def load(raw: Path, work: Workspace, reading: Reading) -> None:
    """Reads both tables into the workspace."""
    catalogue = reading.items or locate_table(raw, "items")
    interactions = reading.interactions or locate_table(raw, "interactions")
    if reading.label and reading.rating:
        raise UsageError("give either --label or --rating, not both")
    key = (reading.item_key or reading.item, reading.text)
    style = TableStyle(reading.delimiter, reading.format, reading.quotes, reading.encoding)
    work.add_items(read_item_fields(catalogue, *key, work.own.of_items, work.tally, style), catalogue)
    if reading.users is not None:
        user = reading.user_key or reading.user
        work.add_users(read_user_fields(reading.users, user, work.own.of_users, work.tally, style))
    roles = {"user": reading.user, "item": reading.item, "time": reading.time, "label": reading.label,
             "rating": reading.rating}  # fmt: skip
    columns = {role: column for role, column in roles.items() if column is not None}
    columns |= {role: spec.name for role, spec in work.own.of_events.items()}
    relation = _events(open_table(interactions, reading.format), columns, work, reading)
    if reading.time is None:
        relation, time = in_file_order(relation), "position"
    else:
        table = work.table("interactions", relation, interactions)
        time = time_sql(work, table, reading.time, interactions)
        relation = f"select * from {table}"
    label = "1"
    if reading.label:
        label = LABEL.format('"label"')
    elif reading.rating:
        label = rating_label("rating", reading)
    work.add_events(
        relation, interactions, user='"user"', item="item", label=label, time=time, neither=NEITHER,
        has_fields=True,
    )  # fmt: skip
    if reading.histories is not None:
        histories = open_table(reading.histories)
        if histories.format != "parquet":
            raise DataError(f"{histories.path} is no Parquet: a column of lists is read from Parquet alone")
        work.add_histories(histories.parts, reading.user, reading.histories_items)


def _events(table: Table, columns: dict[str, str], work: Workspace, reading: Reading) -> str:
    """SQL for the rows of the interactions table."""
    if table.format == "parquet":
        return work.parquet(table.parts, columns)

    def relation(part: Path) -> str:
        if table.format == "json":
            return work.json(part, columns)
        return work.delimited(
            part, columns, find_dialect(part, reading.delimiter, reading.quotes, reading.encoding)
        )

    if len(table.parts) == 1:
        return relation(table.parts[0])
    return f"select * from {work.join_parts(table.parts, relation)}"


def _source(kind: str) -> DataSource:
    return DataSource(
        about=f"your own {kind}: an interactions and an items table, columns named by options",
        load=load,
        needs="--interactions and --items, or a folder (--raw) with interactions.* and items.*",
        own=True,
    )


CSV = _source("CSV or TSV")
JSON = _source("JSON lines")
PARQUET = _source("Parquet")
