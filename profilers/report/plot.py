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
from rbserve.core.variants import Variant, find_variant
from rbserve.profilers.compare.paper import paper_title
from rbserve.profilers.report.axes import TEXT, Axis
from rbserve.profilers.report.chart import BOLD, LINE, SIZES, TICKS, TITLE, Chart, Strip, lay_out
from rbserve.profilers.report.chart_data import ChartPoint, ChartSection, chart_sections
from rbserve.runs.plan import Slate

INK, MUTED, DIM, FAINT, RULE = "#1c2430", "#667080", "#4a5361", "#9aa4b1", "#e3e7ec"
POINTS = 0.72  # of type in a pixel; 100 pixels are an inch
EDGE, ENTRY = 10.0, 125.0  # pixels around a chart, and of an entry of the legend
COLUMN_DPI, SHEET_DPI = 224, 140


class Panel(NamedTuple):
    """A chart with the words above and below it; `slate` is None for the paper's rows."""

    section: ChartSection
    slate: Slate | None
    chart: Chart
    title: str
    facts: list[str]
    notes: list[str]

    @property
    def points(self) -> list[ChartPoint]:
        """The points that the chart shows."""
        return [point for point in self.section.points if point.slate == self.slate]

    @property
    def head(self) -> float:
        """Pixels above the chart: title and facts."""
        return 43 + LINE * len(self.facts)

    @property
    def legend(self) -> list[tuple[str, float, float]]:
        """Each variant with its place, as many on a row as have room."""
        abreast = int(self.chart.width // ENTRY)
        names = enumerate(dict.fromkeys(point.variant for point in self.points))
        return [
            (name, 12 + ENTRY * (at % abreast), self.chart.height + 10 + 20 * (at // abreast))
            for at, name in names
        ]

    @property
    def foot(self) -> float:
        """Pixels from the chart's upper edge to its notes."""
        return max([self.chart.height, *(y + 10 for _, _, y in self.legend)]) + 14

    @property
    def bottom(self) -> float:
        """Pixels from the chart's upper edge to the end of its notes."""
        return self.foot + LINE * len(self.notes) + EDGE


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


def chart_panel(section: ChartSection, slate: Slate | None, size: str) -> Panel:
    """The chart of a slate, or for None of the paper's rows, with its words."""
    threads = f"{section.threads} thread{'s' * (section.threads > 1)}"
    seen = ", seen items left out" if section.exclude_seen else ""
    marks = "bars are 95% intervals, the line is the front"
    title = f"{section.dataset}, {section.slate_name} {slate}"
    facts = f"{section.environment.cpu}, {threads}, scope {section.scope}{seen}; {marks}"
    rows, cautions = [], []
    if slate is None:
        title, facts = section.dataset, paper_title(section.paper_column)
        rows, cautions = section.printed(), section.paper_cautions
    chart = lay_out(section, slate, SIZES[size], rows)
    letters = int(chart.width / 6.6)
    notes = [line for note in (*chart.notes, *cautions) for line in wrap(note, letters)]
    return Panel(section, slate, chart, title, wrap(facts, letters), notes)


def picture(rows: Sequence[Sequence[Panel]]) -> Any:
    """A matplotlib Figure with rows of charts, each on axes in its own pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [max(panel.head + panel.bottom for panel in row) for row in rows]
    width, height = max(sum(panel.chart.width + 2 * EDGE for panel in row) for row in rows), sum(heights)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    for row, tall, end in zip(rows, heights, accumulate(heights), strict=True):
        for number, panel in enumerate(row):
            wide, own = panel.chart.width + 2 * EDGE, panel.head + panel.bottom
            place = (number * wide / width, 1 - (end - tall + own) / height, wide / width, own / height)
            axes = figure.add_axes(place, xlim=(-EDGE, wide - EDGE), ylim=(panel.bottom, -panel.head))
            axes.axis("off")
            _draw_panel(axes, panel)
    return figure


def _sheet(sections: Sequence[ChartSection]) -> Iterator[list[Panel]]:
    """Rows of pareto.png: the first slate of a section in its whole width, below it the others two by two."""
    for section in sections:
        first, *others = section.slates
        yield [chart_panel(section, first, "wide")]
        small: list[Slate | None] = [*others, None] if section.printed_here() else [*others]
        for start in range(0, len(small), 2):
            yield [chart_panel(section, slate, "column") for slate in small[start : start + 2]]


def _save(figure: Any, path: Path, dpi: int) -> None:
    """The figure as .png and .svg, without the time of day in it."""
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=dpi, metadata={"Software": None})
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(path.with_name(f"{path.name}.svg"), metadata=nothing)


# ---- A panel ----


def _draw_panel(axes: Any, panel: Panel) -> None:
    chart = panel.chart
    _text(axes, 0, 20 - panel.head, panel.title, INK, 16, weight="bold")
    _lines_of_text(axes, 0, 41 - panel.head, panel.facts)
    if chart.x and chart.y:
        _draw_axes(axes, chart, chart.x, chart.y)
        _draw_lines(axes, panel, chart.x, chart.y)
        for point in panel.section.judged(panel.slate):
            _draw_point(axes, panel.section, point, chart.x, chart.y)
        _draw_names(axes, chart)
    if chart.strip:
        _draw_strip(axes, panel, chart.strip)
    for variant, x, y in panel.legend:
        _mark(axes, (x, y), find_variant(variant), 11)
        _text(axes, x + 12, y, variant, INK)
    _lines_of_text(axes, 0, panel.foot, panel.notes)


def _draw_axes(axes: Any, chart: Chart, x: Axis, y: Axis) -> None:
    for value, words in y.ticks:
        _line(axes, [(x.start, y.pixel(value)), (x.end, y.pixel(value))], RULE, 1, zorder=0)
        _text(axes, x.start - 8, y.pixel(value), words, ha="right")
    _draw_latencies(axes, x, y.end, y.start, chart.x_title)
    _text(axes, 8, (y.start + y.end) / 2, chart.y_title, rotation=90, ha="center", va="center")
    for baseline in chart.baselines:
        if baseline.level is not None:
            spots = [(x.start, baseline.level), (x.end, baseline.level)]
            _line(axes, spots, MUTED, 1.4, ls=(0, (5, 4)), zorder=1)
        _lines_of_text(axes, x.end + 8, baseline.y, baseline.lines)


def _draw_latencies(axes: Any, x: Axis, top: float, bottom: float, title: str) -> None:
    """A latency axis at `bottom`, its grid up to `top`."""
    for value, words in x.ticks:
        _line(axes, [(x.pixel(value), top), (x.pixel(value), bottom)], RULE, 1, zorder=0)
        _text(axes, x.pixel(value), bottom + TICKS - 4, words, ha="center")
    _line(axes, [(x.start, bottom), (x.end, bottom)], "#b8c0ca", 1.2, zorder=0)
    _text(axes, (x.start + x.end) / 2, bottom + TITLE - 6, title, ha="center")


def _draw_lines(axes: Any, panel: Panel, x: Axis, y: Axis) -> None:
    """The front, a faint line through the variants of each model, and the paper's rows as rings."""
    section, chart = panel.section, panel.chart
    if panel.slate is not None:
        _line(axes, chart.front, INK, 2.2, zorder=3.5)
        judged = section.judged(panel.slate)
        for name in dict.fromkeys(point.name for point in judged):
            own = [point for point in judged if point.name == name]
            spots = [(x.pixel(point.p50_ms), y.pixel(section.accuracy(point) or 0.0)) for point in own]
            _line(axes, spots, "#c3cad3", 1.3, zorder=1.5)
        return
    _line(axes, chart.front, FAINT, 1.4, ls=(0, (2, 2)), zorder=1)
    for row in section.printed():
        color = DIM if row.model in section.printed_here() else "#b4bcc7"
        at = [x.pixel(row.latency_ms or 0.0)], [y.pixel(row.accuracy)]
        axes.plot(*at, ls="", marker="o", ms=9 * POINTS, mfc="none", mec=color, mew=1.3)


def _draw_point(axes: Any, section: ChartSection, point: ChartPoint, x: Axis, y: Axis) -> None:
    """A point with its intervals; one off the front is dimmed, the less the surer a point is on it."""
    variant, layer = find_variant(point.variant), 4.0 if point.on_front else 2.0
    across, up = x.pixel(point.p50_ms), y.pixel(section.accuracy(point) or 0.0)
    width, alpha = (2.0, 0.85) if point.on_front else (1.5, 0.22)
    for spots in (
        [(x.pixel(end), up) for end in point.p50_ci95_ms],
        [(across, y.pixel(end)) for end in section.interval(point)],
    ):
        _line(axes, spots, variant.colour, width, alpha=alpha, zorder=layer)
    if point.aside:  # hollow: judged on other rows
        _mark(axes, (across, up), variant, 9, mfc="white", mec=variant.colour, mew=1.3, zorder=layer + 1)
        return
    solid = 1.0 if point.on_front else max(0.5, point.front_probability or 0.0)
    _mark(axes, (across, up), variant, 12 if point.on_front else 9, alpha=solid, zorder=layer + 1)


def _draw_names(axes: Any, chart: Chart) -> None:
    from matplotlib.patheffects import withStroke

    around = [withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
    for name in chart.names:
        size, weight, color = (BOLD, "bold", INK) if name.kind == "front" else (TEXT, "normal", DIM)
        if name.leader:
            _line(axes, [tuple(name.leader[:2]), tuple(name.leader[2:])], FAINT, 1.1, zorder=1.8)
        options = {"weight": weight, "ha": "center", "zorder": 7, "path_effects": around, "gid": "label"}
        _lines_of_text(axes, name.x, name.y, name.lines, color, size, **options)


def _draw_strip(axes: Any, panel: Panel, strip: Strip) -> None:
    """The models that were only timed, a row each."""
    _text(axes, 8, strip.title_y, strip.title, INK, weight="bold")
    _draw_latencies(axes, strip.x, strip.top, strip.bottom, panel.chart.x_title)
    for name, y in strip.rows.items():
        lines = strip.names[name]
        _lines_of_text(axes, strip.x.start - 12, y - LINE * (len(lines) - 1) / 2, lines, DIM, ha="right")
    for point in panel.section.unjudged(panel.slate):
        y, variant = strip.rows[point.name], find_variant(point.variant)
        _line(axes, [(strip.x.pixel(end), y) for end in point.p50_ci95_ms], variant.colour, 1.5, alpha=0.6)
        _mark(axes, (strip.x.pixel(point.p50_ms), y), variant, 9, alpha=0.8)


# ---- Lines, marks and texts, in pixels ----


def _line(axes: Any, spots: Sequence[tuple[float, ...]], color: str, width: float, **options: Any) -> None:
    xs, ys = zip(*spots, strict=True)
    axes.plot(xs, ys, color=color, lw=width * POINTS, solid_capstyle="butt", **options)


def _mark(axes: Any, at: tuple[float, float], variant: Variant, size: float, **options: Any) -> None:
    options = {"mfc": variant.colour, "mec": "white", "mew": 0.8, **options}
    axes.plot([at[0]], [at[1]], ls="", marker=variant.marker, ms=size * POINTS, **options)


def _lines_of_text(axes: Any, x: float, y: float, lines: Sequence[str], *style: Any, **options: Any) -> None:
    for number, line in enumerate(lines):
        _text(axes, x, y + LINE * number, line, *style, **options)


def _text(
    axes: Any, x: float, y: float, words: str, color: str = MUTED, size: float = TEXT, **options: Any
) -> None:
    """Words around the middle `y`."""
    options = {"va": "center_baseline", **options}
    axes.text(x, y, words, fontsize=size * POINTS, color=color, parse_math=False, **options)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        draw(json.loads((Path(argument) / "report.json").read_text(encoding="utf-8")), Path(argument))
