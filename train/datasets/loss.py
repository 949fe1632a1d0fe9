"""The share of raw rows that may be lost before `prepare` stops with an error.

Lost rows are those that cannot be read or have no user, item, time or label; item rows that cannot be read, have no id
or have undecodable letters; and, of a user's own tables, rows whose item is not in the items table. Rows that the
protocol leaves out on purpose are not lost: ratings that are neither liked nor disliked, repeated rows, and items of
the paper's sources without a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from rbserve.core.loss import is_too_much, loss_error
from rbserve.train.datasets.raw_file import LOST_LETTERS, NUL
from rbserve.train.protocol.tally import Tally

_FIRST_NOUN = re.compile(r"^((?:item )?(?:row|record|text)|item|line|rating)\b")
NO_TIME, NO_LABEL = "row whose time is none", "row whose label is none"
NO_TEXT = "item without text or not in the item file"
TITLES = {
    NO_TIME: "row without a time that can be read",
    NO_LABEL: "row without a label that can be read",
    NO_TEXT: "row whose item has no text or is not in the item file",
}
"""The titles of reasons in messages, where their names in a data set's manifest say less."""
ADVICE = {
    "UTF-8": "--encoding names the file's encoding, for example gbk or cp1252",
    "NUL": "it may be UTF-16: --encoding utf-16-le",
    "number of fields": "quote fields that hold the delimiter, or say how the file is written: --delimiter, --quotes",
    "user or item": "--user and --item name the columns of the ids",
    NO_TIME: "write all times in one way",
    NO_LABEL: "labels are 1 or 0, true or false; --rating takes numbers",
    NO_TEXT: "--item and --items-id must name columns that hold the same ids",
}
"""What the user can do, by a part of the reason's name."""
ITEM_LOSSES = ("item row with another number of fields", "item row that is no JSON object", "item without id",
               LOST_LETTERS, NUL)  # fmt: skip


def check_loss(
    table: str | Path,
    read: int,
    reasons: Iterable[str],
    tally: Tally,
    example: Callable[[str], str],
    advice: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raises `DataError` if too many (`core.loss`) of the rows `read` of a table were lost for the given reasons.

    `example` returns a row that was lost for a reason, or an empty text; `advice` says what the user can do about a
    reason, beside `ADVICE`.
    """
    counts = {reason: tally.dropped[reason] + tally.repaired[reason] for reason in reasons}
    lost = sum(counts.values())
    if not is_too_much(lost, read):
        return
    ordered = [reason for reason, count in sorted(counts.items(), key=lambda pair: -pair[1]) if count]
    causes = [
        counted(counts[reason], reason) + (f", for example {case}" if (case := example(reason)) else "")
        for reason in ordered
    ]
    remedies = [*advice_for(ordered[0], advice), "--allow-loss goes on without these rows"]
    raise loss_error(table, lost, read, causes, "; ".join(remedies))


def counted(count: int, reason: str) -> str:
    """A count and its reason as a phrase: 40 rows without a label that can be read."""
    title = TITLES.get(reason, reason)
    plural = _FIRST_NOUN.sub(r"\1s", title)
    return f"{count:,} {title if count == 1 else plural}"


def advice_for(reason: str, known: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """What the user can do about rows that are lost for this reason; empty if nothing is known."""
    return [text for sign, text in ({**ADVICE, **known}).items() if sign in reason]
