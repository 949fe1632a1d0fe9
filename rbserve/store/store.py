"""A store: named folders and files, kept by content, which several machines push and pull (`RBSERVE_STORE`).

    store = open_store("s3://bucket/rbserve")
    store.push("data/microlens", Path("data/microlens"))
    store.pull("data/microlens", Path("/scratch/data/microlens"))

    objects/sha256/ab/<sha256>    each content once
    names/<name>.json             the paths, digests and sizes that a name stands for; written last

An object is whole or absent, and so is a name. A push uploads the objects that are not there; a pull reads those that
are not here, checks their sha256, and puts them in place together.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.files import file_error, mismatch, naming, replacing, replacing_directory
from rbserve.core.types import Progress, no_progress
from rbserve.store.backend import EXAMPLE, PIECE, Backend, open_backend
from rbserve.store.manifest import StoredFile, StoredManifest, parse_manifest, read_folder, stored_name

VARIABLE = "RBSERVE_STORE"


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did: the files of the name, and those of them that had to be moved."""

    name: str
    files: int
    bytes: int
    moved_files: int
    moved_bytes: int


def open_store(url: str | None = None) -> Store:
    """The store at `url`, else at RBSERVE_STORE; touches nothing there yet.

    Raises UsageError where neither is given, for a protocol that is none, and for one whose package is not installed.
    """
    url = url or os.environ.get(VARIABLE)
    if not url:
        raise UsageError(f"no store is named: {VARIABLE} is not set", EXAMPLE)
    return Store(open_backend(url))


