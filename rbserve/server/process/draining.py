"""A server that loses no request when it is told to stop, and what it says of itself on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from time import sleep
from types import FrameType
from typing import Any

import uvicorn

from rbserve.progress import say
from rbserve.server.api.options import ServerOptions
from rbserve.server.http.connections import BoundedProtocol, Bounds
from rbserve.server.http.direct import DirectProtocol
from rbserve.server.observe.logs import Log, uvicorn_logging
from rbserve.server.process.sockets import BACKLOG, allowed_connections, at_terminal
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import Opening

# Longer than the 60 s for which common load balancers keep an idle connection: the balancer, not the server,
# is then the one to close it, and never sends a request into a closing connection.
KEEP_ALIVE_S = 75
LINGER_S = 0.25
"""Seconds after closing the port for which connections are still kept: other workers close theirs in the meantime, and
no client should reconnect to a worker that is about to close."""
GRACE_S = 0.5
"""Seconds after that in which a kept connection may bring one last request; then idle connections are closed."""
LAST_S = 1.0
"""Seconds before the end of the drain at which unfinished requests get their 503."""


class DrainingServer(uvicorn.Server):
    """uvicorn that reports when it is ready, is unready once it is told to stop, and answers every accepted request."""

    def __init__(
        self,
        models: Models,
        opening: Opening,
        options: ServerOptions,
        reload: Callable[[], Awaitable[str | None]],
        on_ready: Callable[[], None],
        on_hangup: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`on_hangup` is called on SIGHUP; without it SIGHUP does nothing."""
        log = None if options.log == "errors" else Log(items=options.log == "items")
        app = build_app(
            models,
            opening.limits,
            options.keys,
            reload=reload if options.admin else None,
            log=log,
            origins=options.origins,
        )
        bounds = Bounds(
            options.read_timeout_s,
            allowed_connections(options.max_connections),
            opening.limits.max_body_bytes,
            app.state.note,
        )
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=partial(  # type: ignore[arg-type]  # its class, or what makes one
                    DirectProtocol, answer=app.state.answer, refuse=app.state.refuse, bounds=bounds
                ),
                ws="none",
                lifespan="on",
                access_log=False,
                log_config=uvicorn_logging(options.log),
                log_level="warning",
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self._drain_s = options.drain_timeout_s
        self._models, self._on_ready, self._on_hangup = models, on_ready, on_hangup
        self._tasks: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._listeners = [listener.dup() for listener in sockets or ()]
        await super().startup(sockets)
        if (
            self._on_hangup is not None and not at_terminal()
        ):  # where SIGHUP means that the terminal was closed
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        gc.collect()
        gc.freeze()  # models and catalogues stay: no later collection looks through them
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes the port; connections end with their next answer, then idle ones; at the end all of them."""
        end = asyncio.get_running_loop().time() + self._drain_s
        for server in (*self.servers, *(sockets or ())):
            server.close()
        await self._accept_backlog()
        await self._wait_while_connected(LINGER_S)
        self._models.closing = True
        await self._wait_while_connected(GRACE_S)
        for connection in self._connections():
            connection.shutdown()
        await self._wait_while_connected(end - LAST_S - asyncio.get_running_loop().time())
        await self._end_connections()
        await self.lifespan.shutdown()

    async def _end_connections(self) -> None:
        """Answers requests that still wait with 503, and ends every connection."""
        for connection in self._connections():
            if connection.flow.write_paused:  # its client does not read the answer it has
                connection.transport.abort()
        for task in self.server_state.tasks:
            task.cancel()
        await self._wait_while_connected(LAST_S / 2)
        for connection in self._connections():
            connection.transport.abort()

    def _connections(self) -> list[BoundedProtocol]:
        connections: Any = self.server_state.connections
        return list(connections)

    async def _accept_backlog(self) -> None:
        """Accepts the connections that the kernel has made already: closing their socket would reset them."""
        accepted: list[socket.socket] = []
        for listener in self._listeners:
            listener.setblocking(False)
            with listener, contextlib.suppress(OSError):  # until there is none left
                while True:
                    accepted.append(listener.accept()[0])
        for connection in accepted:
            connection.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = kind(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def _wait_while_connected(self, seconds: float) -> None:
        """Waits so many seconds, or until neither a connection nor a request is left."""
        loop, state = asyncio.get_running_loop(), self.server_state
        end = loop.time() + seconds
        while (state.connections or state.tasks) and not self.force_exit and loop.time() < end:
            await asyncio.sleep(0.01)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to drain; a second Ctrl-C stops at once.

        uvicorn's own handler would also raise the signal again after the shutdown, which turns a clean stop
        into exit code 143.
        """
        del frame
        if not self._models.draining:
            _exit_after(self._drain_s)
        self._models.draining = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    def _hang_up(self) -> None:
        if self._on_hangup is not None and not self.should_exit:
            task = asyncio.ensure_future(self._on_hangup())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def _exit_after(seconds: float) -> None:
    """Ends this process after `seconds`, whatever still runs: a call of a model, or new versions being loaded."""

    def leave() -> None:
        sleep(seconds)
        say(f"stopped {seconds:g} s after it was told to, in the middle of a call")
        os._exit(0)

    threading.Thread(target=leave, name="drain", daemon=True).start()
