"""The raw times of one process, one variant and one slate, as a run file keeps them."""

from __future__ import annotations

import msgspec

from rbserve.machine.noise import Noise


class Samples(msgspec.Struct, frozen=True):
    """What one fresh process saw of one variant and slate. Times are nanoseconds, in order.

    `load_ns` is opening the artefact's variant, `first_call_ns` the first call of this shape, `warmup_ns`
    the calls between it and the first timed run. `peak_rss_bytes` is the process's peak so far, `loaded_rss_bytes`
    what it held once the model was loaded. `overhead_ns` is the median of an empty call in the same loop, `settled`
    whether the warm-up ended without a trend, `noise` what disturbed the timed runs; null in files of versions that did
    not look.

    `stages_ns` is time summed by stage over observed calls, `observed_ns` that of each of them. They are no part of the
    runs; each was made beside an unobserved one of the same request, `unobserved_ns`, of so many `history_lengths`.
    """

    variant: str
    scope: str
    slate: int
    threads: int
    process: int
    core: int | None
    load_ns: int
    first_call_ns: int
    warmup_ns: list[int]
    runs_ns: list[int]
    peak_rss_bytes: int
    stages_ns: dict[str, int] = {}
    overhead_ns: int | None = None
    settled: bool | None = None
    noise: Noise | None = None
    loaded_rss_bytes: int | None = None
    observed_ns: list[int] = []
    unobserved_ns: list[int] = []
    history_lengths: list[int] = []
