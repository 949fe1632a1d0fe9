"""Amazon Reviews 2018, CDs and Vinyl: ratings from 1 to 5; an item's text is its title.

Files: `CDs_and_Vinyl.json` (or the 5-core `CDs_and_Vinyl_5.json`) and `meta_CDs_and_Vinyl.json`, plain or .gz.
A rating of 4 or 5 is a like, 1 or 2 a dislike. Some titles of the 2018 crawl are fragments of its pages.
"""

from __future__ import annotations

from pathlib import Path

from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.reading import items, json_records, locate
from rbserve.train.datasets.source import NEITHER, DataSource, rating_label, whole_number
from rbserve.train.datasets.workspace import Workspace


def load(raw: Path, work: Workspace, reading: Reading) -> None:
    """Reads products and reviews into the workspace."""
    products = locate(raw, "meta_CDs_and_Vinyl.json")
    reviews = locate(raw, "CDs_and_Vinyl.json", "CDs_and_Vinyl_5.json")
    work.add_items(items(json_records(products, ("asin", "title"), work.tally), work.tally))
    work.add_events(
        work.json(reviews, ("reviewerID", "asin", "overall", "unixReviewTime")),
        reviews,
        user='"reviewerID"',
        item="asin",
        label=rating_label("overall", reading),
        time=whole_number('"unixReviewTime"'),
        neither=NEITHER,
    )


SOURCE = DataSource(
    about="Amazon CDs and Vinyl 2018: ratings of titled products",
    load=load,
    by_line=True,
    needs="CDs_and_Vinyl.json.gz and meta_CDs_and_Vinyl.json.gz of Amazon Review Data 2018",
    defaults={"held_out": 2, "min_history": 1, "max_rows": 10_000_000},
    paper="CDs",
)
