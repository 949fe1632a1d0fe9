"""What a call costs, in operations and bytes, and how near its time is to the machine's limits.

The roofline model (Williams, Waterman and Patterson, 2009): a call takes at least the time of its operations at the
machine's peak, and at least that of its bytes at the machine's bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from rbserve.runs.plan import Slate


class Cost(msgspec.Struct, frozen=True):
    """Operations and bytes of the first `calls` requests of a slate, summed, and the machine's speed at each.

    `flops` are those of matrix products, two a multiplication and addition, by the kind of number they are made with
    (fp32, bf16, int8); `peak_gflops` is the speed of the same cores at one large product of each kind, null where it
    cannot be measured. Bytes are what each operator reads and writes, whether or not a cache has it: `weight_bytes` of
    the model's weights, `activation_bytes` of the rest. `bandwidth_gbs` is the speed of reading as many bytes as a call
    has. `operators_ns` is time by type of operator: the median time of its runs times their number.
    """

    variant: str
    slate: Slate
    calls: int
    parameters: int
    flops: dict[str, int]
    weight_bytes: int
    activation_bytes: int
    peak_gflops: dict[str, float | None]
    bandwidth_gbs: float
    operators_ns: dict[str, int]


class Roofline(msgspec.Struct, frozen=True):
    """The mean call's cost, and how near the median time of these calls is to the limits.

    `share_of_peak` is the part of a call's time that its operations would take at the peak (of several kinds of number,
    each at its own; `peak_gflops` is then their mean), `share_of_bandwidth` that which its bytes would take; null where
    there is no peak. Neither passes 1: a call that is faster than the measured limit is itself the limit. `operators`
    is the share of all operators' time by type, largest first.
    """

    parameters: int
    flops: float
    weight_bytes: float
    activation_bytes: float
    peak_gflops: float | None
    bandwidth_gbs: float
    share_of_peak: float | None
    share_of_bandwidth: float
    operators: dict[str, float]


def roofline(cost: Cost, times_ns: Sequence[Sequence[int]]) -> Roofline | None:
    """A call's cost beside the times of the same requests, in order, by process; None where there are no times."""
    times = [ns for process in times_ns for ns in process[: cost.calls]]
    if not times:
        return None
    ns = float(np.median(times))
    peaks = {kind: cost.peak_gflops.get(kind) for kind, flops in cost.flops.items() if flops}
    flops = sum(cost.flops.values()) / cost.calls
    # 1 GFLOP/s is one operation a nanosecond, and 1 GB/s one byte.
    # A call that beats the peak shows that the peak was measured too low: it is then what the call reached.
    at_peak_ns = min(ns, sum(cost.flops[kind] / peak for kind, peak in peaks.items() if peak) / cost.calls)
    known = bool(peaks) and all(peaks.values())
    moved = (cost.weight_bytes + cost.activation_bytes) / cost.calls
    bandwidth_gbs = max(cost.bandwidth_gbs, moved / ns)
    slowest_first = sorted(cost.operators_ns.items(), key=lambda pair: -pair[1])
    total_ns = sum(cost.operators_ns.values())
    return Roofline(
        parameters=cost.parameters,
        flops=flops,
        weight_bytes=cost.weight_bytes / cost.calls,
        activation_bytes=cost.activation_bytes / cost.calls,
        peak_gflops=flops / at_peak_ns if known else None,
        bandwidth_gbs=bandwidth_gbs,
        share_of_peak=at_peak_ns / ns if known else None,
        share_of_bandwidth=moved / bandwidth_gbs / ns,
        operators={name: spent / total_ns for name, spent in slowest_first},
    )
