"""The numbers of the tables, as people read them."""

from __future__ import annotations

from rbserve.profilers.report.tables import significant


def test_numbers_keep_three_digits_and_no_exponent() -> None:
    texts = [significant(value) for value in (0.0123456, 0.148137, 6.401822, 99.96, 1140.0, 0.0)]
    assert texts == ["0.0123", "0.148", "6.40", "100.0", "1,140", "0"]
