"""Several workers behind one port: processes that share nothing else, and one that watches them.

Each worker has a listening socket of its own on the port (SO_REUSEPORT: the kernel deals connections out), but the
sockets belong to the supervisor. When a worker dies, what has connected waits in its socket for the one that takes its
place; only what it was answering is lost.

A reload has two steps, so that all workers change or none does: each opens the new versions and says whether they
may be served; only when all may are they told to change.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from time import monotonic
from types import FrameType
from typing import Any, Literal

from rbserve.core.errors import RbserveError
from rbserve.server.draining import (
    DrainingServer,
    ServerOptions,
    announce,
    at_terminal,
    describe,
    listen,
    say,
    say_reloaded,
)
from rbserve.server.models import Models
from rbserve.server.reload import Opening, Reloader
from rbserve.server.telemetry import SHARED, Telemetry, forget_worker

SHORT_S, LONGEST_S = 1.0, 30.0
"""A worker that is lost before it was ready is started again after so long, each time twice as long."""

Said = Literal["ready", "failed", "reload", "prepared"]
Told = Literal["prepare", "commit", "abandon", "reloaded"]


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
        listeners = [stack.enter_context(one) for one in _listen(options)]
        Supervisor(opening, options, listeners, folder).run()


def _listen(options: ServerOptions) -> list[socket.socket]:
    """A socket for each worker on one port. That nobody else has it is found out by asking for it alone first."""
    with listen(options.host, options.port) as alone:
        port = alone.getsockname()[1]
    return [listen(options.host, port, shared=True) for _ in range(options.workers)]


@dataclass
class _Worker:
    """One of the places, and the process that has it now."""

    place: int
    process: SpawnProcess
    pipe: Connection
    what: str | None = None
    """What it serves, once it is ready."""
    failure: RbserveError | None = None

    @property
    def fate(self) -> str:
        """Why it ended."""
        if self.failure is not None:
            return self.failure.message
        code = self.process.exitcode
        return f"exit code {code}" if code is None or code >= 0 else f"signal {signal.Signals(-code).name}"


class Supervisor:
    """Starts workers, replaces those that are lost, has them reload together, and stops them."""

    def __init__(
        self, opening: Opening, options: ServerOptions, listeners: Sequence[socket.socket], folder: str
    ) -> None:
        self._opening, self._options, self._listeners, self._folder = opening, options, listeners, folder
        self._spawn = multiprocessing.get_context("spawn")
        self._workers: dict[int, _Worker] = {}
        self._again: dict[int, float] = {}
        self._pause = dict.fromkeys(range(len(listeners)), SHORT_S)
        self._answers: dict[int, str | None] | None = None  # of a reload, by place
        self._changed: dict[str, None] = {}  # models of which a worker found a new version, in their order
        self._failure: RbserveError | None = None
        self._announced = self._stopping = False
        self._woken, self._wake = socket.socketpair()

    def run(self) -> None:
        """Returns when all workers have ended. Raises what a worker says that cannot start."""
        for place in range(len(self._listeners)):
            self._start(place)
        self._wake.setblocking(False)
        before = signal.set_wakeup_fd(self._wake.fileno())
        hang_up = signal.SIG_DFL if at_terminal() else self._on_signal
        handlers = {
            signal.SIGTERM: self._on_signal, signal.SIGINT: self._on_signal, signal.SIGHUP: hang_up,
        }  # fmt: skip
        old = {one: signal.signal(one, handler) for one, handler in handlers.items()}
        try:
            while self._workers or (self._again and not self._stopping):
                self._once()
        finally:
            signal.set_wakeup_fd(before)
            for one, handler in old.items():
                signal.signal(one, handler)
            for worker in self._workers.values():
                worker.process.kill()
            self._woken.close()
            self._wake.close()
        if self._failure is not None:
            raise self._failure

    def _on_signal(self, sig: int, frame: FrameType | None) -> None:
        """Nothing: the number comes through the socket, when there is time for it."""
        del sig, frame

    def _once(self) -> None:
        """Waits for what happens next, and sees to it."""
        by_pipe = {one.pipe: one for one in self._workers.values()}
        by_end = {one.process.sentinel: one for one in self._workers.values()}
        due = min(self._again.values(), default=None)
        ready = wait([self._woken, *by_pipe, *by_end], None if due is None else max(0.0, due - monotonic()))
        for one in ready:
            if one is self._woken:
                for number in self._woken.recv(64):
                    self._signalled(signal.Signals(number))
            elif one in by_pipe:
                self._listen_to(by_pipe[one])
        for one in ready:
            if one in by_end:
                self._ended(by_end[one])
        for place in [place for place, at in self._again.items() if at <= monotonic()]:
            del self._again[place]
            if not self._stopping:
                self._start(place)

    def _start(self, place: int) -> None:
        mine, theirs = self._spawn.Pipe()
        process = self._spawn.Process(
            target=work, args=(self._listeners[place], self._opening, self._options, theirs), daemon=True
        )
        process.start()
        theirs.close()
        self._workers[place] = _Worker(place, process, mine)

    def _signalled(self, sig: signal.Signals) -> None:
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

    def _listen_to(self, worker: _Worker) -> None:
        """What a worker says."""
        try:
            said, what = worker.pipe.recv()
        except (EOFError, OSError):
            return  # its end is told by its sentinel
        if said == "ready":
            self._ready(worker, what)
        elif said == "failed":
            self._failed(worker, what)
        elif said == "reload":
            self._reload()
        elif self._answers is not None:
            self._answers[worker.place], changed = what
            self._changed |= dict.fromkeys(changed)
            self._decide()

    def _ready(self, worker: _Worker, what: str) -> None:
        worker.what, self._pause[worker.place] = what, SHORT_S
        threads = self._opening.threads
        say(
            f"worker {worker.place + 1} of {len(self._listeners)}: pid {worker.process.pid}, "
            f"{threads} thread{'s' * (threads > 1)} a call"
        )
        if not self._announced and all(one.what for one in self._workers.values()):
            self._announced = True
            announce(what, self._options, self._listeners[0])

    def _failed(self, worker: _Worker, error: RbserveError) -> None:
        """A worker cannot start: at first that is everybody's end, later it tries again."""
        worker.failure = error
        if not self._announced and self._failure is None:
            self._failure = error
            self._stop(signal.SIGTERM)

    def _ended(self, worker: _Worker) -> None:
        """A worker is no more."""
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
        if not self._announced:
            self._failure = RbserveError(
                f"worker {worker.place + 1} was lost while it loaded its models: {worker.fate}",
                "is there memory for as many workers? --workers 1 tells more",
            )
            self._stop(signal.SIGTERM)
            return
        pause = 0.0
        if worker.what is None:
            pause = self._pause[worker.place]
            self._pause[worker.place] = min(2 * pause, LONGEST_S)
        when = f"in {pause:g} s" if pause else "now"
        say(f"worker {worker.place + 1}, pid {worker.process.pid}, was lost: {worker.fate}; "
            f"another takes its place {when}")  # fmt: skip
        self._again[worker.place] = monotonic() + pause

    def _reload(self) -> None:
        """Has every worker open the new versions; one reload at a time."""
        if self._stopping:
            self._tell(("reloaded", "the server was told to stop"))
        if self._stopping or self._answers is not None:
            return
        self._answers, self._changed = {}, {}
        self._tell(("prepare", None))

    def _decide(self) -> None:
        """When all have answered: all change, or none."""
        assert self._answers is not None
        if len(self._answers) < len(self._listeners) and not self._workers.keys() <= self._answers.keys():
            return
        reason = next((one for one in self._answers.values() if one is not None), None)
        self._answers = None
        self._tell(("commit" if reason is None else "abandon", None))
        self._tell(("reloaded", reason))
        say_reloaded(reason, self._changed)

    def _tell(self, what: tuple[Told, str | None]) -> None:
        for worker in self._workers.values():
            try:
                worker.pipe.send(what)
            except OSError:
                continue  # its end is told by its sentinel


