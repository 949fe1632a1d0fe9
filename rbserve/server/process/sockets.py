"""The port: taken before anything is loaded, announced when the server is ready; and the limit on connections."""

from __future__ import annotations

import errno
import ipaddress
import os
import resource
import socket
from collections.abc import Collection

from rbserve.core.errors import RbserveError, UsageError
from rbserve.progress import say
from rbserve.server.api.options import ServerOptions
from rbserve.server.scoring.models import Models

BACKLOG = 2048
OTHER_FILES = 100
"""Open files of a server beside its connections: models, libraries, sockets."""


def listen(host: str, port: int, shared: bool = False) -> socket.socket:
    """A listening TCP socket. Raises RbserveError with the cause where there is none to be had.

    `shared`: other `shared` sockets may listen on the same port, and the kernel deals connections out among them.
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


def allowed_connections(most: int) -> int:
    """How many connections, `most` at most, the limit on open files has room for; raises that limit where it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= most + OTHER_FILES:
        return most
    wanted = most + OTHER_FILES if hard == resource.RLIM_INFINITY else min(hard, most + OTHER_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < most + OTHER_FILES:
        most = max(1, wanted - OTHER_FILES)
        say(f"warning: at most {most} connections: the limit on open files is {wanted} (ulimit -n)")
    return most


def is_loopback(address: str) -> bool:
    """Whether an IPv4 or IPv6 address, with or without a zone (`fe80::1%eth0`), is of this machine alone.

    Raises ValueError for a name.
    """
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def announce(description: str, options: ServerOptions, listener: socket.socket) -> None:
    """Says on stderr that the server is ready, and warns where other machines can reach it."""
    address, port = listener.getsockname()[:2]
    say(f"serving {description} on {_url(options.host, port)}")
    if not is_loopback(address):
        exposure = (
            "keys go over the wire as they are, without TLS" if options.keys else "there is no authentication"
        )
        say(f"warning: reachable from other machines; {exposure}")


def describe(models: Models) -> str:
    """The models, variants and data sets that are served, in a line."""
    return ", ".join(f"{service.model} {service.variant} ({service.dataset.name})" for service in models)


def say_reloaded(reason: str | None, changed: Collection[str]) -> None:
    """Says the outcome of a reload: why it was refused, or which models have new versions."""
    if reason is not None:
        say(f"not reloaded, the models are served as before: {reason}")
    elif changed:
        say(f"new versions are served: {', '.join(changed)}")
    else:
        say("nothing new: the models are served as before")


def at_terminal() -> bool:
    """Whether the process runs at a terminal, and ends with it."""
    try:
        return os.isatty(0)
    except OSError:
        return False
