"""The answers of endpoints, kept in one SQLite database that any number of processes share.

An answer costs money, so it is committed before it counts, and two processes never ask for the same one at a time: the
second waits for the first and reads its answer. Answers that are neither yes nor no are not kept on disk, so that the
next process asks again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from rbserve.core.errors import RbserveError
from rbserve.core.files import require_writable
from rbserve.runtimes.endpoint_answers import NO_JSON, ClickReading, EndpointAnswer, read

if TYPE_CHECKING:
    import sqlite3

DATABASE = "answers.sqlite3"
LOCKS = "answers.lock"
OLD_FILE = "answers.jsonl"
"""Where version 0.1 kept its answers, a line of JSON each. It is read once and left as it is."""
FORMAT = 1
BUSY_S = 60.0
"""How long a write waits for that of another process."""
CREATION = 1 << 60
"""The byte of the lock file for making the database; those before it are of keys."""


class AnswerStore:
    """Answers by their key, in `folder`; safe for threads and processes. One store a folder and process."""

    def __init__(self, folder: Path) -> None:
        """Opens the database, or imports the file of version 0.1 into a new one; writes nothing without either."""
        self._folder = folder
        self._lock = Lock()
        self._unclear: dict[str, ClickReading] = {}
        self._database: sqlite3.Connection | None = None
        self._locks = -1
        if (folder / DATABASE).exists() or (folder / OLD_FILE).exists():
            self._open()

    def prepare(self) -> None:
        """Makes the database, to be called before anything is paid for; RbserveError where it cannot be written."""
        require_writable(self._folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._database is None:
            self._open()

    def close(self) -> None:
        """Closes the files, which ends all claims of this process."""
        if self._database:
            self._database.close()
        if self._locks >= 0:
            os.close(self._locks)
        self._database, self._locks = None, -1

    def find(self, key: str) -> ClickReading | None:
        """What the answer kept under `key` reads as; None where there is none."""
        if key in self._unclear or self._database is None:
            return self._unclear.get(key)
        rows = self._execute("SELECT answer FROM answers WHERE key = ?", key)
        return read(msgspec.json.decode(rows[0][0], type=EndpointAnswer)) if rows else None

    def add(self, key: str, answer: EndpointAnswer) -> None:
        """Keeps an answer; returns when it is on disk. An unclear one is kept in memory."""
        reading = read(answer)
        if reading.clear:
            self._execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", key, _text(answer))
        else:
            self._unclear[key] = reading

    def claim(self, key: str) -> bool:
        """Whether this process may ask for `key` now; False while another one does. A claim ends with its process."""
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(key))
        except BlockingIOError:
            return False
        return True

    def release(self, key: str) -> None:
        """Ends a claim."""
        fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _byte(key))

    def _execute(self, statement: str, *values: str) -> list[tuple[str]]:
        import sqlite3

        assert self._database is not None  # `prepare` comes before `add`
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def _open(self) -> None:
        """Opens the database, making it if need be; one process at a time."""
        import sqlite3

        connect = partial(sqlite3.connect, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        path = self._folder / DATABASE
        try:
            if not os.access(self._folder, os.W_OK):  # answers that can only be read
                self._database = connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
                return
            self._locks = os.open(self._folder / LOCKS, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, CREATION)
            self._database = connect(path)
            if self._database.execute("PRAGMA user_version").fetchone() != (FORMAT,):
                _make_table(self._database, self._folder / OLD_FILE)
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, CREATION)
        except sqlite3.Error as error:
            self.close()
            raise self._failure(error) from None

    def _failure(self, error: sqlite3.Error) -> RbserveError:
        """What SQLite could not do, and what to do about it."""
        hint = (
            "move the file away; its answers are then asked for again"
            if type(error).__name__ == "DatabaseError"  # no subclass of it: "file is not a database"
            else "free the disk or make it writable, then run the same again: what is answered is kept"
        )
        return RbserveError(f"cannot use the answers in {self._folder / DATABASE}: {error}", hint)


def _make_table(database: sqlite3.Connection, old: Path) -> None:
    """Makes the table with the answers of version 0.1; a commit writes to the disk once (WAL), and waits for it."""
    database.execute("PRAGMA journal_mode = WAL")
    with database:  # commits, or rolls back
        database.execute("BEGIN IMMEDIATE")
        database.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", _answers_of_0_1(old))
        database.execute(f"PRAGMA user_version = {FORMAT}")


class _Line(msgspec.Struct, frozen=True):
    key: str
    answer: EndpointAnswer


def _answers_of_0_1(path: Path) -> Iterator[tuple[str, str]]:
    """Key and answer of every whole line of a file of version 0.1; a killed process may have left a torn one."""
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(_Line)
    with path.open("rb") as file:
        for data in file:
            try:
                line = decoder.decode(data)
            except NO_JSON:
                continue
            if read(line.answer).clear:
                yield line.key, _text(line.answer)


def _text(answer: EndpointAnswer) -> str:
    return msgspec.json.encode(answer).decode()


def _byte(key: str) -> int:
    """The byte of the lock file that stands for a key, a hexadecimal digest: its first 60 bits."""
    return int(key[:15], 16)
