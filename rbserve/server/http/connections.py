"""Connections of clients that cannot be trusted: bounded in number, in time and in bytes.

A client has `read_timeout_s` to send a request, head and body, from its first byte on (408, or a plain close where it
sent nothing), and as long to read an answer that does not fit into the socket's buffers. A head has at most HEAD_BYTES
(431). No more than `most` connections are open (503). Every refusal is JSON, and nothing that a client does writes a
line on stderr.

Each connection has one timer, which is armed again when it fires and never for a request: requests pay for two
attributes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httptools
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from rbserve.server.http.replies import error_response
from rbserve.server.http.requests import LATE

HEAD_BYTES = 1 << 16
MAX_DISCARDED = 8
"""A body that is too large is read to its end, up to this many times the limit of a body."""

REFUSED: Any = SimpleNamespace(response_complete=True, message_event=asyncio.Event())
"""Stands for the cycle of a refused request in uvicorn's protocol: a request that is answered already."""


@dataclass(frozen=True)
class Bounds:
    """Bounds on clients: seconds to send a request or to read an answer, connections, and bytes of a body.

    `note(status, code)` is called for every request that is refused before its head is complete.
    """

    read_timeout_s: float = 20.0
    most: int = 1000
    body_bytes: int = 1 << 20
    note: Callable[[int, str], None] = lambda _status, _code: None


UNNOTED = Bounds()


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within `Bounds`."""

    def __init__(self, *, bounds: Bounds = UNNOTED, **options: Any) -> None:
        super().__init__(**options)
        self._bounds = bounds
        self._since: float | None = None  # when the client began to send its unfinished request
        self._received = 0  # bytes of that request
        self._in_head = True
        self._running: RequestResponseCycle | None = None  # the request that the application answers now
        self._ending = False  # nothing more is read, and the connection is closed after the open answers
        self._stuck = False  # at the last look there were bytes that the client had not read
        self._timer: asyncio.TimerHandle | None = None

    # ---- Called by the transport ----

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self._bounds.read_timeout_s, self._check_time)
        if len(self.connections) > self._bounds.most:
            message = f"{self._bounds.most} connections are open already"
            self._refuse(503, "too_many_connections", message, headers={"retry-after": "1"})

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None:  # uvicorn tells the newest request, which may wait behind it
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._ending:
            return
        if self._since is None:
            self._since = self.loop.time()
        self._received += len(data)
        try:
            self.parser.feed_data(data)
        except (
            httptools.HttpParserUpgrade
        ):  # to another protocol: the request is answered, then the connection closed
            self.cycle.keep_alive = False
            self._end()
        except httptools.HttpParserError:
            self._refuse(400, "invalid_http", "this is not an HTTP/1.1 request")
        if self._received > HEAD_BYTES and not self._ending:
            self._check_size()

    def resume_writing(self) -> None:
        self._stuck = False
        super().resume_writing()

    # ---- Called by the parser ----

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._since is None:
            self._since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # headers behind a body are read by nobody
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.transport.is_closing():
            self.cycle = REFUSED
        elif self._received > HEAD_BYTES and self._head_bytes() > HEAD_BYTES:
            self._refuse_head()
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._since, self._received, self._in_head = None, 0, True
        if self.cycle is REFUSED:  # whose body was not read, but had to pass before the next request
            self.on_response_complete()
        else:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        last = not self.pipeline
        super().on_response_complete()
        if last and self._ending:
            self.transport.close()

    # ---- Timeouts and refusals ----

    def _check_time(self) -> None:
        """Ends a late request or a stuck connection, and arms the timer again."""
        wait = self._bounds.read_timeout_s
        if self.transport.is_closing() or self.flow.write_paused:
            if self._stuck:
                self.transport.abort()
                return
            self._stuck = True
        elif self._since is not None and not self._ending:
            wait = self._since + wait - self.loop.time()
            if self._is_held_up():
                self._since, wait = self.loop.time(), self._bounds.read_timeout_s
            elif wait <= 0:
                self._time_out()
                wait = self._bounds.read_timeout_s
        self._timer = self.loop.call_later(wait, self._check_time)

    def _is_held_up(self) -> bool:
        """Whether the request is late through no fault of the client: an earlier answer is still open."""
        return self.flow.read_paused or bool(self.pipeline) or (self._is_busy() and self._in_head)

    def _is_busy(self) -> bool:
        """Whether the newest request is not answered yet."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _time_out(self) -> None:
        """The client was too slow: 408 (from the handler where a body is missing), or a plain close."""
        if not self._in_head and self._is_busy():
            cycle: Any = self.cycle
            cycle.scope[LATE] = True
            cycle.keep_alive = cycle.more_body = False
            cycle.message_event.set()
            self._end()
        elif self._in_head and self._received:
            seconds = f"{self._bounds.read_timeout_s:g} s"
            self._refuse(408, "request_timeout", f"the request did not arrive within {seconds}")
        else:
            self.transport.close()

    def _check_size(self) -> None:
        if self._in_head:
            self._refuse_head()
        elif self._received > HEAD_BYTES + MAX_DISCARDED * self._bounds.body_bytes:
            self.transport.close()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def _refuse_head(self) -> None:
        self._refuse(431, "head_too_large", f"the request's head is larger than {HEAD_BYTES} bytes")

    def _refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Refuses and closes; where earlier answers are still open, only closes after them."""
        self._bounds.note(status, code)
        if self._is_busy():
            self._end()
            return
        self.cycle = REFUSED
        path = getattr(self, "url", b"").decode("latin-1").partition("?")[0]
        closing = {**(headers or {}), "connection": "close"}
        self.write_response(error_response(path, status, code, message, headers=closing))
        self._end()
        self.transport.close()

    def write_response(self, response: Response) -> None:
        """Writes an answer that does not come from the application."""
        head = [STATUS_LINE[response.status_code]]
        for name, value in (*self.server_state.default_headers, *response.raw_headers):
            head += name, b": ", value, b"\r\n"
        self.transport.write(b"".join((*head, b"\r\n", bytes(response.body))))

    def _end(self) -> None:
        self._ending = True
        if not self.transport.is_closing():
            self.flow.pause_reading()
