"""Names beside the points of a plot: a small deterministic search that covers neither a marker nor another name.

`write` draws names on matplotlib axes; `place` is the search, which knows rectangles in pixels and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from textwrap import wrap
from typing import Any, NamedTuple

Segment = tuple[float, float, float, float]  # x, y of both ends, in data coordinates
LONGEST_LINE = 26  # letters; a name with what was changed of its row is longer, and would find no room
LINE_SPACING = 1.2  # of matplotlib


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether two rectangles share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


class Name(NamedTuple):
    """A text to draw beside the point at `x`, `y` (data coordinates); `angle` is as in `Label`."""

    text: str
    x: float
    y: float
    angle: float
    color: str
    weight: str
    size: float


class Label(NamedTuple):
    """A text's size in pixels: to place near `x`, `y`, best towards `angle` (degrees, 0 is right, 90 is up)."""

    x: float
    y: float
    width: float
    height: float
    angle: float


class Spot(NamedTuple):
    """Where a label went, and how far that is from its anchor."""

    box: Box
    distance: float


def write(
    axes: Any, names: Sequence[Name], markers: Sequence[tuple[float, float]], lines: Sequence[Segment]
) -> None:
    """Places names beside their points and draws them, with a leader line from afar."""
    from matplotlib.font_manager import FontProperties

    renderer = axes.figure.canvas.get_renderer()
    pixels = axes.transData.transform
    names = [name._replace(text=folded(name.text)) for name in names]
    labels = []
    for name in names:
        font = FontProperties(size=name.size, weight=name.weight)
        sizes = [renderer.get_text_width_height_descent(line, font, False) for line in name.text.split("\n")]
        width, height = max(size[0] for size in sizes), max(size[1] for size in sizes)
        height *= 1 + LINE_SPACING * (len(sizes) - 1)
        x, y = pixels((name.x, name.y))
        labels.append(Label(x, y, width + 6, height + 6, name.angle))
    discs = [Box(x - 10, y - 10, x + 10, y + 10) for x, y in map(pixels, markers)]
    spots = place(labels, discs, [_strip(pixels, line) for line in lines], Box(*axes.bbox.extents))
    for name, label, spot in zip(names, labels, spots, strict=True):
        if spot:
            _annotate(axes, name, label, spot)


def folded(text: str) -> str:
    """A name on as many lines as it takes."""
    return "\n".join(wrap(text, LONGEST_LINE, break_long_words=False)) or text


def place(
    labels: Sequence[Label], markers: Sequence[Box], lines: Sequence[Box], bounds: Box
) -> list[Spot | None]:
    """A spot for each label, in order of priority, or None where there is no room.

    A placed label lies within `bounds` and meets neither a marker nor an earlier label; among such spots the
    nearest wins, unless it would cover `lines`, its leader line would cross a label or a marker, or another marker is
    nearer to it than its own.
    """
    solid = list(markers)
    spots: list[Spot | None] = []
    for label in labels:
        spot = _best_spot(label, markers, solid, lines, bounds)
        spots.append(spot)
        if spot:
            solid.append(spot.box)
    return spots


def steps(xs: Sequence[float], ys: Sequence[float]) -> list[Segment]:
    """The horizontal and vertical pieces of a step line, for labels to avoid."""
    corners = list(zip(xs, ys, strict=True))
    pieces = []
    for (x, y), (next_x, next_y) in pairwise(corners):
        pieces += [(x, y, next_x, y), (next_x, y, next_x, next_y)]
    return pieces


def _best_spot(
    label: Label, markers: Sequence[Box], solid: Sequence[Box], lines: Sequence[Box], bounds: Box
) -> Spot | None:
    best: tuple[float, Spot] | None = None
    for cost, spot in _candidates(label):
        if best and cost >= best[0]:
            break
        if _within(spot.box, bounds) and not any(spot.box.meets(other) for other in solid):
            cost += _clutter(label, spot, solid, lines) + _mistaken(label, spot, markers)
            best = min(best, (cost, spot)) if best else (cost, spot)
    return best[1] if best else None


def _candidates(label: Label) -> list[tuple[float, Spot]]:
    """Spots around a label's anchor and what their distance and direction cost, the cheapest first."""
    found = []
    for distance in (14, 20, 28, 38, 50, 65, 82, 102, 126, 154, 186, 224, 270, 330, 400):
        for angle in range(0, 360, 15):
            turn = math.cos(math.radians(angle - label.angle))
            dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            left = label.x + distance * dx - label.width * (1 - dx) / 2
            bottom = label.y + distance * dy - label.height * (1 - dy) / 2
            box = Box(left, bottom, left + label.width, bottom + label.height)
            found.append((distance + 10 * (1 - turn), Spot(box, distance)))
    return sorted(found)


def _within(box: Box, bounds: Box) -> bool:
    inside = box.left >= bounds.left and box.right <= bounds.right
    return inside and box.bottom >= bounds.bottom and box.top <= bounds.top


def _clutter(label: Label, spot: Spot, solid: Sequence[Box], lines: Sequence[Box]) -> float:
    """What a spot costs for the lines it covers, and for the labels and markers its leader line crosses."""
    # A level line strikes words through; an upright one only passes between letters.
    covered = sum(18 if one.top - one.bottom < 4 else 6 for one in lines if spot.box.meets(one))
    x, y = (spot.box.left + spot.box.right) / 2, (spot.box.bottom + spot.box.top) / 2
    path = [
        (label.x + (x - label.x) * step / 12, label.y + (y - label.y) * step / 12) for step in range(1, 12)
    ]
    anchor = Box(label.x, label.y, label.x, label.y)
    dots = [Box(x - 0.5, y - 0.5, x + 0.5, y + 0.5) for x, y in path]
    crossed = sum(any(dot.meets(box) for dot in dots) for box in solid if not box.meets(anchor))
    return covered + 40.0 * crossed


def _mistaken(label: Label, spot: Spot, markers: Sequence[Box]) -> float:
    """What a spot costs for standing closer to the markers of others than to its own."""

    def gap(x: float, y: float) -> float:
        across = max(spot.box.left - x, x - spot.box.right, 0.0)
        return math.hypot(across, max(spot.box.bottom - y, y - spot.box.top, 0.0))

    own = gap(label.x, label.y)
    others = [gap((one.left + one.right) / 2, (one.bottom + one.top) / 2) for one in markers]
    return 90.0 * (min(others, default=own) < own - 1)


def _strip(pixels: Callable[[tuple[float, float]], tuple[float, float]], line: Segment) -> Box:
    (x, y), (end_x, end_y) = pixels(line[:2]), pixels(line[2:])
    return Box(min(x, end_x) - 1, min(y, end_y) - 1, max(x, end_x) + 1, max(y, end_y) + 1)


def _annotate(axes: Any, name: Name, label: Label, spot: Spot) -> None:
    from matplotlib.patheffects import withStroke

    x, y = (spot.box.left + spot.box.right) / 2, (spot.box.bottom + spot.box.top) / 2
    dpi = axes.figure.dpi
    leader = {"arrowstyle": "-", "color": "#9aa4b1", "lw": 0.8, "shrinkA": 1, "shrinkB": 4}
    note = axes.annotate(
        name.text,
        (name.x, name.y),
        ((x - label.x) * 72 / dpi, (y - label.y) * 72 / dpi),  # points, so that any resolution looks the same
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=name.size,
        weight=name.weight,
        color=name.color,
        zorder=7,
        parse_math=False,
        path_effects=[withStroke(linewidth=2.5, foreground="white", alpha=0.85)],
        arrowprops=leader if spot.distance > 24 else None,
    )
    note.set_gid("label")
