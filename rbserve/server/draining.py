"""A server that loses no request when it is told to stop, and what it says of itself on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from time import sleep
from types import FrameType
from typing import Any

import uvicorn

from rbserve.core.errors import RbserveError, UsageError
from rbserve.server.app import build_app
from rbserve.server.connections import BoundedProtocol, Bounds
from rbserve.server.keys import Digests
from rbserve.server.logs import Level, Log, uvicorn_logging
from rbserve.server.models import Models
from rbserve.server.reload import Opening
from rbserve.server.shedding import Shedding

BACKLOG = 2048
# Longer than the 60 s for which common load balancers keep an idle connection: the balancer, not the server,
# is then the one to close it, and never sends a request into a closing connection.
KEEP_ALIVE_S = 75
UNHEARD_S = 0.25
"""So long after the port is given up connections are still kept: other workers give theirs up in the meantime, and
nobody should be made to connect to one that is about to."""
GRACE_S = 0.5
"""For so long after that, kept connections may bring a request, which ends them; then those that are idle end."""
LAST_S = 1.0
"""So long before the end of the drain, requests that are not finished are told so."""
OTHER_FILES = 100
"""Open files of a server beside its connections: models, libraries, sockets."""


@dataclass(frozen=True)
class ServerOptions:
    """How a server behaves, whatever it serves. Port 0 takes a free one.

    What is not finished `drain_timeout_s` after it was told to stop is dropped. With `keys` only who has one of them
    is answered. `admin`: there is a route that reloads. Each worker has at most `max_connections` connections, and
    gives a client `read_timeout_s` to send a request or to read an answer. Pages of `origins` may ask from a browser.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    keys: Digests = frozenset()
    admin: bool = False
    log: Level = "errors"
    drain_timeout_s: float = 30.0
    read_timeout_s: float = 20.0
    max_connections: int = 1000
    origins: Sequence[str] = ()


class DrainingServer(uvicorn.Server):
    """uvicorn that tells when it is ready, is unready from the moment it is told to stop, and loses no request then."""

    def __init__(
        self,
        models: Models,
        opening: Opening,
        options: ServerOptions,
        reload: Callable[[], Awaitable[str | None]],
        on_ready: Callable[[], None],
        on_hangup: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`on_hangup` is what SIGHUP does; without it, nothing."""
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
            _allowed_connections(options.max_connections),
            opening.limits.max_body_bytes,
            app.state.note,
        )
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=partial(Shedding, refuse=app.state.refuse, bounds=bounds),  # type: ignore[arg-type]  # its class, or what makes one
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
        self._kept = [one.dup() for one in sockets or ()]
        await super().startup(sockets)
        if self._on_hangup is not None and not at_terminal():  # whose end it says otherwise
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Gives up the port; connections end with their next answer, then those that are idle; at the end all do."""
        end = asyncio.get_running_loop().time() + self._drain_s
        for server in (*self.servers, *(sockets or ())):
            server.close()
        await self._accept_the_last()
        await self._while_connected(UNHEARD_S)
        self._models.closing = True
        await self._while_connected(GRACE_S)
        for connection in self._connections():
            connection.shutdown()
        await self._while_connected(end - LAST_S - asyncio.get_running_loop().time())
        await self._give_up()
        await self.lifespan.shutdown()

    async def _give_up(self) -> None:
        """Tells those who still wait that the server stops, and ends every connection."""
        for connection in self._connections():
            if connection.flow.write_paused:  # its client does not read what it was told already
                connection.transport.abort()
        for task in self.server_state.tasks:
            task.cancel()
        await self._while_connected(LAST_S / 2)
        for connection in self._connections():
            connection.transport.abort()

    def _connections(self) -> list[BoundedProtocol]:
        kept: Any = self.server_state.connections
        return list(kept)

    async def _accept_the_last(self) -> None:
        """Takes the connections that the kernel has made already: closing their socket would reset them."""
        made: list[socket.socket] = []
        for listener in self._kept:
            listener.setblocking(False)
            with listener, contextlib.suppress(OSError):  # there is none left
                while True:
                    made.append(listener.accept()[0])
        for one in made:
            one.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, one)

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = kind(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def _while_connected(self, seconds: float) -> None:
        """So long, or until neither a connection nor a request is left."""
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
    """Ends this process so long from now, whatever still runs: a call of a model, or new versions being loaded."""

    def leave() -> None:
        sleep(seconds)
        say(f"stopped {seconds:g} s after it was told to, in the middle of a call")
        os._exit(0)

    threading.Thread(target=leave, name="drain", daemon=True).start()


def _allowed_connections(most: int) -> int:
    """How many connections the limit on open files has room for, which is raised where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= most + OTHER_FILES:
        return most
    wanted = most + OTHER_FILES if hard == resource.RLIM_INFINITY else min(hard, most + OTHER_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < most + OTHER_FILES:
        most = max(1, wanted - OTHER_FILES)
        say(f"warning: at most {most} connections: the limit on open files is {wanted} (ulimit -n)")
    return most


def listen(host: str, port: int, shared: bool = False) -> socket.socket:
    """A listening TCP socket; an RbserveError that names the cause when there is none to be had.

    `shared`: others may listen on the same port that are `shared` as well, and the kernel deals connections out.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port} is not between 0 and 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise RbserveError(f"cannot listen on {host}: {error.args[-1]}", "--host 127.0.0.1") from None
    listener = socket.socket(family, kind, protocol)
    try:
        # A restart must not wait for the old server's connections to time out; a live listener still refuses.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from None
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> RbserveError:
    if error.errno == errno.EADDRINUSE:
        return RbserveError(
            f"port {port} is in use", "--port N (0 takes a free one), or stop the other process"
        )
    if error.errno == errno.EACCES:
        return RbserveError(f"not allowed to listen on port {port}", "--port N with N above 1023")
    return RbserveError(f"cannot listen on {host} port {port}: {error.strerror}", "--host 127.0.0.1")


def describe(models: Models) -> str:
    """What is served, in a line."""
    return ", ".join(f"{one.model} {one.variant} ({one.dataset.name})" for one in models)


def announce(what: str, options: ServerOptions, listener: socket.socket) -> None:
    """Says that the server is ready, and who can reach it."""
    address, port = listener.getsockname()[:2]
    say(f"serving {what} on {_url(options.host, port)}")
    if not is_loopback(address):
        how = (
            "keys go over the wire as they are, without TLS" if options.keys else "there is no authentication"
        )
        say(f"warning: reachable from other machines; {how}")


def say_reloaded(reason: str | None, changed: Collection[str]) -> None:
    """Says what came of a reload: why it was refused, or of which models there were new versions."""
    if reason is not None:
        say(f"not reloaded, the models are served as before: {reason}")
    elif changed:
        say(f"new versions are served: {', '.join(changed)}")
    else:
        say("nothing new: the models are served as before")


def at_terminal() -> bool:
    """Whether the process is one that ends with its terminal."""
    try:
        return os.isatty(0)
    except OSError:
        return False


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(address: str) -> bool:
    """Whether an IPv4 or IPv6 address, with or without a zone (`fe80::1%eth0`), is of this machine alone."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def say(message: str) -> None:
    """A line on stderr."""
    print(message, file=sys.stderr, flush=True)
