"""How sure a run time is: intervals over processes, and when a percentile may be printed.

Every interval is over the unit that was drawn independently: processes for a time (here), users for an accuracy
(`bootstrap.py`). Taking single runs or single rows for independent makes it too narrow.

Of processes there are five or ten: Student's t over their logarithms (`process_interval`, and `process_draws` for what
an interval cannot answer, such as which of two is faster). A bootstrap of so few is too narrow; of a single process it
is all there is (`hierarchical_interval`). The same arguments and seed give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Statistic = Literal["mean", "median"] | float
STATISTICS = ("mean", "median")
"""The mean, the median, or a fraction q: the nearest-rank percentile, as `certified_percentile` takes it."""
Interval = tuple[float, float]
FEWEST_USERS = 30
"""Fewer users who agree may do so by chance: what they show no spread of is not known."""

_SUMMARY: dict[Statistic, Callable[[NDArray[np.float64]], np.float64]] = {
    "mean": np.mean,
    "median": np.median,
}
_LARGEST_LOG = 300.0  # of a drawn time: t of two processes has draws beyond what a float holds
BLOCK = 2**19  # values held at once: 4 MB of float64 a temporary, about the size of a cache

# ---- Run times ----


def process_interval(
    samples: Sequence[NDArray[Any]], statistic: Literal["mean", "median"], confidence: float = 0.95
) -> Interval:
    """Interval (low, high), in the samples' unit, of the statistic over all the processes that might have been started.

    `samples` holds one array of positive run times per process, of any lengths but none empty. Student's t over the
    logarithms of the processes' statistics: processes are what is independent, their spread is a factor rather than
    a sum, and t knows that a spread seen five times is itself uncertain. What runs scatter within a process is part
    of what its statistic scatters. The interval is widened to hold the statistic of all runs pooled, which is printed
    beside it, and which may lie outside where a few processes are far off.

    One process shows no spread between processes: its runs are resampled, and the interval is that of this process
    alone.
    """
    _check_bootstrap(confidence, 1)
    runs = _checked_runs(samples, statistic)
    if len(runs) == 1:
        return hierarchical_interval(runs, statistic, confidence)
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {STATISTICS}, got {statistic!r}")
    middle, error = _log_spread(runs, statistic)
    half = student_t(len(runs) - 1, confidence) * error
    pooled = float(_SUMMARY[statistic](np.concatenate(runs)))
    return min(math.exp(middle - half), pooled), max(math.exp(middle + half), pooled)


def process_draws(
    samples: Sequence[NDArray[Any]],
    statistic: Statistic,
    resamples: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Draws [R] of the statistic, in the samples' unit, whose quantiles are the ends of `process_interval`.

    Of two or more processes: the mean of their logarithms plus its standard error times draws of Student's t, so that
    two processes are as unsure here as there. A percentile is drawn around that of all runs pooled, for that of a few
    runs is too low. Of one process: its runs, resampled.
    """
    _check_bootstrap(0.95, resamples)
    runs = _checked_runs(samples, statistic)
    if len(runs) == 1:
        return hierarchical_draws(runs, statistic, resamples, seed)
    middle, error = _log_spread(runs, statistic)
    if isinstance(statistic, float):
        middle = math.log(_percentile(np.concatenate(runs), statistic))
    logs = middle + error * np.random.default_rng(seed).standard_t(len(runs) - 1, resamples)
    return np.exp(np.clip(logs, -_LARGEST_LOG, _LARGEST_LOG))


def _log_spread(runs: Sequence[NDArray[np.float64]], statistic: Statistic) -> tuple[float, float]:
    """Mean of the logarithms of the statistic of two or more processes, and its standard error."""
    if min(process.min() for process in runs) <= 0:
        raise ValueError("run times must be positive")
    if isinstance(statistic, float):
        logs = np.log([_percentile(process, statistic) for process in runs])
    else:
        logs = np.log([_SUMMARY[statistic](process) for process in runs])
    return float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(runs))


def _percentile(runs: NDArray[np.float64], q: float) -> float:
    """The nearest-rank percentile q, a time that was measured."""
    return float(np.quantile(runs, q, method="inverted_cdf"))


