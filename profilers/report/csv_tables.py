"""table.csv, judgings.csv, paper.csv: figures of points, of models under each judging, cells of the paper's tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

import msgspec

from rbserve.core.tasks import TASKS
from rbserve.profilers.compare.figures import FIGURES
from rbserve.profilers.compare.judgings import JudgedModel, JudgingTable
from rbserve.profilers.compare.points import Point
from rbserve.profilers.compare.sections import Section
from rbserve.profilers.report.paper_tables import PaperCell, PaperTable, PaperTableRow
from rbserve.stats.metrics import METRICS

NESTED = {"accuracy", "stages", "lesson", "paper", "own_metrics", "own_intervals"}
"""Figures that are not a number or a word; what is in them has columns of its own."""


def csv_text(parts: Sequence[Section]) -> str:
    """table.csv: one row per point, every figure in a column of its own; what is not known is empty."""
    return _csv([_point_row(section, point) for section in parts for point in section.points])


def judging_csv(tables: Sequence[JudgingTable]) -> str:
    """judgings.csv: one row per model and data set of every table of judgings; without figures where there are none."""
    return _csv([row for table in tables for model in table.models for row in _judging_rows(table, model)])


def paper_csv(printed: Sequence[PaperTable]) -> str:
    """paper.csv: one row per cell of the paper's tables."""
    return _csv(
        [_paper_row(table, row, cell) for table in printed for row in table.rows for cell in row.cells]
    )


def _point_row(section: Section, point: Point) -> dict[str, str]:
    """A row of table.csv: the section, the figures by key, then accuracies, stages and lesson."""
    fields: dict[str, object] = {"dataset": section.dataset, "task": section.task, "section": section.id}
    for figure in FIGURES:
        if figure.key not in NESTED:
            value = figure.get(point)
            fields[figure.key] = figure.text(value) if isinstance(value, list | dict) else value
    if point.lesson:
        fields |= {f"lesson_{name}": value for name, value in msgspec.structs.asdict(point.lesson).items()}
    fields |= {_accuracy_name(key, section.task): value for key, value in point.result.accuracy.items()}
    fields |= point.own_metrics
    fields |= {f"{name}_ci95": interval for name, interval in point.own_intervals.items()}
    fields |= {f"stage_{stage}": share for stage, share in (point.result.stages or {}).items()}
    return _row(fields)


def _accuracy_name(key: str, task: str) -> str:
    """The column of an accuracy: a ranking of a user's candidates never shares one with a ranking of the catalogue."""
    metric = key.removesuffix("_ci95")
    shared = any(metric in METRICS[name] for name, other in TASKS.items() if other.ranks)
    return f"candidates_{key}" if shared and not TASKS[task].ranks else key


def _judging_rows(table: JudgingTable, model: JudgedModel) -> Iterator[dict[str, str]]:
    columns = zip(table.datasets, table.judgings, model.figures, strict=True)
    for dataset, judging, figure in columns:
        low, high = (figure and figure.ci95) or (None, None)
        fields: dict[str, object] = {
            "source": table.source,
            "task": table.task,
            "metric": table.metric,
            "seen_items_left_out": table.exclude_seen,
            "dataset": dataset,
            "judging": judging,
            "model": model.name,
            "baseline": model.is_baseline,
            "accuracy": figure and figure.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "rank": figure and figure.rank,
        }
        yield _row(fields)


def _paper_row(table: PaperTable, row: PaperTableRow, cell: PaperCell) -> dict[str, str]:
    ours, speed = cell.ours, cell.speed
    low, high = (ours and ours.ci95) or (None, None)
    fields: dict[str, object] = {
        "table": table.table,
        "group": row.group,
        "model": row.model,
        "paper_name": row.paper_name,
        "metric": table.metric,
        "dataset": cell.dataset,
        "accuracy": ours and ours.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "variant": ours and ours.variant,
        "run": ours and ours.run,
        "marks": "; ".join(ours.marks) if ours else None,
        "paper_accuracy": cell.paper,
        "difference": cell.difference,
        "absent": cell.absent,
        "command": cell.command,
        "scope": speed and speed.scope,
        "slate": speed and speed.slate,
        "reference_ms": speed and speed.reference_ms,
        "fastest_ms": speed and speed.fastest_ms,
        "fastest": speed and speed.fastest,
        "latency_run": speed and speed.run,
        "paper_latency_ms": row.paper_latency_ms,
    }
    return _row(fields)


def _row(fields: dict[str, object]) -> dict[str, str]:
    """Fields as text; an interval has a column for each end."""
    row: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, tuple):
            row |= {f"{name}_low": _cell(value[0]), f"{name}_high": _cell(value[1])}
        else:
            row[name] = _cell(value)
    return row


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv(rows: Sequence[dict[str, str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
