"""Goodreads (UCSD Book Graph): books on users' shelves, read or not; an item's text is its original title.

Files: `goodreads_book_works.json` and `goodreads_interactions_dedup.json`, plain or .gz. A book that was read
is a like, one on a shelf unread a dislike. The paper's code reads the first ten million interactions.
"""

from __future__ import annotations

from pathlib import Path

from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.reading import items, json_records, locate
from rbserve.train.datasets.source import DataSource
from rbserve.train.datasets.workspace import Workspace

DATE = "'%a %b %d %H:%M:%S %z %Y'"  # Fri Sep 08 10:44:24 -0700 2017


def load(raw: Path, work: Workspace, reading: Reading) -> None:
    """Reads works and interactions into the workspace."""
    del reading
    works = locate(raw, "goodreads_book_works.json")
    interactions = locate(raw, "goodreads_interactions_dedup.json")
    work.add_items(items(json_records(works, ("best_book_id", "original_title"), work.tally), work.tally))
    work.add_events(
        work.json(interactions, ("user_id", "book_id", "is_read", "date_added")),
        interactions,
        user="user_id",
        item="book_id",
        label="try_cast(is_read as boolean)::tinyint",
        time=f"epoch(try_strptime(date_added, {DATE}))",
    )


SOURCE = DataSource(
    about="Goodreads: books read and unread, titled works",
    load=load,
    by_line=True,
    needs="goodreads_book_works.json.gz and goodreads_interactions_dedup.json.gz of the UCSD Book Graph",
    defaults={"held_out": 2, "min_history": 1, "max_rows": 10_000_000},
    paper="Good.",
)
