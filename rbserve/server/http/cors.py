"""Cross-origin requests: which pages may call the API from a browser (`serve --cors-origin https://shop.example`)."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from rbserve.core.errors import UsageError
from rbserve.core.wire import DEADLINE, OIP_JSON_BYTES
from rbserve.server.http.replies import error_response

ANY = "*"
SENT = ("authorization", "content-type", "content-encoding", "x-request-id", DEADLINE, OIP_JSON_BYTES)
READ = ("retry-after", "x-request-id", OIP_JSON_BYTES)


class Cors(CORSMiddleware):
    """Starlette's middleware with this server's headers, which refuses in JSON."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app, allow_origins=origins, allow_methods=("GET", "POST"), allow_headers=SENT, expose_headers=READ
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """204 with what a page may send; 400 for an origin, a method or a header that is not allowed."""
        response = super().preflight_response(request_headers)
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        if response.status_code < 400:
            return Response(status_code=204, headers=headers)
        message = bytes(response.body).decode()
        return error_response(
            "", 400, "cors_refused", message, "serve --cors-origin allows an origin", headers
        )


def check_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """The origins as browsers send them. Raises UsageError for a text that is no origin."""
    for origin in origins:
        parts = urlsplit(origin)
        whole = parts.scheme in ("http", "https") and bool(parts.netloc) and "@" not in parts.netloc
        if origin != ANY and not (whole and origin == f"{parts.scheme}://{parts.netloc}"):
            raise UsageError(
                f"--cors-origin {origin} is no origin", "--cors-origin https://shop.example:8443, or '*'"
            )
    return tuple(origin.lower() for origin in origins)
