"""A raw file of lines in several shares, each of which is read by itself: together they hold what the file holds.

A share is a range of bytes that begins and ends between two lines. A file has shares only where a line is a record
whatever stands before it: text in UTF-8 that is not packed, and without quotation marks where these would have a
meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rbserve.train.datasets.raw_file import MARK, MARKS, is_gzip

PART = 8 << 20


@dataclass(frozen=True)
class RawShare:
    """The bytes of a raw file from `begin` to `end`, behind the first `header` bytes, which every share begins with."""

    path: Path
    header: int
    begin: int
    end: int

    def copy(self, target: Path) -> Path:
        """Writes the share as a file of its own."""
        with self.path.open("rb") as file, target.open("wb") as copy:
            copy.write(file.read(self.header))
            file.seek(self.begin)
            left = self.end - self.begin
            while left and (part := file.read(min(PART, left))):
                copy.write(part)
                left -= len(part)
        return target


def raw_shares(path: Path, count: int, *, header: bool, quotes: bool) -> list[RawShare]:
    """About equal shares of a file, at most `count`; a single one, the whole, where the file has to be read in one go.

    `header`: its first line names the columns. `quotes`: a quotation mark may make several lines one record.
    """
    whole = [RawShare(path, 0, 0, path.stat().st_size if path.is_file() else 0)]
    if count < 2 or not path.is_file() or is_gzip(path):
        return whole
    with path.open("rb") as file:
        first = file.read(4)
        if first.startswith((MARK, *MARKS)) or (quotes and _has_quotes(path)):
            return whole
        file.seek(0)
        if header:
            while (line := file.readline(PART)) and not line.strip(b"\r\n"):
                pass
        begins = [file.tell() if header else 0]
        size = whole[0].end
        for number in range(1, count):
            file.seek(max(begins[-1], size * number // count))
            file.readline()
            begins.append(min(file.tell(), size))
    head = begins[0]
    ends = [*begins[1:], size]
    return [
        RawShare(path, head, begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end
    ] or whole


def _has_quotes(path: Path) -> bool:
    with path.open("rb") as file:
        while part := file.read(PART):
            if b'"' in part:
                return True
    return False
