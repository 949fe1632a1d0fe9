"""Finds the columns of a file by their exact names; a name that two columns have is refused.

A file's column names never become names in SQL. Every wanted column has a role ("user", "time"), and relations name
their columns by roles only, so that a column called `ok`, `position` or `USER` cannot collide with one.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rbserve.core.errors import DataError

Wanted = Mapping[str, str] | Sequence[str]
"""The column of each role; a sequence of columns if the roles have their names."""
_HINT = "check the file, its delimiter and the column options; capital letters count"


def column_places(path: Path, wanted: Wanted, names: Sequence[str], hint: str = "") -> dict[str, int]:
    """The place of each role's column in the file, counted from 0.

    Raises `DataError` for a column that the file does not have, and for a name that several columns have.
    """
    roles = wanted if isinstance(wanted, Mapping) else {name: name for name in wanted}
    for name in roles.values():
        if name not in names:
            raise DataError(
                f"{path} lacks the column {name!r}; it has: {', '.join(names)[:200]}",
                _delimiter_hint(name, names) or _nearest(name, names) or hint or _HINT,
            )
        if names.count(name) > 1:
            raise DataError(
                f"{path} has {names.count(name)} columns named {name!r}",
                "rename all but one of them: which one is meant cannot be known",
            )
    return {role: names.index(name) for role, name in roles.items()}


def _nearest(name: str, names: Sequence[str]) -> str:
    """The advice for a name that is like one of the file's; empty if it is like none."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else ""


def _delimiter_hint(name: str, names: Sequence[str]) -> str:
    """The advice for a header that has the column between other delimiters; empty if it has not."""
    for delimiter in ";|\t,":
        fields = [field.strip(' "') for field in " ".join(names).split(delimiter)]
        if name in fields or (len(names) == 1 and len(fields) > 1):
            return f"the header's columns stand between {delimiter!r}: --delimiter {delimiter!r}"
    return ""