def student_interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Interval (low, high), in their unit, of the mean behind two or more values [R], by Student's t."""
    half = student_t(len(values) - 1, confidence) * float(values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half


def student_t(freedom: int, confidence: float) -> float:
    """The t that |T| stays below with that confidence, T of Student's distribution with `freedom` degrees.

    By bisection of the distribution's finite sums (Abramowitz & Stegun, 1964, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _chance_within(angle, freedom) < confidence else (low, angle)
    return math.tan(low) * math.sqrt(freedom)


def _chance_within(angle: float, freedom: int) -> float:
    """Chance of |T| < sqrt(freedom) tan(angle)."""
    odd = freedom % 2
    term = total = 0.0 if freedom == 1 else math.cos(angle) if odd else 1.0
    for factor in range(2 + odd, freedom - 1, 2):
        term *= (factor - 1) / factor * math.cos(angle) ** 2
        total += term
    within = math.sin(angle) * total
    return 2 / math.pi * (angle + within) if odd else within


def hierarchical_interval(
    samples: Sequence[NDArray[Any]],
    statistic: Statistic,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval (low, high), in the samples' unit, of the statistic of all runs pooled.

    `samples` holds one array of run times per process, of any lengths but none empty. A resample draws as
    many processes as there are, then from each drawn process as many runs as it has, both with replacement
    (hierarchical data: Davison & Hinkley, 1997, section 3.8).

    Few processes give too narrow an interval (LOG.md has the coverage): `process_interval` is for them.
    """
    _check_bootstrap(confidence, resamples)
    return percentile_interval(hierarchical_draws(samples, statistic, resamples, seed), confidence)


def hierarchical_draws(
    samples: Sequence[NDArray[Any]], statistic: Statistic, resamples: int = 2000, seed: int = 0
) -> NDArray[np.float64]:
    """The statistic [R] of each resample that `hierarchical_interval` is the interval of."""
    runs = _checked_runs(samples, statistic)
    pooled = np.concatenate(runs)
    lengths = np.array([len(process) for process in runs])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(runs), size=(resamples, len(runs)))
    rows = max(1, BLOCK // (len(runs) * int(lengths.max())))
    blocks = [drawn[start : start + rows] for start in range(0, resamples, rows)]
    return np.concatenate([_resampled_statistic(pooled, lengths, block, statistic, rng) for block in blocks])


def _checked_runs(samples: Sequence[NDArray[Any]], statistic: Statistic) -> list[NDArray[np.float64]]:
    if not isinstance(statistic, float) and statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {STATISTICS} or a fraction, got {statistic!r}")
    runs = [np.asarray(process, dtype=np.float64) for process in samples]
    if not runs or any(process.ndim != 1 or not len(process) for process in runs):
        raise ValueError("samples must be at least one process, each a non-empty array of run times")
    if not all(np.isfinite(process).all() for process in runs):
        raise ValueError("run times must be finite")
    return runs


def _resampled_statistic(
    pooled: NDArray[np.float64],
    lengths: NDArray[np.int64],
    drawn: NDArray[np.int64],
    statistic: Statistic,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """The statistic [R] of runs redrawn from processes `drawn` [R, P]; `pooled` holds them end to end."""
    first = (np.cumsum(lengths) - lengths)[drawn][..., None]
    length = lengths[drawn][..., None]
    uniform = rng.random((*drawn.shape, lengths.max()))
    times = pooled[first + (uniform * length).astype(np.int64)]
    # Shorter processes are padded: with 0 a sum does not see it, with inf it sorts past every run.
    times[np.arange(lengths.max()) >= length] = 0.0 if statistic == "mean" else np.inf
    times = times.reshape(len(drawn), -1)
    total = lengths[drawn].sum(axis=1)
    if statistic == "mean":
        means: NDArray[np.float64] = times.sum(axis=1) / total
        return means
    times.sort(axis=1)
    row = np.arange(len(drawn))
    if isinstance(statistic, float):
        rank = np.clip(np.ceil(statistic * total - 1e-9).astype(np.int64), 1, total)
        percentiles: NDArray[np.float64] = times[row, rank - 1]
        return percentiles
    medians: NDArray[np.float64] = (times[row, (total - 1) // 2] + times[row, total // 2]) / 2
    return medians


def runs_needed(q: float, confidence: float = 0.99) -> int:
    """The fewest runs that certify the percentile q, a fraction: 0.99 needs 662, 0.999 needs 6,636.

    The bound of MLPerf's early stopping (loadgen, early_stopping.cc) with one run allowed past the
    percentile: the least n for which Binomial(n, 1 - q) is 0 or 1 with a chance of no more than
    1 - confidence, that is q^n + n (1 - q) q^(n-1) <= 1 - confidence. The second slowest of n runs is then
    an upper bound of the true percentile at that confidence.
    """
    if not (0 < q < 1 and 0 < confidence < 1):
        raise ValueError(f"q and confidence must lie between 0 and 1, got {q} and {confidence}")
    enough = 2
    while _chance_of_one_past(q, enough) > 1 - confidence:
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if _chance_of_one_past(q, middle) > 1 - confidence:
            too_few = middle
        else:
            enough = middle
    return enough


def _chance_of_one_past(q: float, runs: int) -> float:
    """Chance that at most one run lies past the true percentile q: 1 for one run, falling with more."""
    return q**runs + runs * (1 - q) * q ** (runs - 1)


def certified_percentile(samples: ArrayLike, q: float, confidence: float = 0.99) -> float | None:
    """The percentile q (a fraction) of run times [n], or None below `runs_needed(q, confidence)` runs.

    The nearest-rank percentile: the ceil(q n)-th fastest run, a time that was measured, never interpolated.
    """
    times = _checked_times(samples)
    if len(times) < runs_needed(q, confidence):
        return None
    return _percentile(times, q)


def percentile_bound(samples: ArrayLike, q: float, confidence: float = 0.99) -> float | None:
    """A time that the true percentile q of run times [n] does not pass, at that confidence; None of too few runs.

    MLPerf's early-stopping estimate (loadgen, early_stopping.cc and results.cc): the t-th slowest run, t the
    largest number that Binomial(n, 1 - q) stays at or below with a chance under 1 - confidence.
    """
    times = _checked_times(samples)
    runs = len(times)
    if runs < runs_needed(q, confidence):
        return None
    past = np.arange(1, max(2, math.ceil(runs * (1 - q)) + 1))
    steps = np.log((runs - past + 1) / past) + math.log((1 - q) / q)
    chances = np.exp(runs * math.log(q) + np.cumsum(np.concatenate([[0.0], steps])))
    allowed = int((np.cumsum(chances) < 1 - confidence).sum()) - 1
    return float(np.partition(times, runs - allowed)[runs - allowed])


def _checked_times(samples: ArrayLike) -> NDArray[np.float64]:
    times = np.asarray(samples, dtype=np.float64)
    if times.ndim != 1 or not np.isfinite(times).all():
        raise ValueError("samples must be one array of finite run times")
    return times


# ---- Shared ----


def percentile_interval(statistics: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """The interval (low, high) that holds the middle share `confidence` of a statistic's resamples."""
    low, high = np.quantile(statistics, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _check_bootstrap(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
