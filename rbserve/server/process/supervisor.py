"""Several workers behind one port: processes that share nothing else, and one that watches them.

Each worker has a listening socket of its own on the port (SO_REUSEPORT: the kernel deals connections out), but the
sockets belong to the supervisor. When a worker dies, new connections wait in its socket for the worker that replaces
it; only the requests that it was answering are lost.

A reload has two steps, so that all workers change or none does: each worker opens the new versions and reports whether
they may be served; only when all of them may, the supervisor tells the workers to change.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from time import monotonic
from types import FrameType

from rbserve.core.errors import RbserveError
from rbserve.progress import say
from rbserve.server.api.options import ServerOptions
from rbserve.server.observe.telemetry import SHARED, forget_worker
from rbserve.server.process.sockets import announce, at_terminal, listen, say_reloaded
from rbserve.server.process.worker import ToWorker, run_worker
from rbserve.server.scoring.reload import Opening

SHORT_S, LONGEST_S = 1.0, 30.0
"""Seconds until a worker that died before it was ready is started again: doubled each time, up to the longest."""


def supervise(opening: Opening, options: ServerOptions) -> None:
    """Serves models with several workers, as `serve` does with one."""
    cores = len(os.sched_getaffinity(0))
    if options.workers * opening.threads > cores:
        say(f"warning: {options.workers} workers of {opening.threads} threads each share {cores} cores")
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rbserve-metrics-"))
        except OSError as error:
            raise RbserveError(
                f"several workers need a directory for their counters: {error}",
                "TMPDIR names one that can be written",
            ) from None
        os.environ[SHARED] = folder  # before a worker imports what counts
        stack.callback(os.environ.pop, SHARED)
        listeners = [stack.enter_context(listener) for listener in _listen(options)]
        Supervisor(opening, options, listeners, folder).run()


def _listen(options: ServerOptions) -> list[socket.socket]:
    """A socket for each worker on one port; the port is first taken alone, to be sure that no other process has it."""
    with listen(options.host, options.port) as probe:
        port = probe.getsockname()[1]
    return [listen(options.host, port, shared=True) for _ in range(options.workers)]


@dataclass
class _Worker:
    """A place in the pool of workers, and the process that has it now."""

    place: int
    process: SpawnProcess
    pipe: Connection
    description: str | None = None
    """The models it serves, once it is ready."""
    failure: RbserveError | None = None

    @property
    def end_reason(self) -> str:
        """Why it ended."""
        if self.failure is not None:
            return self.failure.message
        code = self.process.exitcode
        return f"exit code {code}" if code is None or code >= 0 else f"signal {signal.Signals(-code).name}"


class Supervisor:
    """Starts workers, replaces those that die, lets them reload together, and stops them."""

    def __init__(
        self, opening: Opening, options: ServerOptions, listeners: Sequence[socket.socket], folder: str
    ) -> None:
        self._opening, self._options, self._listeners, self._folder = opening, options, listeners, folder
        self._spawn = multiprocessing.get_context("spawn")
        self._workers: dict[int, _Worker] = {}
        self._restarts: dict[int, float] = {}  # place to the time of `monotonic` at which it is started again
        self._pause = dict.fromkeys(range(len(listeners)), SHORT_S)
        self._answers: dict[int, str | None] | None = None  # of a reload, by place
        self._changed: dict[str, None] = {}  # models of which a worker found a new version, in their order
        self._failure: RbserveError | None = None
        self._announced = self._stopping = False
        self._woken, self._wake = socket.socketpair()

    def run(self) -> None:
        """Returns when all workers have ended. Raises the error of a worker that cannot start."""
        for place in range(len(self._listeners)):
            self._start(place)
        self._wake.setblocking(False)
        before = signal.set_wakeup_fd(self._wake.fileno())
        hang_up = signal.SIG_DFL if at_terminal() else self._on_signal
        handlers = {
            signal.SIGTERM: self._on_signal, signal.SIGINT: self._on_signal, signal.SIGHUP: hang_up,
        }  # fmt: skip
        old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            while self._workers or (self._restarts and not self._stopping):
                self._wait_once()
        finally:
            signal.set_wakeup_fd(before)
            for number, old_handler in old.items():
                signal.signal(number, old_handler)
            for worker in self._workers.values():
                worker.process.kill()
            self._woken.close()
            self._wake.close()
        if self._failure is not None:
            raise self._failure

    def _on_signal(self, sig: int, frame: FrameType | None) -> None:
        """Does nothing: the number of the signal also arrives at the wake-up socket."""
        del sig, frame

    def _wait_once(self) -> None:
        """Waits for a signal, a message, the end of a worker or a restart that is due, and handles it."""
        by_pipe = {worker.pipe: worker for worker in self._workers.values()}
        by_sentinel = {worker.process.sentinel: worker for worker in self._workers.values()}
        due = min(self._restarts.values(), default=None)
        ready = wait(
            [self._woken, *by_pipe, *by_sentinel], None if due is None else max(0.0, due - monotonic())
        )
        for source in ready:
            if source is self._woken:
                for number in self._woken.recv(64):
                    self._handle_signal(signal.Signals(number))
            elif source in by_pipe:
                self._receive(by_pipe[source])
        for source in ready:
            if source in by_sentinel:
                self._handle_end(by_sentinel[source])
        for place in [place for place, at in self._restarts.items() if at <= monotonic()]:
            del self._restarts[place]
            if not self._stopping:
                self._start(place)

    def _start(self, place: int) -> None:
        mine, theirs = self._spawn.Pipe()
        process = self._spawn.Process(
            target=run_worker,
            args=(self._listeners[place], self._opening, self._options, theirs),
            daemon=True,
        )
        process.start()
        theirs.close()
        self._workers[place] = _Worker(place, process, mine)

    def _handle_signal(self, sig: signal.Signals) -> None:
        if sig == signal.SIGHUP:
            self._reload()
        elif sig in (signal.SIGTERM, signal.SIGINT):
            self._stop(sig if self._stopping else signal.SIGTERM)

    def _stop(self, sig: signal.Signals) -> None:
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        for worker in self._workers.values():
            if worker.process.is_alive():
                assert worker.process.pid
                os.kill(worker.process.pid, sig)

    def _receive(self, worker: _Worker) -> None:
        """Handles a message from a worker."""
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            return  # the sentinel reports its end
        if kind == "ready":
            self._handle_ready(worker, content)
        elif kind == "failed":
            self._handle_failure(worker, content)
        elif kind == "reload":
            self._reload()
        elif self._answers is not None:
            self._answers[worker.place], changed = content
            self._changed |= dict.fromkeys(changed)
            self._decide()

    def _handle_ready(self, worker: _Worker, description: str) -> None:
        worker.description, self._pause[worker.place] = description, SHORT_S
        threads = self._opening.threads
        say(
            f"worker {worker.place + 1} of {len(self._listeners)}: pid {worker.process.pid}, "
            f"{threads} thread{'s' * (threads > 1)} a call"
        )
        if not self._announced and all(other.description for other in self._workers.values()):
            self._announced = True
            announce(description, self._options, self._listeners[0])

    def _handle_failure(self, worker: _Worker, error: RbserveError) -> None:
        """A worker cannot start: before the server was ready that stops it, later the worker is started again."""
        worker.failure = error
        if not self._announced and self._failure is None:
            self._failure = error
            self._stop(signal.SIGTERM)

    def _handle_end(self, worker: _Worker) -> None:
        """A worker has ended: it is replaced, unless the server stops."""
        worker.process.join()
        worker.pipe.close()
        del self._workers[worker.place]
        assert worker.process.pid
        forget_worker(worker.process.pid, self._folder)
        if self._answers is not None:
            self._answers[worker.place] = f"worker {worker.place + 1} was lost"
            self._decide()
        if self._stopping:
            return
        if self._announced:
            self._schedule_restart(worker)
        else:
            self._failure = RbserveError(
                f"worker {worker.place + 1} was lost while it loaded its models: {worker.end_reason}",
                "is there memory for as many workers? --workers 1 tells more",
            )
            self._stop(signal.SIGTERM)

    def _schedule_restart(self, worker: _Worker) -> None:
        """At once for a worker that had been ready, else after a pause that doubles."""
        pause = 0.0
        if worker.description is None:
            pause = self._pause[worker.place]
            self._pause[worker.place] = min(2 * pause, LONGEST_S)
        when = f"in {pause:g} s" if pause else "now"
        say(
            f"worker {worker.place + 1}, pid {worker.process.pid}, was lost: {worker.end_reason}; "
            f"another takes its place {when}"
        )
        self._restarts[worker.place] = monotonic() + pause

    def _reload(self) -> None:
        """Tells every worker to open the new versions; one reload at a time."""
        if self._stopping:
            self._send(("reloaded", "the server was told to stop"))
        if self._stopping or self._answers is not None:
            return
        self._answers, self._changed = {}, {}
        self._send(("prepare", None))

    def _decide(self) -> None:
        """Once all workers have answered, tells them all to change, or none."""
        assert self._answers is not None
        if len(self._answers) < len(self._listeners) and not self._workers.keys() <= self._answers.keys():
            return
        reason = next((answer for answer in self._answers.values() if answer is not None), None)
        self._answers = None
        self._send(("commit" if reason is None else "abandon", None))
        self._send(("reloaded", reason))
        say_reloaded(reason, self._changed)

    def _send(self, message: tuple[ToWorker, str | None]) -> None:
        for worker in self._workers.values():
            try:
                worker.pipe.send(message)
            except OSError:
                continue  # the sentinel reports its end
