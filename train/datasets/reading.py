"""Raw item files as streams: lines, JSON lines, and pairs of an id and a clean text.

Nothing here holds a whole file in memory. Readers count in a `Tally` what they drop or repair; a file that cannot be
read at all is a `DataError` with its name.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from html.entities import html5
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rbserve.core.errors import DataError
from rbserve.core.ids import id_text, value_text
from rbserve.train.datasets.formats import require_json_lines
from rbserve.train.datasets.raw_file import LONGEST_LINE, LOST_LETTERS, NUL, open_utf8
from rbserve.train.datasets.record_lines import without_end
from rbserve.train.protocol.tally import Tally

MOST_ROUNDS = 8  # of decoding and removing tags; real texts need two or three

# Names with their semicolon only: in "ROCK&REGGAE" there is no registered trade mark.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_INLINE = "a|abbr|b|em|font|i|ins|s|small|span|strike|strong|sub|sup|u"
_BREAK = "blockquote|br|h[1-6]|hr|img|li|ol|p|ul"
_ATTRIBUTE = r""" [a-z:_-]+ ?= ?(?:"[^"<>]*"|'[^'<>]*'|[^ "'<>=]+)"""
_TAG = re.compile(rf"</?(?:(?:{_INLINE})|({_BREAK}))(?:{_ATTRIBUTE})* ?/?>", re.IGNORECASE)
# The end of a <meta content="..." /> tag: what stands before it is the text.
_TAIL = re.compile(r'(?:" ?/>)+$')
# What stays of a page when its complete simple tags are gone: a tag cut off at the start, a
# script, a block's end.
_RUBBISH = re.compile(
    r"""^<[a-z]+ [a-z:_-]+ ?= ?["']|<script\b|<style\b|</div|var aPageStart|getTime\(\)""",
    re.IGNORECASE,
)
# Controls that are no white space, soft hyphens, marks of direction, other signs without a width, and
# halves of surrogate pairs. The zero-width joiners stay: words and emoji are spelt with them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_ZERO_WIDTH_SPACE = "\u200b"
_JOINERS_AND_SPACE = "\u200c\u200d "


def locate(raw: Path, *patterns: str) -> Path:
    """The file in folder `raw` that matches the first pattern with a match, plain or with `.gz` behind it.

    Of several matches of a pattern, the first in sorted order. Raises `DataError` if `raw` is no folder or nothing
    matches.
    """
    hint = "--raw names the folder that holds the files"
    if not raw.is_dir():
        raise DataError(f"no folder {raw} to look for {' or '.join(patterns)} in", hint)
    for pattern in patterns:
        for name in (pattern, f"{pattern}.gz"):
            matches = sorted(path for path in raw.glob(name) if path.is_file())
            if matches:
                return matches[0]
    raise DataError(f"{raw} holds no file {' or '.join(patterns)}, plain or with .gz", hint)


def lines(path: Path, tally: Tally) -> Iterator[str]:
    r"""The lines of a plain or gzip file (its first bytes tell which), without their ends.

    A line ends with \n or \r\n and nothing else. Bytes that are not UTF-8 become U+FFFD, NUL characters
    and a byte order mark are removed; all of these are counted. A byte order mark of UTF-16 is understood.
    Raises `DataError` for a file that is missing, damaged, or has a line of more than `LONGEST_LINE` bytes.
    """
    return map(without_end, _lines_with_ends(path, tally))


def json_records(
    path: Path, fields: Sequence[str], tally: Tally, scalars: int | None = None, table: str = "item"
) -> Iterator[tuple[str | None, ...]]:
    """The named `fields` of the JSON object on every line, in the order in which they are named.

    Strings stay as they are, numbers and booleans become text as in `core/ids.py`; a list, an object, null or a field
    that is missing is None. Behind the first `scalars` fields (None: all) a list becomes JSON. Blank lines are passed
    over; a line that holds no JSON object is counted as a dropped row of the `table`. Raises `DataError` for an empty
    file, and for one that is a JSON array or the like.
    """
    require_json_lines(path)
    members = {f"field_{place}": name for place, name in enumerate(fields)}
    record = msgspec.defstruct("Record", [(member, Any, None) for member in members], rename=members)
    decode = msgspec.json.Decoder(record).decode
    empty = True
    for line in lines(path, tally):
        if not line.strip():
            continue
        empty = False
        try:
            values = msgspec.structs.astuple(decode(line))
        except (msgspec.DecodeError, RecursionError):
            tally.dropped[f"{table} row that is no JSON object"] += 1
        else:
            texts = [value if type(value) is str else _scalar_text(value) for value in values]
            for place in range(len(fields) if scalars is None else scalars, len(fields)):
                if isinstance(values[place], list):
                    texts[place] = msgspec.json.encode(values[place]).decode()
            yield tuple(texts)
    if empty:
        raise DataError(f"{path} is empty", "fetch the file again")


