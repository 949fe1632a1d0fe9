"""One shape for every error that the server answers with, whatever part of it refuses the request.

{"error": {"code": "body_too_large", "message": "...", "hint": "..."}}      and below /v2, as that protocol has it,
{"error": "message; hint"}
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

from rbserve.core.wire import OIP_PREFIX, ErrorDetail, ErrorResponse
from rbserve.server.http.requests import json_response


def error_response(
    path: str,
    status: int,
    code: str,
    message: str,
    hint: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error in JSON, in the shape of the protocol that `path` belongs to."""
    own = dict(headers or {})
    if f"{path}/".startswith(f"{OIP_PREFIX}/"):
        return json_response({"error": "; ".join(filter(None, (message, hint)))}, status, own)
    detail = ErrorDetail(code, message, hint if hint is not None else msgspec.UNSET)
    return json_response(ErrorResponse(detail), status, own)


def shutting_down(path: str) -> Response:
    """The reply to a request that the server could not finish before it stopped."""
    return error_response(
        path, 503, "shutting_down", "the server stopped before it finished this request", "send it again",
        {"connection": "close"},
    )  # fmt: skip
