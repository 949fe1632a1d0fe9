"""Lays a chart out, in pixels: axes, the front, names, baselines and the strip of what was only timed.

The pictures (`plot.py`) and the page (`page.js`) draw what a `Chart` says and decide nothing themselves, so that they
show the same. A page that hides some points keeps the layout of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from rbserve.profilers.compare.paper import PaperRow
from rbserve.profilers.report.axes import TEXT, Axis, accuracy_axis, latency_axis, text_width
from rbserve.profilers.report.chart_data import ChartPoint, ChartSection, folded
from rbserve.profilers.report.label_layout import Box, Label, LabelPlace, place
from rbserve.runs.measurement import baseline_title
from rbserve.runs.plan import Slate

BOLD = 13.0  # pixels, the size of a name on the front
LINE = 15.0  # pixels from one line of text to the next
LEFT, TOP, RIGHT, NAMED_RIGHT = 62.0, 12.0, 26.0, 104.0
TICKS, TITLE = 18.0, 38.0  # from an axis down to its ticks and its title
MARK = 8.0  # half the width that is kept free around a mark


class Size(NamedTuple):
    """The width of a chart and the height of its plot in pixels; a narrow one names its baselines below it."""

    width: float
    plot: float
    narrow: bool = False
    latency: str = "p50 latency per call, ms (log scale; left is faster)"


SIZES = {
    "narrow": Size(360, 330, True, "p50 ms per call (log)"),
    "column": Size(540, 380),
    "wide": Size(1120, 470),
}


class PlacedName(msgspec.Struct, frozen=True, array_like=True):
    """A name on its lines, around the middle of the first one.

    `owner` is the id of its point, or the paper's model; `kind` is "front", "dim" or "printed".
    """

    owner: str
    kind: str
    lines: list[str]
    x: float
    y: float
    leader: list[float] | None


class Baseline(msgspec.Struct, frozen=True, array_like=True):
    """A baseline's level, None where it is off the axis, and its name in the right margin."""

    level: float | None
    lines: list[str]
    y: float


class Strip(msgspec.Struct, frozen=True):
    """The models that were timed and not judged, a row each, below the plot on an axis of their own."""

    title: str
    title_y: float
    x: Axis
    top: float
    bottom: float
    rows: dict[str, float]
    names: dict[str, list[str]]


class Chart(msgspec.Struct, frozen=True):
    """One view of a section; `x` and `y` are None where nothing was judged. `front` has the corners of its line."""

    width: float
    height: float
    x: Axis | None
    y: Axis | None
    x_title: str
    y_title: str
    front: list[tuple[float, float]]
    names: list[PlacedName]
    baselines: list[Baseline]
    strip: Strip | None
    notes: list[str]


def lay_out(section: ChartSection, slate: Slate | None, size: Size, paper: Sequence[PaperRow] = ()) -> Chart:
    """The chart of a slate, or for None of the paper's rows alone; `paper` are rows to draw among the points."""
    judged, unjudged = section.judged(slate), section.unjudged(slate)
    levels = _levels(section) if judged else []
    x, y = _plot_axes(section, judged, paper, size, named=bool(levels)) if judged or paper else (None, None)
    baselines = _margin(levels, section, y, size) if y else []
    front, names = _front_and_names(section, judged, paper, baselines, x, y) if x and y else ([], [])
    bottom = TOP + size.plot + TITLE + 8 if x else 0.0
    strip = _strip(section, unjudged, bottom, size) if unjudged else None
    return Chart(
        width=size.width,
        height=strip.bottom + TITLE + 8 if strip else bottom,
        x=x,
        y=y,
        x_title=size.latency if slate is not None else "latency per sample as printed, ms (log scale)",
        y_title=f"{section.metric_label} (up is better)",
        front=front,
        names=names,
        baselines=baselines,
        strip=strip,
        notes=list(_notes(section, [*judged, *unjudged], levels, size)),
    )


# ---- The plot: what was judged ----


