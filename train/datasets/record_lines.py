"""The lines of a delimited file: a stream in chunks of whole lines, and the record that begins at a line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from rbserve.core.errors import DataError
from rbserve.train.datasets.raw_file import LONGEST_LINE
from rbserve.train.protocol.tally import Tally

LONGEST_RECORD = 200  # lines; a quoted field that spans more was never closed
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class OpenRecordError(Exception):
    """A quoted field that the last of `lines` lines did not close."""

    def __init__(self, lines: int) -> None:
        self.lines = lines


def quoted_record(
    texts: Sequence[str], start: int, delimiter: str, written: Callable[[str], str] = lambda line: line
) -> tuple[list[str], int]:
    """The fields of the record that begins at line `start`, and its number of lines.

    Raises `OpenRecordError` if it is not closed within `LONGEST_RECORD` lines, csv.Error if it is no CSV.
    """
    stop = min(len(texts), start + LONGEST_RECORD)
    reader = csv.reader(
        (written(texts[place]) for place in range(start, stop)), delimiter=delimiter, strict=True
    )
    try:
        fields = next(reader)
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise OpenRecordError(stop - start) from None
        raise
    return fields, reader.line_num


class Chunks:
    """A stream as chunks of whole lines; `line` is the number of lines before the next chunk."""

    def __init__(self, path: Path, stream: BinaryIO, chunk: int, tally: Tally) -> None:
        self._path, self._stream, self._chunk = path, stream, chunk
        self._rest = b""
        self.line = 0
        self.at_end = False
        if stream.peek(3)[:3] == BYTE_ORDER_MARK:  # type: ignore[attr-defined]
            stream.read(3)
            tally.repaired["byte order mark"] += 1

    def next(self) -> bytes:
        """The text that was put back and at least one line more; the rest of the stream if it is `at_end`."""
        part = self._stream.read(self._chunk)
        if part and not part.endswith(b"\n"):
            end = self._stream.readline(LONGEST_LINE + 1)
            if len(end) > LONGEST_LINE:
                line = self.line + part.count(b"\n") + self._rest.count(b"\n") + 1
                raise DataError(
                    f"{self._path}, line {line} has more than {LONGEST_LINE:,} bytes: is it text?",
                    "a file of lines ends each of them with a line feed",
                )
            part += end
        self.at_end = not self._stream.peek(1)  # type: ignore[attr-defined]
        chunk, self._rest = self._rest + part, b""
        return chunk

    def push_back(self, lines: ChunkLines) -> None:
        """Puts the lines that were not used back, for the next chunk."""
        self._rest = lines.rest()
        self.line = lines.number - 1


class ChunkLines:
    """The lines of a chunk as text with their ends; `place` is the next one's, `number` its number in the file.

    A lone carriage return, which the csv module would take for the end of a row, is replaced by NUL, which no line
    holds. `lost` are the places of lines with bytes that are not UTF-8, `nul` those of lines with NUL characters.
    """

    def __init__(self, chunk: bytes, before: int) -> None:
        raw = chunk.split(b"\n")
        self._raw = [line + b"\n" for line in raw[:-1]] + ([raw[-1]] if raw[-1] else [])
        self.lost: set[int] = set()
        self.nul: set[int] = set()
        self.returns = False
        self.texts = [self._decode(place, line) for place, line in enumerate(self._raw)]
        self.place = 0
        self.number = before + 1

    def skip(self, count: int) -> None:
        """Goes on by `count` lines."""
        self.place += count
        self.number += count

    def rest(self) -> bytes:
        """The bytes from the next line on."""
        return b"".join(self._raw[self.place :])

    def _decode(self, place: int, line: bytes) -> str:
        if b"\0" in line:
            line = line.replace(b"\0", b"")
            self.nul.add(place)
        try:
            text = line.decode()
        except UnicodeDecodeError:
            text = line.decode(errors="replace")
            self.lost.add(place)
        if "\r" in text:
            end = "\r\n" if text.endswith("\r\n") else ""
            text = text[: len(text) - len(end)].replace("\r", "\0") + end
            self.returns = self.returns or "\0" in text
        return text


def is_blank(line: str) -> bool:
    """Whether a line has nothing but its end and NUL characters."""
    return not line.strip("\r\n\0")


def without_end(line: str) -> str:
    """A line without its line end."""
    return line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")
