"""Which point of a slate to serve, in words, and what speaks against it: resamples, baselines, warnings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from rbserve.profilers.compare.front import as_printed, overlap
from rbserve.profilers.compare.points import Point
from rbserve.profilers.compare.sections import Section
from rbserve.profilers.compare.uncertainty import Draws, Evidence
from rbserve.profilers.compare.wording import accuracy_text, listing, p50_text, percent_text, significant
from rbserve.runs.plan import Slate
from rbserve.stats.bootstrap import RESAMPLES
from rbserve.stats.intervals import percentile_interval

TOLERANCE = 0.005  # accuracy a user is taken to give up for speed
SETTLED = 0.975  # share of resamples in which the faster of two is faster, or the more accurate more accurate


class ServeAnswer(msgspec.Struct, frozen=True):
    """Which point of a slate to serve: its id and label, its figures in a sentence, and how sure that is.

    `models` is how many models were measured and judged at the slate, of `models_in_section`. Where there is a single
    model, `label` says that there is no winner, and the point is the fastest of its variants. `marks` are "⚠" for a
    point with warnings, "INCONCLUSIVE" for one whose time is, or is of one process, and "below popularity" for one that
    is not above the best baseline; points that are above it are preferred. `better_baselines` has the accuracy of those
    that the point does not beat, by their titles.
    """

    slate: Slate
    question: str
    point: str
    label: str
    figures: str
    notes: list[str]
    models: int
    models_in_section: int
    marks: list[str]
    better_baselines: dict[str, float]

    @property
    def marked_label(self) -> str:
        """The label with its marks: "gdcn onnx-int8 ⚠ INCONCLUSIVE"."""
        return " ".join([self.label, *self.marks])

    @property
    def models_text(self) -> str:
        """ "2 of 9": the models that were measured at the slate, of those of the section."""
        return f"{self.models} of {self.models_in_section}"


def answers(section: Section, evidence: Evidence | None = None) -> list[ServeAnswer]:
    """The fastest point within TOLERANCE of the best accuracy, for each slate at which an accuracy was measured.

    How sure a difference is comes from the draws of `evidence`, which P(front) is computed from as well.
    """
    draws = PointDraws(section.metric, evidence or Evidence())
    judged = {slate: _judged(section, slate) for slate in section.slates}
    return [_answer(section, slate, points, draws) for slate, points in judged.items() if points]


class PointDraws:
    """Draws of a section's points; None for a point whose run kept no raw samples."""

    def __init__(self, metric: str, evidence: Evidence) -> None:
        self._metric, self._evidence = metric, evidence

    def accuracy(self, point: Point) -> Draws | None:
        """The section's metric [R] of a point."""
        return self._evidence.accuracy(point.run, point.variant, self._metric)

    def latency(self, point: Point) -> Draws | None:
        """p50 [R] of a point, in milliseconds."""
        return self._evidence.latency(point.run, point.variant, point.slate)

    def faster(self, point: Point, other: Point) -> float | None:
        """The share of draws in which a point is faster than another."""
        return _share_below(self.latency(point), self.latency(other))

    def more_accurate(self, point: Point, other: Point) -> float | None:
        """The share of draws in which a point is more accurate than another, at the printed digits."""
        mine, theirs = self.accuracy(point), self.accuracy(other)
        if mine is None or theirs is None:
            return None
        return _share_below(as_printed(theirs), as_printed(mine))


def _share_below(lower: Draws | None, upper: Draws | None) -> float | None:
    if lower is None or upper is None:
        return None
    known = ~np.isnan(lower) & ~np.isnan(upper)
    return float(np.mean(lower[known] < upper[known])) if known.any() else None


# ---- The pick ----


def _judged(section: Section, slate: Slate) -> list[Point]:
    return [
        point for point in section.at(slate) if point.value(section.metric) is not None and not point.aside
    ]


def _answer(section: Section, slate: Slate, points: Sequence[Point], draws: PointDraws) -> ServeAnswer:
    best = max(points, key=lambda point: (_printed(point, section), -point.p50_ms, point.id))
    enough = _printed(best, section) - TOLERANCE
    near = [point for point in points if (point.value(section.metric) or 0.0) >= enough]
    better_than_baselines = [point for point in near if point.below is None]
    pick, *slower = sorted(better_than_baselines or near, key=lambda point: (point.p50_ms, point.id))
    models = len({point.name for point in points})
    in_section = len({point.name for point in section.points})
    better = _better_baselines(section, pick)
    return ServeAnswer(
        slate=slate,
        question=_question(section, slate, pick, models, in_section),
        point=pick.id,
        label=pick.label if models > 1 else _no_winner(pick),
        figures=_figures(section, pick),
        notes=[
            *_alone(section, slate, pick, models),
            *_front_note(pick),
            *_better_note(section, pick, best, draws),
            *_rival_notes(pick, slower, draws),
            *_baseline_notes(section, pick, better, best),
            *pick.warnings,
        ],
        models=models,
        models_in_section=in_section,
        marks=_marks(pick),
        better_baselines=better,
    )


