"""table.md: for each section which point to serve, narrow tables, and how it was measured; then the paper's tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from rbserve.profilers.compare import overall
from rbserve.profilers.compare.figures import columns
from rbserve.profilers.compare.judgings import JudgingTable
from rbserve.profilers.compare.machines import MachineTable
from rbserve.profilers.compare.sections import Section
from rbserve.profilers.compare.wording import number_text
from rbserve.profilers.report.judging_tables import judging_cells, judging_heads, judging_notes, judging_title
from rbserve.profilers.report.machine_tables import (
    machine_cells,
    machine_heads,
    machine_notes,
    machine_title,
)
from rbserve.profilers.report.paper_tables import PaperTable, PaperTableRow
from rbserve.profilers.report.tables import (
    OVERALL_HEADS,
    Book,
    Chapter,
    footnotes,
    front_text,
    marked_name,
    marked_text,
    ours_text,
    overall_cells,
    overall_title,
    paper_columns,
    paper_table_title,
    printed_text,
    section_title,
    speed_text,
    warning_lines,
)
from rbserve.stats.metrics import metric_title

TABLES = {
    "summary": "",
    "accuracy": "Accuracy of each variant",
    "student": "Students beside their teachers",
    "call": "What a call costs",
}
"""The tables of a section, by their place among `figures.PLACES`, with their titles."""
WHICH_POINT = {"name", "variant", "slate"}
"""The figures that only say which point a row is of."""


def markdown(book: Book) -> str:
    """table.md as one text."""
    lines = [
        "# Accuracy against latency",
        "",
        "Every figure of every point is in table.csv beside this file.",
        "",
    ]
    for chapter in book.chapters:
        lines += _chapter(chapter)
    for table in book.overalls:
        lines += _overall(table)
    for machines in book.machines:
        lines += _machines(machines)
    for judged in book.judgings:
        lines += _judgings(judged)
    for printed in book.printed:
        lines += _paper(printed)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _chapter(chapter: Chapter) -> Iterator[str]:
    section = chapter.section
    yield from [f"## {_text(section_title(section))}", ""]
    for answer in chapter.answers:
        yield from [
            f"**{_text(answer.question)}: {_text(answer.marked_label)}**, {_text(answer.figures)}.",
            "",
        ]
        yield from _list(answer.notes)
    for place, title in TABLES.items():
        yield from _point_table(section, place, title)
    yield from [*(f"⚠ {_text(warning)}  " for warning in warning_lines(section)), ""]
    yield from _list(footnotes(section))
    yield from ["How it was measured:", "", *_list(chapter.method)]
    yield from ["Not measured:", "", *_list(chapter.absent)]
    yield from ["```sh", *(source.command.replace("`", "") for source in section.sources), "```", ""]


def _point_table(section: Section, place: str, title: str) -> Iterator[str]:
    """A table of the section's points; rows that would be the same, or tell nothing, are left out."""
    figures = columns(section.points, place)
    telling = [figure for figure in figures if figure.key not in WHICH_POINT]
    rows = [
        tuple(marked_name(point) if figure.key == "name" else figure.cell(point) for figure in figures)
        for point in section.points
        if any(figure.get(point) is not None for figure in telling)
    ]
    if rows:
        heads = [figure.head(section.task) for figure in figures]
        yield from [f"### {title}", ""] if title else []
        yield from [*_table(heads, list(dict.fromkeys(rows))), ""]


def _overall(table: overall.Overall) -> Iterator[str]:
    yield from [f"## {_text(overall_title(table))}", ""]
    yield from [*_table(OVERALL_HEADS, [overall_cells(point) for point in table.points]), ""]
    yield from _list([*overall.notes(table), front_text(table.front, metric_title(table.metric, table.task))])


def _judgings(table: JudgingTable) -> Iterator[str]:
    yield from [f"## {_text(judging_title(table))}", ""]
    yield from [*_table(judging_heads(table), [judging_cells(model) for model in table.models]), ""]
    yield from _list([*judging_notes(table)])


def _machines(table: MachineTable) -> Iterator[str]:
    yield from [f"## {_text(machine_title(table))}", ""]
    yield from [*_table(machine_heads(table), [machine_cells(row) for row in table.rows]), ""]
    yield from _list([*machine_notes(table)])


def _paper(table: PaperTable) -> Iterator[str]:
    yield from [f"## {paper_table_title(table)}", ""]
    yield from [*_table(paper_columns(table), [_paper_cells(row) for row in table.rows]), ""]
    yield from _list(table.notes)


def _paper_cells(row: PaperTableRow) -> list[str]:
    cells = [
        (f"{ours_text(cell)} ({printed})" if (printed := printed_text(cell)) else ours_text(cell))
        + "".join(f"; {marked_text(ours)}" for ours in cell.also)
        for cell in row.cells
    ]
    return [row.model, row.group, row.paper_name, *cells, speed_text(row), number_text(row.paper_latency_ms)]


def _list(texts: Sequence[str]) -> list[str]:
    return [*(f"- {_text(text)}" for text in texts), ""]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = f"| {' | '.join('---' for _ in heads)} |"
    return [_row(heads), rule, *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_text, cells))} |"


def _text(text: str) -> str:
    """Text that Markdown shows as it is."""
    plain = html.escape(text.replace("\n", " "), quote=False)
    return re.sub(r"([\\`*|]|\](?=[(\[]))", r"\\\1", plain)
