"""report.html: one file with its style, script and data inside; without a script the tables are still there."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rbserve.profilers.pareto import Point, Section
from rbserve.profilers.plot import VARIANT_STYLES
from rbserve.profilers.tables import (
    Answer,
    Chapter,
    Column,
    columns,
    footnotes,
    listing,
    section_title,
    warning_lines,
)


def page(chapters: Sequence[Chapter], report: dict[str, Any]) -> str:
    """The whole page; `report` is what its script draws from."""
    fills = {
        "title": html.escape(listing(list(dict.fromkeys(one.section.dataset for one in chapters)))),
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "created": html.escape(report["created"]),
        "data": _embedded({**report, "styles": {name: shape for name, (_, shape) in VARIANT_STYLES.items()}}),
        "body": "\n".join(_section_html(index, chapter) for index, chapter in enumerate(chapters)),
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


def _list_html(lines: Sequence[str], kind: str) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _embedded(value: object) -> str:
    """JSON that may stand inside a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
