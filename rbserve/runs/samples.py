"""The raw times of one process, one variant and one slate, as a run file keeps them."""

from __future__ import annotations

import msgspec

from rbserve.machine.noise import Noise
from rbserve.runs.plan import Slate


class Samples(msgspec.Struct, frozen=True):
    """The times of one variant, scope and slate in one fresh process, in nanoseconds, in the order of the calls.

    `load_ns` is the time to open the artefact's variant, `first_call_ns` that of the first call of this shape,
    `warmup_ns` those of the calls between it and the first timed run, `runs_ns` those of the timed runs.
    `peak_rss_bytes` is the process's peak memory so far, `loaded_rss_bytes` its memory once the model was loaded.
    `overhead_ns` is the median of an empty call in the same loop, `settled` whether the warm-up ended without a trend,
    `noise` what disturbed the timed runs; null in files of versions that did not measure them.

    Observed calls are no part of the runs: `stages_ns` has their time by stage, summed, `observed_ns` the time of each.
    Beside each, the same request was called unobserved in `unobserved_ns`, with a history of `history_lengths` items.

    `slate_sizes` has the candidates of each timed run where the slate is `table`; it is empty where all runs have
    `slate` candidates.
    """

    variant: str
    scope: str
    slate: Slate
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
    slate_sizes: list[int] = []
