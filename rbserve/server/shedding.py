"""Requests that can only be refused, refused where HTTP is parsed: no task, no body, no application.

What refusals cost is taken from those that could be answered. On one core that is offered twice what it can do, as many
are refused as are answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from rbserve.server.asking import Headers

Refuse = Callable[[bytes, bytes, Headers], "Refusal | None"]
"""(method, path, headers) of a request to the refusal that it can only have; None of one that may be answered."""
Refusal = tuple[int, Headers, bytes]
"""Status, headers and body."""


# What uvicorn's protocol sees in place of the cycle of a request and its answer: one that is over.
REFUSED: Any = SimpleNamespace(response_complete=True, message_event=asyncio.Event())


class Shedding(HttpToolsProtocol):
    """uvicorn's protocol, which asks `refuse` of a request's head before it begins with it."""

    def __init__(self, *, refuse: Refuse, **given: Any) -> None:
        super().__init__(**given)
        self._refuse = refuse

    def on_headers_complete(self) -> None:
        refusal = None
        if self._is_simple():
            refusal = self._refuse(self.parser.get_method(), self.url, self.headers)
        if refusal is None:
            super().on_headers_complete()
            return
        status, headers, body = refusal
        self.cycle = REFUSED
        head = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            head += name, b": ", value, b"\r\n"
        self.transport.write(b"".join((*head, b"\r\n", body)))

    def on_message_complete(self) -> None:
        if self.cycle is REFUSED:  # whose body was not read, but had to pass before the next request
            self.on_response_complete()
        else:
            super().on_message_complete()

    def _is_simple(self) -> bool:
        """Nothing is answered before it, and the connection goes on after it."""
        cycle: Any = self.cycle
        answered = cycle is None or cycle.response_complete
        return answered and self.parser.should_keep_alive() and not self.parser.should_upgrade()
