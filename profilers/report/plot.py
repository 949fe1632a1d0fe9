"""The pictures of a report, as `chart.py` lays them out: pareto.png, pareto.svg and figures/.

pareto has every section, and the paper's figures in a chart of their own, because they come from other data and another
machine. figures/ has each chart alone, of a column's width and legible at 400 pixels, for a paper or a slide. Draw the
pictures of an existing report again with `python -m rbserve.profilers.report.plot reports/NAME`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from rbserve.core.errors import UsageError
from rbserve.core.variants import find_variant
from rbserve.profilers.compare.paper import PaperRow, paper_title
from rbserve.profilers.report.axes import TEXT, Axis
from rbserve.profilers.report.chart import BOLD, LINE, SIZES, TICKS, TITLE, Chart, lay_out
from rbserve.profilers.report.chart_data import ChartPoint, ChartSection, chart_sections

INK, MUTED, DIM, FAINT, RULE = "#1c2430", "#667080", "#4a5361", "#9aa4b1", "#e3e7ec"
DASHES = (0, (5, 4))
POINTS = 0.72  # of type in a pixel; 100 pixels are an inch
EDGE = 10.0  # pixels around a chart
COLUMN_DPI, SHEET_DPI = 224, 140


class Panel(NamedTuple):
    """A chart with its title and a line of facts; `slate` is None for the paper's rows."""

    section: ChartSection
    slate: int | None
    chart: Chart
    title: str
    facts: str

    @property
    def rows(self) -> list[PaperRow]:
        """The rows of the paper that the chart shows."""
        return self.section.printed() if self.slate is None else []

    @property
    def points(self) -> list[ChartPoint]:
        """The points that the chart shows."""
        return [point for point in self.section.points if point.slate == self.slate]


def draw(report: dict[str, Any], folder: Path) -> None:
    """Writes pareto.png, pareto.svg and figures/ for a report.json; the same report gives the same bytes."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "a report needs matplotlib, which is not installed", "pip install 'rbserve[report]'"
        ) from None
    sections = chart_sections(report)
    style = {"svg.hashsalt": "rbserve", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
    with matplotlib.rc_context(style):
        _save(picture(list(_sheet(sections))), folder / "pareto", SHEET_DPI)
        (folder / "figures").mkdir(exist_ok=True)
        for name, panel in column_panels(sections).items():
            _save(picture([[panel]]), folder / "figures" / name, COLUMN_DPI)


def column_panels(sections: Sequence[ChartSection]) -> dict[str, Panel]:
    """The charts of figures/ by their file's name, of plain letters: "ml-100k-ctr-forward-slate-100"."""
    panels: dict[str, Panel] = {}
    for section in sections:
        for slate in filter(section.judged, section.slates):
            parts = [section.dataset, section.task, section.scope, section.slate_name, str(slate)]
            parts += ["unseen"] * section.exclude_seen
            parts += [f"{section.threads}-threads"] * (section.threads > 1)
            name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts)).strip("-.")
            name = f"{section.id}-{name}" if name in panels else name
            panels[name] = chart_panel(section, slate, "column")
    return panels


def chart_panel(section: ChartSection, slate: int | None, size: str) -> Panel:
    """The chart of a slate, or for None of the paper's rows, with the words above it."""
    if slate is None:
        chart = lay_out(section, None, SIZES[size], section.printed())
        return Panel(section, None, chart, section.dataset, paper_title(section.paper_column))
    threads = f"{section.threads} thread{'s' * (section.threads > 1)}"
    seen = ", seen items left out" if section.exclude_seen else ""
    marks = "bars are 95% intervals, the line is the front"
    facts = f"{section.environment.cpu}, {threads}, scope {section.scope}{seen}; {marks}"
    title = f"{section.dataset}, {section.slate_name} {slate}"
    return Panel(section, slate, lay_out(section, slate, SIZES[size]), title, facts)


