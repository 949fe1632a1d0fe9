"""Names of data sets, artefacts, reports and benches: which may become a directory, and the default data set."""

from __future__ import annotations

from rbserve.core.errors import UsageError

DEFAULT_DATASET = "ml-100k"
"""The data set of a command without --dataset."""

LONGEST = 200
"""Bytes; file systems take 255, and temporary files put something before and behind the name."""


def plain_name(name: str, kind: str, example: str | None = None) -> str:
    """The name itself, where it is one directory below another; UsageError where it could lead elsewhere.

    Refused: nothing, a slash of either kind, a leading dot, control characters, and more than LONGEST bytes. `kind`
    says in the error what takes the name, such as "--name" or "a data set".
    """
    bad = not name.strip() or name.startswith(".") or {*name} & {*"/\\"} or not name.isprintable()
    if bad or len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        raise UsageError(
            f"{kind} takes a plain name, not {name if name.isprintable() and name.strip() else repr(name)}",
            example or "a name without slashes that does not begin with a dot, such as shop",
        )
    return name
