"""Files that are either whole or absent: atomic writes, digests, and where things live."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import msgspec

from rbserve.core.errors import RbserveError, UsageError

ELSEWHERE = "RBSERVE_HOME names another folder for data, artefacts, runs and reports, RBSERVE_CACHE for what is fetched"
HINTS = {
    errno.EACCES: f"make it writable for this user; or {ELSEWHERE}",
    errno.EPERM: f"make it writable for this user; or {ELSEWHERE}",
    errno.EROFS: f"the file system is mounted read-only: {ELSEWHERE}",
    errno.ENOSPC: "free the disk, then run the command again",
    errno.EFBIG: "raise this user's limit of a file's size (ulimit -f), then run the command again",
    errno.EDQUOT: "free some of this user's quota of the disk, then run the command again",
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, or of a user's part of it, that takes no more."""
_warned: set[str] = set()
_home: ContextVar[Path | None] = ContextVar("home", default=None)


class FileDigest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a manifest remembers of a file: enough to tell truncation (bytes) and tampering (sha256)."""

    bytes: int
    sha256: str


def home() -> Path:
    """Where data/, artifacts/, runs/ and reports/ live: of `at_home`, else RBSERVE_HOME, else the current folder."""
    return _home.get() or Path(os.environ.get("RBSERVE_HOME") or ".")


@contextmanager
def at_home(path: Path | None) -> Iterator[None]:
    """Makes `path` the home directory of the code inside, in this thread; None leaves it as it is.

    A process that is started inside does not know of it: pass it RBSERVE_HOME, or paths.
    """
    token = _home.set(path or _home.get())
    try:
        yield
    finally:
        _home.reset(token)


def cache() -> Path:
    """Where fetched assets are kept between projects: RBSERVE_CACHE, else ~/.cache/rbserve."""
    configured = os.environ.get("RBSERVE_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "rbserve"


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> FileDigest:
    """Size and sha256 of a file."""
    return FileDigest(bytes=path.stat().st_size, sha256=sha256(path))


def mismatch(path: Path, expected: FileDigest) -> str | None:
    """Why `path` is not the file `expected` describes, or None when it is."""
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != expected.bytes:
        return f"has {size} bytes instead of {expected.bytes}"
    actual = sha256(path)
    if actual != expected.sha256:
        return f"has sha256 {actual[:12]}… instead of {expected.sha256[:12]}…"
    return None


def file_error(error: OSError) -> RbserveError:
    """What a file or folder refused, in the system's words, and what to do about that cause."""
    where = f": {error.filename}" if error.filename else ""
    hint = HINTS.get(error.errno or 0, "fix the path, then run the command again")
    return RbserveError(f"{error.strerror or error}{where}", hint)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError of an open file, such as that of a full disk, the path of the file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def require_writable(folder: Path) -> None:
    """RbserveError where no file can be made in a folder: to be known before long work, not after it.

    Leaves nothing: a folder that is not there yet is made by what writes to it.
    """
    try:
        with scratch(folder, "writable"):
            pass
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise file_error(error) from None


def require_replaceable(path: Path, marker: str = "manifest.json") -> None:
    """UsageError where a folder written whole to `path` would destroy somebody's own files.

    A folder that has the file `marker` was written like this before; an empty one holds nothing to lose.
    """
    ours = path.is_dir() and ((path / marker).is_file() or not any(path.iterdir()))
    if os.path.lexists(path) and not ours:
        raise UsageError(
            f"{path} is there and was not made by rbserve: it would be replaced as a whole",
            "name a folder that is not there yet",
        )


@contextmanager
def optional_write(subject: str) -> Iterator[None]:
    """Writes what only saves later work; where that fails, warns once for each `what`, and the work goes on.

    `what` completes "is not kept", such as "the choice of a variant".
    """
    try:
        yield
    except OSError as error:
        if subject not in _warned:
            _warned.add(subject)
            print(f"warning: {subject} is not kept: {file_error(error).message}", file=sys.stderr, flush=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees either the old content or the new one."""
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the place of `path` on success and is removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory to fill; it takes the place of `path` on success and is removed on failure.

    The old directory is moved aside before the new one is renamed in, so `path` never holds a mixture.
    """
    with scratch(path.parent, path.name) as partial:
        partial.chmod(0o777 & ~_umask())
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _flush(file)
        old = partial.with_suffix(".old")
        if path.exists():
            path.rename(old)
        partial.rename(path)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def scratch(folder: Path, name: str) -> Iterator[Path]:
    """A new hidden directory in `folder` that is removed at the end, and so are folders made for it that stay empty.

    What a killed process has left there under that name is removed first.
    """
    import psutil  # imported here: the help of commands reads this module

    absent = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for left in folder.glob(f".{name}.*.scratch"):
        process = left.name.removeprefix(f".{name}.").split(".")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    made = _made_within(folder, f".{name}.{os.getpid()}.")
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        with suppress(OSError):  # one that holds something stays, and with it those above
            for parent in absent:
                parent.rmdir()


def _made_within(folder: Path, prefix: str) -> Path:
    """A new directory in `folder`, which is made if need be.

    Another process may take an empty `folder` away at the end of its own `scratch`, just before this one fills it.
    """
    for _ in range(100):
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return Path(tempfile.mkdtemp(prefix=prefix, suffix=".scratch", dir=folder))
    return Path(tempfile.mkdtemp(prefix=prefix, suffix=".scratch", dir=folder))


def _flush(path: Path) -> None:
    """Forces a file to disk, so that a rename never outlives the content it names; its mode is what the umask gives.

    Some libraries write for their user alone, and a server often runs as another one.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.chmod(0o666 & ~_umask())


def _umask() -> int:
    """The permissions that this process withholds from new files."""
    try:
        with Path("/proc/self/status").open() as status:
            return next(int(line.split()[1], 8) for line in status if line.startswith("Umask"))
    except (OSError, StopIteration):  # no Linux: it can only be read by setting it
        mask = os.umask(0o022)
        os.umask(mask)
        return mask
