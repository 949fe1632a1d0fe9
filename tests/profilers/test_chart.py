"""Layout of a chart: names, leader lines, ticks, the front, and the rows of models that were only timed.

The tests count crossings and overlaps in plain geometry, without the code that avoids them.
"""

from __future__ import annotations

import json
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import pytest
from artificial import measurement, profiles, result, sampled
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rbserve.profilers.compare.sections import sections
from rbserve.profilers.report.axes import Axis, accuracy_axis, latency_axis, text_width
from rbserve.profilers.report.chart import BOLD, LINE, SIZES, Chart, PlacedName, lay_out
from rbserve.profilers.report.chart_data import ChartSection, chart_sections
from rbserve.profilers.report.label_layout import Box, Label, place
from rbserve.profilers.report.render import document
from rbserve.profilers.report.tables import Book, Chapter
from rbserve.runs.measurement import Measurement

REFERENCE = Path(__file__).parents[2] / "reports" / "reference" / "report.json"

Line = tuple[float, float, float, float]


def drawn(measurements: list[Measurement]) -> list[ChartSection]:
    """What the charts of a report of these measurements read."""
    parts = sections(measurements)
    chapters = [Chapter(part, [], [], []) for part in parts]
    return chart_sections(document(Book(chapters, [], [], "2001-01-01")))


def crosses(a: Line, b: Line) -> bool:
    """Whether two lines cross inside both."""

    def side(line: Line, x: float, y: float) -> float:
        return (line[2] - line[0]) * (y - line[1]) - (line[3] - line[1]) * (x - line[0])

    apart = side(a, b[0], b[1]) * side(a, b[2], b[3]), side(b, a[0], a[1]) * side(b, a[2], a[3])
    return max(apart) < 0


def passes(line: Line, box: Box) -> bool:
    """Whether a line passes through a rectangle, by 500 spots on it."""
    x, y, end_x, end_y = line
    spots = [(x + (end_x - x) * part / 500, y + (end_y - y) * part / 500) for part in range(501)]
    return any(box.left < a < box.right and box.top < b < box.bottom for a, b in spots)


def words_box(name: PlacedName) -> Box:
    """The rectangle of a name's words, as they will be drawn."""
    bold = name.kind == "front"
    half = max(text_width(line, BOLD if bold else 12.0, bold) for line in name.lines) / 2
    return Box(name.x - half, name.y - LINE / 2, name.x + half, name.y + LINE * (len(name.lines) - 0.5))


def broken_promises(boxes: list[Box], leaders: list[tuple[int, Line]], markers: list[Box]) -> list[str]:
    """What must not be: names on names or markers, leader lines across leader lines or names."""
    broken = [f"names {a}, {b}" for a, b in combinations(range(len(boxes)), 2) if boxes[a].meets(boxes[b])]
    broken += [f"name on marker {box}" for box, marker in product(boxes, markers) if box.meets(marker)]
    broken += [
        f"leaders of {a}, {b}"
        for (a, first), (b, second) in combinations(leaders, 2)
        if crosses(first, second)
    ]
    broken += [
        f"leader of {number} across name {other}"
        for (number, leader), (other, box) in product(leaders, enumerate(boxes))
        if number != other and passes(leader, box)
    ]
    return broken


def check_names(section: ChartSection, slate: int, chart: Chart, rows: Any = ()) -> None:
    """Holds a chart against the promises of label_layout.py."""
    assert chart.x
    assert chart.y
    boxes = [words_box(name) for name in chart.names]
    leaders = [(number, tuple(name.leader)) for number, name in enumerate(chart.names) if name.leader]
    spots = [
        (chart.x.pixel(p.p50_ms), chart.y.pixel(section.accuracy(p) or 0)) for p in section.judged(slate)
    ]
    spots += [(chart.x.pixel(row.latency_ms), chart.y.pixel(row.accuracy)) for row in rows]
    markers = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    assert broken_promises(boxes, leaders, markers) == []
    for box in boxes:
        assert chart.x.start <= box.left <= box.right <= chart.x.end
        assert chart.y.end <= box.top <= box.bottom <= chart.y.start


