"""Requests that are answered where HTTP is parsed: no asyncio task, no ASGI application.

A bare ASGI application that parses a body and answers takes longer than a small model. A plain request, with its body
declared by content-length, is therefore given to `answer` as soon as its body is there. Where that has no answer,
whatever the reason, the application gets the request as if it had just arrived: every error has one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from rbserve.server.http.admission import AdmissionProtocol, RawReply
from rbserve.server.http.connections import HEAD_BYTES, BoundedProtocol
from rbserve.server.http.requests import Headers


class Pending(NamedTuple):
    """A reply that takes a while: `finish(future, gone)` makes it once `future` is done or cancelled.

    `gone`: the client has left, and the reply is not sent.
    """

    future: asyncio.Future[Any]
    finish: Callable[[asyncio.Future[Any], bool], RawReply]


class DirectAnswer(Protocol):
    """What answers requests without the application."""

    def takes(self, path: bytes, headers: Headers) -> bool:
        """Whether requests with this head may be answered so."""
        ...

    def __call__(self, path: bytes, headers: Headers, body: bytes) -> RawReply | Pending | None:
        """The reply to a request; None for the application to answer it."""
        ...


class PendingCycle:
    """Stands in uvicorn's protocol for the cycle of a request whose reply is pending."""

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.response_complete = self.disconnected = False
        self.keep_alive = True
        self.message_event = self  # of which uvicorn calls `set` when the client has left

    def set(self) -> None:
        """The client has left: nobody waits for the answer."""
        if self.disconnected:
            self.future.cancel()


class DirectProtocol(AdmissionProtocol):
    """A connection that answers a plain POST by `answer` where that takes it."""

    def __init__(self, *, answer: DirectAnswer, **options: Any) -> None:
        super().__init__(**options)
        self._answer = answer
        self._pieces: list[bytes] | None = None  # of the body that arrives now, where `answer` is to have it

    def accept_head(self) -> None:
        """Begins to collect the body of a request that `answer` takes; any other is the application's."""
        if self._is_plain() and self._answer.takes(self.url, self.headers):
            self._pieces, self._in_head = [], False
        else:
            super().accept_head()

    def _is_plain(self) -> bool:
        """Whether the request is a POST whose body has a length within the limits, and needs no other treatment."""
        if self.expect_100_continue or self.parser.get_method() != b"POST" or self._received > HEAD_BYTES:
            return False
        length = -1
        for name, value in self.headers:
            if name == b"content-length" and value.isdigit():
                length = int(value)
            elif name in (b"transfer-encoding", b"content-encoding"):
                return False
        return 0 < length <= self._bounds.body_bytes

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if self._pieces is None:
            super().on_body(body)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._pieces is None:
            super().on_message_complete()
            return
        pieces, self._pieces = self._pieces, None
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        reply = self._answer(self.url, self.headers, body)
        if reply is None:
            self._hand_over(body)
            super().on_message_complete()
            return
        self._since, self._received, self._in_head = None, 0, True
        if isinstance(reply, Pending):
            self._wait_for(reply)
        else:
            self.write_raw(reply)
            self.on_response_complete()

    def _hand_over(self, body: bytes) -> None:
        """Gives the request to the application, as if its head and this much of its body had just arrived."""
        BoundedProtocol.on_headers_complete(self)
        super().on_body(body)

    def _wait_for(self, pending: Pending) -> None:
        cycle: Any = PendingCycle(pending.future)
        tasks: set[Any] = self.tasks  # which the end of the drain cancels
        self.cycle = self._running = cycle
        tasks.add(pending.future)

        def end_wait(future: asyncio.Future[Any]) -> None:
            tasks.discard(future)
            reply = pending.finish(future, cycle.disconnected)
            cycle.response_complete = True
            if not self.transport.is_closing():
                self.write_raw(reply)
                self.on_response_complete()

        pending.future.add_done_callback(end_wait)

    def _time_out(self) -> None:
        self._give_up_body()
        super()._time_out()

    def shutdown(self) -> None:
        """Closes an idle connection; a request whose body is still to come is the application's from now on."""
        self._give_up_body()
        super().shutdown()

    def _give_up_body(self) -> None:
        if self._pieces is not None:
            pieces, self._pieces = self._pieces, None
            self._hand_over(b"".join(pieces))
