"""report.html: one file with its style, script and data inside; without a script the tables are still there.

`page.html` and `page_parts.html` are Jinja2 templates that escape every text by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rbserve.core.errors import UsageError
from rbserve.core.variants import find_variant
from rbserve.models.zoo import BEYOND_GROUP
from rbserve.profilers.compare.answers import TOLERANCE, ServeAnswer
from rbserve.profilers.compare.figures import columns
from rbserve.profilers.compare.overall import notes as overall_notes
from rbserve.profilers.compare.sections import Section
from rbserve.profilers.compare.wording import DASH, accuracy_text, listing, p50_text, share_text, significant
from rbserve.profilers.report import judging_tables, machine_tables, tables
from rbserve.profilers.report.chart import SIZES, lay_out
from rbserve.profilers.report.chart_data import ChartSection, chart_sections
from rbserve.profilers.report.paper_tables import PaperCell, PaperTableRow
from rbserve.profilers.report.tables import Book
from rbserve.stats.metrics import metric_title

if TYPE_CHECKING:
    from jinja2 import Environment

SUMMARY_HEADS = (
    "data set",
    "at",
    "models",
    "serve",
    "no better than baseline",
    "p50 ms [95%]",
    "accuracy [95%]",
    "P(front)",
    "front’s hypervolume [95%]",
)


def page(book: Book, report: dict[str, Any]) -> str:
    """The whole page; `report` is what its script draws from."""
    template = _environment().get_template("page.html")
    sections = chart_sections(report)
    names = sorted({point.variant for section in sections for point in section.points})
    variants = [find_variant(name)._asdict() for name in names]
    data = {
        **report,
        "styles": {
            variant["name"]: {"marker": variant["marker"], "color": f"var(--variant-{number})"}
            for number, variant in enumerate(variants)
        },
        "charts": {section.id: _charts(section) for section in sections},
    }
    return template.render(
        book=book,
        created=report["created"],
        data=data,
        datasets=listing(list(dict.fromkeys(chapter.section.dataset for chapter in book.chapters))),
        summary=[
            _summary_row(chapter.section, answer) for chapter in book.chapters for answer in chapter.answers
        ],
        variants=variants,
        style=_asset("page.css"),
        script=_asset("page.js"),
    )


def _environment() -> Environment:
    """Templates of this directory, with the texts that tables are made of."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise UsageError(
            "a report needs Jinja2, which is not installed", "pip install 'rbserve[report]'"
        ) from None
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.globals.update(
        tables=tables,
        judging_tables=judging_tables,
        machine_tables=machine_tables,
        columns=columns,
        summary_heads=SUMMARY_HEADS,
        tolerance=TOLERANCE,
        dash=DASH,
        significant=significant,
        metric_title=metric_title,
        overall_notes=overall_notes,
        short_title=_short_title,
        sort_key=_sort_key,
        paper_groups=_paper_groups,
        title_of_cell=_title_of_cell,
        title_of_speed=_title_of_speed,
    )
    return environment


def _charts(section: ChartSection) -> dict[str, dict[str, dict[str, Any]]]:
    """The layout of every view: of each slate, at each size, without the paper's figures and with them."""
    layers = {"plain": [], "paper": section.printed()}
    return {
        str(slate): {
            layer: {
                name: msgspec.to_builtins(lay_out(section, slate, size, rows)) for name, size in SIZES.items()
            }
            for layer, rows in layers.items()
        }
        for slate in section.slates
    }


# ---- What the templates ask for ----


def _short_title(section: Section) -> str:
    """A section in the list of contents."""
    seen = ", unseen only" if section.exclude_seen else ""
    threads = f", {section.threads} threads" if section.threads > 1 else ""
    scope = "" if section.scope == "forward" else f", {section.scope}"
    kind = f", {section.environment.kind}" if section.environment.kind else ""
    return f"{section.dataset} {section.task}{scope}{threads}{seen}{kind}"


def _sort_key(value: float | str | None) -> str:
    """What a cell of the table sorts by."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.8g}"


def _summary_row(section: Section, answer: ServeAnswer) -> dict[str, Any]:
    """A line of "Which one to serve": its cells, whether to doubt it, and where it leads."""
    (point,) = [point for point in section.points if point.id == answer.point]
    (front,) = [front for front in section.fronts if front.slate == answer.slate]
    cells = [
        f"{section.slate_name} {answer.slate}",
        answer.models_text,
        answer.marked_label,
        _baselines_text(section, answer),
        p50_text(point),
        f"{section.metric_label} {accuracy_text(point, section.metric)}",
        share_text(point.front_probability),
        tables.volume_text(front),
    ]
    doubtful = bool(answer.marks or answer.better_baselines or answer.models < 2)
    return {"section": section, "cells": cells, "doubtful": doubtful}


def _baselines_text(section: Section, answer: ServeAnswer) -> str:
    """The baselines that a pick does not beat; "none" where it beats all, a dash where there is no baseline."""
    if not any(section.metric in figures for figures in section.baselines.values()):
        return DASH
    return ", ".join(f"{title} {value:.4f}" for title, value in answer.better_baselines.items()) or "none"


def _paper_groups(rows: list[PaperTableRow]) -> Iterator[tuple[str, list[tuple[int, PaperTableRow]]]]:
    """The groups of one of the paper's tables: title, rows with their numbers."""
    for letter, members in groupby(enumerate(rows), key=lambda pair: pair[1].group):
        numbered = list(members)
        item_form = numbered[0][1].item_form.replace("_", " ")
        title = "Beyond the paper" if letter == BEYOND_GROUP else f"Group {letter} · items: {item_form}"
        yield title, numbered


def _title_of_cell(cell: PaperCell) -> str:
    """What a pointer reads on a cell of the paper's tables."""
    if not cell.ours:
        return cell.command or ""
    interval = f" [{cell.ours.ci95[0]:.4f}, {cell.ours.ci95[1]:.4f}]" if cell.ours.ci95 else ""
    return f"{cell.ours.variant}{interval}, run {cell.ours.run}"


def _title_of_speed(row: PaperTableRow) -> str:
    """What a pointer reads on a latency of the paper's tables."""
    speed = row.speed
    return f"{speed.cpu}, scope {speed.scope}, threads: {speed.threads}, run {speed.run}" if speed else ""


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
