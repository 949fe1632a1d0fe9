"""report.html: one file with its style, script and data inside; without a script the tables are still there."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rbserve.profilers.compare.answers import TOLERANCE, Answer
from rbserve.profilers.compare.figures import Figure, columns
from rbserve.profilers.compare.overall import Overall, OverallPoint
from rbserve.profilers.compare.overall import notes as overall_notes
from rbserve.profilers.compare.points import Point
from rbserve.profilers.compare.sections import Section
from rbserve.profilers.compare.wording import DASH, accuracy_text, listing, p50_text, share_text, significant
from rbserve.profilers.report.paper_tables import Cell, PaperTable, Row
from rbserve.profilers.report.plot import VARIANT_STYLES
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
    volume_text,
    warning_lines,
)
from rbserve.stats.metrics import metric_title


def page(book: Book, report: dict[str, Any]) -> str:
    """The whole page; `report` is what its script draws from."""
    chapters, printed = book.chapters, book.printed
    fills = {
        "title": html.escape(listing(list(dict.fromkeys(one.section.dataset for one in chapters)))),
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "created": html.escape(report["created"]),
        "data": _embedded({**report, "styles": {name: shape for name, (_, shape) in VARIANT_STYLES.items()}}),
        "contents": _contents_html(book),
        "summary": _summary_html(chapters),
        "body": "\n".join(_section_html(index, chapter) for index, chapter in enumerate(chapters)),
        "overall": _overalls_html(book.overalls),
        "beside": "\n".join(_beside_html(index, table) for index, table in enumerate(printed)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fills[match[1]], _asset("page.html"))


def _contents_html(book: Book) -> str:
    """Links to the parts of the page."""
    parts = [("summary", "Which one to serve")]
    parts += [(one.section.id, _short_title(one.section)) for one in book.chapters]
    parts += [("overall", "Overall")] if book.overalls else []
    parts += [("paper", "The paper’s tables")] if book.printed else []
    return "".join(f'<li><a href="#{name}">{html.escape(title)}</a></li>' for name, title in parts)


def _short_title(section: Section) -> str:
    seen = ", unseen only" if section.exclude_seen else ""
    threads = f", {section.threads} threads" if section.threads > 1 else ""
    scope = "" if section.scope == "forward" else f", {section.scope}"
    return f"{section.dataset} {section.task}{scope}{threads}{seen}"


def _summary_html(chapters: Sequence[Chapter]) -> str:
    """Every answer in a line, and how sure its place on the front is."""
    heads = [
        "data set",
        "at",
        "models",
        "serve",
        "no better than baseline",
        "p50 ms [95%]",
        "accuracy [95%]",
        "P(front)",
        "front’s hypervolume [95%]",
    ]
    head = "".join(f'<th scope="col">{one}</th>' for one in heads)
    rows = "\n".join(
        _summary_row(chapter.section, answer) for chapter in chapters for answer in chapter.answers
    )
    if not rows:
        return '<p class="notes">No accuracy was measured: the runs are of random weights, or were not judged.</p>'
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Which one to serve">
<table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></div>
<p class="hint">The fastest within {TOLERANCE} of the best accuracy, among the models measured at that size; of a
single model there is no choice, and its fastest variant is shown. ⚠: warnings, which stand below. INCONCLUSIVE: the
machine was disturbed while it was timed, or one process alone was timed. A baseline knows items but no user: a model
that is no better adds nothing. A limit on latency, such as p99 below 20 ms, is answered by
rbserve recommend --slo 'p99&lt;20ms', and below by each chart's slider.</p>"""


def _summary_row(section: Section, answer: Answer) -> str:
    (point,) = [one for one in section.points if one.id == answer.point]
    (front,) = [one for one in section.fronts if one.slate == answer.slate]
    cells = [
        f"{section.slate_name} {answer.slate}",
        answer.models_text,
        answer.marked_label,
        _baselines_text(section, answer),
        p50_text(point),
        f"{section.metric_label} {accuracy_text(point, section.metric)}",
        share_text(point.front_probability),
        volume_text(front),
    ]
    body = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    link = f'<a href="#{section.id}">{html.escape(_short_title(section))}</a>'
    kind = ' class="doubtful"' if answer.marks or answer.better_baselines or answer.models < 2 else ""
    return f'<tr{kind}><th scope="row">{link}</th>{body}</tr>'


def _baselines_text(section: Section, answer: Answer) -> str:
    """The baselines that a pick does not beat; "none" where it beats all, a dash where there is no baseline."""
    if not any(section.metric in figures for figures in section.baselines.values()):
        return DASH
    return ", ".join(f"{title} {value:.4f}" for title, value in answer.better_baselines.items()) or "none"


def _overalls_html(tables: Sequence[Overall]) -> str:
    """What several data sets have in common, a table for each task, scope and slate."""
    if not tables:
        return ""
    parts = []
    for index, table in enumerate(tables):
        title = html.escape(overall_title(table))
        head = "".join(f'<th scope="col">{html.escape(one)}</th>' for one in OVERALL_HEADS)
        rows = "\n".join(_overall_row(index, number, point) for number, point in enumerate(table.points))
        notes = _list_html(
            [*overall_notes(table), front_text(table.front, metric_title(table.metric, table.task))], "notes"
        )
        parts.append(f"""<h3>{title}</h3>
<div class="scroll" tabindex="0" role="region" aria-label="{title}">
<table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></div>
{notes}""")
    body = "\n".join(parts)
    return f'<section class="overall" id="overall"><h2>Overall: across data sets</h2>{body}</section>'


def _overall_row(table: int, number: int, point: OverallPoint) -> str:
    name, *cells = overall_cells(point)
    kind = ' class="front"' if point.on_front else ""
    body = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f'<tr{kind} data-overall="{table}.{number}"><th scope="row">{html.escape(name)}</th>{body}</tr>'