class Cleaned(NamedTuple):
    """A clean text and what was done to it; the text of HTML rubbish is empty."""

    text: str
    decoded: bool = False
    untagged: bool = False
    rubbish: bool = False


def clean_text(text: str) -> Cleaned:
    """`text` in one line, without HTML entities, simple tags, needless white space and invisible signs.

    Every run of white space becomes one space. Fragments of a page's source and texts that are still
    changing after `MOST_ROUNDS` rounds of decoding are rubbish. A clean text is its own clean text.
    """
    decoded = untagged = False
    for _ in range(MOST_ROUNDS):
        plain = _ENTITY.sub(_character, text) if "&" in text else text
        decoded = decoded or plain != text
        spaced = _one_spaced(plain)
        bare = _TAIL.sub("", _TAG.sub(_gap, spaced)) if "<" in spaced or "/>" in spaced else spaced
        if bare != spaced:
            untagged = True
            bare = _one_spaced(bare)
        if bare == text:
            break
        text = bare
    else:
        return Cleaned("", decoded, untagged, rubbish=True)
    if _RUBBISH.search(text):
        return Cleaned("", decoded, untagged, rubbish=True)
    return Cleaned(text, decoded, untagged)


def items(records: Iterable[Sequence[str | None]], tally: Tally) -> Iterator[tuple[str, str]]:
    """The id and the clean text of every pair (id, text) that has both; the others are counted as dropped."""
    for item, text, *_ in item_rows(records, tally):
        assert item is not None
        assert text is not None
        yield item, text


def item_rows(records: Iterable[Sequence[str | None]], tally: Tally) -> Iterator[Sequence[str | None]]:
    """Every record (id, text, values of fields …) that has an id and a text, with both clean; counts the others."""
    for item, text, *values in records:
        name = id_text(item)
        if not name:
            tally.dropped["item without id"] += 1
            continue
        cleaned = clean_text(text or "")
        if cleaned.rubbish:
            tally.dropped["item text is HTML rubbish"] += 1
        elif not cleaned.text:
            tally.drop("item without text", name)
        else:
            if cleaned.decoded:
                tally.repaired["item text with HTML entities decoded"] += 1
            if cleaned.untagged:
                tally.repaired["item text with HTML tags removed"] += 1
            yield (name, cleaned.text, *values)


def _lines_with_ends(path: Path, tally: Tally) -> Iterator[str]:
    with open_utf8(path) as file:
        for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            if len(raw) > LONGEST_LINE:
                raise DataError(f"{path}, line {number} has more than {LONGEST_LINE:,} bytes: is it text?")
            try:
                line = raw.decode()
            except UnicodeDecodeError:
                line = raw.decode(errors="replace")
                tally.mend(LOST_LETTERS, f"line {number}: {line[:80].rstrip()}")
            if number == 1 and line.startswith("\ufeff"):
                line = line[1:]
                tally.repaired["byte order mark"] += 1
            if "\0" in line:
                line = line.replace("\0", "")
                tally.mend(NUL, f"line {number}: {line[:80].rstrip()}")
            yield line


def _scalar_text(value: object) -> str | None:
    return value_text(value) if isinstance(value, (bool, int, float)) else None


def _character(entity: re.Match[str]) -> str:
    name = entity.group()
    return html.unescape(name) if name[1] == "#" else html5.get(name[1:], name)


def _gap(tag: re.Match[str]) -> str:
    return " " if tag.group(1) else ""


def _one_spaced(text: str) -> str:
    visible = _INVISIBLE.sub("", text.replace(_ZERO_WIDTH_SPACE, " "))
    return " ".join(visible.split()).strip(_JOINERS_AND_SPACE)