def _plot_axes(
    section: ChartSection, judged: Sequence[ChartPoint], paper: Sequence[PaperRow], size: Size, named: bool
) -> tuple[Axis, Axis]:
    """The axes of the plot, which hold every interval in full; `named` leaves room for the names of baselines."""
    latencies = [row.latency_ms or 0.0 for row in paper]
    latencies += [end for point in judged for end in point.p50_ci95_ms]
    accuracies = [row.accuracy for row in paper]
    accuracies += [end for point in judged for end in section.interval(point)]
    right = size.width - (NAMED_RIGHT if named and not size.narrow else RIGHT)
    return latency_axis(latencies, LEFT, right), accuracy_axis(accuracies, TOP + size.plot, TOP)


class Spot(NamedTuple):
    """A point or a row of the paper in pixels, with its name; `owner` and `kind` are those of `PlacedName`."""

    owner: str
    kind: str
    name: str
    x: float
    y: float

    def label(self) -> Label:
        """What the search has to know: how large the name is, and how far it may stand from here."""
        angle, patience = {"front": (135.0, 300.0), "dim": (0.0, 120.0), "printed": (90.0, 70.0)}[self.kind]
        bold, lines = self.kind == "front", folded(self.name)
        width = max(text_width(line, BOLD if bold else TEXT, bold) for line in lines)
        return Label(self.x, self.y, width + 6, LINE * len(lines) + 2, angle, patience)

    def placed(self, where: LabelPlace) -> PlacedName:
        """The name in the rectangle that was found for it."""
        left, top, right, _ = where.box
        x, y = round((left + right) / 2, 1), round(top + 1 + LINE / 2, 1)
        leader = [round(end, 1) for end in where.leader] if where.leader else None
        return PlacedName(self.owner, self.kind, folded(self.name), x, y, leader)


def _front_and_names(
    section: ChartSection,
    judged: Sequence[ChartPoint],
    paper: Sequence[PaperRow],
    baselines: Sequence[Baseline],
    x: Axis,
    y: Axis,
) -> tuple[list[tuple[float, float]], list[PlacedName]]:
    """The corners of the front's line, and each model's name once, where there is room."""
    points, rows = _point_spots(section, judged, x, y), _row_spots(paper, x, y)
    best, here = _best(rows), section.printed_here()
    front = _stairs([spot for spot in points if spot.kind == "front"] if judged else best, x.end)
    lines = [_stroke(*start, *end) for start, end in pairwise(front)]
    lines += [_stroke(x.start, base.level, x.end, base.level) for base in baselines if base.level is not None]
    lines += _bars(section, judged, x, y)
    wishes = [*_named(points), *(row for row in rows if row.owner in here)]
    wishes += [row for row in best if row.owner not in here]
    markers = [Box(spot.x - MARK, spot.y - MARK, spot.x + MARK, spot.y + MARK) for spot in (*points, *rows)]
    places = place([spot.label() for spot in wishes], markers, lines, Box(x.start, y.end, x.end, y.start))
    return front, [spot.placed(where) for spot, where in zip(wishes, places, strict=True) if where]


def _point_spots(section: ChartSection, judged: Sequence[ChartPoint], x: Axis, y: Axis) -> list[Spot]:
    names = section.short_names()
    return [
        Spot(
            owner=point.id,
            kind="front" if point.on_front else "dim",
            name=names[point.name],
            x=x.pixel(point.p50_ms),
            y=y.pixel(section.accuracy(point) or 0.0),
        )
        for point in judged
    ]


def _row_spots(paper: Sequence[PaperRow], x: Axis, y: Axis) -> list[Spot]:
    ordered = sorted(paper, key=lambda row: row.latency_ms or 0.0)
    return [
        Spot(row.model, "printed", row.model, x.pixel(row.latency_ms or 0.0), y.pixel(row.accuracy))
        for row in ordered
    ]


def _named(points: Sequence[Spot]) -> list[Spot]:
    """A model on the front is named at its fastest variant there, another at its slowest one."""
    fastest = {spot.name: spot for spot in reversed(points) if spot.kind == "front"}
    slowest = {spot.name: spot for spot in points if spot.name not in fastest}
    return [*fastest.values(), *sorted(slowest.values(), key=lambda spot: (-spot.y, -spot.x))]


def _best(rows: Sequence[Spot]) -> list[Spot]:
    """The rows of the paper that no faster one equals in accuracy, the fastest first."""
    best: list[Spot] = []
    for row in sorted(rows, key=lambda row: (row.x, row.y)):
        if not best or row.y < best[-1].y:
            best.append(row)
    return best


