"""What the charts read of a report.json, of this version or an older one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import msgspec

from rbserve.profilers.compare.paper import PaperRow
from rbserve.profilers.compare.wording import SectionWords
from rbserve.runs.measurement import Accuracy
from rbserve.runs.plan import Slate

LONGEST_LINE = 26  # letters; a name with the changed options of its model is longer, and would find no room

Interval = tuple[float, float]


class ChartPoint(msgspec.Struct, frozen=True):
    """The fields of a report's point that are drawn; times are milliseconds per call."""

    id: str
    model: str
    name: str
    changed: dict[str, str]
    variant: str
    slate: Slate
    p50_ms: float
    p50_ci95_ms: Interval
    accuracy: Accuracy
    on_front: bool | None
    front_probability: float | None
    aside: str | None
    baseline_mark: str | None = None


class Machine(msgspec.Struct, frozen=True):
    """The machine that a section was measured on."""

    cpu: str


class ChartSection(SectionWords, msgspec.Struct, frozen=True):
    """The fields of a report's section that are drawn."""

    id: str
    dataset: str
    task: str
    metric: str
    scope: str
    threads: int
    exclude_seen: bool
    environment: Machine
    slates: list[Slate]
    points: list[ChartPoint]
    baselines: dict[str, dict[str, float]]
    paper_column: str
    paper: list[PaperRow]
    paper_cautions: list[str]
    baseline_forms: dict[str, str] = {}

    def accuracy(self, point: ChartPoint) -> float | None:
        """A point's accuracy, None where it was not measured or is not defined."""
        value = point.accuracy.get(self.metric)
        return value if isinstance(value, float) else None

    def interval(self, point: ChartPoint) -> Interval:
        """The 95% interval of a point's accuracy; the accuracy alone where there is no interval."""
        interval, value = point.accuracy.get(f"{self.metric}_ci95"), self.accuracy(point) or 0.0
        return interval if isinstance(interval, tuple) else (value, value)

    def judged(self, slate: Slate | None) -> list[ChartPoint]:
        """The points of a slate that have an accuracy, the fastest first."""
        return [point for point in self._at(slate) if self.accuracy(point) is not None]

    def unjudged(self, slate: Slate | None) -> list[ChartPoint]:
        """The points of a slate that were only timed, the fastest first."""
        return [point for point in self._at(slate) if self.accuracy(point) is None]

    def printed(self) -> list[PaperRow]:
        """The paper's rows that have a latency."""
        return [row for row in self.paper if row.latency_ms is not None]

    def printed_here(self) -> set[str]:
        """The models of this section that the paper prints with a latency."""
        return {row.model for row in self.printed()} & {point.model for point in self.points}

    def short_names(self) -> dict[str, str]:
        """What a chart calls each name: the model, "*" where options of its row were changed.

        Where one model was measured with several options, its names stay as they are.
        """
        names = {point.name: point for point in self.points}
        models = Counter(point.model for point in names.values())
        return {
            name: name if models[point.model] > 1 else point.model + "*" * bool(point.changed)
            for name, point in names.items()
        }

    def below(self, points: Sequence[ChartPoint]) -> dict[str, list[str]]:
        """The names of models that are not above the best baseline, by their mark: "below popularity".

        Where a model has other points that are not marked so, the variant stands behind its name.
        """
        named: dict[str, list[str]] = {}
        for point in points:
            if point.baseline_mark:
                alike = all(
                    own.baseline_mark == point.baseline_mark for own in points if own.name == point.name
                )
                name = point.name if alike else f"{point.name} {point.variant}"
                named.setdefault(point.baseline_mark, []).append(name)
        return {mark: list(dict.fromkeys(names)) for mark, names in named.items()}

    def _at(self, slate: Slate | None) -> list[ChartPoint]:
        points = [point for point in self.points if point.slate == slate]
        return sorted(points, key=lambda point: (point.p50_ms, point.id))


def chart_sections(report: dict[str, Any]) -> list[ChartSection]:
    """The sections of a report.json."""
    return msgspec.convert(report["sections"], list[ChartSection])


def folded(text: str) -> list[str]:
    """A name on as many lines as it takes, broken behind spaces and hyphens."""
    return wrap(text, LONGEST_LINE, break_long_words=False) or [text]
