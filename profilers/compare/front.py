"""Which points of a slate are on the accuracy-latency front, how sure that is, and how good the front is as a whole.

The front is the points that no other point of the slate beats in p50 latency or accuracy without losing in the other
(the paper weighs the same two in section 5.3). Accuracies that are equal at the printed digits are equal: of three
variants with one AUC only the fastest is on the front. How sure that is, is the share of resamples in which a point is
on the front (`uncertainty.py` has the resamples).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbserve.core.errors import UsageError
from rbserve.profilers.compare.points import Point
from rbserve.profilers.compare.uncertainty import Draws, Evidence, all_or_none, interval_of
from rbserve.runs.plan import Slate
from rbserve.stats.bootstrap import RESAMPLES
from rbserve.stats.intervals import Interval
from rbserve.stats.metrics import METRICS, Direction

ACCURACY_DIGITS = 4
REFERENCE_MS = 1000.0
"""Where the hypervolume begins: a call slower than a second adds nothing to it."""


class Front(msgspec.Struct, frozen=True):
    """The front of one slate as a whole.

    `hypervolume` is the area between the front and (`reference_ms`, `reference_accuracy`), in units of accuracy times
    decades of latency (moocore); `ci95` is its interval, null without raw samples. Larger is better.
    """

    slate: Slate
    hypervolume: float | None
    ci95: Interval | None
    reference_ms: float
    reference_accuracy: float
    resamples: int


def place_points(
    slate: Slate, points: Sequence[Point], metric: str, evidence: Evidence
) -> tuple[list[Point], Front]:
    """The points of one slate, each with its place relative to the front, and the front as a whole."""
    row = METRICS[points[0].run.task][metric]
    judged = [point for point in points if point.value(metric) is not None and point.aside is None]
    spots = [(point.p50_ms, point.value(metric) or 0.0) for point in judged]
    on_front = nondominated([(ms, float(as_printed(value))) for ms, value in spots], ("lower", row.better))
    front = [point for point, keep in zip(judged, on_front, strict=True) if keep]
    latency = all_or_none([evidence.latency(point.run, point.variant, slate) for point in judged])
    accuracy = all_or_none([evidence.accuracy(point.run, point.variant, metric) for point in judged])
    shares: dict[str, float | None] = {}
    if latency and accuracy:
        probabilities = front_probabilities(latency, accuracy)
        shares = {
            point.id: None if math.isnan(share) else share
            for point, share in zip(judged, probabilities, strict=True)
        }
    placed = [
        msgspec.structs.replace(_placed(point, front, metric), front_probability=shares.get(point.id))
        for point in points
    ]
    return placed, front_of(slate, row.chance, spots, latency, accuracy)


def _placed(point: Point, front: Sequence[Point], metric: str) -> Point:
    """The point with whether it is on the front, and else which point of the front beats it."""
    if point.value(metric) is None or point.aside:
        return point
    if point in front:
        return msgspec.structs.replace(point, on_front=True)
    faster = [other for other in front if other.p50_ms <= point.p50_ms]
    winner = max(
        faster, key=lambda other: (float(as_printed(other.value(metric) or 0.0)), -other.p50_ms, other.id)
    )
    certain = not overlap(point.p50_ci95_ms, winner.p50_ci95_ms) and not overlap(
        point.interval(metric), winner.interval(metric)
    )
    return msgspec.structs.replace(point, on_front=False, dominated_by=winner.id, domination_certain=certain)


def nondominated(rows: Sequence[Sequence[float]], directions: Sequence[Direction]) -> list[bool]:
    """Whether each row is on the front: no other is at least as good in every column and better in one.

    Equal rows stand or fall together. Raises UsageError where moocore is not installed.
    """
    if not rows:
        return []
    maximise = [direction == "higher" for direction in directions]
    return [bool(kept) for kept in _nondominated_rows(np.array(rows, np.float64), maximise)]


def front_probabilities(latency: Sequence[Draws], accuracy: Sequence[Draws]) -> list[float]:
    """For each point, the share of draws in which no other is at least as good in both and better in one.

    Accuracies are compared at the printed digits, as the front's are (`as_printed`).
    """
    times, values = _defined(latency, accuracy)
    values = as_printed(values)
    if not times.shape[1]:
        return [math.nan] * len(times)
    on_front = np.zeros(len(times))
    for column in range(times.shape[1]):
        on_front += _nondominated_rows(np.column_stack([times[:, column], values[:, column]]))
    return [float(share) for share in on_front / times.shape[1]]


def as_printed(accuracy: ArrayLike) -> NDArray[np.float64]:
    """Accuracies at the digits that reports print: of points with equal ones only the fastest is on the front."""
    return np.asarray(accuracy, np.float64).round(ACCURACY_DIGITS)


def overlap(a: Interval | None, b: Interval | None) -> bool:
    """Whether two intervals share a value; an unknown interval may share one with any."""
    return a is None or b is None or (a[0] <= b[1] and b[0] <= a[1])


# ---- The front as a whole ----


def front_of(
    slate: Slate,
    chance: float,
    points: Iterable[tuple[float, float]],
    latency: Sequence[Draws] | None,
    accuracy: Sequence[Draws] | None,
) -> Front:
    """The front of points (ms, accuracy) with its hypervolume above `chance`, and its interval from draws, if any."""
    rows = list(points)
    interval = None
    if latency and accuracy:
        times, values = _defined(latency, accuracy)
        areas = [
            hypervolume(np.column_stack([times[:, column], values[:, column]]), chance)
            for column in range(times.shape[1])
        ]
        interval = interval_of(np.array(areas))
    return Front(
        slate=slate,
        hypervolume=hypervolume(rows, chance) if rows else None,
        ci95=interval,
        reference_ms=REFERENCE_MS,
        reference_accuracy=chance,
        resamples=RESAMPLES if interval else 0,
    )


def hypervolume(points: ArrayLike, reference_accuracy: float) -> float:
    """What points [P, 2] of (ms, accuracy) dominate: accuracy above the reference times decades below REFERENCE_MS."""
    rows = np.array(points, np.float64).reshape(-1, 2)
    rows[:, 0] = np.log10(rows[:, 0])
    corner = [math.log10(REFERENCE_MS), reference_accuracy]
    useful = rows[(rows[:, 0] < corner[0]) & (rows[:, 1] > corner[1])]
    return float(_moocore().hypervolume(useful, ref=corner, maximise=[False, True])) if len(useful) else 0.0


def _defined(latency: Sequence[Draws], accuracy: Sequence[Draws]) -> tuple[Draws, Draws]:
    """Both [P, R], without the draws in which an accuracy is not defined."""
    values = np.stack(accuracy)
    whole = ~np.isnan(values).any(axis=0)
    return np.stack(latency)[:, whole], values[:, whole]


def _nondominated_rows(
    rows: NDArray[np.float64], maximise: Sequence[bool] = (False, True)
) -> NDArray[np.bool_]:
    """Whether each row is on the front; equal rows stand or fall together."""
    kept: NDArray[np.bool_] = _moocore().is_nondominated(rows, maximise=list(maximise), keep_weakly=True)
    return kept


def _moocore() -> Any:
    try:
        import moocore
    except ImportError:
        raise UsageError(
            "a report needs moocore, which is not installed", "pip install 'rbserve[report]'"
        ) from None
    return moocore
