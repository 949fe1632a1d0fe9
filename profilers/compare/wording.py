"""How numbers, intervals, shares and lists are written in tables, on the page and in sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rbserve.core.tasks import TASKS
from rbserve.profilers.compare.points import Point
from rbserve.runs.measurement import SlateSizes
from rbserve.stats.metrics import metric_title

DASH = "–"


class SectionWords:
    """How people call what a section of a report is about, whatever version wrote it."""

    task: str
    metric: str

    @property
    def slate_name(self) -> str:
        """What people call the size of a request: candidates scored, or items asked for."""
        return TASKS[self.task].size_name

    @property
    def metric_label(self) -> str:
        """The metric as people read it, its ranking among what it ranks: "nDCG@10 (catalogue)"."""
        return metric_title(self.metric, self.task)


def significant(value: float, digits: int = 3) -> str:
    """A number in plain notation with that many significant digits: 0.148, 6.40, 1,140."""
    if not value or not math.isfinite(value):
        return "0" if value == 0 else DASH
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def number_text(value: float | None) -> str:
    """A number with three significant digits, a dash for None."""
    return DASH if value is None else significant(value)


def interval_text(interval: tuple[float, float] | None, text: Callable[[float], str]) -> str:
    """ " [0.1, 0.2]", with a space before it; nothing for None."""
    return f" [{text(interval[0])}, {text(interval[1])}]" if interval else ""


def share_text(share: float | None) -> str:
    """A probability from resamples: never a bare 0 or 1, which no number of resamples shows."""
    if share is None:
        return DASH
    return "< 0.01" if share < 0.01 else "> 0.99" if share > 0.99 else f"{share:.2f}"


def percent_text(share: float) -> str:
    """A share of resamples in percent, neither 0% nor 100%, which no number of resamples shows."""
    return "under 1%" if share < 0.01 else "over 99%" if share > 0.99 else f"{share:.0%}"


def stages_text(stages: dict[str, float]) -> str:
    """Shares of a call's time by stage: "prefill 41%, step 50%, rest 9%"; stages under 0.5% are left out."""
    return ", ".join(f"{stage} {share:.0%}" for stage, share in stages.items() if share >= 0.005)


def p50_text(point: Point) -> str:
    """p50 in ms with its interval."""
    return significant(point.p50_ms) + interval_text(point.p50_ci95_ms, significant)


def accuracy_text(point: Point, metric: str) -> str:
    """An accuracy with its interval, a dash where there is none."""
    value = point.value(metric)
    if value is None:
        return DASH
    return f"{value:.4f}" + interval_text(point.interval(metric), "{:.4f}".format)


def sizes_text(sizes: SlateSizes) -> str:
    """The candidates of requests as they come in a table: "of 1 to 120 candidates, median 14"."""
    return f"of {sizes.min:,} to {sizes.max:,} candidates, median {sizes.median:,g}"


def listing(words: Sequence[str], most: int = 4) -> str:
    """A, B and C; or the first few and how many more."""
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
