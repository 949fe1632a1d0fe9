"""MovieLens-100K, the default data set: 943 users rate 1,682 titled movies from 1 to 5.

A rating of 4 or 5 is a click, 1 or 2 is none; 3 is neither and is dropped. Files are RecBole's
tab-separated copies (`ml-100k.inter`, `ml-100k.item`) with typed headers.
"""

from __future__ import annotations

from pathlib import Path

from rbserve.data.assets import fetch
from rbserve.train.datasets.delimited import PLAIN_TABS, csv_records
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.reading import items, locate
from rbserve.train.datasets.source import NEITHER, DataSource, rating_label, whole_number
from rbserve.train.datasets.workspace import Workspace


def load(raw: Path, work: Workspace, reading: Reading) -> None:
    """Reads movies and ratings into the workspace."""
    movies, ratings = locate(raw, "ml-100k.item"), locate(raw, "ml-100k.inter")
    records = csv_records(movies, ("item_id:token", "movie_title:token_seq"), work.tally, PLAIN_TABS)
    work.add_items(items(records, work.tally))
    columns = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    work.add_events(
        work.delimited(ratings, columns, PLAIN_TABS),
        ratings,
        user='"user_id:token"',
        item='"item_id:token"',
        label=rating_label('"rating:float"', reading),
        time=whole_number('"timestamp:float"'),
        neither=NEITHER,
    )


SOURCE = DataSource(
    about="MovieLens-100K: 943 users, 1,682 movies, 100,000 ratings (fetched)",
    load=load,
    fetch=lambda: fetch("ml-100k"),
)
