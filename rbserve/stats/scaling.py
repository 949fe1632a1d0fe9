"""How a call's time grows with the size of its request, as an exponent: 1 is in proportion, more is faster than that.

An exponent is the slope of log time over log size. It is called super-linear only when its 95% interval lies above 1.
A fixed part of the time flattens it: a model that takes 1 ms whatever the request has an exponent near 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.stats.intervals import percentile_interval, process_draws

RESAMPLES = 1000
LENGTHS = 3  # as many different lengths, and a factor of 2 between the ends, make a slope
Runs = Sequence[NDArray[Any]]


class Growth(msgspec.Struct, frozen=True):
    """Time grows as size ** `exponent`, with its 95% interval, between the sizes `smallest` and `largest`."""

    exponent: float
    ci95: tuple[float, float]
    smallest: int
    largest: int

    @property
    def superlinear(self) -> bool:
        """Whether time certainly grows faster than size."""
        return self.ci95[0] > 1

    def warning(self, size: str) -> str:
        """A sentence about growth that is super-linear in a size, "slate" or "history"."""
        low, high = self.ci95
        return (
            f"time grows faster than the {size}, as its power {self.exponent:.2f} [{low:.2f}, {high:.2f}] "
            f"from {self.smallest} to {self.largest}"
        )


def between(smaller: Runs, larger: Runs, sizes: tuple[int, int]) -> Growth:
    """Growth of the median time from one size to another, each with its runs by process.

    The two are redrawn apart: what they share (a slow process) widens the interval, if anything.
    """
    span = np.log(sizes[1] / sizes[0])
    medians = [np.median(np.concatenate(runs)) for runs in (smaller, larger)]
    redrawn = [process_draws(runs, "median", RESAMPLES, seed) for seed, runs in enumerate((smaller, larger))]
    return Growth(
        exponent=float(np.log(medians[1] / medians[0]) / span),
        ci95=percentile_interval(np.log(redrawn[1] / redrawn[0]) / span),
        smallest=sizes[0],
        largest=sizes[1],
    )


def over(lengths: Runs, times: Runs, seed: int = 0) -> Growth | None:
    """Growth of single calls' times with their requests' lengths, both by process: least squares of the logarithms.

    Processes are resampled, then each one's calls. Lengths of 0 have no logarithm and are left out; None where the
    lengths are too few or too much alike.
    """
    points = [
        (np.log(length[length > 0]), np.log(time[length > 0]))
        for length, time in zip(lengths, times, strict=True)
        if (length > 0).any()
    ]
    sizes = np.unique(np.concatenate(lengths or [np.zeros(0)]))
    sizes = sizes[sizes > 0]
    if len(sizes) < LENGTHS or sizes[-1] < 2 * sizes[0]:
        return None
    rng = np.random.default_rng(seed)
    slopes = np.array([_slope(_redrawn(points, rng)) for _ in range(RESAMPLES)])
    return Growth(
        exponent=_slope(points),
        ci95=percentile_interval(slopes[np.isfinite(slopes)]),
        smallest=int(sizes[0]),
        largest=int(sizes[-1]),
    )


Points = list[tuple[NDArray[np.float64], NDArray[np.float64]]]


def _redrawn(points: Points, rng: np.random.Generator) -> Points:
    chosen = [points[process] for process in rng.integers(len(points), size=len(points))]
    calls = [rng.integers(len(x), size=len(x)) for x, _ in chosen]
    return [(x[call], y[call]) for (x, y), call in zip(chosen, calls, strict=True)]


def _slope(points: Points) -> float:
    """Slope of the least-squares line through all points; nan where they share one x."""
    x, y = (np.concatenate(part) for part in zip(*points, strict=True))
    x = x - x.mean()
    spread = float(x @ x)
    return float(x @ y) / spread if spread > 0 else float("nan")
