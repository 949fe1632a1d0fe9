"""What the RecBench paper prints: Tables 3 to 5, from paper_results.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec

from rbserve.core.tasks import CTR, SEQREC, TASKS

PAPER_COLUMNS = ("mind", "microlens", "goodreads", "cds", "hm")
TEST_ROWS: dict[str, int] = {
    CTR.name: 20_000,
    SEQREC.name: 5_000,
}  # of each of its data sets, to the nearest hundred (Table 2)
TABLES = {
    "3": ("Table 3: zero-shot click prediction", CTR.name),
    "4": ("Table 4: trained click prediction", CTR.name),
    "5": ("Table 5: next-item prediction", SEQREC.name),
}
"""Title and task of each table."""


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


class PrintedRow(msgspec.Struct, frozen=True):
    """A row with all its columns. `figures` has those that are printed.

    The row that section 3.2 names and no table prints has no figures, and stands in Table 5.
    """

    table: str
    group: str
    model: str
    paper_name: str
    metric: str
    figures: dict[str, float]
    latency_ms: float | None


def printed_rows() -> list[PrintedRow]:
    """Every row of paper_results.csv, in the paper's order."""
    with Path(__file__).with_name("paper_results.csv").open(newline="", encoding="utf-8") as file:
        return [
            PrintedRow(
                table=row["table"] if row["table"] in TABLES else "5",
                group=row["group"],
                model=row["model"],
                paper_name=row["paper_name"],
                metric=row["metric"],
                figures={name: float(row[name]) for name in (*PAPER_COLUMNS, "overall") if row[name]},
                latency_ms=float(row["latency_ms"]) if row["latency_ms"] else None,
            )
            for row in csv.DictReader(file)
        ]


def paper_rows(task: str, dataset: str) -> tuple[str, list[PaperRow]]:
    """The paper's column for a data set ("overall" for one it does not have), and its rows of the task."""
    column = dataset if dataset in PAPER_COLUMNS else "overall"
    return column, [
        PaperRow(
            table=row.table,
            group=row.group,
            model=row.model,
            paper_name=row.paper_name,
            metric=row.metric,
            column=column,
            accuracy=row.figures[column],
            latency_ms=row.latency_ms,
        )
        for row in printed_rows()
        if row.metric.lower() == TASKS[task].metric and column in row.figures
    ]


def paper_cautions(task: str) -> list[str]:
    """What has to be said beside the paper's figures of a task."""
    if not TASKS[task].ranks:
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
