"""goodbooks-10k: six million ratings from 1 to 5, in time order without times; an item's text is its title.

Files: `books.csv` and `ratings.csv`. A rating of 4 or 5 is a like, 1 or 2 a dislike.
"""

from __future__ import annotations

from pathlib import Path

from rbserve.train.datasets.delimited import csv_records
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.reading import items, locate
from rbserve.train.datasets.source import NEITHER, DataSource, in_file_order, rating_label
from rbserve.train.datasets.workspace import Workspace


def load(raw: Path, work: Workspace, reading: Reading) -> None:
    """Reads books and ratings into the workspace."""
    books, ratings = locate(raw, "books.csv"), locate(raw, "ratings.csv")
    work.add_items(items(csv_records(books, ("book_id", "title"), work.tally), work.tally))
    work.add_events(
        in_file_order(work.delimited(ratings, ("user_id", "book_id", "rating"))),
        ratings,
        user="user_id",
        item="book_id",
        label=rating_label("rating", reading),
        time="position",
        neither=NEITHER,
    )


SOURCE = DataSource(
    about="goodbooks-10k: ratings of titled books, in time order",
    load=load,
    needs="books.csv and ratings.csv of the goodbooks-10k repository",
    times=False,
)
