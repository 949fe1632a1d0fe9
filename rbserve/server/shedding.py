"""Requests that can only be refused, refused where HTTP is parsed: no task, no body, no application.

What refusals cost is taken from those that could be answered. On one core that is offered twice what it can do, as many
are refused as are answered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from rbserve.server.asking import Headers
from rbserve.server.connections import REFUSED, BoundedProtocol

Refuse = Callable[[bytes, bytes, Headers], Response | None]
"""(method, path, headers) of a request to the refusal that it can only have; None of one that may be answered."""


class Shedding(BoundedProtocol):
    """The protocol that asks `refuse` of a request's head before it begins with it."""

    def __init__(self, *, refuse: Refuse, **given: Any) -> None:
        super().__init__(**given)
        self._refuse_busy = refuse

    def on_headers_complete(self) -> None:
        refusal = None
        if self._is_simple():
            refusal = self._refuse_busy(self.parser.get_method(), self.url, self.headers)
        if refusal is None:
            super().on_headers_complete()
            return
        self._in_head = False
        self.cycle = REFUSED
        self.write_response(refusal)

    def _is_simple(self) -> bool:
        """Nothing is answered before it, the client reads its answers, and the connection goes on after it."""
        cycle: Any = self.cycle
        answered = cycle is None or cycle.response_complete
        plain = self.parser.should_keep_alive() and not self.parser.should_upgrade()
        return answered and plain and not self.flow.write_paused and not self.transport.is_closing()