class Store:
    """A store of named folders and files. Every failure is an RbserveError of one line; a second try continues."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def url(self) -> str:
        """Where it is, for `open_store` in another process."""
        return self.backend.url

    def names(self, prefix: str = "") -> list[str]:
        """The names that begin with the parts of `prefix`, sorted: names("artifacts/microlens")."""
        folder = f"names/{stored_name(prefix)}" if prefix else "names"
        files = self.backend.find(folder)
        return [file.removeprefix("names/").removesuffix(".json") for file in files if file.endswith(".json")]

    def manifest(self, name: str) -> StoredManifest | None:
        """What a name stands for; None where there is no such name."""
        path = _name_path(name)
        content = self.backend.read(path)
        return None if content is None else parse_manifest(content, f"{self.url}/{path}")

    def require(self, name: str) -> StoredManifest:
        """What a name stands for; UsageError, with names that there are, where there is no such name."""
        manifest = self.manifest(name)
        if manifest is None:
            raise UsageError(f"the store {self.url} has no {name}", self._known(name))
        return manifest

    def push(
        self, name: str, path: Path, progress: Progress = no_progress, *, again: bool = False
    ) -> Transfer:
        """Uploads a folder or a file under a name, in place of what the name stood for.

        An object that is there in its full size is not uploaded; `again` uploads all, in place of damaged ones.
        The name is written last: until then it stands for what it did before.
        """
        manifest = read_folder(stored_name(name), path, progress)
        contents = {file.sha256: file for file in manifest.files}
        absent = [
            file for file in contents.values() if again or self.backend.size(_object_path(file)) != file.bytes
        ]
        report = _counting(progress, sum(file.bytes for file in absent), "bytes pushed")
        for file in absent:
            source = path if manifest.single else path / file.path
            self.backend.write(_object_path(file), _checked(source, file, report))
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        if self.backend.read(_name_path(name)) != content:
            self.backend.write(_name_path(name), iter([content]))
        return _transfer(manifest, absent)

    def pull(self, name: str, path: Path, progress: Progress = no_progress) -> Transfer:
        """Makes the folder or file at `path` what a name stands for, whole or not at all.

        Files that are there already are not read again, nor those that arrived whole in an earlier try. Processes
        that pull to the same path take turns. Raises RbserveError where the store has no such name, or an object has
        another sha256 than it should; then `path` is as it was.
        """
        manifest = self.require(name)
        with _staging(path) as folder:
            if manifest.difference(path) is None:
                return _transfer(manifest, [])
            moved = self._fetch(manifest, path, folder, progress)
            _assemble(manifest, folder, path)
        return _transfer(manifest, moved)

    def _fetch(
        self, manifest: StoredManifest, path: Path, folder: Path, progress: Progress
    ) -> list[StoredFile]:
        """Brings every object of a manifest into a folder, named by digest; returns those that were read."""
        contents = {file.sha256: file for file in manifest.files}.values()
        absent = [file for file in contents if not _is_here(manifest, file, path, folder)]
        report = _counting(progress, sum(file.bytes for file in absent), "bytes pulled")
        for file in absent:
            self._fetch_object(file, folder / file.sha256, report)
        return absent

    def _fetch_object(self, file: StoredFile, place: Path, report: Callable[[int, str], None]) -> None:
        """Reads an object to a file of this machine and checks it; RbserveError where it is not what it should be."""
        digest = hashlib.sha256()
        size = 0
        with naming(place), replacing(place) as partial, partial.open("wb") as target:
            for piece in self.backend.pieces(_object_path(file)):
                target.write(piece)
                digest.update(piece)
                size += len(piece)
                report(len(piece), file.path)
            if size != file.bytes or digest.hexdigest() != file.sha256:
                reason = (
                    f"has {size} bytes instead of {file.bytes}"
                    if size != file.bytes
                    else f"has sha256 {digest.hexdigest()[:12]}… instead of {file.sha256[:12]}…"
                )
                raise RbserveError(
                    f"{file.path} in the store {self.url} is damaged: it {reason}",
                    "pull again; if it stays so, replace it: rbserve push NAME --again where the files are whole",
                )

    def _known(self, name: str) -> str:
        near = [known for known in self.names() if known.rpartition("/")[2] == name.rpartition("/")[2]]
        known = near or self.names()
        more = f" and {len(known) - 8} more" if len(known) > 8 else ""
        return (
            f"it has {', '.join(known[:8])}{more}" if known else "nothing was pushed there: rbserve push NAME"
        )


def _name_path(name: str) -> str:
    return f"names/{stored_name(name)}.json"


def _object_path(file: StoredFile) -> str:
    return f"objects/sha256/{file.sha256[:2]}/{file.sha256}"


def _transfer(manifest: StoredManifest, moved: list[StoredFile]) -> Transfer:
    return Transfer(
        manifest.name, len(manifest.files), manifest.bytes, len(moved), sum(file.bytes for file in moved)
    )


def _counting(progress: Progress, total: int, text: str) -> Callable[[int, str], None]:
    """Adds up the bytes that it is called with, and tells them."""
    done = 0

    def report(more: int, path: str) -> None:
        nonlocal done
        done += more
        progress(done, max(total, done), f"{text}, {path}")

    return report


def _checked(source: Path, file: StoredFile, report: Callable[[int, str], None]) -> Iterator[bytes]:
    """The content of a file in pieces; RbserveError at its end if it changed since its digest was taken."""
    digest = hashlib.sha256()
    try:
        content = source.open("rb")
    except OSError as error:
        raise file_error(error) from None
    with content:
        while piece := content.read(PIECE):
            digest.update(piece)
            report(len(piece), file.path)
            yield piece
    if digest.hexdigest() != file.sha256:
        raise RbserveError(f"{source} changed while it was pushed", "push it again when nothing writes to it")


def _is_here(manifest: StoredManifest, file: StoredFile, path: Path, folder: Path) -> bool:
    """Whether an object arrived before, or is part of what is at `path` already, of which it is then taken."""
    if mismatch(folder / file.sha256, file.digest) is None:
        return True
    current = path if manifest.single else path / file.path
    if mismatch(current, file.digest) is not None:
        return False
    with replacing(folder / file.sha256) as partial:
        shutil.copyfile(current, partial)
    return True


def _assemble(manifest: StoredManifest, folder: Path, path: Path) -> None:
    """Puts the objects in a folder to their places at `path`, all at once."""
    if manifest.single:
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / manifest.files[0].sha256).replace(path)
        return
    with replacing_directory(path) as partial:
        for file in manifest.files:
            place = partial / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.hardlink_to(folder / file.sha256)
            except OSError:  # a file system without hard links
                shutil.copyfile(folder / file.sha256, place)


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """The folder beside `path` for objects that arrive, one process at a time; it stays where a pull fails."""
    folder = path.with_name(f".{path.name}.pulled")
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / "lock").open("w")
        except FileNotFoundError:  # another process has just been done with the folder
            continue
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(folder / "lock", lock.fileno()):
                yield folder
                shutil.rmtree(folder, ignore_errors=True)
                return


def _is_at(path: Path, descriptor: int) -> bool:
    return path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))
