"""Parses the times of events from a column of text, in every format that is unambiguous.

A column has integers, numbers or dates, whichever most of its rows are. Dates may have several formats in one column.
The order of day and month in 05/06/2024 is that which fits all such rows of the column; if both orders or neither fit,
these rows have no time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rbserve.core.errors import DataError
from rbserve.train.datasets.loss import NO_TIME
from rbserve.train.datasets.workspace import Workspace

_WHOLE = 'try_cast("time" as bigint)'
_NUMBER = 'try_cast("time" as double)'
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_DAYS = ("%d %b %Y", "%d %B %Y", "%b %d %Y", "%B %d %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%Y", "%d.%m.%Y", "%Y.%m.%d",
         "%Y-%m-%d", "%Y/%m/%d")  # fmt: skip
_WRITTEN = (
    *(day + clock for day in _DAYS for clock in _CLOCKS),
    "%a, %d %b %Y %H:%M:%S GMT",
    "%a %b %d %H:%M:%S %Y",
)
_ZONED = ("%a, %d %b %Y %H:%M:%S %z", "%a %b %d %H:%M:%S %z %Y", "%d/%b/%Y:%H:%M:%S %z")
_SLASHES = r"""regexp_matches("time", '^\d{1,2}/\d{1,2}/\d{4}( |$)')"""
_ORDERS = {order: tuple(order + clock for clock in _CLOCKS) for order in ("%m/%d/%Y", "%d/%m/%Y")}

_AMBIGUOUS = "day and month of dates such as 05/06/2024 cannot be told apart"
_CLEAR = "write them in one way that says which is which, such as 2024-06-05"
_UNITS = {"seconds": "1", "milliseconds": "1000", "microseconds": "1000000", "nanoseconds": "1000000000"}
_FEW = 0.01  # share of the rows below which another unit's are taken for chance


def time_sql(work: Workspace, relation: str, column: str, path: Path) -> str:
    """SQL for the time of a row from the relation's text column "time", which is called `column` in the file.

    Raises `DataError` for a column without any time.
    """
    dates, unclear = _dates(work, relation)
    kinds = {"whole numbers": _WHOLE, "numbers": f"try_cast({_NUMBER} * 1000000 as bigint)", "dates": dates}
    counts = work.count_values(relation, list(kinds.values()))
    kind = max(kinds, key=lambda name: counts[kinds[name]])  # of equals the first
    if not counts[kinds[kind]]:
        raise DataError(
            f"the column {column!r} of {path} holds no time" + (f": {_AMBIGUOUS}" if unclear else ""),
            _CLEAR if unclear else "numbers, or dates such as 2024-05-01 12:30:00",
        )
    work.advice[NO_TIME] = f"the column {column!r} is read as {kind}, as most of its rows are" + (
        f", and {_AMBIGUOUS}: {_CLEAR}" if unclear else ": write all times in one way"
    )
    if kind != "dates":
        _warn_of_several_units(work, relation, column, path)
    return kinds[kind]


def _warn_of_several_units(work: Workspace, relation: str, column: str, path: Path) -> None:
    """Prints a warning if times since 1970 have several units."""
    ranges = {
        unit: f"case when {_NUMBER} >= {size}000000000 and {_NUMBER} < {size}0000000000 then {_NUMBER} end"
        for unit, size in _UNITS.items()
    }
    counts = work.count_values(relation, [*ranges.values(), "1"])
    mixed = [unit for unit, sql in ranges.items() if counts[sql] > _FEW * counts["1"]]
    if len(mixed) > 1:
        parts = []
        for unit in mixed:
            low, high = work.value_range(relation, ranges[unit])
            parts.append(f"{counts[ranges[unit]]:,} rows look like {unit} ({low:.0f} to {high:.0f})")
        print(
            f"warning: the column {column!r} of {path} has times of several units: {', '.join(parts)}; "
            "they are ordered as the numbers are: write all in one unit",
            file=sys.stderr,
            flush=True,
        )


def _dates(work: Workspace, relation: str) -> tuple[str, bool]:
    """SQL for dates in microseconds, and whether there are dates whose day and month are ambiguous.

    A text that is a number is no date.
    """
    formats = list(_WRITTEN)
    orders = {order: f"case when {_SLASHES} then {_strptime(ways)} end" for order, ways in _ORDERS.items()}
    slashes = f"case when {_SLASHES} then 1 end"
    counts = work.count_values(relation, [slashes, *orders.values()])
    fitting = [order for order, sql in orders.items() if counts[sql] == counts[slashes] > 0]
    if len(fitting) == 1:
        formats += _ORDERS[fitting[0]]
    # Formats with time zones are apart: in one list with others, DuckDB uses the offset of one row for the next.
    ways = ", ".join(('try_cast("time" as timestamptz)', _strptime(formats), _strptime(_ZONED)))
    unclear = counts[slashes] > 0 and len(fitting) != 1
    return f"epoch_us(case when {_NUMBER} is null then coalesce({ways}) end)", unclear


def _strptime(formats: Sequence[str]) -> str:
    written = ", ".join(f"'{way}'" for way in formats)
    return f'try_strptime("time", [{written}])::timestamptz'
