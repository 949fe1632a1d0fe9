"""Errors a user can act on: what went wrong, the value at fault, what to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


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


class OutOfMemory(RbserveError):  # noqa: N818  (what it is called)
    """The machine has too little memory for the work."""


class Interrupted(RbserveError):  # noqa: N818  (not a fault)
    """The user stopped the work; what was done so far is kept."""

    exit_code = 130


UNENDING = "unending"
"""How names of threads begin that may never end; a command that is stopped does not wait for them."""

# How torch, onnxruntime and the C++ library say it: none of them raises MemoryError.
_NO_MEMORY = (
    "can't allocate memory",
    "failed to allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
)


@contextmanager
def memory_told(doing: str, hint: str) -> Iterator[None]:
    """Turns a failed allocation of Python, NumPy, torch or onnxruntime into OutOfMemory."""
    try:
        yield
    except RbserveError:
        raise
    except Exception as error:
        if not _is_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory while {doing}", hint) from None


def _is_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(words in message for words in _NO_MEMORY)


def first_line(error: BaseException) -> str:
    """What an error says first, in one line; the name of its class where it says nothing.

    A line that ends in a colon announces the next one, which is joined to it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """An error for `name`, with the nearest of the `known` names as its hint."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
    return UsageError(f"unknown {kind}: {name}", hint)


@contextmanager
def needs_extra(extra: str, doing: str) -> Iterator[None]:
    """Turns a missing package of an optional extra into a UsageError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "rbserve":
            raise
        raise UsageError(
            f"{doing} needs the package {error.name}, which is not installed",
            f"pip install 'rbserve[{extra}]'",
        ) from error
