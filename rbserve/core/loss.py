"""The share of a table's rows that may be lost before a command stops with an error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rbserve.core.errors import DataError

MOST_LOST = 0.05  # share of a table's rows


def is_too_much(lost: int, read: int) -> bool:
    """Whether so many lost rows, of those that were read, are more than a command goes on without."""
    return bool(read) and lost > MOST_LOST * read


def loss_error(table: str | Path, lost: int, read: int, causes: Iterable[str], hint: str) -> DataError:
    """The error for a table that would lose too many rows; `causes` says how many for which reason."""
    share = f"{lost:,} of {read:,} rows ({lost / read:.1%})"
    return DataError(f"{table}: {share} would be lost: {'; '.join(causes)}", hint)
