"""Certified percentiles beside those of MLPerf's reference load generator, on latencies that it measured itself."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbserve.stats.intervals import certified_percentile, percentile_bound

loadgen = pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen has no wheel for this platform")


class Spinner:
    """A system under test whose queries take as long as the next number says."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def issue(self, queries: list[Any]) -> None:
        end = time.perf_counter_ns() + int(self.rng.exponential(2_000))
        while time.perf_counter_ns() < end:
            pass
        loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query.id, 0, 0) for query in queries])


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Any]:
    """trace(queries): the latencies [ns] of a single-stream run of the load generator, and its own summary."""
    system = loadgen.ConstructSUT(Spinner(0).issue, lambda: None)
    library = loadgen.ConstructQSL(16, 16, lambda _: None, lambda _: None)
    logs = loadgen.LogSettings()
    output = loadgen.LogOutputSettings()
    output.outdir = str(tmp_path)
    logs.log_output, logs.enable_trace = output, True

    def run(queries: int) -> tuple[list[int], str]:
        settings = loadgen.TestSettings()
        settings.scenario = loadgen.TestScenario.SingleStream
        settings.mode = loadgen.TestMode.PerformanceOnly
        settings.single_stream_target_latency_percentile = 0.9
        settings.min_duration_ms = 0
        settings.min_query_count = settings.max_query_count = queries
        loadgen.StartTestWithLogSettings(system, library, settings, logs)
        # Its writer sometimes forgets a comma, so that this is no JSON.
        events = (tmp_path / "mlperf_log_trace.json").read_text()
        spans = re.findall(r'"issue_start_ns":(\d+),"complete_ns":(\d+)', events)
        latencies = [int(end) - int(start) for start, end in spans]
        return latencies, (tmp_path / "mlperf_log_summary.txt").read_text()

    yield run
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)


def _agree(trace: Any, traces: int, most: int) -> None:
    """Whether there is an estimate, and which run it is, for p90 and p99; and the percentile itself."""
    rng = np.random.default_rng(1)
    certified = {0.9: 0, 0.99: 0}
    for _ in range(traces):
        queries = int(rng.choice([rng.integers(50, 80), rng.integers(80, 640), rng.integers(650, most)]))
        latencies, summary = trace(queries)
        assert len(latencies) == queries
        for q in (0.9, 0.99):
            found = re.search(rf"Early stopping {100 * q:.1f}th percentile estimate: (\d+)", summary)
            assert percentile_bound(latencies, q) == (float(found[1]) if found else None)
            assert (certified_percentile(latencies, q) is not None) == bool(found)
            certified[q] += bool(found)
    assert 0 < certified[0.99] < certified[0.9] < traces


def test_bounds_are_those_of_mlperfs_load_generator(trace: Any) -> None:
    _agree(trace, traces=60, most=900)


@pytest.mark.slow
def test_bounds_are_those_of_mlperfs_load_generator_on_a_thousand_traces(trace: Any) -> None:
    _agree(trace, traces=1000, most=2500)
