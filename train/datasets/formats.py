"""The files of a table and their format, which is recognised by content, not by name.

A table is a file, or a folder of part files as Spark writes it. Hidden files and those that begin with `_` are no
parts; parts are read in the order of their names and must have one format.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rbserve.core.errors import DataError
from rbserve.train.datasets.options import Format

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".jsonl", ".ndjson", ".json", "")
"""The suffixes of tables in a folder, in the order of the search; the empty one is that of a folder of parts."""

_FORMATS_BY_SUFFIX: dict[str, Format] = {
    ".parquet": "parquet", ".pq": "parquet", ".json": "json", ".jsonl": "json", ".ndjson": "json",
}  # fmt: skip
_HEAD = 1 << 16
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with zstd -d, or pack it with gzip"),
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2, or pack it with gzip"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it with unxz, or pack it with gzip"),
    (b"PK\x03\x04", "a zip or an Excel workbook", "unzip it, or save the sheet as CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "save the sheet as CSV (UTF-8)"),
    (b"ARROW1", "a Feather file", "write it with to_parquet"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", "write it as Parquet"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV"),
    (b"\x80\x04\x95", "a Python pickle", "write it with to_parquet"),
    (b"\x80\x05\x95", "a Python pickle", "write it with to_parquet"),
)
_SPANNING = re.compile(rb'\{(?:"[^\n]*,)?[ \t\r]*\n[ \t]*"')
_OTHER_TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}


@dataclass(frozen=True)
class Table:
    """A table on disk; `parts` are its files, at least one."""

    path: Path
    format: Format
    parts: tuple[Path, ...]


def open_table(path: Path, format: Format | None = None) -> Table:
    """The table at `path`, in the given format or that of its content; DataError if it has no files."""
    parts = tuple(_parts(path))
    formats = {format or find_format(part): part for part in parts}
    if len(formats) > 1:
        kinds = ", ".join(f"{part.name} is {kind}" for kind, part in sorted(formats.items()))
        raise DataError(
            f"{path} has parts of several formats: {kinds}", "keep other files out of a table's folder"
        )
    (kind,) = formats
    return Table(path, kind, parts)


def find_format(path: Path) -> Format:
    """The format of a file by its first bytes, else by its name.

    Raises DataError, with advice, for a file of another known kind.
    """
    start = _first_bytes(path)
    if start.startswith(b"PAR1"):
        return "parquet"
    for magic, kind, hint in _MAGIC:
        if start.startswith(magic):
            raise DataError(f"{path} is {kind}, not CSV, JSON lines or Parquet", hint)
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    is_object = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    return "json" if is_object else _FORMATS_BY_SUFFIX.get(suffix, "csv")


def locate_table(raw: Path, stem: str) -> Path:
    """The table in folder `raw` that is called `stem`, with any suffix, plain or .gz, a file or a folder."""
    if not raw.is_dir():
        raise DataError(
            f"no folder {raw} to look for {stem}.* in", "--raw names the folder that holds the files"
        )
    for suffix in SUFFIXES:
        for path in (raw / f"{stem}{suffix}", raw / f"{stem}{suffix}.gz"):
            if path.is_dir() or (suffix and path.is_file()):
                return path
    raise DataError(
        f"{raw} holds no table {stem}: looked for {', '.join(f'{stem}{suffix}' for suffix in SUFFIXES[:-1])}, "
        "plain or with .gz, and for folders of these names",
        "--raw names the folder that holds the files, --interactions and --items name them one by one",
    )


def require_json_lines(path: Path) -> None:
    """Raises DataError, with the cause, if a file has JSON but not an object a line."""
    start = _first_bytes(path).removeprefix(b"\xef\xbb\xbf").lstrip()
    lines = start.splitlines()
    if start[:1] == b"[" and (lines[0].rstrip() == b"[" or start[1:].lstrip()[:1] == b"{"):
        raise DataError(
            f"{path} is one JSON array, not JSON lines: one object a line",
            f"jq -c '.[]' {path.name} > {path.stem}.jsonl makes lines of it",
        )
    if start[:1] != b"{" or any(map(_is_object, lines)):
        return  # a damaged line among others is counted
    if start[1:2] in (b"'", b"u"):
        raise DataError(
            f"{path} has lines of Python literals, not JSON: Amazon's files of 2014 are so",
            "write json.dumps(ast.literal_eval(line)) of each line, in Python",
        )
    if _SPANNING.match(start):
        raise DataError(
            f"{path} has JSON objects that span lines, not one object a line",
            f"jq -c . {path.name} > {path.stem}.jsonl makes lines of them",
        )


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _parts(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"no file {path}", "a file, or a folder of part files")
    for name, kind in _OTHER_TABLES.items():
        if (path / name).is_dir():
            raise DataError(
                f"{path} is a {kind} table: its folder holds rows that are no longer in it, too",
                "export the table as Parquet or CSV",
            )
    inside = [part for part in path.rglob("*") if part.is_file() and not _is_hidden(part.relative_to(path))]
    parts = sorted(part for part in inside if part.stat().st_size)
    if not parts:
        raise DataError(f"the folder {path} has no part with rows", "parts do not begin with _ or a point")
    return parts


def _is_hidden(path: Path) -> bool:
    return any(name.startswith(("_", ".")) for name in path.parts)


def _first_bytes(path: Path) -> bytes:
    """The first bytes of a file, unpacked; empty if they cannot be unpacked, which its reader will report."""
    try:
        with path.open("rb") as stored:
            start = stored.read(_HEAD)
        if start[:2] != b"\x1f\x8b":
            return start
        with gzip.open(path) as packed:
            return packed.read(_HEAD)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return b""
    except OSError as error:
        message = f"cannot read {path}: {error.strerror or error}"
        raise DataError(message, "it must be a file that you may read") from None
