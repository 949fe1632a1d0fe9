"""The search for a label's place, in pixels; test_chart.py has what its places promise."""

from __future__ import annotations

from rbserve.profilers.report.chart_data import LONGEST_LINE, folded
from rbserve.profilers.report.label_layout import Box, Label, place

WIDE = Box(0, 0, 400, 400)


def test_a_label_with_no_room_is_left_out() -> None:
    label = Label(x=10, y=10, width=30, height=10, angle=0, patience=100)
    assert place([label], [], [], Box(0, 0, 20, 20)) == [None]
    (where,) = place([label], [], [], WIDE)
    assert where
    assert where.box.left >= 10


def test_a_free_label_stands_where_it_wishes_and_needs_no_leader_line() -> None:
    for angle, beside in ((0, "left"), (180, "right"), (90, "bottom"), (270, "top")):
        (where,) = place([Label(200, 200, 50, 16, angle, 100)], [], [], WIDE)
        assert where
        assert where.leader is None
        gap = getattr(where.box, beside) - 200
        assert abs(gap) == 13


def test_a_label_that_had_to_go_away_has_a_leader_line_from_its_point_to_its_edge() -> None:
    crowd = [Box(x - 8, y - 8, x + 8, y + 8) for x in range(168, 240, 8) for y in range(168, 240, 8)]
    (where,) = place([Label(200, 200, 30, 16, 0, 600)], crowd, [], WIDE)
    assert where
    assert where.leader
    x, y, end_x, end_y = where.leader
    assert (x, y) == (200, 200)
    assert end_x in (where.box.left, where.box.right, 200)
    assert end_y in (where.box.top, where.box.bottom, 200)


def test_a_label_for_which_every_place_costs_more_than_its_patience_is_left_out() -> None:
    level = [Box(0, y - 1, 400, y + 1) for y in range(0, 400, 8)]
    label = Label(200, 200, 30, 16, 0, 30)
    assert place([label], [], level, WIDE) == [None]
    assert place([label._replace(patience=90)], [], level, WIDE) != [None]


def test_a_long_name_takes_lines_and_loses_no_letter() -> None:
    assert folded("zeroshot-qwen-2-1.5b") == ["zeroshot-qwen-2-1.5b"]
    long = "gdcn-emb-from-text-smollm2-135m (vectors=tuned, pairs=10, teacher-users=600)"
    lines = folded(long)
    assert max(map(len, lines)) <= LONGEST_LINE
    assert "".join(lines).replace(" ", "") == long.replace(" ", "")
    assert folded("a" * 40) == ["a" * 40]
