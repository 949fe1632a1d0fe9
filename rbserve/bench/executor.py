"""Where cells run. An engine is anything with these two methods; here is the one that uses this machine.

`LocalExecutor` starts a process a cell (`bench/cell_process.py`); `bench/ray_executor.py` has the engine of a cluster.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Protocol, Self

import psutil

from rbserve.bench.cell_process import GRACE_S, CellProcess, CellTask
from rbserve.bench.journal import Journal, Outcome, bench_path
from rbserve.bench.matrix import Cell
from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.types import Progress
from rbserve.machine.environment import allowed_cores
from rbserve.profilers.measure.harness import THREAD_VARIABLES


class Executor(Protocol):
    """Runs cells. The order among them is the scheduler's; what they share of a machine is the executor's."""

    def has_room(self, cell: Cell, running: Collection[Cell]) -> bool:
        """Whether the cell may start beside those running; true where an engine has its own queue.

        With nothing running there is room.
        """
        ...

    def submit(self, cell: Cell, progress: Progress) -> Future[Outcome]:
        """Starts `work` on the cell, somewhere; `progress` is called from any thread, or never."""
        ...


class LocalExecutor:
    """Up to `jobs` cells at a time on this machine; a latency cell has it, or its cores, to itself.

    The last `kept` cores are for cells that must have a core to themselves, and everything else keeps to the others.
    Caches, memory bandwidth and clock are still shared: figures are steadier where a cell has the machine.
    """

    def __init__(self, bench: str, lock: int, jobs: int = 1, latency_cores: int = 0) -> None:
        cores = allowed_cores()
        if latency_cores and len(cores) <= latency_cores:
            raise UsageError(
                f"{latency_cores} of {len(cores)} cores for latency leave none for the rest",
                "--quiet machine, or fewer --threads",
            )
        self._journal, self._lock, self._jobs = Journal(bench), lock, jobs
        self._kept, self._others = (
            (cores[-latency_cores:], cores[:-latency_cores]) if latency_cores else ([], [])
        )
        self._pool = ThreadPoolExecutor(jobs + 1)
        self._workers: set[CellProcess] = set()
        self._stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stops what still runs, and waits for it; a second Ctrl-C does not wait."""
        self._stopping = True
        for worker in [*self._workers]:
            worker.stop()
        try:
            self._pool.shutdown(cancel_futures=True)
        except KeyboardInterrupt:
            for worker in [*self._workers]:
                worker.kill()
            raise

    def has_room(self, cell: Cell, running: Collection[Cell]) -> bool:
        """A latency cell waits until no other cell disturbs it, other cells until fewer than `jobs` run."""
        measured = [other for other in running if other.quiet != "none"]
        if cell.quiet == "machine" or any(other.quiet == "machine" for other in measured):
            return not running
        return not measured if cell.quiet == "core" else len(running) - len(measured) < self._jobs

    def submit(self, cell: Cell, progress: Progress) -> Future[Outcome]:
        """Starts the cell's process."""
        return self._pool.submit(self._run, cell, progress)

    def _run(self, cell: Cell, progress: Progress) -> Outcome:
        cores = {"machine": [], "core": self._kept, "none": self._others}[cell.quiet]
        task = CellTask(cell, self._journal.name, cores)
        worker = CellProcess(task, self._journal.log(cell), os.environ | self._threads(cell), [self._lock])
        self._workers.add(worker)
        try:
            if self._stopping:
                worker.stop()
            outcome = outcome_of(worker, progress)
        finally:
            self._workers.discard(worker)
        if worker.died and not self._stopping:
            self._journal.write(outcome)
        return outcome

    def _threads(self, cell: Cell) -> dict[str, str]:
        """Builds side by side share the cores, unless the user has said how many each takes."""
        if self._jobs == 1 or cell.quiet != "none" or any(name in os.environ for name in THREAD_VARIABLES):
            return {}
        return dict.fromkeys(THREAD_VARIABLES, str(max(1, (os.cpu_count() or 1) // self._jobs)))


@contextmanager
def only_bench() -> Iterator[int]:
    """The lock of this home's benches, as a file descriptor: two would train the same model and time each other.

    Workers inherit it, so that it is held until the last of them has stopped, even when their bench was killed. Raises
    RbserveError when another bench is still at work after the time that workers have to stop.
    """
    folder = bench_path()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        give_up = time.monotonic() + GRACE_S + 5
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if _holder(file) or time.monotonic() > give_up:
                    raise RbserveError(
                        f"another bench is at work in {folder.absolute()}",
                        "wait for it, or stop it with Ctrl-C",
                    ) from None
                time.sleep(0.1)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _holder(file: IO[str]) -> bool:
    """Whether the bench that took the lock lives; else its workers are about to stop."""
    file.seek(0)
    text = file.read().strip()
    return text.isdecimal() and psutil.pid_exists(int(text))


def outcome_of(worker: CellProcess, progress: Progress) -> Outcome:
    """Runs a cell's process to its end, and passes on its progress."""
    outcome = None
    for message in worker.messages():
        if message.progress:
            progress(*message.progress)
        outcome = message.outcome or outcome
    assert outcome is not None
    return outcome
