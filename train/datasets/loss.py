"""How much of the raw files may be lost before `prepare` stops and asks.

Lost is a row that cannot be read, or has no user, item, time or label; an item row that cannot be read or has no id, or
whose letters are gone. Of a user's own tables also a row whose item the items table does not have. Not lost is what
the protocol leaves out on purpose: a rating that says neither, a repeated row, an item of the paper's
sources without a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from rbserve.core.errors import DataError
from rbserve.train.datasets.raw_file import LOST_LETTERS, NUL
from rbserve.train.tally import Tally

MOST_LOST = 0.05  # share of a table's rows
ADVICE = {
    "UTF-8": "--encoding names the file's encoding, for example gbk or cp1252",
    "NUL": "it may be UTF-16: --encoding utf-16-le",
    "number of fields": "--delimiter and --quotes say how it is written",
    "time": "write all times in one way",
    "not in the item file": "--item and --items-id must name columns that hold the same ids",
}
ITEM_LOSSES = ("item row with another number of fields", "item row that is no JSON object", "item without id",
               LOST_LETTERS, NUL)  # fmt: skip


def check_loss(
    table: str | Path, read: int, reasons: Iterable[str], tally: Tally, example: Callable[[str], str]
) -> None:
    """Raises `DataError` when more than `MOST_LOST` of the rows `read` of a table were lost for the given reasons.

    `example` gives a row that was lost for a reason, or nothing.
    """
    counts = {reason: tally.dropped[reason] + tally.repaired[reason] for reason in reasons}
    lost = sum(counts.values())
    if not read or lost <= MOST_LOST * read:
        return
    causes = [
        f"{count:,} {reason}" + (f", for example {case}" if (case := example(reason)) else "")
        for reason, count in sorted(counts.items(), key=lambda pair: -pair[1])
        if count
    ]
    advice = [text for sign, text in ADVICE.items() if sign in " ".join(causes[:1])]
    raise DataError(
        f"{table}: {lost:,} of {read:,} rows ({lost / read:.1%}) would be lost: {'; '.join(causes)}",
        "; ".join([*advice, "--allow-loss goes on without these rows"]),
    )
