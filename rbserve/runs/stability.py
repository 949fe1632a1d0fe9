"""Whether a variant's latency is stable, or INCONCLUSIVE and why.

Every reason is a fact about the machine while the calls were timed, or about the order of the times; the limits are
constants below. No reason corrects a figure: the samples stay as they are, and the label stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from rbserve.machine.noise import TICK_NS, Noise
from rbserve.runs.samples import Samples

WAITED = 0.05  # share of the timed calls' time that other processes had the core
STOLEN = 0.02  # share that the hypervisor had it
FREQUENCY = 0.10  # difference between the slowest and the fastest frequency seen
DRIFT = 0.05  # change of the median from the first round to the last, where all rounds go the same way
SPREAD = 1.5  # slowest process's median over the fastest's


def inconclusive(samples: Sequence[Samples]) -> list[str]:
    """Why the latency of one variant, scope and slate settles nothing, from its processes' samples; empty if stable."""
    noises = [process.noise for process in samples if process.noise]
    return [*_disturbances(noises, samples[0].threads), *_instabilities(samples)]


def has_trend(times: ArrayLike) -> bool:
    """Whether times [n] rise or fall, by the Mann-Kendall test at 5% (Mann, 1945): no distribution is assumed.

    Fewer than 5 times have no trend: they cannot show one at 5%.
    """
    column = np.asarray(times, np.float64)
    n = len(column)
    rises = np.sign(column[None, :] - column[:, None])[np.triu_indices(n, 1)].sum()
    deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return bool(abs(rises) - 1 > 1.96 * deviation) if n > 1 else False


def _disturbances(noises: Sequence[Noise], threads: int) -> Iterator[str]:
    """What the machine did to the timed calls of all processes together: load, steal time, throttling, frequency.

    Shares are bounded by 1: old run files have the sum of all threads' waits, and steal time comes in ticks.
    """
    wall_ns = sum(noise.wall_ns for noise in noises) * threads
    waited = sum(min(noise.waited_ns or 0, noise.wall_ns * threads) for noise in noises)
    stolen = sum(min(noise.steal_ns or 0, noise.wall_ns * threads) for noise in noises)
    throttled = sum(noise.throttled_ns or 0 for noise in noises)
    if waited > WAITED * wall_ns:
        yield f"load by others: waited for the core {waited / wall_ns:.0%} of the time"
    if stolen > max(STOLEN * wall_ns, 2 * TICK_NS):
        yield f"steal time grew: the hypervisor had the core {stolen / wall_ns:.0%} of the time"
    if throttled:
        yield f"throttled for {throttled / 1e6:.0f} ms by the container's processor quota"
    mhz = [value for noise in noises for value in noise.mhz or ()]
    if mhz and min(mhz) < (1 - FREQUENCY) * max(mhz):
        yield f"frequency changed: from {min(mhz):.0f} to {max(mhz):.0f} MHz"


def _instabilities(samples: Sequence[Samples]) -> Iterator[str]:
    """A trend that the warm-up did not end, a drift of p50 from process to process, processes that disagree."""
    unsettled = sum(process.settled is False for process in samples)
    if 2 * unsettled > len(samples):
        yield f"warm-up reached its bound with a trend in {unsettled} of {len(samples)} processes"
    ordered = sorted(samples, key=lambda process: process.process)
    medians = [float(np.median(process.runs_ns)) for process in ordered]
    change = medians[-1] / medians[0] - 1
    if abs(change) > DRIFT and has_trend(medians):
        yield f"drift between rounds: p50 {change:+.0%} from the first of {len(medians)} to the last"
    if max(medians) > SPREAD * min(medians):
        low, high = min(medians) / 1e6, max(medians) / 1e6
        yield f"processes disagree: p50 from {low:.3g} to {high:.3g} ms"