def _stairs(spots: Sequence[Spot], end: float) -> list[tuple[float, float]]:
    """The corners of a line from the fastest spot over all others to the right edge."""
    corners = [corner for low, high in pairwise(spots) for corner in ((high.x, low.y), (high.x, high.y))]
    return [(spots[0].x, spots[0].y), *corners, (end, spots[-1].y)] if spots else []


def _bars(section: ChartSection, judged: Sequence[ChartPoint], x: Axis, y: Axis) -> Iterator[Box]:
    """Intervals, and the lines through the variants of a model."""
    slowest = {point.name: x.pixel(point.p50_ms) for point in judged}
    for point in judged:
        at, level = x.pixel(point.p50_ms), y.pixel(section.accuracy(point) or 0.0)
        low, high = map(y.pixel, section.interval(point))
        yield _stroke(at, low, at, high)
        yield _stroke(x.pixel(point.p50_ci95_ms[0]), level, slowest[point.name], level)


def _stroke(x: float, y: float, end_x: float, end_y: float) -> Box:
    return Box(min(x, end_x) - 1, min(y, end_y) - 1, max(x, end_x) + 1, max(y, end_y) + 1)


# ---- Baselines ----


def _levels(section: ChartSection) -> list[tuple[float, str]]:
    """Accuracy and name of each baseline, the lowest first."""
    known = [
        (figures[section.metric], name)
        for name, figures in section.baselines.items()
        if section.metric in figures
    ]
    return sorted(known)


def _margin(
    levels: Sequence[tuple[float, str]], section: ChartSection, y: Axis, size: Size
) -> list[Baseline]:
    """The baselines with their names in the right margin, none over another; off the axis, named at its edge."""
    baselines: list[Baseline] = []
    floor = y.start + LINE
    for value, name in levels:
        level = y.pixel(min(max(value, y.low), y.high))
        arrow = "↓ " if value < y.low else "↑ " if value > y.high else ""
        form = [f"({section.baseline_forms[name]})"] if name in section.baseline_forms else []
        lines = [arrow + name, *form, f"{value:.4f}"] if not size.narrow else []
        first = min(level - LINE * (len(lines) - 1) / 2, floor - LINE * len(lines))
        floor = first - 4
        baselines.append(Baseline(None if arrow else level, lines, first))
    down = max(0.0, TOP - floor)
    return [Baseline(base.level, base.lines, base.y + down) for base in baselines]


# ---- What was timed and not judged ----


def _strip(section: ChartSection, points: Sequence[ChartPoint], top: float, size: Size) -> Strip:
    """A row for each model, the fastest first, its name on the left."""
    shown = section.short_names()
    names = {name: folded(shown[name]) for name in dict.fromkeys(point.name for point in points)}
    start = 8 + max(text_width(line) for lines in names.values() for line in lines) + 16
    x = latency_axis([end for point in points for end in point.p50_ci95_ms], start, size.width - RIGHT)
    rows: dict[str, float] = {}
    edge = top + 30
    for name, lines in names.items():
        height = LINE * len(lines) + 5
        rows[name], edge = edge + height / 2, edge + height
    title = f"Latency only: no {section.metric_label} was measured"
    return Strip(title=title, title_y=top + 14, x=x, top=top + 28, bottom=edge + 2, rows=rows, names=names)


def _notes(
    section: ChartSection, points: Sequence[ChartPoint], levels: Sequence[tuple[float, str]], size: Size
) -> Iterator[str]:
    """What has to be said below a chart of points."""
    if levels and size.narrow:
        named = [f"{baseline_title(name, section.baseline_forms)} {value:.4f}" for value, name in levels]
        yield f"Baselines (dashed): {', '.join(named)}."
    shown = section.short_names()
    for mark, names in section.below(points).items():
        yield f"{mark[0].upper()}{mark[1:]}: {', '.join(names)}."
    if any(shown[point.name].endswith("*") for point in points):
        yield "* Measured with other options than its row of the paper; the table names them."
    if any(point.aside for point in points):
        yield "Dashed outline: judged on other test rows than the rest, and no part of the front."
