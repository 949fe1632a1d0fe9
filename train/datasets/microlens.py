"""MicroLens: which short videos users watched, in order; an item's text is its title.

Files: `MicroLens-50k_pairs.tsv` (user, tab, items in time order) or `MicroLens-50k_pairs.csv` (user, item,
timestamp), and `MicroLens-50k_titles.csv` (item, title); the 100k files have the same layouts. There are no
dislikes: negatives are sampled.
"""

from __future__ import annotations

from pathlib import Path

from rbserve.core.errors import DataError
from rbserve.train.datasets.delimited import COMMAS, PLAIN_TABS, DelimitedFile, csv_records
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.reading import items, locate
from rbserve.train.datasets.source import DataSource, no_times, whole_number
from rbserve.train.datasets.workspace import Workspace
from rbserve.train.protocol.tally import Tally


def load(raw: Path, work: Workspace, reading: Reading) -> None:
    """Reads titles and watched videos into the workspace."""
    del reading
    titles = locate(raw, "MicroLens-*_titles.csv", "MicroLens-*_title*.csv")
    pairs = locate(raw, "MicroLens-*_pairs.tsv", "MicroLens-*_pairs.csv")
    if ".tsv" in pairs.name and work.needs_times:
        raise no_times(pairs.name, "MicroLens-50k_pairs.csv has times; or divide the users: --split users")
    first = DelimitedFile(titles, COMMAS, Tally()).names
    header = None if first[0].lower() == "item" else ("item", "title")
    work.add_items(items(csv_records(titles, ("item", "title"), work.tally, header=header), work.tally))
    if ".tsv" in pairs.name:
        _add_sequences(pairs, work)
    else:
        _add_pairs(pairs, work)


def _add_sequences(path: Path, work: Workspace) -> None:
    """A line a user; an item's place in it is its time. A line without items is counted as an empty row."""
    users = work.table(
        "sequences", work.delimited(path, ("user", "watched"), PLAIN_TABS, ("user", "watched")), path
    )
    work.add_events(
        f"""select ok, "user", unnest(watched) as item, generate_subscripts(watched, 1) as position
            from (select ok, "user", if(ok, string_split_regex(trim(watched), ' +'), ['']) as watched from {users})""",
        path,
        user='"user"',
        item="item",
        label="1",
        time="position",
    )


def _add_pairs(path: Path, work: Workspace) -> None:
    columns = DelimitedFile(path, COMMAS, Tally()).names
    if len(columns) != 3:
        raise DataError(
            f"{path} has {len(columns)} columns in its first line, not user, item and timestamp",
            "MicroLens offers it in two forms; the other is MicroLens-50k_pairs.tsv",
        )
    roles = ("user", "item", "time")
    named = columns[2].lower() == "timestamp"
    wanted = dict(zip(roles, columns, strict=True)) if named else roles
    work.add_events(
        work.delimited(path, wanted, header=None if named else roles),
        path,
        user='"user"',
        item="item",
        label="1",
        time=whole_number('"time"'),
    )


SOURCE = DataSource(
    about="MicroLens-50K: watched short videos, titled",
    load=load,
    needs="MicroLens-50k_pairs.tsv (or .csv) and MicroLens-50k_titles.csv of MicroLens",
    defaults={"held_out": 2, "negatives": 2, "min_history": 1},
    paper="Micro.",
)
