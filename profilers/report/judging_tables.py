"""The view of a report on several judgings of one source: title, heads, cells and notes of its table."""

from __future__ import annotations

from collections.abc import Iterator

from rbserve.profilers.compare.judgings import JudgedFigure, JudgedModel, JudgingTable
from rbserve.profilers.compare.wording import DASH, interval_text
from rbserve.stats.metrics import metric_title


def judging_title(table: JudgingTable) -> str:
    """What a table of judgings is about: ml-100k · ctr · AUC under each judging."""
    seen = " · seen items left out" * table.exclude_seen
    return (
        f"{table.source} · {table.task} · {metric_title(table.metric, table.task)} under each judging{seen}"
    )


def judging_heads(table: JudgingTable) -> list[str]:
    """The heads of the columns: the model, then each data set and how it judges."""
    pairs = zip(table.datasets, table.judgings, strict=True)
    return ["model", *(f"{dataset}: {judging}" for dataset, judging in pairs)]


def judging_cells(model: JudgedModel) -> list[str]:
    """A row under these heads."""
    name = f"{model.name} (baseline)" if model.is_baseline else model.name
    return [name, *(_figure_text(figure) for figure in model.figures)]


def judging_notes(table: JudgingTable) -> Iterator[str]:
    """Sentences below the table: what may be compared, and how far the order of the models differs."""
    yield (
        "Each column is a test of its own, so accuracies of different columns are not comparable: compare ranks (#), "
        "which count the rows that have a figure in every column. docs/judging.md says what each judging rewards."
    )
    for dataset, swapped in zip(table.datasets[1:], table.swapped[1:], strict=True):
        yield f"{dataset} orders {swapped} of {table.pairs} pairs differently from {table.datasets[0]}."


def _figure_text(figure: JudgedFigure | None) -> str:
    if figure is None:
        return DASH
    rank = "" if figure.rank is None else f" #{figure.rank}"
    return f"{figure.accuracy:.4f}{interval_text(figure.ci95, '{:.4f}'.format)}{rank}"
