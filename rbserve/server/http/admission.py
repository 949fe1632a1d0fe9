"""Admission: requests that there is no room for are refused where HTTP is parsed, without a task or an application.

The time that refusals cost is taken from requests that could be answered: on a core that is offered twice its
capacity, as many requests are refused as are answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from rbserve.server.http.connections import REFUSED, BoundedProtocol
from rbserve.server.http.requests import Headers


class RawReply(NamedTuple):
    """A reply that does not come from the application: its status, and its headers and body as they are sent.

    `close`: the connection ends with it, as one of its headers says.
    """

    status: int
    tail: bytes
    close: bool = False


Refuse = Callable[[bytes, bytes, Headers], RawReply | None]
"""(method, path, headers) of a request to its refusal; None for a request that may be answered."""


class AdmissionProtocol(BoundedProtocol):
    """A connection that refuses a request from its head where `refuse(method, path, headers)` has a reply to it."""

    def __init__(self, *, refuse: Refuse, **options: Any) -> None:
        super().__init__(**options)
        self._refuse_busy = refuse

    def on_headers_complete(self) -> None:
        """Refuses the request, or takes it."""
        if not self._is_simple():
            super().on_headers_complete()
            return
        refusal = self._refuse_busy(self.parser.get_method(), self.url, self.headers)
        if refusal is None:
            self.accept_head()
            return
        self._in_head = False
        self.cycle = REFUSED
        self.write_raw(refusal)

    def accept_head(self) -> None:
        """The head of a request that is not refused, on a connection without other open requests, is complete."""
        super().on_headers_complete()

    def write_raw(self, reply: RawReply) -> None:
        """Sends a reply behind the headers that every reply has."""
        defaults = [b"%s: %s\r\n" % header for header in self.server_state.default_headers]
        self.transport.write(b"".join((STATUS_LINE[reply.status], *defaults, reply.tail)))
        if reply.close:
            self.transport.close()

    def _is_simple(self) -> bool:
        """Whether no earlier request is open, the client reads its replies, and the connection stays open."""
        cycle: Any = self.cycle
        answered = cycle is None or cycle.response_complete
        plain = self.parser.should_keep_alive() and not self.parser.should_upgrade()
        return answered and plain and not self.flow.write_paused and not self.transport.is_closing()
