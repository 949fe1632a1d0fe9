"""The search for a label's place, in pixels."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rbserve.profilers.report.label_layout import LONGEST_LINE, Box, Label, Name, folded, place, write


def test_a_label_with_no_room_is_left_out() -> None:
    label = Label(x=10, y=10, width=30, height=10, angle=0)
    assert place([label], [], [], Box(0, 0, 20, 20)) == [None]
    (spot,) = place([label], [], [], Box(0, 0, 200, 200))
    assert spot
    assert spot.box.left >= 10


def test_a_long_name_takes_lines_and_loses_no_letter() -> None:
    assert folded("zeroshot-qwen-2-1.5b") == "zeroshot-qwen-2-1.5b"
    long = "gdcn-emb-from-text-smollm2-135m (vectors=tuned, pairs=10, teacher-users=600)"
    lines = folded(long).split("\n")
    assert max(map(len, lines)) <= LONGEST_LINE
    assert "".join(lines).replace(" ", "") == long.replace(" ", "")
    assert folded("a" * 40) == "a" * 40


def test_the_room_that_is_kept_for_a_long_name_is_that_which_it_takes() -> None:
    figure = Figure(figsize=(6, 4), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    long = "gdcn-emb-from-text-smollm2-135m (vectors=tuned, pairs=10, teacher-users=600)"
    write(axes, [Name(long, 0.5, 0.5, 0.0, "black", "normal", 9.0)], [(0.5, 0.5), (0.5, 0.8)], [])
    (note,) = axes.texts
    drawn = Box(*note.get_window_extent().extents)
    for x, y in ((0.5, 0.5), (0.5, 0.8)):
        x, y = axes.transData.transform((x, y))
        assert not drawn.meets(Box(x - 5, y - 5, x + 5, y + 5))