# ---- Names ----


@pytest.mark.parametrize("size", SIZES)
def test_in_the_reference_report_no_leader_line_crosses_another_or_a_name(size: str) -> None:
    named = 0
    for section in chart_sections(json.loads(REFERENCE.read_text())):
        for slate, rows in product(section.slates, ([], section.printed())):
            chart = lay_out(section, slate, SIZES[size], rows)
            check_names(section, slate, chart, rows)
            named += len(chart.names)
    assert named > 100


@pytest.mark.parametrize("seed", [0, 1])
def test_nine_models_are_all_named_in_a_wide_chart_and_the_front_in_every_chart(seed: int) -> None:
    (section,) = drawn(profiles(seed=seed))
    for slate, (size, room) in product(section.slates, SIZES.items()):
        chart = lay_out(section, slate, room)
        check_names(section, slate, chart)
        names = {line for name in chart.names for line in name.lines}
        assert {point.name for point in section.judged(slate) if point.on_front} <= names
        if size == "wide":
            assert names == {point.name for point in section.points}


positions = st.tuples(st.floats(0, 600), st.floats(0, 400))
sizes = st.tuples(st.floats(10, 180), st.sampled_from([17.0, 32.0, 47.0]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(positions, sizes, st.floats(0, 360), st.floats(20, 300)), min_size=2, max_size=25),
    st.lists(positions, max_size=30),
)
def test_in_no_layout_does_a_leader_line_cross_another_or_a_name(
    wishes: list[Any], others: list[tuple[float, float]]
) -> None:
    labels = [Label(*at, *size, angle, patience) for at, size, angle, patience in wishes]
    markers = [
        Box(x - 8, y - 8, x + 8, y + 8) for x, y in [*others, *((label.x, label.y) for label in labels)]
    ]
    places = [where for where in place(labels, markers, [], Box(0, 0, 600, 400)) if where]
    boxes = [where.box for where in places]
    leaders = [(number, where.leader) for number, where in enumerate(places) if where.leader]
    assert broken_promises(boxes, leaders, markers) == []


def test_a_model_of_changed_options_is_marked_and_two_of_one_model_are_told_apart() -> None:
    changed = measurement("dnn", [result("onnx-fp32", 1, 1.0, 0.7)], config={"dim": 8})
    other = measurement("gdcn", [result("onnx-fp32", 1, 2.0, 0.8)])
    (section,) = drawn([changed, other])
    assert sorted(section.short_names().values()) == ["dnn*", "gdcn"]
    assert any(note.startswith("* ") for note in lay_out(section, 1, SIZES["wide"]).notes)
    both = drawn([changed, measurement("dnn", [result("onnx-fp32", 1, 3.0, 0.7)], id="plain"), other])
    assert sorted(both[0].short_names().values()) == ["dnn", "dnn (dim=8)", "gdcn"]


# ---- Axes, front, baselines ----


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=20), st.floats(150, 1000))
def test_ticks_of_latency_have_room_and_every_latency_is_on_its_axis(
    values: list[float], width: float
) -> None:
    axis = latency_axis(values, 60, 60 + width)
    assert all(axis.start <= axis.pixel(value) <= axis.end for value in values)
    check_ticks(axis)
    spread = [(axis.pixel(value), text_width(text)) for value, text in axis.ticks]
    assert all(b - a > (wide + next_wide) / 2 for (a, wide), (b, next_wide) in pairwise(spread))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@example([0.5, 0.5 + 1e-7])
@example([0.0, 5e-324])
def test_ticks_of_accuracy_have_room_and_say_their_value(values: list[float]) -> None:
    axis = accuracy_axis(values, 400, 10)
    assert all(axis.end <= axis.pixel(value) <= axis.start for value in values)
    check_ticks(axis)
    assert all(float(text) == pytest.approx(value, abs=1e-9) for value, text in axis.ticks)
    assert all(axis.pixel(a) - axis.pixel(b) > LINE for (a, _), (b, _) in pairwise(axis.ticks))


