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
from rbserve.profilers.report.label_layout import Box, Label, Place, place
from rbserve.runs.measurement import baseline_title

BOLD = 13.0  # pixels, the size of a name on the front
LINE = 15.0  # pixels from one line of text to the next
LEFT, TOP, RIGHT, NAMED_RIGHT = 62.0, 12.0, 26.0, 104.0
TICKS, TITLE = 18.0, 38.0  # from an axis down to its ticks and its title
MARK = 8.0  # half the width that is kept free around a mark


class Size(NamedTuple):
    """The width of a chart and the height of its plot in pixels."""

    width: float
    plot: float


SIZES = {"narrow": Size(360, 330), "column": Size(540, 380), "wide": Size(1120, 470)}


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


def lay_out(section: ChartSection, slate: int | None, size: Size, paper: Sequence[PaperRow] = ()) -> Chart:
    """The chart of a slate, or for None of the paper's rows alone; `paper` are rows to draw among the points."""
    judged, unjudged = section.judged(slate), section.unjudged(slate)
    levels = _levels(section) if judged else []
    right = size.width - (NAMED_RIGHT if levels and not _narrow(size) else RIGHT)
    x, y = _plot_axes(section, judged, paper, right, size)
    bottom = TOP + size.plot + TITLE + 8 if x else 0.0
    strip = _strip(section, unjudged, bottom, size) if unjudged else None
    baselines = _margin(levels, section, y, named=not _narrow(size)) if y else []
    plot = _Plot(section, judged, paper, baselines, x, y) if x and y else None
    return Chart(
        width=size.width,
        height=strip.bottom + TITLE + 8 if strip else bottom,
        x=x,
        y=y,
        x_title=_x_title(slate, size),
        y_title=f"{section.metric_label} (up is better)",
        front=plot.front() if plot else [],
        names=plot.names() if plot else [],
        baselines=baselines,
        strip=strip,
        notes=list(_notes(section, [*judged, *unjudged], levels, size)),
    )


def _x_title(slate: int | None, size: Size) -> str:
    if slate is None:
        return "latency per sample as printed, ms (log scale)"
    return (
        "p50 ms per call (log)" if _narrow(size) else "p50 latency per call, ms (log scale; left is faster)"
    )


def _narrow(size: Size) -> bool:
    return size.width < 500


# ---- The plot: what was judged ----


def _plot_axes(
    section: ChartSection, judged: Sequence[ChartPoint], paper: Sequence[PaperRow], right: float, size: Size
) -> tuple[Axis | None, Axis | None]:
    """The axes of the plot, which hold every interval in full."""
    latencies = [end for point in judged for end in point.p50_ci95_ms] + [
        row.latency_ms or 0.0 for row in paper
    ]
    accuracies = [end for point in judged for end in section.interval(point)] + [
        row.accuracy for row in paper
    ]
    if not latencies:
        return None, None
    return latency_axis(latencies, LEFT, right), accuracy_axis(accuracies, TOP + size.plot, TOP)


class NameWish(NamedTuple):
    """A name to place near the pixel `x`, `y`; the other fields are those of `PlacedName`."""

    owner: str
    kind: str
    lines: list[str]
    x: float
    y: float

    def label(self) -> Label:
        """What the search has to know: how large the name is, and how far it may stand from its point."""
        angle, patience = {"front": (135.0, 300.0), "dim": (0.0, 120.0), "printed": (90.0, 70.0)}[self.kind]
        bold = self.kind == "front"
        width = max(text_width(line, BOLD if bold else TEXT, bold) for line in self.lines)
        return Label(self.x, self.y, width + 6, LINE * len(self.lines) + 2, angle, patience)

    def placed(self, where: Place) -> PlacedName:
        """The name in the rectangle that was found for it."""
        left, top, right, _ = where.box
        x, y = round((left + right) / 2, 1), round(top + 1 + LINE / 2, 1)
        leader = [round(end, 1) for end in where.leader] if where.leader else None
        return PlacedName(self.owner, self.kind, self.lines, x, y, leader)


