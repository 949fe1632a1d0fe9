"""`rbserve serve`: takes the port, loads and warms the model, answers until told to stop.

The port is taken before the model is loaded: a port in use is known at once, and requests that come while the
model loads wait instead of failing.
"""

from __future__ import annotations

import errno
import ipaddress
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NamedTuple

import uvicorn

from rbserve.core.artifact import Artifact
from rbserve.core.errors import RbserveError, UsageError
from rbserve.runtime import artifact_tokenizer, open_ranker, open_scorer
from rbserve.server.app import build_app
from rbserve.server.keys import Digests
from rbserve.server.schema import Limits, Measured
from rbserve.server.service import Ranking, Scoring, Service
from rbserve.server.telemetry import Telemetry

BACKLOG = 2048
# Longer than the 60 s for which common load balancers keep an idle connection: the balancer, not the server,
# is then the one to close it, and never sends a request into a closing connection.
KEEP_ALIVE_S = 75


class Chosen(NamedTuple):
    """An artefact, which of its variants is served, and what was measured of it."""

    artifact: Artifact
    variant: str
    measured: Sequence[Measured] = ()


def serve(
    chosen: Sequence[Chosen],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int = 1,
    user_cache: int = 0,
    limits: Limits | None = None,
    keys: Digests = frozenset(),
    drain_timeout_s: int = 30,
) -> None:
    """Serves models until SIGTERM or SIGINT, then finishes the requests in flight.

    A language model remembers its last users, in `user_cache` bytes each. What is not finished after
    `drain_timeout_s` is dropped. With `keys` only who has one of them is answered. Port 0 takes a free one. Says on
    stderr when it is ready. Raises RbserveError when the port cannot be had, ArtifactError or UsageError when a
    variant cannot be scored with.
    """
    limits = limits or Limits()
    names = [one.artifact.name for one in chosen]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UsageError(
            f"two models have the name {twice[0]}", "requests name them: serve one of them elsewhere"
        )
    with listen(host, port) as listener:
        telemetry = Telemetry()
        services = [open_service(one.artifact, one.variant, threads, user_cache, telemetry) for one in chosen]
        for service, one in zip(services, chosen, strict=True):
            service.measured = one.measured
            service.warm_up(limits)
        config = uvicorn.Config(
            build_app(services, limits, keys),
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=drain_timeout_s,
        )
        DrainingServer(config, services, host, bool(keys)).run(sockets=[listener])


def open_service(
    artifact: Artifact, variant: str, threads: int, user_cache: int = 0, telemetry: Telemetry | None = None
) -> Service[Any, Any]:
    """Loads a variant and the item table it belongs to."""
    work: Scoring | Ranking
    if artifact.manifest.task == "ctr":
        work = Scoring(open_scorer(artifact, variant, threads, user_cache), artifact.items)
        try:
            work.tokenizer = artifact_tokenizer(artifact)
        except UsageError as error:
            work.no_texts = error.message
    else:
        work = Ranking(open_ranker(artifact, variant, threads))
    dataset = artifact.manifest.dataset
    return Service(work, artifact.items, artifact.name, variant, dataset, telemetry or Telemetry())


class DrainingServer(uvicorn.Server):
    """uvicorn that announces itself when it is ready, and is unready from the moment it is told to stop."""

    def __init__(
        self, config: uvicorn.Config, services: Sequence[Service[Any, Any]], host: str, keyed: bool
    ) -> None:
        super().__init__(config)
        self._services, self._host, self._keyed = services, host, keyed

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets
        what = ", ".join(f"{one.model} {one.variant} ({one.dataset.name})" for one in self._services)
        _say(f"serving {what} on {_url(self._host, sockets[0].getsockname()[1])}")
        if not _is_loopback(sockets[0].getsockname()[0]):
            how = (
                "keys go over the wire as they are, without TLS"
                if self._keyed
                else "there is no authentication"
            )
            _say(f"warning: reachable from other machines; {how}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to drain; a second Ctrl-C stops at once.

        uvicorn's own handler would also raise the signal again after the shutdown, which turns a clean stop
        into exit code 143.
        """
        del frame
        for service in self._services:
            service.draining = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; an RbserveError that names the cause when there is none to be had."""
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


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
