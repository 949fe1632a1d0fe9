"""Axes of a chart: which values they reach, where a value stands in pixels, and which ticks are printed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import msgspec

TEXT = 12.0  # pixels, the size of a chart's ordinary text
# What a latency tick may begin with, from many ticks to few.
LEADS = (
    (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    (1.0, 2.0, 3.0, 5.0, 7.0),
    (1.0, 2.0, 5.0),
    (1.0,),
)


class Axis(msgspec.Struct, frozen=True):
    """Values from `low` to `high` on pixels from `start` to `end`; `ticks` are values with their texts."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: list[tuple[float, str]] = []

    def pixel(self, value: float) -> float:
        """Where a value stands."""
        low, high, value = (
            map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def latency_axis(latencies: Sequence[float], start: float, end: float) -> Axis:
    """A logarithmic axis that holds all latencies, with as many ticks as have room for their texts."""
    low, high = (float(f"{value:.5g}") for value in (min(latencies) / 1.3, max(latencies) * 1.3))
    axis = Axis(low, high, start, end, log=True)
    choices = [list(_decades(axis, leads)) for leads in LEADS]
    choices += [choices[-1][::apart] for apart in range(2, 10)]
    ticks = next(ticks for ticks in choices if _have_room(axis, ticks))
    return msgspec.structs.replace(axis, ticks=ticks)


def accuracy_axis(accuracies: Sequence[float], start: float, end: float) -> Axis:
    """A linear axis that holds all accuracies, with a tick every 45 pixels or so."""
    low, high = min(accuracies), max(accuracies)
    margin = 0.06 * (high - low) if high - low >= 1e-4 else 0.01  # accuracies are printed with four digits
    above = 2 * margin  # where the names of the most accurate points stand
    axis = Axis(round(low - margin, 6), round(high + above, 6), start, end, log=False)
    rough = (axis.high - axis.low) * 45 / abs(start - end)
    power = math.floor(math.log10(rough))
    step = next(lead * 10.0**power for lead in (1, 2, 5, 10) if lead * 10.0**power >= rough)
    decimals = max(0, -math.floor(math.log10(step)))
    numbers = range(math.ceil(axis.low / step), math.floor(axis.high / step) + 1)
    ticks = [(round(number * step, decimals), f"{number * step:.{decimals}f}") for number in numbers]
    return msgspec.structs.replace(axis, ticks=ticks)


@cache
def text_width(text: str, size: float = TEXT, bold: bool = False) -> float:
    """How many pixels a line takes in DejaVu Sans, which is wider than what browsers and systems print in."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width)


def _decades(axis: Axis, leads: Sequence[float]) -> Iterator[tuple[float, str]]:
    for power in range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1):
        for lead in leads:
            value = float(f"{lead}e{power}")
            if axis.low <= value <= axis.high:
                yield value, f"{value:,.10g}"


def _have_room(axis: Axis, ticks: Sequence[tuple[float, str]]) -> bool:
    places = [(axis.pixel(value), text_width(text) / 2) for value, text in ticks]
    return all(right - left > half + other + 12 for (left, half), (right, other) in pairwise(places))
