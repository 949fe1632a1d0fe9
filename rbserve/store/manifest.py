"""What a name in a store stands for: the files of a folder, or one file, by sha256."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.files import FileDigest, digest, mismatch
from rbserve.core.names import plain_name
from rbserve.core.types import Progress, no_progress

SCHEMA = 1
TEMPORARY = (".partial", ".scratch", ".old")
"""How names of hidden files and folders end that are being written."""


class StoredFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a stored folder. `path` is relative to the folder, with slashes; of a single file it is its name."""

    path: str
    sha256: str
    bytes: int

    @property
    def digest(self) -> FileDigest:
        """Size and sha256, as `core.files` compares them."""
        return FileDigest(bytes=self.bytes, sha256=self.sha256)


class StoredManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files that a name stands for, sorted by path; `single`: the name is one file instead of a folder."""

    schema: int
    name: str
    files: list[StoredFile]
    single: bool = False

    @property
    def bytes(self) -> int:
        """The size of all files together."""
        return sum(file.bytes for file in self.files)

    def difference(self, path: Path) -> str | None:
        """Why the folder or file at `path` is not what the name stands for; None when it is."""
        if self.single:
            return mismatch(path, self.files[0].digest)
        if not path.is_dir():
            return "is missing"
        there = {str(PurePosixPath(file.relative_to(path))) for file in folder_files(path)}
        wanted = {file.path for file in self.files}
        if there != wanted:
            name = min(there ^ wanted)
            return f"{'also has' if name in there else 'lacks'} {name}"
        reasons = ((file.path, mismatch(path / file.path, file.digest)) for file in self.files)
        return next((f"has {name}, which {reason}" for name, reason in reasons if reason), None)


def stored_name(name: str) -> str:
    """The name itself, where it can be one of a store: plain names between slashes, such as data/microlens."""
    parts = name.split("/")
    for part in parts:
        plain_name(part, "each part of a name in a store", "for example artifacts/microlens/gdcn")
        if part.endswith(".json"):
            raise UsageError(f"a name in a store does not end in .json: {name}", "leave the ending out")
    return name


def read_folder(name: str, path: Path, progress: Progress = no_progress) -> StoredManifest:
    """The manifest of a folder or a file on this machine. UsageError where there is none, or nothing in it."""
    if path.is_file():
        return StoredManifest(SCHEMA, name, [StoredFile(path.name, *_content(path))], single=True)
    files = folder_files(path) if path.is_dir() else []
    if not files:
        raise UsageError(
            f"there is nothing to push at {path}", "name what `rbserve datasets` or `models` list"
        )
    total, done, entries = sum(file.stat().st_size for file in files), 0, []
    for file in files:
        progress(done, total, f"bytes read, {file.name}")
        entries.append(StoredFile(str(PurePosixPath(file.relative_to(path))), *_content(file)))
        done += entries[-1].bytes
    return StoredManifest(SCHEMA, name, entries)


def folder_files(path: Path) -> list[Path]:
    """The files below a folder, sorted by path, but those that are being written."""
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in files if not any(map(_is_temporary, file.relative_to(path).parts)))


def parse_manifest(content: bytes, place: str) -> StoredManifest:
    """The manifest in `content`, which was read at `place`. RbserveError for one that cannot be what was pushed."""
    try:
        manifest = msgspec.json.decode(content, type=StoredManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RbserveError(f"{place} is no manifest of a store: {error}", "push the name again") from None
    if manifest.schema != SCHEMA:
        raise RbserveError(
            f"{place} has schema {manifest.schema}; this version reads {SCHEMA}", "upgrade rbserve"
        )
    bad = next((file for file in manifest.files if not _is_sound(file)), None)
    if bad is not None or not manifest.files or (manifest.single and len(manifest.files) != 1):
        raise RbserveError(
            f"{place} names no files that could be written: {bad and bad.path}", "push it again"
        )
    return manifest


def _content(path: Path) -> tuple[str, int]:
    content = digest(path)
    return content.sha256, content.bytes


def _is_temporary(part: str) -> bool:
    return part.startswith(".") and part.endswith(TEMPORARY)


def _is_sound(file: StoredFile) -> bool:
    """Whether a path stays inside its folder and a digest can be a name of a file."""
    path = PurePosixPath(file.path)
    inside = not path.is_absolute() and ".." not in path.parts and file.path not in ("", ".")
    return (
        inside and len(file.sha256) == 64 and set(file.sha256) <= set("0123456789abcdef") and file.bytes >= 0
    )
