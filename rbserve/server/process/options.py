"""The options of a server process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbserve.server.http.keys import Digests
from rbserve.server.logs import Level


@dataclass(frozen=True)
class ServerOptions:
    """How a server behaves, whatever it serves. Port 0 takes a free one.

    Requests that are not finished `drain_timeout_s` after the server was told to stop are dropped. With `keys`, a
    request needs one of them. `admin` adds a route that reloads. Each worker has at most `max_connections` connections,
    and gives a client `read_timeout_s` to send a request or to read an answer. Pages of `origins` may call the API from
    a browser.
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
