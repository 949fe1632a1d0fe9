"""A worker: one process of a server of several, and its messages to and from the supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from multiprocessing.connection import Connection
from typing import Any, Literal

from rbserve.core.errors import RbserveError
from rbserve.server.api.options import ServerOptions
from rbserve.server.observe.telemetry import Telemetry
from rbserve.server.process.draining import DrainingServer
from rbserve.server.process.sockets import describe
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import Opening, Reloader

FromWorker = Literal["ready", "failed", "reload", "prepared"]
ToWorker = Literal["prepare", "commit", "abandon", "reloaded"]


def run_worker(listener: socket.socket, opening: Opening, options: ServerOptions, pipe: Connection) -> None:
    """Loads the models, serves them on a socket, and follows the supervisor's messages until it is told to stop."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor reloads all workers together
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while models load
    supervisor = SupervisorLink(pipe)
    try:
        models = Models(opening.open(Telemetry()))
    except RbserveError as error:
        supervisor.send("failed", error)
        return
    server = DrainingServer(
        models, opening, options, supervisor.reload,
        on_ready=lambda: supervisor.attend(Reloader(models, opening), describe(models)),
    )  # fmt: skip
    server.run(sockets=[listener])


class SupervisorLink:
    """A worker's end of the pipe to the supervisor."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()
        self._reloads: list[asyncio.Future[str | None]] = []  # that wait for their outcome

    def send(self, kind: FromWorker, content: Any = None) -> None:
        """Sends a message to the supervisor, from any thread."""
        with self._lock:
            self._pipe.send((kind, content))

    def attend(self, reloader: Reloader, description: str) -> None:
        """Reports that the worker is ready, and follows messages from now on. The worker ends with its supervisor."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(reloader,), name="supervised", daemon=True).start()
        self.send("ready", description)

    async def reload(self) -> str | None:
        """Asks the supervisor to let all workers reload; returns the reason where they did not."""
        outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._reloads.append(outcome)
        self.send("reload")
        return await outcome

    def _listen(self, reloader: Reloader) -> None:
        prepared = False
        while True:
            try:
                kind, content = self._pipe.recv()
            except (EOFError, OSError):
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if kind == "prepare":
                reason = reloader.prepare()
                prepared = reason is None
                self.send("prepared", (reason, reloader.changed))
            elif kind == "commit":
                self._loop.call_soon_threadsafe(reloader.commit)
            elif kind == "abandon":
                if prepared:
                    reloader.abandon()
            else:
                self._loop.call_soon_threadsafe(self._finish_reloads, content)

    def _finish_reloads(self, reason: str | None) -> None:
        reloads, self._reloads = self._reloads, []
        for reload in reloads:
            if not reload.done():
                reload.set_result(reason)