class _Plot:
    """Points and rows of the paper on their axes."""

    def __init__(
        self,
        section: ChartSection,
        judged: Sequence[ChartPoint],
        paper: Sequence[PaperRow],
        baselines: Sequence[Baseline],
        x: Axis,
        y: Axis,
    ) -> None:
        self._section, self._judged, self._paper, self._x, self._y = section, judged, paper, x, y
        self._levels = [base.level for base in baselines if base.level is not None]

    def front(self) -> list[tuple[float, float]]:
        """The corners of the front's line, from the fastest point to the right edge."""
        spots = [self._at(point) for point in self._judged if point.on_front]
        if not self._judged:
            spots = [self._printed_at(row) for row in _paper_front(self._paper)]
        corners = [corner for (_, y), (x, next_y) in pairwise(spots) for corner in ((x, y), (x, next_y))]
        return [*spots[:1], *corners, (self._x.end, spots[-1][1])] if spots else []

    def names(self) -> list[PlacedName]:
        """Each model once, where there is room, the front's first."""
        wishes = [*self._point_names(), *self._paper_names()]
        bounds = Box(self._x.start, self._y.end, self._x.end, self._y.start)
        labels = [wish.label() for wish in wishes]
        places = place(labels, list(self._markers()), list(self._lines()), bounds)
        return [wish.placed(where) for wish, where in zip(wishes, places, strict=True) if where]

    def _at(self, point: ChartPoint) -> tuple[float, float]:
        return self._x.pixel(point.p50_ms), self._y.pixel(self._section.accuracy(point) or 0.0)

    def _printed_at(self, row: PaperRow) -> tuple[float, float]:
        return self._x.pixel(row.latency_ms or 0.0), self._y.pixel(row.accuracy)

    def _point_names(self) -> Iterator[NameWish]:
        """A model on the front is named at its fastest variant there, another at its slowest one."""
        names = self._section.short_names()
        fastest = {point.name: point for point in reversed(self._judged) if point.on_front}
        slowest = {point.name: point for point in self._judged if point.name not in fastest}
        for point in fastest.values():
            yield NameWish(point.id, "front", folded(names[point.name]), *self._at(point))
        for point in sorted(slowest.values(), key=lambda point: self._at(point)[::-1], reverse=True):
            yield NameWish(point.id, "dim", folded(names[point.name]), *self._at(point))

    def _paper_names(self) -> Iterator[NameWish]:
        """The paper's rows that were measured here as well, then those of its front."""
        here, front = self._section.printed_here(), _paper_front(self._paper)
        rows = sorted(self._paper, key=lambda row: (row.model not in here, row.latency_ms or 0.0))
        for row in rows:
            if row.model in here or row in front:
                yield NameWish(row.model, "printed", folded(row.model), *self._printed_at(row))

    def _markers(self) -> Iterator[Box]:
        for x, y in [*map(self._at, self._judged), *map(self._printed_at, self._paper)]:
            yield Box(x - MARK, y - MARK, x + MARK, y + MARK)

    def _lines(self) -> Iterator[Box]:
        """What names had better not cover: the front, baselines, intervals, lines through a model's variants."""
        slowest = {point.name: self._x.pixel(point.p50_ms) for point in self._judged}
        for start, end in pairwise(self.front()):
            yield _stroke(*start, *end)
        for level in self._levels:
            yield _stroke(self._x.start, level, self._x.end, level)
        for point in self._judged:
            x, y = self._at(point)
            low, high = map(self._y.pixel, self._section.interval(point))
            yield _stroke(x, low, x, high)
            yield _stroke(self._x.pixel(point.p50_ci95_ms[0]), y, slowest[point.name], y)


def _stroke(x: float, y: float, end_x: float, end_y: float) -> Box:
    return Box(min(x, end_x) - 1, min(y, end_y) - 1, max(x, end_x) + 1, max(y, end_y) + 1)


def _paper_front(rows: Sequence[PaperRow]) -> list[PaperRow]:
    """The rows that no faster one equals in accuracy, the fastest first."""
    front: list[PaperRow] = []
    for row in sorted(rows, key=lambda row: (row.latency_ms or 0.0, -row.accuracy)):
        if not front or row.accuracy > front[-1].accuracy:
            front.append(row)
    return front


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
    levels: Sequence[tuple[float, str]], section: ChartSection, y: Axis, named: bool
) -> list[Baseline]:
    """The baselines with their names in the right margin, none over another; off the axis, named at its edge."""
    baselines: list[Baseline] = []
    floor = y.start + LINE
    for value, name in levels:
        level = y.pixel(min(max(value, y.low), y.high))
        arrow = "↓ " if value < y.low else "↑ " if value > y.high else ""
        form = [f"({section.baseline_forms[name]})"] if name in section.baseline_forms else []
        lines = [arrow + name, *form, f"{value:.4f}"] if named else []
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
    if levels and _narrow(size):
        named = [f"{baseline_title(name, section.baseline_forms)} {value:.4f}" for value, name in levels]
        yield f"Baselines (dashed): {', '.join(named)}."
    shown = section.short_names()
    if any(shown[point.name].endswith("*") for point in points):
        yield "* Measured with other options than its row of the paper; the table names them."
    if any(point.aside for point in points):
        yield "Dashed outline: judged on other test rows than the rest, and no part of the front."
