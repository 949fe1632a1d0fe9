"""A raw file of interactions before DuckDB reads it: how it is stored, its first lines, whether it is whole."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import BinaryIO, cast

import numpy as np

from rbserve.core.errors import DataError
from rbserve.train.datasets.reading import lines
from rbserve.train.tally import Tally

PART = 1 << 20
NEWLINE = ord("\n")
MARK = b"\xef\xbb\xbf"


def is_gzip(path: Path) -> bool:
    """By its first bytes, not its name; a folder of part files is none."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def header(path: Path, delimiter: str) -> list[str]:
    """The names in the first line."""
    first = next(lines(path, Tally()), "")
    return [name.strip().strip('"') for name in first.split(delimiter)]


def has_quotes(path: Path) -> bool:
    """Whether there is a quotation mark anywhere in the file."""
    return any(b'"' in part for part in _parts(path))


def estimate_rows(path: Path, at_most: int = 0) -> int:
    """About how many lines the file has, from its first megabyte; 0 for a folder, whose parts were read before."""
    if path.is_dir():
        return 0
    size = path.stat().st_size
    with path.open("rb") as stored:
        try:
            head = _opened(stored, is_gzip(path)).read(PART)
        except (OSError, EOFError, zlib.error):
            return 0  # reading the file itself will say what is wrong
        rows = int(head.count(b"\n") * size / max(stored.tell(), 1))
    return min(rows, at_most) if at_most else rows


def copy_first_lines(path: Path, count: int, target: Path) -> None:
    """Writes the first `count` lines, unpacked. What reads them accounts for each; a LIMIT in SQL does not."""
    left = count
    with target.open("wb") as copy:
        for part in _parts(path):
            ends = np.flatnonzero(np.frombuffer(part, np.uint8) == NEWLINE)
            if len(ends) >= left:
                copy.write(part[: ends[left - 1] + 1])
                return
            copy.write(part)
            left -= len(ends)


def has_mark(path: Path) -> bool:
    """Whether the file's content begins with a byte order mark."""
    return next(_parts(path), b"").startswith(MARK)


def copy_without_mark(path: Path, target: Path) -> None:
    """Writes the content without the byte order mark that it begins with, unpacked."""
    with target.open("wb") as copy:
        for place, part in enumerate(_parts(path)):
            copy.write(part if place else part.removeprefix(MARK))


def check_gzip(path: Path, stop: Event) -> None:
    """Reads the whole file; DataError when its checksum is wrong, which DuckDB would not notice."""
    for _ in _parts(path):
        if stop.is_set():
            return


def _parts(path: Path) -> Iterator[bytes]:
    """The file's content, unpacked, a megabyte at a time."""
    try:
        with path.open("rb") as stored:
            content = _opened(stored, is_gzip(path))
            yield from iter(lambda: content.read(PART), b"")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or truncated: {error}", "fetch the file again") from None


def _opened(stored: BinaryIO, packed: bool) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=stored)) if packed else stored
