"""Where the names of a chart's points go: a deterministic search over rectangles in pixels, y downwards.

A name covers no marker and no other name, and its leader line crosses no name and no other leader line. A name for
which there is no such place near its point is left out; the colours and the legend say what its point is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEADER_FROM = 16.0  # pixels between point and name from which a leader line joins them
DISTANCES = (13, 17, 22, 28, 36, 46, 58, 72, 88, 106, 128, 154, 186, 224)
ANGLES = np.radians(np.arange(0, 360, 15))
CROSSED_MARKER, NEARER_TO_ANOTHER, STRUCK_THROUGH, CROSSED_LINE = 40.0, 90.0, 18.0, 6.0


class Box(NamedTuple):
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two rectangles share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


class Label(NamedTuple):
    """A text of `width` and `height` to place near the point `x`, `y`, best towards `angle` (0 is right, 90 is up).

    `patience` is the cost up to which a place is taken: pixels of distance, and what the constants above add.
    """

    x: float
    y: float
    width: float
    height: float
    angle: float
    patience: float


class LabelPlace(NamedTuple):
    """A label's rectangle, and its leader line (x, y of both ends), None for a label that touches its point."""

    box: Box
    leader: tuple[float, float, float, float] | None


def place(
    labels: Sequence[Label], markers: Sequence[Box], lines: Sequence[Box], bounds: Box
) -> list[LabelPlace | None]:
    """A place for each label, in order of priority, or None where there is no room for it."""
    search = _Search(markers, lines, bounds)
    return [search.place(label) for label in labels]


class _Search:
    """What stands in the chart so far, as arrays of rectangles and of leader lines."""

    def __init__(self, markers: Sequence[Box], lines: Sequence[Box], bounds: Box) -> None:
        self._markers, self._lines, self._bounds = _rows(markers), _rows(lines), bounds
        self._names, self._leaders = _rows([]), _rows([])

    def place(self, label: Label) -> LabelPlace | None:
        """The cheapest free place, which later labels will respect."""
        boxes, leaders, costs = self._free(label)
        costs = costs + self._clutter(label, boxes, leaders)
        best = int(np.argmin(costs)) if len(costs) else 0
        if not len(costs) or costs[best] > label.patience:
            return None
        self._names = np.vstack([self._names, boxes[best]])
        box = Box(*map(float, boxes[best]))
        if not _is_drawn(leaders[best : best + 1])[0]:
            return LabelPlace(box, None)
        self._leaders = np.vstack([self._leaders, leaders[best]])
        x, y, end_x, end_y = map(float, leaders[best])
        return LabelPlace(box, (x, y, end_x, end_y))

    def _free(self, label: Label) -> tuple[Floats, Floats, Floats]:
        """Rectangles, leader lines and costs of the candidates that keep the promises of the module's docstring."""
        boxes, leaders, costs = _candidates(label)
        left, top, right, bottom = boxes.T
        low, high = self._bounds[:2], self._bounds[2:]
        free = (costs <= label.patience) & (left >= low[0]) & (right <= high[0])
        free &= (top >= low[1]) & (bottom <= high[1])
        for blocks in (self._covers, self._crosses):
            boxes, leaders, costs = boxes[free], leaders[free], costs[free]
            free = ~blocks(boxes, leaders)
        return boxes[free], leaders[free], costs[free]

    def _covers(self, boxes: Floats, _leaders: Floats) -> Flags:
        """Whether a name would lie on a marker, a name or a leader line."""
        covers = _meet(boxes, self._markers).any(1) | _meet(boxes, self._names).any(1)
        return np.asarray(covers | _cut(self._leaders, boxes).any(0))

    def _crosses(self, _boxes: Floats, leaders: Floats) -> Flags:
        """Whether a leader line would be drawn across a name or another leader line."""
        crosses = _cut(leaders, self._names).any(1) | _cross(leaders, self._leaders).any(1)
        return np.asarray(crosses & _is_drawn(leaders))

    def _clutter(self, label: Label, boxes: Floats, leaders: Floats) -> Floats:
        """What candidates cost for lines behind them, markers on their way and markers of others that are nearer."""
        level = (
            self._lines[:, 3] - self._lines[:, 1]
        ) < 4  # strikes words through; an upright one goes between
        lines = _meet(boxes, self._lines) @ np.where(level, STRUCK_THROUGH, CROSSED_LINE)
        own = _meet(_rows([Box(label.x - 1, label.y - 1, label.x + 1, label.y + 1)]), self._markers)[0]
        crossed = _cut(leaders, self._markers[~own]).sum(1)
        middles = np.column_stack([self._markers[:, ::2].mean(1), self._markers[:, 1::2].mean(1)])
        nearest = _gaps(boxes, middles).min(1, initial=np.inf)
        mistaken = nearest < _gaps(boxes, np.array([[label.x, label.y]]))[:, 0] - 1
        return np.asarray(lines + CROSSED_MARKER * crossed + NEARER_TO_ANOTHER * mistaken)