def check_ticks(axis: Axis) -> None:
    values = [value for value, _ in axis.ticks]
    assert values
    assert values == sorted(values)
    assert len({text for _, text in axis.ticks}) == len(values)
    assert axis.low <= values[0] <= values[-1] <= axis.high


def test_the_front_is_a_staircase_through_its_points_to_the_right_edge() -> None:
    pairs = {"dnn": (1.0, 0.6), "gdcn": (3.0, 0.7), "pnn": (2.0, 0.5)}
    (section,) = drawn([measurement(name, [result("onnx-fp32", 1, *pair)]) for name, pair in pairs.items()])
    chart = lay_out(section, 1, SIZES["column"])
    assert chart.x
    assert chart.y
    (fast, low), (slow, high) = (
        (chart.x.pixel(ms), chart.y.pixel(auc)) for ms, auc in (pairs["dnn"], pairs["gdcn"])
    )
    assert chart.front == [(fast, low), (slow, low), (slow, high), (chart.x.end, high)]


def test_baselines_are_named_without_covering_one_another_and_off_the_axis_at_its_edge() -> None:
    levels = {"popularity": {"auc": 0.7001}, "item_mean": {"auc": 0.7002}, "last": {"auc": 0.1}}
    (section,) = drawn([measurement("dnn", [result("onnx-fp32", 1, 1.0, 0.7)], baselines=levels)])
    chart = lay_out(section, 1, SIZES["wide"])
    assert [base.level is None for base in chart.baselines] == [True, False, False]
    assert chart.baselines[0].lines[0] == "↓ last"
    spans = sorted((base.y, base.y + LINE * (len(base.lines) - 1)) for base in chart.baselines)
    assert all(second[0] - first[1] >= LINE for first, second in pairwise(spans))


# ---- What was only timed ----


def timed(name: str, *times: float) -> Measurement:
    lines = [result(f"onnx-fp{n}", 1, ms, 0.7, accuracy={}) for n, ms in enumerate(times)]
    return measurement(name, lines, random=True)


def test_what_was_only_timed_has_rows_of_its_own_and_stretches_no_axis_of_the_plot() -> None:
    judged = measurement("dnn", [result("onnx-fp32", 1, 1.0, 0.7)])
    (alone,), (both,) = drawn([judged]), drawn([judged, timed("dcn", 5000.0, 9000.0), timed("pnn", 800.0)])
    for size in SIZES.values():
        chart, plain = lay_out(both, 1, size), lay_out(alone, 1, size)
        assert (chart.x, chart.y) == (plain.x, plain.y)
        assert [name.lines for name in chart.names] == [["dnn"]]
        strip = chart.strip
        assert strip
        assert chart.y
        assert chart.y.start < strip.top < min(strip.rows.values()) <= max(strip.rows.values()) < strip.bottom
        assert list(strip.rows) == ["pnn", "dcn"]  # the fastest first
        ends = [end for point in both.unjudged(1) for end in point.p50_ci95_ms]
        assert strip.x.low < min(ends) < max(ends) < strip.x.high
        assert strip.bottom < chart.height


def test_where_nothing_was_judged_there_is_a_strip_and_no_plot() -> None:
    (section,) = drawn([timed("dcn", 5.0)])
    chart = lay_out(section, 1, SIZES["column"])
    assert (chart.x, chart.y, chart.names, chart.front) == (None, None, [], [])
    assert chart.strip
    assert chart.strip.title == "Latency only: no AUC was measured"


def test_one_report_gives_one_layout() -> None:
    runs = [
        sampled("dnn", {"onnx-fp32": 1.0, "onnx-int8": 0.4}),
        sampled("gdcn", {"onnx-fp32": 3.0}, skill=2.0),
    ]
    (first,), (second,) = drawn(runs), drawn(runs[::-1])
    assert lay_out(first, 100, SIZES["wide"]) == lay_out(second, 100, SIZES["wide"])
