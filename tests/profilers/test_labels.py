"""The search for a label's place, in pixels."""

from __future__ import annotations

from rbserve.profilers.labels import Box, Label, place


def test_a_label_with_no_room_is_left_out() -> None:
    label = Label(x=10, y=10, width=30, height=10, angle=0)
    assert place([label], [], [], Box(0, 0, 20, 20)) == [None]
    (spot,) = place([label], [], [], Box(0, 0, 200, 200))
    assert spot
    assert spot.box.left >= 10
