"""H&M Personalized Fashion Recommendations (Kaggle): purchases by day; an item's text is its description.

Files: `articles.csv` (25 columns, of which article_id and detail_desc are read) and `transactions_train.csv`.
The paper reads the first ten million transactions. There are no dislikes: negatives are sampled.
"""

from __future__ import annotations

from pathlib import Path

from rbserve.train.datasets.delimited import csv_records
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.reading import items, locate
from rbserve.train.datasets.source import DataSource
from rbserve.train.datasets.workspace import Workspace


def load(raw: Path, work: Workspace, reading: Reading) -> None:
    """Reads articles and transactions into the workspace."""
    del reading
    articles, transactions = locate(raw, "articles.csv"), locate(raw, "transactions_train.csv")
    work.add_items(items(csv_records(articles, ("article_id", "detail_desc"), work.tally), work.tally))
    work.add_events(
        work.delimited(transactions, ("t_dat", "customer_id", "article_id")),
        transactions,
        user="customer_id",
        item="article_id",
        label="1",
        time="epoch(try_cast(t_dat as date))",
    )


SOURCE = DataSource(
    about="H&M: fashion purchases, described articles",
    load=load,
    by_line=True,
    needs="articles.csv and transactions_train.csv of Kaggle's h-and-m-personalized-fashion-recommendations",
    defaults={"held_out": 2, "negatives": 2, "min_history": 1, "max_rows": 10_000_000},
    paper="H&M",
)
