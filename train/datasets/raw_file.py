"""A raw file as bytes in UTF-8: unpacked, recoded where its encoding is another, its faults as `DataError`s."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from rbserve.core.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PART = 1 << 20
LONGEST_LINE = 1 << 24  # bytes, its end among them; also the longest field, in characters
NEWLINE = ord("\n")
MARK = b"\xef\xbb\xbf"
LOST_LETTERS = "letters lost: line with bytes that are not UTF-8"
NUL = "line with NUL characters"
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
         codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
"""Byte order marks -> encodings; the longer marks first, for one begins as another does."""
UNDECODABLE = "rbserve-undecodable"


def is_gzip(path: Path) -> bool:
    """By its first bytes, not its name; a folder of part files is none."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def open_utf8(path: Path, encoding: str | None = None) -> Iterator[BinaryIO]:
    """The file's content in UTF-8, unpacked. What cannot be decoded from another encoding is a byte 0xFF.

    Without an `encoding` a byte order mark of UTF-16 or UTF-32 names it, and UTF-8 is passed on as it is, its
    own byte order mark too. Raises `DataError` for a file that is missing or damaged, also while it is read.
    """
    try:
        packed = is_gzip(path)
        with cast(BinaryIO, gzip.GzipFile(path)) if packed else path.open("rb") as file:
            buffered = io.BufferedReader(cast(io.RawIOBase, file), PART)
            head = buffered.peek(4)[:4]
            codec = encoding or next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")
            if codecs.lookup(codec).name in ("utf-8", "utf-8-sig"):
                yield cast(BinaryIO, buffered)
            else:
                yield cast(BinaryIO, io.BufferedReader(_Recoded(cast(BinaryIO, buffered), codec), PART))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or truncated: {error}", "fetch the file again") from None
    except FileNotFoundError:
        raise DataError(f"no file {path}", "--raw names the folder that holds the files") from None
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}", "it must be a file that you may read"
        ) from None


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


class _Recoded(io.RawIOBase):
    """A stream of another encoding as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)(UNDECODABLE)
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        while not self._ready and not self._ended:
            part = self._file.read(len(view))
            self._ended = not part
            self._ready = self._decoder.decode(part, final=self._ended).encode("utf-8", UNDECODABLE)
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _mark_undecodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Decoding: half of a surrogate pair in place of what is none; encoding: a byte that UTF-8 never has."""
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    assert isinstance(error, UnicodeEncodeError)
    return b"\xff" * (error.end - error.start), error.end


codecs.register_error(UNDECODABLE, _mark_undecodable)


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
