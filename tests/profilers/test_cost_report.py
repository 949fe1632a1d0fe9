"""What readers are told of stages, costs and growth: below the console's table, and in a report."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from artificial import measurement, result

from rbserve.cli.profile_table import results_table
from rbserve.profilers.report.render import render
from rbserve.runs.measurement import Measurement
from rbserve.runs.roofline import Roofline
from rbserve.stats.scaling import Growth

COST = Roofline(
    parameters=1_000,
    flops=2.5e6,
    weight_bytes=3e6,
    activation_bytes=1e6,
    peak_gflops=100.0,
    bandwidth_gbs=20.0,
    share_of_peak=0.25,
    share_of_bandwidth=0.5,
    operators={"Gemm": 0.9, "Add": 0.06, "Relu": 0.03, "Cast": 0.01},
)


def profile_of(**changes: Any) -> Measurement:
    """One line, and what is to be told of it."""
    return measurement("dnn", [result("onnx-fp32", 100, 1.0, 0.7, **changes)])


def caption(made: Measurement) -> str:
    return str(results_table(made).caption)


def test_the_console_tells_cost_and_limits_and_leaves_out_what_is_unknown() -> None:
    told = caption(profile_of(cost=COST))
    assert (
        "onnx-fp32 forward, slate 100: 2.5 MFLOP, 4 MB (3 of weights): 25% of this core's 100 GFLOP/s, 50% of "
        "20 GB/s; Gemm 90%, Add 6%, Relu 3%" in told
    )
    without = Roofline(
        **{name: getattr(COST, name) for name in COST.__struct_fields__} | {"share_of_peak": None}
    )
    assert "(3 of weights): 50% of 20 GB/s" in caption(profile_of(cost=without))
    assert "GFLOP" not in caption(profile_of())


def test_stages_that_do_not_add_up_to_the_unobserved_call_are_told_as_such() -> None:
    stages = {"lookup": 0.2, "forward": 0.799, "rest": 0.001}
    told = "onnx-fp32 forward, slate 100: lookup 20%, forward 80%"
    assert f"{told}\n" in caption(profile_of(stages=stages, stages_check=1.02))
    assert f"{told} (observed, a call took 110% of its time)" in caption(
        profile_of(stages=stages, stages_check=1.1)
    )


def test_growth_is_told_only_where_its_whole_interval_is_above_one() -> None:
    certain, possible = Growth(1.5, (1.2, 1.8), 10, 100), Growth(1.5, (0.9, 2.1), 1, 20)
    told = caption(profile_of(slate_growth=certain, history_growth=possible))
    line = "time grows faster than the slate, as its power 1.50 [1.20, 1.80] from 10 to 100"
    assert f"warning: onnx-fp32 forward, slate 100: {line}" in told
    assert "history" not in told


def test_a_report_has_cost_memory_and_growth_in_every_format(tmp_path: Path) -> None:
    made = profile_of(
        cost=COST,
        loaded_rss_mb=90.0,
        slate_growth=Growth(1.5, (1.2, 1.8), 10, 100),
        stages={"lookup": 0.2, "forward": 0.8},
        stages_check=1.1,
    )
    folder = render([made], tmp_path / "costs")
    (row,) = csv.DictReader(io.StringIO((folder / "table.csv").read_text()))
    assert (row["mflop"], row["moved_mb"], row["share_of_peak"], row["share_of_bandwidth"]) == (
        "2.5", "4", "0.25", "0.5",
    )  # fmt: skip
    assert (row["loaded_rss_mb"], row["parameters"], row["stage_lookup"]) == ("90", "1000", "0.2")
    assert "grows faster than the slate" in row["warnings"]
    for name in ("table.md", "report.html"):
        text = (folder / name).read_text()
        assert "% of peak" in text
        assert ("loaded RSS MB" in text) == (
            name == "report.html"
        )  # table.md has the columns that are read most
        assert "took 110% of its time" in text
        assert "grows faster than the slate" in text
