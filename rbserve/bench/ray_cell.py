"""A cell as a task of Ray, on the node that runs it: `run_cell` starts the cell's process there and watches over it.

A node can be lost while its processes live on. So the task's process stops the cell when the node's Ray (its raylet)
has died; and one attempt at a cell waits until an earlier one has stopped, which a lock in the bench's folder shows.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from rbserve.bench.cell_process import GRACE_S, CellProcess, CellTask, Message
from rbserve.bench.journal import SCHEMA, Journal, Outcome, bench_path
from rbserve.bench.matrix import Cell
from rbserve.bench.transfers import Transfers
from rbserve.core.errors import RbserveError
from rbserve.core.version import __version__
from rbserve.machine.environment import KIND, allowed_cores
from rbserve.profilers.measure.harness import THREAD_VARIABLES
from rbserve.store.store import open_store

LOCK_S = 3 * GRACE_S
WATCH_S = 1.0
LOG_BYTES = 2**20  # of a log, its end
OWN_HOME = os.environ.get("RBSERVE_HOME")  # of `ray start`, before a task sets the home of its bench
FOLDER_HINT = (
    "share the folder with every node, or set RBSERVE_STORE to a store that all nodes reach; a node whose folder has "
    "another path is started with RBSERVE_HOME"
)


class CellOrder(msgspec.Struct, frozen=True):
    """What a node needs to run a cell: the cell, its bench, and the home and environment of its command.

    `marker` is the name of a file in the bench folder: a node that sees it shares the folder. `threads` are the thread
    variables of the cell's process, `latency_cores` the cores that are kept for latency, 0 for none, and `store` the
    address of the store, empty for none.
    """

    cell: Cell
    bench: str
    home: str
    marker: str
    threads: dict[str, str] = {}
    latency_cores: int = 0
    attempt: int = 1
    store: str = ""
    version: str = __version__


def run_cell(order: bytes) -> Iterator[bytes]:
    """Runs the cell of an encoded CellOrder; yields encoded Messages, its outcome last. A task of Ray."""
    task = msgspec.json.decode(order, type=CellOrder)
    try:
        for message in _messages(task):
            yield msgspec.json.encode(message)
    except RbserveError as error:
        failed = Outcome(SCHEMA, task.cell, "failed", error=error.message, hint=error.hint)
        yield msgspec.json.encode(Message(outcome=failed))


def sees_folder(home: str, marker: str) -> bool:
    """Whether this node sees the bench folder with the marker, below the home directory."""
    os.environ["RBSERVE_HOME"] = str(_home(home, marker))
    return (bench_path() / marker).is_file()


def _home(of_bench: str, marker: str) -> Path:
    """The home directory here: the bench's where this node sees it, else that of `ray start`."""
    shared = (Path(of_bench) / "bench" / marker).is_file()
    return Path(of_bench if shared or not OWN_HOME else OWN_HOME)


def _messages(order: CellOrder) -> Iterator[Message]:
    if order.version != __version__:
        raise RbserveError(
            f"node {socket.gethostname()} has rbserve {__version__}, the bench {order.version}",
            f"pip install 'rbserve[all,ray]=={order.version}' there",
        )
    shared = sees_folder(order.home, order.marker)
    if not shared and not order.store:
        raise RbserveError(
            f"node {socket.gethostname()} does not see the folder {Path(order.home).absolute()} of the bench",
            FOLDER_HINT,
        )
    journal = Journal(order.bench)
    with _only_attempt(journal, order.cell) as (lock, waited):
        if waited or order.attempt > 1:
            earlier = _finished(journal, order.cell)
            if earlier:
                yield Message(outcome=earlier)
                return
        if shared:
            yield from _run(order, journal, lock)
        else:
            yield from _run_apart(order, journal, lock)


def _run_apart(order: CellOrder, journal: Journal, lock: int) -> Iterator[Message]:
    """Runs the cell between a pull of what it needs and a push of what it made."""
    transfers = Transfers(open_store(order.store))
    transfers.take_needed(order.cell)
    for message in _run(order, journal, lock):
        if message.outcome is None:
            yield message
            continue
        transfers.send_made(message.outcome)
        yield msgspec.structs.replace(message, log=_tail(journal.log(order.cell)))


def _tail(log: Path) -> bytes:
    return log.read_bytes()[-LOG_BYTES:] if log.is_file() else b""


def _run(order: CellOrder, journal: Journal, lock: int) -> Iterator[Message]:
    """The messages of the cell's process, which holds the lock as long as it lives."""
    cell = order.cell
    task = CellTask(cell, order.bench, _cores(cell, order.latency_cores))
    process = CellProcess(task, journal.log(cell), _environment(order), [lock])
    with _watched(process) as orphaned:
        for message in process.messages():
            if orphaned.is_set() and message.outcome:
                os._exit(1)  # nobody listens; the cell runs again elsewhere
            if process.died and message.outcome:
                journal.write(message.outcome)
            yield message


def _finished(journal: Journal, cell: Cell) -> Outcome | None:
    """The outcome of an attempt at the cell that was given up too early: it was lost, and came to its end."""
    return journal.read(cell) if journal.standing(cell) else None


def _environment(order: CellOrder) -> dict[str, str]:
    """The environment of the cell's process: the node's, without what Ray sets for its own workers."""
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    if environment.get("CUDA_VISIBLE_DEVICES") == "":
        del environment["CUDA_VISIBLE_DEVICES"]
    if order.cell.machine:
        environment[KIND] = order.cell.machine
    return environment | order.threads


def _cores(cell: Cell, latency_cores: int) -> list[int]:
    """The cores to pin the cell's process to; empty: all of the node's."""
    cores = allowed_cores()
    if not latency_cores or cell.quiet == "machine":
        return []
    if len(cores) <= latency_cores:
        raise RbserveError(
            f"{latency_cores} of {len(cores)} cores of node {socket.gethostname()} for latency leave none for the rest",
            "--quiet machine, or fewer --threads",
        )
    return cores[-latency_cores:] if cell.quiet == "core" else cores[:-latency_cores]


@contextmanager
def _only_attempt(journal: Journal, cell: Cell) -> Iterator[tuple[int, bool]]:
    """The lock of a cell, as a file descriptor, and whether it had to be waited for.

    Raises RbserveError where another attempt is still at work after all the time that it has to stop.
    """
    folder = journal.folder / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{cell.id}.lock").open("a+") as file:
        waited, give_up = False, time.monotonic() + LOCK_S
        while not _locked(file):
            waited = True
            if time.monotonic() > give_up:
                raise RbserveError(
                    f"an earlier attempt at {cell.title} does not stop", "stop it, then run the command again"
                )
            time.sleep(0.2)
        yield file.fileno(), waited


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _watched(process: CellProcess) -> Iterator[threading.Event]:
    """Stops the process when the raylet, the parent of this process, has died; then the event is set."""
    orphaned, done, raylet = threading.Event(), threading.Event(), os.getppid()

    def watch() -> None:
        while not done.wait(WATCH_S):
            if os.getppid() != raylet:
                orphaned.set()
                process.stop()
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield orphaned
    finally:
        done.set()
