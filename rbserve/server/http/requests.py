"""The body of a request: of bounded size, inflated, decoded; and an error that says whose fault it is."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rbserve.core.errors import RbserveError
from rbserve.server.api.schema import UNKNOWN_HISTORY

LATE = "rbserve.late"
"""Key of an ASGI scope: the connection's protocol sets it when the body did not arrive in time."""


ID_CHARACTERS = 40


encode = msgspec.json.Encoder().encode


Headers = list[tuple[bytes, bytes]]


class RequestError(RbserveError):
    """A request that cannot be answered, with the HTTP status and the code of its reply."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status, self.code, self.headers = status, code, headers

    def at_index(self, place: int) -> RequestError:
        """This error with the place of the request that it is about, in a list of requests."""
        message = f"at index {place}: {self.message}"
        return RequestError(self.status, self.code, message, self.hint, self.headers)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply in JSON."""
    return Response(encode(body), status, headers, media_type="application/json")


async def read_body(request: Request, limit: int) -> bytearray:
    """The body of a request, inflated where it is compressed. Raises RequestError past `limit` bytes."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        message = f"the body is compressed: {quote(encoding)}"
        headers = {"accept-encoding": "gzip, identity"}
        raise RequestError(415, "unsupported_encoding", message, "send it as it is, or in gzip", headers)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise RequestError(400, "client_disconnected", "the client left before its body arrived") from None
    if LATE in request.scope:
        raise RequestError(
            408, "request_timeout", f"the body did not arrive in time: {len(body)} bytes did",
            headers={"connection": "close"},
        )  # fmt: skip
    return body if encoding == "identity" else inflate(body, limit)


def inflate(body: bytearray, limit: int) -> bytearray:
    """A body in gzip, inflated. Raises RequestError where it is no gzip, or has more than `limit` bytes."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(400, "invalid_gzip", f"the body is not gzip: {error}") from None
    if len(inflated) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        reason = "bytes follow its end" if inflater.eof else "it ends too soon"
        raise RequestError(400, "invalid_gzip", f"the body is not one gzip file: {reason}")
    return bytearray(inflated)


async def read_json(request: Request, limit: int) -> bytearray:
    """The body of a request whose content type is JSON. Raises RequestError for another type."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestError(
            415,
            "unsupported_media_type",
            f"the body is {quote(media_type)}, not application/json"
            if media_type
            else "no content type is given",
            "send the header Content-Type: application/json",
        )
    return await read_body(request, limit)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, "body_too_large", f"the body is larger than {limit} bytes")


def parse(body: bytes | bytearray, decoder: msgspec.json.Decoder[Body], example: str) -> Body:
    """A body decoded. Raises RequestError, with an example of a right body, for JSON of another shape or no JSON."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message = str(error)
        if message.endswith(".unknown_history`"):
            message += f": it takes {UNKNOWN_HISTORY}"
        raise RequestError(422, "invalid_request", message, f"send {example}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, "invalid_json", f"the body is not JSON: {error}") from None


def check_length(field: str, ids: Sequence[object], limit: int) -> None:
    """Raises RequestError for a list that is longer than the limit."""
    if len(ids) > limit:
        raise RequestError(422, f"too_many_{field}", f"{field} has {len(ids)} items, the limit is {limit}")


def quote(text: str) -> str:
    """A client's text as it may stand in a message: quoted, and cut when it is long."""
    short = text if len(text) <= ID_CHARACTERS else text[:ID_CHARACTERS] + "…"
    return f'"{short}"'


Body = TypeVar("Body")