def _marks(pick: Point) -> list[str]:
    unsettled = pick.inconclusive or pick.processes == 1
    below = [pick.below.mark] if pick.below else []
    return ["⚠"] * bool(pick.warnings) + ["INCONCLUSIVE"] * unsettled + below


def _no_winner(pick: Point) -> str:
    return f"no winner: {pick.name} alone was measured, its fastest variant is {pick.variant}"


def _printed(point: Point, section: Section) -> float:
    return float(as_printed(point.value(section.metric) or 0.0))


def _question(section: Section, slate: Slate, pick: Point, models: int, in_section: int) -> str:
    where = f"within {TOLERANCE} {section.metric_label} of the best at {section.slate_name} {slate}"
    if models == 1:
        return f"Fastest variant of {pick.name} {where}"
    return f"Fastest {where} ({models} of {in_section} models measured there)"


def _figures(section: Section, pick: Point) -> str:
    speed = (
        f", {significant(pick.speedup)}× as fast as its {pick.reference}"
        if pick.speedup and pick.speedup != 1
        else ""
    )
    accuracy = accuracy_text(pick, section.metric)
    return f"{p50_text(pick)} ms p50 per call{speed}; {section.metric_label} {accuracy}"


def _better_baselines(section: Section, pick: Point) -> dict[str, float]:
    """The baselines that the pick is not above, best first."""
    own = pick.value(section.metric) or 0.0
    reached = {
        section.baseline_title(name): figures[section.metric]
        for name, figures in section.baselines.items()
        if figures.get(section.metric, -np.inf) >= own
    }
    return dict(sorted(reached.items(), key=lambda pair: (-pair[1], pair[0])))


# ---- What is said of it ----


def _alone(section: Section, slate: Slate, pick: Point, models: int) -> Iterator[str]:
    if models == 1:
        yield (
            f"{pick.name} is the only model that was measured at {section.slate_name} {slate}: there is no choice of "
            "models here, and none is recommended."
        )


def _front_note(pick: Point) -> Iterator[str]:
    if pick.front_probability is not None:
        yield f"On the front in {percent_text(pick.front_probability)} of {RESAMPLES:,} resamples."
    if pick.processes == 1:
        yield "One process was timed: the spread between processes is not known, and these shares are too sure."


def _better_note(section: Section, pick: Point, best: Point, draws: PointDraws) -> Iterator[str]:
    """How sure it is that the most accurate point is more accurate."""
    if best is pick:
        return
    metric, name = section.metric, section.metric_label
    paired = _paired(best, pick, metric, draws)
    if paired is None:
        alike = overlap(pick.interval(metric), best.interval(metric))
        paired = (
            f"the {name} intervals overlap, so these test rows do not settle which is more accurate"
            if alike
            else f"the {name} intervals do not overlap"
        )
    yield f"The best {name} is that of {best.label}, {accuracy_text(best, metric)}: {paired}."


def _paired(best: Point, pick: Point, metric: str, draws: PointDraws) -> str | None:
    """How sure one accuracy is above another, on resamples that drew the same users for both."""
    theirs, mine = draws.accuracy(best), draws.accuracy(pick)
    if theirs is None or mine is None:
        return None
    difference = (theirs - mine)[~np.isnan(theirs - mine)]
    if not len(difference):
        return None
    low, high = percentile_interval(difference)
    higher = (best.value(metric) or 0.0) - (pick.value(metric) or 0.0)
    above = percent_text(float(np.mean(difference > 0)))
    return f"higher by {higher:.4f} [{low:.4f}, {high:.4f}], above in {above} of resamples of the same users"


def _rival_notes(pick: Point, slower: Sequence[Point], draws: PointDraws) -> Iterator[str]:
    """The points near in accuracy that may be faster than the pick; without draws, by their intervals."""
    drawn: list[tuple[float, str]] = []
    overlapping: list[str] = []
    for rival in slower:
        less = (draws.more_accurate(pick, rival) or 0.0) >= SETTLED
        name = f"{rival.label} (less accurate)" if less else rival.label
        faster = draws.faster(pick, rival)
        if faster is None and overlap(rival.p50_ci95_ms, pick.p50_ci95_ms):
            overlapping.append(name)
        elif faster is not None and faster < SETTLED:
            drawn.append((faster, f"{name} in {percent_text(faster)}"))
    if drawn:
        shares = listing([text for _, text in sorted(drawn)])
        yield f"Which is faster is not settled: of {RESAMPLES:,} resamples, it is faster than {shares}."
    if overlapping:
        yield f"Its p50 interval overlaps with that of {listing(overlapping)}: which is faster is not settled."


def _baseline_notes(section: Section, pick: Point, better: dict[str, float], best: Point) -> Iterator[str]:
    """The baselines that the pick is not above, and how sure the best of them is above it."""
    top, name = best.value(section.metric) or 0.0, section.metric_label
    for title, value in better.items():
        whom = "any point here" if value >= top else "this pick"
        yield f"The baseline {title} reaches {name} {value:.4f}, no less than {whom}."
    if pick.below and pick.below.ci95:
        yield f"On resamples of the same users the pick is {pick.below.text}."