def picture(rows: Sequence[Sequence[Panel]]) -> Any:
    """A matplotlib Figure with rows of charts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = [[_Block(panel) for panel in row] for row in rows]
    heights = [max(block.height for block in row) for row in blocks]
    width, height = max(sum(block.width for block in row) for row in blocks), sum(heights)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    for row, bottom in zip(blocks, accumulate(heights), strict=True):
        left = 0.0
        for block in row:
            top = bottom - max(other.height for other in row)
            place = (
                left / width,
                1 - (top + block.height) / height,
                block.width / width,
                block.height / height,
            )
            axes = figure.add_axes(place, xlim=(0, block.width), ylim=(block.height, 0))
            axes.axis("off")
            block.draw(axes)
            left += block.width
    return figure


def _sheet(sections: Sequence[ChartSection]) -> Iterator[list[Panel]]:
    """Rows of pareto.png: the first slate of a section in its whole width, below it the others two by two."""
    for section in sections:
        first, *others = section.slates
        yield [chart_panel(section, first, "wide")]
        small: list[int | None] = [*others, None] if section.printed_here() else [*others]
        for start in range(0, len(small), 2):
            yield [chart_panel(section, slate, "column") for slate in small[start : start + 2]]


def _save(figure: Any, path: Path, dpi: int) -> None:
    """The figure as .png and .svg, without the time of day in it."""
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=dpi, metadata={"Software": None})
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(path.with_name(f"{path.name}.svg"), metadata=nothing)


class _Block:
    """A panel as it is drawn: title and facts, chart, legend, notes; y in pixels from its upper edge."""

    def __init__(self, panel: Panel) -> None:
        self._panel, self._chart = panel, panel.chart
        self.width = panel.chart.width + 2 * EDGE
        cautions = panel.section.paper_cautions if panel.slate is None else []
        letters = int(panel.chart.width / 6.6)
        self._facts = wrap(panel.facts, letters)
        self._notes = [line for note in (*panel.chart.notes, *cautions) for line in wrap(note, letters)]
        self._rows = list(self._legend_rows())
        self._head = 43 + LINE * len(self._facts)
        self._foot = self._head + panel.chart.height + 20 * len(self._rows)
        self.height = self._foot + 8 + LINE * len(self._notes) + EDGE

    def draw(self, axes: Any) -> None:
        """Draws everything on axes in pixels."""
        _text(axes, EDGE, 20, self._panel.title, 16, INK, weight="bold")
        _write(axes, 41, self._facts)
        pen = _Pen(axes, EDGE, self._head)
        _draw_chart(pen, self._panel)
        for number, row in enumerate(self._rows):
            self._draw_legend(axes, row, self._head + self._chart.height + 20 * number + 10)
        _write(axes, self._foot + 14, self._notes)

    def _legend_rows(self) -> Iterator[list[str]]:
        """What the legend names, as many on a row as have room."""
        names = list(dict.fromkeys(point.variant for point in self._panel.points))
        abreast = int(self._chart.width // 125)
        for start in range(0, len(names), abreast):
            yield names[start : start + abreast]

    def _draw_legend(self, axes: Any, variants: Sequence[str], y: float) -> None:
        for number, variant in enumerate(variants):
            x = EDGE + 12 + 125 * number
            row = find_variant(variant)
            axes.plot([x], [y], marker=row.marker, color=row.colour, ms=8 * POINTS, ls="")
            _text(axes, x + 12, y, variant, TEXT, INK)


def _write(axes: Any, y: float, lines: Sequence[str]) -> None:
    for number, line in enumerate(lines):
        _text(axes, EDGE, y + LINE * number, line, TEXT, MUTED)


class _Pen:
    """Draws on axes in the pixels of a chart whose upper left corner is at `left`, `top`."""

    def __init__(self, axes: Any, left: float, top: float) -> None:
        self._axes, self._left, self._top = axes, left, top

    def line(self, spots: Sequence[tuple[float, float]], color: str, width: float, **options: Any) -> None:
        """A line through spots."""
        xs, ys = [x + self._left for x, _ in spots], [y + self._top for _, y in spots]
        self._axes.plot(xs, ys, color=color, lw=width * POINTS, solid_capstyle="butt", **options)

    def mark(self, x: float, y: float, marker: str, size: float, **options: Any) -> None:
        """A marker of `size` pixels."""
        at = [x + self._left], [y + self._top]
        self._axes.plot(*at, ls="", marker=marker, ms=size * POINTS, **options)

    def text(self, x: float, y: float, words: str, color: str, size: float = TEXT, **options: Any) -> None:
        """A line of text around the middle `y`."""
        _text(self._axes, x + self._left, y + self._top, words, size, color, **options)


def _text(axes: Any, x: float, y: float, words: str, size: float, color: str, **options: Any) -> None:
    options = {"va": "center_baseline", **options}
    axes.text(x, y, words, fontsize=size * POINTS, color=color, parse_math=False, **options)


# ---- A chart ----


def _draw_chart(pen: _Pen, panel: Panel) -> None:
    chart = panel.chart
    if chart.x and chart.y:
        _draw_axes(pen, chart, chart.x, chart.y)
        _draw_lines(pen, panel, chart.x, chart.y)
        for point in panel.points:
            _draw_point(pen, panel.section, point, chart.x, chart.y)
        _draw_paper(pen, panel, chart.x, chart.y)
        _draw_names(pen, chart)
    if chart.strip:
        _draw_strip(pen, panel)


def _draw_paper(pen: _Pen, panel: Panel, x: Axis, y: Axis) -> None:
    """The paper's rows as rings, those of models that were measured here in a darker grey."""
    for row in panel.rows:
        color = DIM if row.model in panel.section.printed_here() else "#b4bcc7"
        at = x.pixel(row.latency_ms or 0.0), y.pixel(row.accuracy)
        pen.mark(*at, "o", 9, mfc="none", mec=color, mew=1.3)


