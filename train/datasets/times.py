"""The time of an event from a column of text, in any way of writing it that can be read in one way only.

A column is whole numbers, numbers, or dates, whichever most of its rows are. Dates may be written in several
ways side by side. Of 05/06/2024 the order is looked for in the whole column: where one order fits every
such row and the other does not, it is taken, else these rows have no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rbserve.core.errors import DataError
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


def time_sql(work: Workspace, relation: str, column: str, path: Path) -> str:
    """SQL for the time of a row, whose text is in the column "time" of the relation; `column` is its name in the file.

    Raises `DataError` for a column without any time.
    """
    dates = _dates(work, relation)
    kinds = [_WHOLE, f"try_cast({_NUMBER} * 1000000 as bigint)", dates]
    counts = work.count_values(relation, kinds)
    best = max(kinds, key=lambda kind: counts[kind])  # of equals the first
    if not counts[best]:
        raise DataError(
            f"the column {column!r} of {path} holds no time", "numbers, or dates such as 2024-05-01 12:30:00"
        )
    return best


def _dates(work: Workspace, relation: str) -> str:
    """SQL for dates in microseconds; what casts to a number is none."""
    formats = list(_WRITTEN)
    orders = {order: f"case when {_SLASHES} then {_strptime(ways)} end" for order, ways in _ORDERS.items()}
    slashes = f"case when {_SLASHES} then 1 end"
    counts = work.count_values(relation, [slashes, *orders.values()])
    fitting = [order for order, sql in orders.items() if counts[sql] == counts[slashes] > 0]
    if len(fitting) == 1:
        formats += _ORDERS[fitting[0]]
    # Zoned ones apart: DuckDB takes the offset of one row for the next where both kinds stand in one list.
    ways = ", ".join(('try_cast("time" as timestamptz)', _strptime(formats), _strptime(_ZONED)))
    return f"epoch_us(case when {_NUMBER} is null then coalesce({ways}) end)"


def _strptime(formats: Sequence[str]) -> str:
    written = ", ".join(f"'{way}'" for way in formats)
    return f'try_strptime("time", [{written}])::timestamptz'
