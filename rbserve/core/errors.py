"""Errors a user can act on: what went wrong, the value at fault, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RbserveError(Exception):
    """A failure with a one-line message and an optional hint; the command line prints both, never a traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RbserveError):
    """The user asked for something that cannot be: a wrong name, option or value."""

    exit_code = 2


class DataError(RbserveError):
    """Raw files or a prepared data set that cannot be read as what they should be."""


class ArtifactError(RbserveError):
    """An artefact that is missing, damaged, or belongs to another data set."""


class AssetError(RbserveError):
    """A public file that could not be fetched or is not the one expected."""


class ParityError(RbserveError):
    """An exported model that does not score like the model it came from."""


class Interrupted(RbserveError):  # noqa: N818  (not a fault)
    """The user stopped the work; what was done so far is kept."""

    exit_code = 130


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """An error for `name`, with the nearest of the `known` names as its hint."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind}: {name}", hint)
