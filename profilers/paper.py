"""What the RecBench paper prints: Tables 3 to 5, from paper_results.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec

TASK_METRIC = {"ctr": "auc", "seqrec": "ndcg@10"}  # what the paper reports for the task
PAPER_COLUMNS = ("mind", "microlens", "goodreads", "cds", "hm")


class PaperRow(msgspec.Struct, frozen=True):
    """A row of the paper's Tables 3 to 5. `column` names the data set `accuracy` is of, or "overall"."""

    table: str
    group: str
    model: str
    paper_name: str
    metric: str
    column: str
    accuracy: float
    latency_ms: float | None


def paper_rows(task: str, dataset: str) -> tuple[str, list[PaperRow]]:
    """The paper's column for a data set ("overall" for one it does not have), and its rows of the task."""
    column = dataset if dataset in PAPER_COLUMNS else "overall"
    with Path(__file__).with_name("paper_results.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            row for row in csv.DictReader(file) if row["metric"].lower() == TASK_METRIC[task] and row[column]
        ]
    return column, [
        PaperRow(
            table=row["table"],
            group=row["group"],
            model=row["model"],
            paper_name=row["paper_name"],
            metric=row["metric"],
            column=column,
            accuracy=float(row[column]),
            latency_ms=float(row["latency_ms"]) if row["latency_ms"] else None,
        )
        for row in rows
    ]


def paper_cautions(task: str) -> list[str]:
    """What has to be said beside the paper's figures of a task."""
    if task != "seqrec":
        return []
    return [
        "The paper's BERT rows (Table 5, groups I and J) are suspect: in its public code BERT attends in both "
        "directions, and so sees the answer it is asked for."
    ]


def paper_title(column: str) -> str:
    """What the paper's layer is called, wherever it is drawn."""
    if column == "overall":
        return "Paper: mean of its five data sets (other data, other machine: not comparable)"
    return f"Paper: its {column} figures (other machine: latency not comparable)"
