"""Criteo's display advertising challenge: `train.txt`, a click log of 13 numbers and 26 hashed categories.

Tab-separated, without a header: label, I1 to I13, C1 to C26; a value that is missing is empty. Rows are in the order of
time; their times are not given. Numbers can be negative.
"""

from __future__ import annotations

from rbserve.train.datasets.click_log import ClickLog
from rbserve.train.datasets.delimited import PLAIN_TABS
from rbserve.train.datasets.source import DataSource

NUMBERS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))

SOURCE = DataSource(
    about="Criteo: clicks on ads, 13 numbers and 26 categories, no users and no histories",
    log=ClickLog(
        file="train.txt",
        dialect=PLAIN_TABS,
        label="label",
        numbers=NUMBERS,
        categories=CATEGORIES,
        columns=("label", *NUMBERS, *CATEGORIES),
    ),
    needs="train.txt of the display advertising challenge, plain or gzip",
)