def _rows(boxes: Sequence[Box]) -> Floats:
    return np.array(boxes, np.float64).reshape(-1, 4)


def _candidates(label: Label) -> tuple[Floats, Floats, Floats]:
    """Rectangles around a label's point, their leader lines, and what distance and direction cost."""
    distance, angle = (grid.ravel() for grid in np.meshgrid(DISTANCES, ANGLES, indexing="ij"))
    dx, dy = np.cos(angle), -np.sin(angle)
    left = label.x + distance * dx - label.width * (1 - dx) / 2
    top = label.y + distance * dy - label.height * (1 - dy) / 2
    boxes = np.column_stack([left, top, left + label.width, top + label.height])
    tip_x, tip_y = np.clip(label.x, left, boxes[:, 2]), np.clip(label.y, top, boxes[:, 3])
    leaders = np.column_stack([np.full_like(left, label.x), np.full_like(left, label.y), tip_x, tip_y])
    turned = 1 - np.cos(angle - np.radians(label.angle))
    return boxes, leaders, np.asarray(distance + 10 * turned)


def _is_drawn(leaders: Floats) -> Flags:
    """Whether leader lines are long enough to be drawn."""
    return np.asarray(np.hypot(*(leaders[:, 2:] - leaders[:, :2]).T) > LEADER_FROM)


def _meet(boxes: Floats, others: Floats) -> Flags:
    """Whether box i and other j share any area, [i, j]."""
    a, b = boxes[:, None], others[None]
    across = (a[..., 0] < b[..., 2]) & (b[..., 0] < a[..., 2])
    return np.asarray(across & (a[..., 1] < b[..., 3]) & (b[..., 1] < a[..., 3]))


def _cut(segments: Floats, boxes: Floats) -> Flags:
    """Whether segment i passes through the inside of box j, [i, j]."""
    start, step = segments[:, None, :2], segments[:, None, 2:] - segments[:, None, :2]
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (boxes[None, :, :2] - start) / step, (boxes[None, :, 2:] - start) / step
    still = step == 0
    within = (start > boxes[None, :, :2]) & (start < boxes[None, :, 2:])
    enter = np.where(still, np.where(within, -np.inf, np.inf), np.minimum(low, high)).max(-1, initial=0)
    leave = np.where(still, np.inf, np.maximum(low, high)).min(-1, initial=1)
    return np.asarray(enter < leave)


def _cross(segments: Floats, others: Floats) -> Flags:
    """Whether segment i and other j cross or touch, [i, j]; two of one straight line count as crossing."""
    a, b = segments[:, None], others[None]
    apart = (_side(a, b[..., :2]) * _side(a, b[..., 2:]) > 0) | (
        _side(b, a[..., :2]) * _side(b, a[..., 2:]) > 0
    )
    return np.asarray(~apart)


def _side(segments: Floats, points: Floats) -> Floats:
    """On which side of a segment a point lies, by its sign."""
    ahead, aside = segments[..., 2:] - segments[..., :2], points - segments[..., :2]
    return np.asarray(ahead[..., 0] * aside[..., 1] - ahead[..., 1] * aside[..., 0])


def _gaps(boxes: Floats, points: Floats) -> Floats:
    """How far point j is from box i, [i, j]."""
    x, y = points[None, :, 0], points[None, :, 1]
    left, top, right, bottom = (boxes[:, None, side] for side in range(4))
    across, along = np.maximum(left - x, x - right), np.maximum(top - y, y - bottom)
    return np.asarray(np.hypot(across.clip(0), along.clip(0)))
