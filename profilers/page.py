"""report.html: one file with its style, script and data inside; without a script the tables are still there."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rbserve.profilers.paper_tables import Cell, PaperTable, Row
from rbserve.profilers.pareto import Point, Section
from rbserve.profilers.plot import VARIANT_STYLES
from rbserve.profilers.tables import (
    DASH,
    Answer,
    Book,
    Chapter,
    Column,
    columns,
    footnotes,
    listing,
    ours_text,
    paper_columns,
    paper_table_title,
    printed_text,
    section_title,
    significant,
    speed_text,
    warning_lines,
)


def page(book: Book, report: dict[str, Any]) -> str:
    """The whole page; `report` is what its script draws from."""
    chapters, printed = book.chapters, book.printed
    fills = {
        "title": html.escape(listing(list(dict.fromkeys(one.section.dataset for one in chapters)))),
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "created": html.escape(report["created"]),
        "data": _embedded({**report, "styles": {name: shape for name, (_, shape) in VARIANT_STYLES.items()}}),
        "body": "\n".join(_section_html(index, chapter) for index, chapter in enumerate(chapters)),
        "beside": "\n".join(_beside_html(table) for table in printed),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fills[match[1]], _asset("page.html"))


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
{_list_html(footnotes(section), "notes")}
<div class="columns">
<div><h3>How it was measured</h3>{_list_html(chapter.method, "notes")}</div>
<div><h3>Not measured</h3>{_list_html(chapter.absent, "notes")}</div>
</div>
<details><summary>Commands that measure this again</summary><pre>{html.escape(commands)}</pre></details>
</section>"""


def _answer_html(answer: Answer) -> str:
    return f"""<article class="answer" data-slate="{answer.slate}">
<p class="question">{html.escape(answer.question)}</p>
<p class="pick">{html.escape(answer.label)}</p>
<p class="figures">{html.escape(answer.figures)}</p>
{_list_html(answer.notes, "notes")}</article>"""


def _table_html(section: Section) -> str:
    table = columns(section)
    head = "".join(f'<th scope="col">{html.escape(column.title)}</th>' for column in table)
    rows = "\n".join(_row_html(table, point) for point in section.points)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _row_html(table: Sequence[Column], point: Point) -> str:
    cells = "".join(_cell_html(index, column, point) for index, column in enumerate(table))
    kind = ' class="front"' if point.on_front else ""
    return f'<tr{kind} data-point="{html.escape(point.id)}">{cells}</tr>'


def _cell_html(index: int, column: Column, point: Point) -> str:
    value = column.value(point)
    sort = "" if value is None else html.escape(str(value))
    tag, scope = ("td", "") if index else ("th", ' scope="row"')
    kind = "" if isinstance(value, str) else ' class="number"'
    return f'<{tag}{scope}{kind} data-sort="{sort}">{html.escape(column.text(point))}</{tag}>'


def _beside_html(table: PaperTable) -> str:
    """One of the paper's tables, a body for each group."""
    title = html.escape(paper_table_title(table))
    heads = [
        head for head in paper_columns(table) if head not in ("group", "paper's name")
    ]  # beside the model here
    head = "".join(f'<th scope="col">{html.escape(one)}</th>' for one in heads)
    bodies = "\n".join(
        _group_html(list(rows), len(heads)) for _, rows in groupby(table.rows, key=lambda row: row.group)
    )
    return f"""<h3>{title}</h3>
<div class="scroll" tabindex="0" role="region" aria-label="{title}">
<table><thead><tr>{head}</tr></thead>
{bodies}
</table></div>
{_list_html(table.notes, "notes")}"""


def _group_html(rows: Sequence[Row], width: int) -> str:
    name = f"Group {rows[0].group} · items: {rows[0].item_form.replace('_', ' ')}"
    lines = "\n".join(_beside_row(row) for row in rows)
    head = f'<tr><th class="group" scope="rowgroup" colspan="{width}"><span>{name}</span></th></tr>'
    return f"<tbody>{head}\n{lines}</tbody>"


def _beside_row(row: Row) -> str:
    cells = "".join(_beside_cell(cell) for cell in row.cells)
    printed = DASH if row.paper_latency_ms is None else significant(row.paper_latency_ms)
    return (
        f'<tr><th scope="row">{html.escape(row.model)}<small>{html.escape(row.paper_name)}</small></th>{cells}'
        f"<td{_title(_speed_title(row))}>{html.escape(speed_text(row))}</td>"
        f"<td>{printed}</td></tr>"
    )


def _beside_cell(cell: Cell) -> str:
    ours = cell.ours
    interval = f" [{ours.ci95[0]:.4f}, {ours.ci95[1]:.4f}]" if ours and ours.ci95 else ""
    title = f"{ours.variant}{interval}, run {ours.run}" if ours else cell.command or ""
    kind = "" if ours else ' class="gone"'
    small = f"<small>{text}</small>" if (text := printed_text(cell)) else ""
    return f"<td{kind}{_title(title)}>{html.escape(ours_text(cell))}{small}</td>"


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
