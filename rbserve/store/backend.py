"""The folder of a store on any file system of fsspec: reads, whole writes, and each failure in one line."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rbserve.core.errors import RbserveError, UsageError, first_line, needs_extra
from rbserve.core.files import replacing

PIECE = 8 << 20
"""Bytes of an object that are in memory at once."""
WHOLE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss")
"""Protocols whose objects appear when they are complete; elsewhere a file is renamed when it is."""
LOCAL = ("file", "local")
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; AWS_ENDPOINT_URL for a server of your own",
}
FULL = ("insufficientstorage", "storagefull", "quotaexceeded", "nospaceleft", "diskfull")
"""How servers say that they take no more, in small letters and without spaces."""
EXAMPLE = "for example RBSERVE_STORE=s3://bucket/rbserve or file:///mnt/store"


@dataclass(frozen=True)
class Backend:
    """A folder on a file system of fsspec. Paths are relative to it; every failure is an RbserveError."""

    url: str
    root: str
    protocol: str
    files: Any

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""
        with self._telling():
            try:
                info = self.files.info(self._at(path))
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None
        return None if info["type"] == "directory" else int(info["size"])

    def read(self, path: str) -> bytes | None:
        """A small file whole; None where there is none."""
        with self._telling():
            try:
                return bytes(self.files.cat_file(self._at(path)))
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None

    def pieces(self, path: str) -> Iterator[bytes]:
        """A file in pieces; RbserveError where it ends early or cannot be read."""
        with self._telling():
            try:
                file = self.files.open(self._at(path), "rb", cache_type="none")
            except FileNotFoundError as error:
                self._check_bucket(error)
                name = path.rpartition("/")[2]
                hint = "rbserve push NAME, where the files are, uploads what is missing"
                raise RbserveError(f"the store {self.url} lacks the object {name}", hint) from None
            with file:
                while piece := file.read(PIECE):
                    yield piece

    def write(self, path: str, content: Iterator[bytes]) -> None:
        """Writes a file so that it is there when it is whole, whatever ends the process in between."""
        with self._telling():
            place = self._at(path)
            if self.protocol in WHOLE:
                self._stream(place, content)
                return
            if self.protocol in LOCAL:
                with replacing(Path(place)) as partial:
                    self._stream(str(partial), content)
                return
            parent = place.rpartition("/")[0]
            self.files.makedirs(parent, exist_ok=True)
            hidden = f"{parent}/.{uuid.uuid4().hex}.partial"
            try:
                self._stream(hidden, content)
                self.files.mv(hidden, place)
            except BaseException:
                with suppress(Exception):  # the error that is being raised already says what is wrong
                    self.files.rm_file(hidden)
                raise

    def remove(self, path: str) -> None:
        """Removes a file."""
        with self._telling():
            self.files.rm_file(self._at(path))

    def find(self, folder: str) -> list[str]:
        """The files below a folder, sorted, relative to the store; none where there is no such folder."""
        with self._telling():
            try:
                paths = self.files.find(self._at(folder))
            except FileNotFoundError as error:
                self._check_bucket(error)
                return []
        prefix = self._at("")
        return sorted(path.removeprefix(prefix) for path in paths)

    def _stream(self, place: str, content: Iterator[bytes]) -> None:
        file: BinaryIO = self.files.open(place, "wb", block_size=PIECE)
        try:
            for piece in content:
                file.write(piece)
        except BaseException:
            _discard(file)
            raise
        file.close()

    def _at(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}"

    def _check_bucket(self, error: FileNotFoundError) -> None:
        """Raises where not the file but the bucket is missing."""
        if "bucket" in str(error).lower():
            raise error

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turns a failure of a backend into one line about it."""
        try:
            yield
        except (RbserveError, MemoryError, TypeError, AttributeError):  # not of the backend
            raise
        except Exception as error:  # noqa: BLE001  (each backend has errors of its own, and not only OSErrors)
            raise self._told(error) from None

    def _told(self, error: Exception) -> RbserveError:
        text = first_line(error)
        words = f"{type(error).__name__} {text}".lower()
        number = error.errno if isinstance(error, OSError) else None
        if "credential" in words:
            return RbserveError(
                f"no credentials for the store {self.url}",
                CREDENTIALS.get(self.protocol, "give this process the credentials of the store"),
            )
        if number in (errno.ENOSPC, errno.EDQUOT) or any(sign in words.replace(" ", "") for sign in FULL):
            return RbserveError(
                f"the store {self.url} is full: {text}", "free some of it, and run the command again"
            )
        if isinstance(error, PermissionError):
            hint = "check that its credentials may read and write there"
            return RbserveError(f"the store {self.url} refuses access: {text}", hint)
        if isinstance(error, FileNotFoundError):
            return RbserveError(f"there is no such place as the store {self.url}: {text}", EXAMPLE)
        return RbserveError(
            f"the store {self.url} failed: {text}", "run the command again: what is whole is not moved again"
        )


def open_backend(url: str) -> Backend:
    """The folder of a store at a URL. UsageError for a protocol that is none, or whose package is not installed."""
    with needs_extra("store", "a store"):
        from fsspec.core import url_to_fs
        from fsspec.registry import known_implementations
    protocol, separator, _ = url.partition("://")
    protocol = protocol if separator else "file"
    known = known_implementations.get(protocol, {})
    try:
        files, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        extra = "pip install 'rbserve[store]'" if protocol in ("s3", "s3a") else str(known.get("err", ""))
        raise UsageError(
            f"the store {url} needs a package that is not installed: {first_line(error)}",
            extra or f"install the package of fsspec for {protocol}://",
        ) from None
    except ValueError as error:
        raise UsageError(f"{url!r} is no store: {first_line(error)}", EXAMPLE) from None
    if not root.strip("/"):
        raise UsageError(f"{url!r} names no folder or bucket", EXAMPLE)
    return Backend(str(files.unstrip_protocol(root)), root, protocol, files)


def _discard(file: Any) -> None:
    """Gives up a file that is being written: no object appears where a close would make one."""
    from fsspec.spec import AbstractBufferedFile

    with suppress(Exception):  # the error that is being raised already says what is wrong
        if isinstance(file, AbstractBufferedFile):
            file.discard()
        else:
            file.close()
    if isinstance(file, AbstractBufferedFile):
        file.closed = True
