"""Requests for scores or recommendations, answered where HTTP is parsed (`server/http/direct.py`).

One user, ids of items or named features, one model: what is asked most. The same functions as in the handlers decode,
look up and answer; lists of users, texts, wrong bodies and everything else that is not answered with success goes to
the application, whose handlers say what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
from starlette.responses import Response
from starlette.types import Scope

from rbserve.core.tasks import CTR, SEQREC, Task
from rbserve.core.wire import DEADLINE
from rbserve.server.api.options import Limits
from rbserve.server.api.schema import RecommendRequest
from rbserve.server.http.admission import RawReply
from rbserve.server.http.direct import Pending
from rbserve.server.http.keys import Digests, may_ask
from rbserve.server.http.replies import error_response, shutting_down
from rbserve.server.http.requests import Headers, RequestError, encode
from rbserve.server.observe.logs import CODE, HEADER, QUERY, Log
from rbserve.server.observe.telemetry import Observer
from rbserve.server.routes.answering import ClientGoneError, deadline_of, refusal_of
from rbserve.server.routes.features import parse_scores
from rbserve.server.routes.preparing import PreparedQuery, Preparing, logged_query
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import OverloadedError, Service

DEADLINE_HEADER = DEADLINE.lower().encode()
Prepare = Callable[[Service[Any, Any], Any], PreparedQuery]
_recommend = msgspec.json.Decoder(RecommendRequest)
_logger = logging.getLogger("uvicorn.error")


class _Exchange(NamedTuple):
    """A request that is being answered: its ASGI scope as the log reads it, and when it arrived."""

    scope: Scope
    started: float
    prepared: PreparedQuery


class DirectRoutes:
    """Answers plain requests to the paths of the models' tasks."""

    def __init__(
        self,
        models: Models,
        limits: Limits,
        keys: Digests,
        observer: Observer,
        log: Log | None,
        cross_origin: bool,
    ) -> None:
        """`cross_origin`: pages may ask from a browser; their requests are the application's."""
        self._models, self._limits, self._keys = models, limits, keys
        self._observer, self._log, self._cross_origin = observer, log, cross_origin
        self._preparing = Preparing(models, limits)
        routes: list[tuple[Task, Prepare]] = [(CTR, self._preparing.scores), (SEQREC, self._preparing.top)]
        self._routes = {task.path.encode(): (task, prepare) for task, prepare in routes}

    def takes(self, path: bytes, headers: Headers) -> bool:
        """Whether requests with this head may be answered here: JSON for a model's task, by who may ask."""
        route = self._routes.get(path)
        if route is None or self._models.closing or not self._models.of_task(route[0]):
            return False
        is_json = False
        for name, value in headers:
            if name == b"content-type":
                is_json = value == b"application/json"
            elif name == b"origin" and self._cross_origin:
                return False
        if not is_json:
            return False
        return not self._keys or may_ask({"type": "http", "headers": headers}, self._keys)

    def __call__(self, path: bytes, headers: Headers, body: bytes) -> RawReply | Pending | None:
        started = perf_counter()
        task, prepare = self._routes[path]
        try:
            sent = self._decode(task, body)
            if isinstance(sent, list):
                return None
            service = self._preparing.service(task, sent.model)
            prepared = prepare(service, sent)
            deadline = deadline_of(_header(headers, DEADLINE_HEADER), self._limits.deadline_ms)
        except (RequestError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        if prepared.query.has_texts:
            return None
        scope: Scope = {"type": "http", "method": "POST", "path": path.decode(), "headers": headers}
        if self._log is not None:
            scope[QUERY] = logged_query([prepared], self._log.items)
        exchange = _Exchange(scope, started, prepared)
        return self._answer(service, exchange, deadline)

    def _decode(self, task: Task, body: bytes) -> Any:
        if task.ranks:
            return _recommend.decode(body)
        return parse_scores(body, self._models.of_task(task).values())

    def _answer(
        self, service: Service[Any, Any], exchange: _Exchange, deadline: float | None
    ) -> RawReply | Pending | None:
        query = exchange.prepared.query.query
        try:
            answer = service.answer_now(query)
            if answer is not None:
                return self._reply(service, exchange, answer)
            future = service.answer_later(query, self._limits.max_waiting, deadline)
        except OverloadedError:
            return None
        except Exception:  # noqa: BLE001  (whatever a model raises: the application computes and raises it again)
            return None

        def finish(future: asyncio.Future[Any], gone: bool) -> RawReply:
            if future.cancelled():
                return self._cancelled(service, exchange, gone)
            error = future.exception()
            if error is not None:
                return self._failed(service, exchange, error)
            return self._reply(service, exchange, future.result())

        return Pending(future, finish)

    def _reply(self, service: Service[Any, Any], exchange: _Exchange, answer: Any) -> RawReply:
        began = perf_counter()
        content = encode(exchange.prepared.reply(answer))
        service.observe_encoding(perf_counter() - began)
        head = b"content-length: %d\r\ncontent-type: application/json\r\n" % len(content)
        return self._observed(exchange, 200, head, content)

    def _cancelled(self, service: Service[Any, Any], exchange: _Exchange, gone: bool) -> RawReply:
        """The reply to a request whose client has left, or that the end of the drain cancels."""
        if gone:
            error = refusal_of(service, ClientGoneError())
            assert error is not None
            return self._refused(exchange, error)
        return self._respond(exchange, shutting_down(exchange.scope["path"]))

    def _failed(self, service: Service[Any, Any], exchange: _Exchange, error: BaseException) -> RawReply:
        refusal = refusal_of(service, error) if isinstance(error, Exception) else None
        if refusal is not None:
            return self._refused(exchange, refusal)
        _logger.error("Exception in a request\n", exc_info=error)
        fault = RequestError(500, "internal_error", "the server failed on this request; its log says how")
        return self._refused(exchange, fault)

    def _refused(self, exchange: _Exchange, error: RequestError) -> RawReply:
        exchange.scope[CODE] = error.code
        path = exchange.scope["path"]
        response = error_response(path, error.status, error.code, error.message, error.hint, error.headers)
        return self._respond(exchange, response)

    def _respond(self, exchange: _Exchange, response: Response) -> RawReply:
        closing = [header for header in response.raw_headers if header[0] != b"connection"]
        close = len(closing) < len(response.raw_headers)
        head = b"".join(b"%s: %s\r\n" % header for header in closing)
        return self._observed(exchange, response.status_code, head, bytes(response.body), close)

    def _observed(
        self, exchange: _Exchange, status: int, head: bytes, content: bytes, close: bool = False
    ) -> RawReply:
        """The reply with its request id, counted and logged."""
        own = self._observer.begins(exchange.scope).encode()
        self._observer.ends(exchange.scope, status, perf_counter() - exchange.started)
        close = close or self._models.closing
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        return RawReply(status, b"%s%s: %s\r\n%s%s" % (head, HEADER, own, end, content), close)


def _header(headers: Headers, wanted: bytes) -> str | None:
    for name, value in headers:
        if name == wanted:
            return value.decode("latin-1")
    return None