def _draw_axes(pen: _Pen, chart: Chart, x: Axis, y: Axis) -> None:
    for value, words in y.ticks:
        pen.line([(x.start, y.pixel(value)), (x.end, y.pixel(value))], RULE, 1, zorder=0)
        pen.text(x.start - 8, y.pixel(value), words, MUTED, ha="right")
    _draw_latencies(pen, x, y.end, y.start, chart.x_title)
    pen.text(8, (y.start + y.end) / 2, chart.y_title, MUTED, rotation=90, ha="center", va="center")
    for baseline in chart.baselines:
        if baseline.level is not None:
            pen.line([(x.start, baseline.level), (x.end, baseline.level)], MUTED, 1.4, ls=DASHES, zorder=1)
        for number, words in enumerate(baseline.lines):
            pen.text(x.end + 8, baseline.y + LINE * number, words, MUTED)


def _draw_latencies(pen: _Pen, x: Axis, top: float, bottom: float, title: str) -> None:
    """A latency axis at `bottom`, its grid up to `top`."""
    for value, words in x.ticks:
        pen.line([(x.pixel(value), top), (x.pixel(value), bottom)], RULE, 1, zorder=0)
        pen.text(x.pixel(value), bottom + TICKS - 4, words, MUTED, ha="center")
    pen.line([(x.start, bottom), (x.end, bottom)], "#b8c0ca", 1.2, zorder=0)
    pen.text((x.start + x.end) / 2, bottom + TITLE - 6, title, MUTED, ha="center")


def _draw_lines(pen: _Pen, panel: Panel, x: Axis, y: Axis) -> None:
    """The front, and a faint line through the variants of each model."""
    if panel.slate is None:
        pen.line(panel.chart.front, FAINT, 1.4, ls=(0, (2, 2)), zorder=1)
    else:
        pen.line(panel.chart.front, INK, 2.2, zorder=3.5)
    judged = panel.section.judged(panel.slate) if panel.slate is not None else []
    for name in dict.fromkeys(point.name for point in judged):
        own = [point for point in judged if point.name == name]
        spots = [(x.pixel(point.p50_ms), y.pixel(panel.section.accuracy(point) or 0.0)) for point in own]
        pen.line(spots, "#c3cad3", 1.3, zorder=1.5)


def _draw_point(pen: _Pen, section: ChartSection, point: ChartPoint, x: Axis, y: Axis) -> None:
    """A point with its intervals; one off the front is dimmed, the less the surer a point is on it."""
    accuracy, variant = section.accuracy(point), find_variant(point.variant)
    if accuracy is None:
        return
    at, layer = (x.pixel(point.p50_ms), y.pixel(accuracy)), 4.0 if point.on_front else 2.0
    alpha, width = (0.85, 2.0) if point.on_front else (0.22, 1.5)
    bars: dict[str, Any] = {"color": variant.colour, "width": width, "alpha": alpha, "zorder": layer}
    pen.line([(x.pixel(end), at[1]) for end in point.p50_ci95_ms], **bars)
    pen.line([(at[0], y.pixel(end)) for end in section.interval(point)], **bars)
    if point.aside:  # hollow: judged on other rows
        pen.mark(*at, variant.marker, 9, mfc="white", mec=variant.colour, mew=1.3, zorder=layer + 1)
        return
    solid = 1.0 if point.on_front else max(0.5, point.front_probability or 0.0)
    size = 12 if point.on_front else 9
    pen.mark(
        *at, variant.marker, size, color=variant.colour, mec="white", mew=0.8, alpha=solid, zorder=layer + 1
    )


def _draw_names(pen: _Pen, chart: Chart) -> None:
    from matplotlib.patheffects import withStroke

    for name in chart.names:
        size, weight, color = (BOLD, "bold", INK) if name.kind == "front" else (TEXT, "normal", DIM)
        if name.leader:
            x, y, end_x, end_y = name.leader
            pen.line([(x, y), (end_x, end_y)], FAINT, 1.1, zorder=1.8)
        around = [withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
        options = {"weight": weight, "ha": "center", "zorder": 7, "path_effects": around, "gid": "label"}
        for number, words in enumerate(name.lines):
            pen.text(name.x, name.y + LINE * number, words, color, size, **options)


def _draw_strip(pen: _Pen, panel: Panel) -> None:
    """The models that were only timed, a row each."""
    strip = panel.chart.strip
    assert strip
    pen.text(8, strip.title_y, strip.title, INK, weight="bold")
    _draw_latencies(pen, strip.x, strip.top, strip.bottom, panel.chart.x_title)
    for name, y in strip.rows.items():
        lines = strip.names[name]
        for number, words in enumerate(lines):
            pen.text(strip.x.start - 12, y + LINE * (number - (len(lines) - 1) / 2), words, DIM, ha="right")
    for point in panel.section.unjudged(panel.slate or 0):
        y, variant = strip.rows[point.name], find_variant(point.variant)
        pen.line([(strip.x.pixel(end), y) for end in point.p50_ci95_ms], variant.colour, 1.5, alpha=0.6)
        pen.mark(
            strip.x.pixel(point.p50_ms),
            y,
            variant.marker,
            9,
            color=variant.colour,
            mec="white",
            mew=0.8,
            alpha=0.8,
        )


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        draw(json.loads((Path(argument) / "report.json").read_text(encoding="utf-8")), Path(argument))