def _section_html(index: int, chapter: Chapter) -> str:
    section = chapter.section
    commands = "\n".join(source.command for source in section.sources)
    alerts = [f"⚠ {warning}" for warning in warning_lines(section)]
    return f"""<section class="part" id="{section.id}" data-index="{index}">
<h2>{html.escape(section_title(section))}</h2>
{_list_html(section.notes, "alert")}
<div class="answers">{"".join(_answer_html(answer) for answer in chapter.answers)}</div>
<div class="board"></div>
<h3>Every figure</h3>
{_list_html(alerts, "alert")}
<div class="scroll" tabindex="0" role="region" aria-label="Table of every figure">{_table_html(section)}</div>
{_list_html([line for line in footnotes(section) if line not in section.notes], "notes")}
<details class="method"><summary>How it was measured, and what was not</summary><div class="columns">
<div><h3>How it was measured</h3>{_list_html(chapter.method, "notes")}</div>
<div><h3>Not measured</h3>{_list_html(chapter.absent, "notes")}</div>
</div></details>
<details><summary>Commands that measure this again</summary><pre>{html.escape(commands)}</pre></details>
</section>"""


def _answer_html(answer: Answer) -> str:
    return f"""<article class="answer" data-slate="{answer.slate}">
<p class="question">{html.escape(answer.question)}</p>
<p class="pick">{html.escape(answer.marked_label)}</p>
<p class="figures">{html.escape(answer.figures)}</p>
{_list_html(answer.notes, "notes")}</article>"""


def _table_html(section: Section) -> str:
    figures = columns(section.points, "page")
    heads = "".join(_head_html(figure, section.task) for figure in figures)
    rows = "\n".join(_row_html(figures, point) for point in section.points)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _head_html(figure: Figure, task: str) -> str:
    once = " data-once" * figure.shown_in("once")
    return f'<th scope="col"{once}>{html.escape(figure.head(task))}</th>'


def _row_html(figures: Sequence[Figure], point: Point) -> str:
    head = f'<th scope="row" data-sort="{html.escape(point.name)}">{html.escape(marked_name(point))}</th>'
    cells = "".join(_cell_html(figure, point) for figure in figures[1:])
    kind = ' class="front"' if point.on_front else ""
    return f'<tr{kind} data-point="{html.escape(point.id)}">{head}{cells}</tr>'


def _cell_html(figure: Figure, point: Point) -> str:
    value = figure.order(point)
    sort = "" if value is None else html.escape(str(value))
    kind = "" if isinstance(value, str) else ' class="number"'
    return f'<td{kind} data-sort="{sort}">{html.escape(figure.cell(point))}</td>'


def _beside_html(index: int, table: PaperTable) -> str:
    """One of the paper's tables, a body for each group."""
    title = html.escape(paper_table_title(table))
    heads = [
        head for head in paper_columns(table) if head not in ("group", "paper's name")
    ]  # beside the model here
    head = "".join(f'<th scope="col">{html.escape(one)}</th>' for one in heads)
    bodies = "\n".join(
        _group_html(index, list(rows), len(heads))
        for _, rows in groupby(enumerate(table.rows), key=lambda pair: pair[1].group)
    )
    return f"""<h3>{title}</h3>
<div class="scroll" tabindex="0" role="region" aria-label="{title}">
<table><thead><tr>{head}</tr></thead>
{bodies}
</table></div>
{_list_html(table.notes, "notes")}"""


def _group_html(table: int, rows: Sequence[tuple[int, Row]], width: int) -> str:
    first = rows[0][1]
    name = f"Group {first.group} · items: {first.item_form.replace('_', ' ')}"
    lines = "\n".join(_beside_row(f"{table}.{number}", row) for number, row in rows)
    head = f'<tr><th class="group" scope="rowgroup" colspan="{width}"><span>{name}</span></th></tr>'
    return f"<tbody>{head}\n{lines}</tbody>"


def _beside_row(at: str, row: Row) -> str:
    cells = "".join(_beside_cell(f"{at}.{number}", cell) for number, cell in enumerate(row.cells))
    kind = "" if row.speed or any(cell.ours for cell in row.cells) else ' class="bare"'
    printed = DASH if row.paper_latency_ms is None else significant(row.paper_latency_ms)
    return (
        f'<tr{kind}><th scope="row">{html.escape(row.model)}<small>{html.escape(row.paper_name)}</small></th>{cells}'
        f'<td data-cell="{at}.speed"{_title(_speed_title(row))}>{html.escape(speed_text(row))}</td>'
        f"<td>{printed}</td></tr>"
    )


def _beside_cell(at: str, cell: Cell) -> str:
    ours = cell.ours
    interval = f" [{ours.ci95[0]:.4f}, {ours.ci95[1]:.4f}]" if ours and ours.ci95 else ""
    title = f"{ours.variant}{interval}, run {ours.run}" if ours else cell.command or ""
    kind = "" if ours else ' class="gone"'
    small = f"<small>{text}</small>" if (text := printed_text(cell)) else ""
    small += "".join(f'<small class="also">{html.escape(marked_text(one))}</small>' for one in cell.also)
    return f'<td data-cell="{at}"{kind}{_title(title)}>{html.escape(ours_text(cell))}{small}</td>'


def _speed_title(row: Row) -> str:
    speed = row.speed
    return f"{speed.cpu}, scope {speed.scope}, threads: {speed.threads}, run {speed.run}" if speed else ""


def _title(text: str) -> str:
    return f' title="{html.escape(text)}"' if text else ""


def _list_html(lines: Sequence[str], kind: str) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _embedded(value: object) -> str:
    """JSON that may stand inside a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
