"""From an exception to a reply, in the shape of the protocol that the path belongs to."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rbserve.server.http.replies import error_response
from rbserve.server.http.requests import (
    RequestError,
    quote,
)
from rbserve.server.observe.logs import CODE
from rbserve.server.routes import oip
from rbserve.server.scoring.models import Models


def unknown_model(models: Models, name: str) -> RequestError:
    known = ", ".join(service.model for service in models)
    return RequestError(404, "unknown_model", f"there is no model {quote(name)}", f"served: {known}")


async def answer_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return refuse_with(request, error)


def refuse_with(request: Request, error: RequestError) -> Response:
    return _refuse(request, error.status, error.code, error.message, error.hint, error.headers)


def unauthorized(path: str) -> Response:
    """The reply to a request without one of the keys."""
    return error_response(
        path, 401, "unauthorized", "an API key is needed", "send the header Authorization: Bearer KEY",
        {"www-authenticate": "Bearer"},
    )  # fmt: skip


async def answer_http_exception(models: Models, request: Request, error: Exception) -> Response:
    """The reply to what Starlette's router refuses: unknown paths or models, and wrong methods."""
    assert isinstance(error, HTTPException)
    path = quote(request.url.path)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        name = oip.model_name(request.scope["path"])
        if name is not None and name not in models:
            return refuse_with(request, unknown_model(models, name))
        hint = "GET /openapi.json lists the paths"
        return _refuse(request, 404, "not_found", f"there is nothing at {path}", hint)
    if error.status_code == 405:
        message, hint = f"{path} does not take {request.method}", f"it takes {headers.get('Allow')}"
        return _refuse(request, 405, "method_not_allowed", message, hint, headers)
    return _refuse(request, error.status_code, "http_error", str(error.detail), headers=headers)


async def answer_unexpected(request: Request, error: Exception) -> Response:
    """The reply to a fault of the server's. Starlette raises it again afterwards, and uvicorn logs it on stderr."""
    del error
    message, headers = (
        "the server failed on this request; its log says how",
        {"x-request-id": request.scope["request_id"]},
    )
    return _refuse(request, 500, "internal_error", message, headers=headers)


def _refuse(
    request: Request,
    status: int,
    code: str,
    message: str,
    hint: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """An error in the shape of the protocol that the path belongs to; its code goes into the log."""
    request.scope[CODE] = code
    return error_response(request.scope["path"], status, code, message, hint, headers)