# ---- In a worker ----


def work(listener: socket.socket, opening: Opening, options: ServerOptions, pipe: Connection) -> None:
    """A worker's whole life."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's affair
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while models load
    supervised = _Supervised(pipe)
    try:
        models = Models(opening.open(Telemetry()))
    except RbserveError as error:
        supervised.say("failed", error)
        return
    server = DrainingServer(
        models, opening, options, supervised.reload,
        on_ready=lambda: supervised.attend(Reloader(models, opening), describe(models)),
    )  # fmt: skip
    server.run(sockets=[listener])


class _Supervised:
    """A worker's end of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()
        self._asked: list[asyncio.Future[str | None]] = []

    def say(self, said: Said, what: Any = None) -> None:
        """Tells the supervisor something, from any thread."""
        with self._lock:
            self._pipe.send((said, what))

    def attend(self, reloader: Reloader, what: str) -> None:
        """Listens to the supervisor from now on, and is ready. Without a supervisor the worker ends."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(reloader,), name="supervised", daemon=True).start()
        self.say("ready", what)

    async def reload(self) -> str | None:
        """Has all workers reload; why they did not, if so."""
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self.say("reload")
        return await answer

    def _listen(self, reloader: Reloader) -> None:
        prepared = False
        while True:
            try:
                told, what = self._pipe.recv()
            except (EOFError, OSError):
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if told == "prepare":
                reason = reloader.prepare()
                prepared = reason is None
                self.say("prepared", (reason, reloader.changed))
            elif told == "commit":
                self._loop.call_soon_threadsafe(reloader.commit)
            elif told == "abandon":
                if prepared:
                    reloader.abandon()
            else:
                self._loop.call_soon_threadsafe(self._answer, what)

    def _answer(self, reason: str | None) -> None:
        asked, self._asked = self._asked, []
        for one in asked:
            if not one.done():
                one.set_result(reason)
