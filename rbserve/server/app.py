"""The server's routes: thin handlers around a Service, and one shape for every error.

    POST /v1/score         {"history": [id, ...], "candidates": [id, ...]} -> a score for each candidate
    POST /v1/recommend     {"history": [id, ...], "k": 10, "exclude_seen": false} -> the k best items
    GET  /v1/models        what is served
    GET  /v1/health/live   200 while the process answers
    GET  /v1/health/ready  200 between warm-up and draining, else 503
    GET  /metrics          Prometheus text
    GET  /openapi.json     all of this, for machines

A model has one of the first two, by its task; of several the request names one.

Starlette with msgspec rather than Litestar: a JSON echo of one candidate took p50 0.23 to 0.28 ms against
0.30 to 0.40 ms, and importing it 0.12 s against 0.48 s of start-up.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, TypeVar

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from rbserve.core.errors import RbserveError
from rbserve.core.types import Items, Task
from rbserve.server.keys import Authorized, Digests
from rbserve.server.schema import (
    DEADLINE,
    KEYED,
    PATHS,
    RECOMMEND,
    SCORE,
    ErrorDetail,
    ErrorResponse,
    Health,
    Limits,
    ModelInfo,
    ModelsResponse,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
    ScoredItem,
    ScoreRequest,
    ScoreResponse,
    openapi,
)
from rbserve.server.service import STATUSES, ExpiredError, OverloadedError, Service, Top
from rbserve.server.telemetry import Observed

NAMED_UNKNOWN_ITEMS = 5
ID_CHARACTERS = 40

Asked = TypeVar("Asked", ScoreRequest, RecommendRequest)
Handler = Callable[[Request], Awaitable[Response]]

_encode = msgspec.json.Encoder().encode
_score_request = msgspec.json.Decoder(ScoreRequest)
_recommend_request = msgspec.json.Decoder(RecommendRequest)


class RequestError(RbserveError):
    """A request that cannot be answered, and the HTTP status that says whose fault it is."""

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


def build_app(
    services: Sequence[Service[Any, Any]], limits: Limits, keys: Digests = frozenset()
) -> Starlette:
    """The ASGI application of services that share one telemetry. It closes them when it shuts down.

    With `keys`, all but health and the document of the API takes one.
    """
    handlers = Handlers(services, limits, bool(keys))
    routes = [Route(path, handler, methods=[method]) for method, path, handler in handlers.table]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        for service in services:
            service.close()

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Observed, telemetry=services[0].telemetry, routes=[route.path for route in routes]),
            *([Middleware(Authorized, keys=keys, paths=KEYED, refusal=_unauthorized())] if keys else []),
        ],
        exception_handlers={
            RequestError: _answer_request_error,
            HTTPException: _answer_http_exception,
            Exception: _answer_unexpected,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


class Handlers:
    """One method a route."""

    def __init__(self, services: Sequence[Service[Any, Any]], limits: Limits, keyed: bool) -> None:
        self._services, self._limits = services, limits
        self._by_task: dict[Task, dict[str, Service[Any, Any]]] = {}
        for service in services:
            self._by_task.setdefault(service.work.task, {})[service.model] = service
        self._openapi = _encode(openapi(limits, [*self._by_task], keyed))

    @property
    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of every route."""
        return [
            ("POST", SCORE, self.score if "ctr" in self._by_task else self.other_task),
            ("POST", RECOMMEND, self.recommend if "seqrec" in self._by_task else self.other_task),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/health/live", self.live),
            ("GET", "/v1/health/ready", self.ready),
            ("GET", "/metrics", self.metrics),
            ("GET", "/openapi.json", self.openapi),
        ]

    async def score(self, request: Request) -> Response:
        """Scores one slate."""
        asked = await self._ask(request, _score_request, '{"history": ["50"], "candidates": ["172"]}')
        _check_length("candidates", asked.candidates, self._limits.max_candidates)
        if not asked.candidates:
            raise RequestError(
                422, "empty_candidates", "candidates is empty: name at least one item to score"
            )
        service = self._service("ctr", asked.model)
        history = _rows(service, "history", asked.history)
        scores = await self._answer(request, service, history, _rows(service, "candidates", asked.candidates))
        scored = [
            ScoredItem(item, score) for item, score in zip(asked.candidates, scores.tolist(), strict=True)
        ]
        return _json(ScoreResponse(service.model, service.variant, scored))

    async def recommend(self, request: Request) -> Response:
        """Ranks the catalogue."""
        asked = await self._ask(request, _recommend_request, '{"history": ["50"], "k": 10}')
        if asked.k > self._limits.max_k:
            raise RequestError(422, "k_too_large", f"k is {asked.k}, the limit is {self._limits.max_k}")
        service = self._service("seqrec", asked.model)
        history = _rows(service, "history", asked.history)
        items, scores = await self._answer(request, service, history, Top(asked.k, asked.exclude_seen))
        best = [
            RecommendedItem(item, score)
            for item, score in zip(service.items.names(items), scores.tolist(), strict=True)
        ]
        return _json(RecommendResponse(service.model, service.variant, best))

    async def other_task(self, request: Request) -> Response:
        """Says which of the two paths the models have."""
        del request
        raise self._other_task(self._services[0])

    def _other_task(self, service: Service[Any, Any]) -> RequestError:
        does = {"ctr": "scores candidates", "seqrec": "recommends items of the whole catalogue"}
        task = service.work.task
        other = next(path for of, path in PATHS.items() if of != task)
        message = f"{service.model} has no {other}: it {does[task]}"
        return RequestError(409, "other_task", message, f"POST {PATHS[task]}")

    def _service(self, task: Task, name: str | msgspec.UnsetType) -> Service[Any, Any]:
        """The model of this task that a request names, or the only one."""
        able = self._by_task[task]
        if name is msgspec.UNSET:
            if len(able) == 1:
                return next(iter(able.values()))
            raise RequestError(
                422,
                "which_model",
                f"several models do this: {', '.join(able)}",
                f'send "model": "{next(iter(able))}"',
            )
        if name in able:
            return able[name]
        for service in self._services:
            if service.model == name:
                raise self._other_task(service)
        known = ", ".join(service.model for service in self._services)
        raise RequestError(404, "unknown_model", f"there is no model {_quote(name)}", f"served: {known}")

    async def models(self, request: Request) -> Response:
        """Names the models, their variants and data sets."""
        del request
        return _json(ModelsResponse([_info(service) for service in self._services]))

    async def live(self, request: Request) -> Response:
        """Answers: that is the news."""
        del request
        return _json(Health("live"))

    async def ready(self, request: Request) -> Response:
        """Whether a load balancer should send requests here."""
        del request
        worst = max((service.status for service in self._services), key=STATUSES.index)
        return _json(Health(worst), 200 if worst == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """Everything counted since the start."""
        del request
        return Response(
            self._services[0].telemetry.exposition(), headers={"content-type": CONTENT_TYPE_LATEST}
        )

    async def openapi(self, request: Request) -> Response:
        """The API, described."""
        del request
        return Response(self._openapi, media_type="application/json")

    async def _ask(self, request: Request, decoder: msgspec.json.Decoder[Asked], example: str) -> Asked:
        """The request's body, its history no longer than allowed."""
        asked = _parse(await _read_json(request, self._limits.max_body_bytes), decoder, example)
        _check_length("history", asked.history, self._limits.max_history)
        return asked

    async def _answer(self, request: Request, service: Service[Any, Any], history: Items, asked: Any) -> Any:
        """What the model says: at once where that is quick, else when its thread comes to it."""
        deadline = _deadline(request, self._limits.deadline_ms)
        answer = service.answer_now(history, asked)
        if answer is not None:
            return answer
        refused = service.telemetry.refused
        later = service.answer_later(history, asked, self._limits.max_waiting, deadline)
        try:
            return await _while_connected(request, later)
        except OverloadedError as error:
            refused.labels(service.model, "overloaded").inc()
            raise RequestError(
                503, "overloaded", f"{error.waiting} requests wait for the model already",
                headers={"retry-after": str(max(1, math.ceil(error.wait_s)))},
            ) from None  # fmt: skip
        except ExpiredError:
            refused.labels(service.model, "deadline").inc()
            raise RequestError(
                504, "deadline_exceeded", "the deadline passed before the model came to this request"
            ) from None
        except ClientGoneError:
            refused.labels(service.model, "client gone").inc()
            raise RequestError(499, "client_disconnected", "the client left before its answer") from None
        except asyncio.CancelledError:  # nothing but the end of the drain cancels a request
            raise RequestError(
                503, "shutting_down", "the server stopped before it came to this request", "send it again"
            ) from None


def _info(service: Service[Any, Any]) -> ModelInfo:
    data = service.dataset
    return ModelInfo(
        service.model, service.variant, service.work.task, data.name, data.fingerprint, len(service.items)
    )


class ClientGoneError(Exception):
    """Nobody waits for this answer any more."""


async def _while_connected(request: Request, answer: Coroutine[Any, Any, Any]) -> Any:
    """The answer; ClientGoneError, and no answer is computed, when the client leaves while it waits."""
    task, gone = asyncio.ensure_future(answer), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _deadline(request: Request, usual_ms: float | None) -> float | None:
    """The time of `perf_counter` after which an answer is of no use."""
    said = request.headers.get(DEADLINE)
    if said is None:
        return None if usual_ms is None else perf_counter() + usual_ms / 1000
    try:
        milliseconds = float(said)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise RequestError(
            422,
            "invalid_deadline",
            f"{DEADLINE} is no number of milliseconds: {_quote(said)}",
            f"{DEADLINE}: 50",
        )
    return perf_counter() + milliseconds / 1000


async def _read_json(request: Request, limit: int) -> bytearray:
    """The body of a request that says it is JSON, read no further than `limit` bytes."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestError(
            415,
            "unsupported_media_type",
            f"the body is {_quote(media_type)}, not application/json"
            if media_type
            else "no content type is given",
            "send the header Content-Type: application/json",
        )
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
    return body


def _too_large(limit: int) -> RequestError:
    return RequestError(413, "body_too_large", f"the body is larger than {limit} bytes")


def _parse(body: bytearray, decoder: msgspec.json.Decoder[Asked], example: str) -> Asked:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(
            422,
            "invalid_request",
            str(error),
            f"send {example}; ids are strings",
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, "invalid_json", f"the body is not JSON: {error}") from None


def _check_length(field: str, ids: Sequence[str], limit: int) -> None:
    if len(ids) > limit:
        raise RequestError(422, f"too_many_{field}", f"{field} has {len(ids)} items, the limit is {limit}")


def _rows(service: Service[Any, Any], field: str, ids: Sequence[str]) -> Items:
    try:
        return service.items.lookup(ids)
    except KeyError as error:
        unknown = list(dict.fromkeys(error.args[0]))
        named = ", ".join(map(_quote, unknown[:NAMED_UNKNOWN_ITEMS]))
        more = len(unknown) - NAMED_UNKNOWN_ITEMS
        raise RequestError(
            422,
            "unknown_items",
            f"{field} has items that data set {service.dataset.name} does not: {named}"
            + (f" and {more} more" if more > 0 else ""),
            "leave out items that the model was not trained with",
        ) from None


def _quote(text: str) -> str:
    """A client's text as it may stand in a message: quoted, and cut when it is long."""
    short = text if len(text) <= ID_CHARACTERS else text[:ID_CHARACTERS] + "…"
    return f'"{short}"'


async def _answer_request_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestError)
    return _error(error.status, error.code, error.message, error.hint, error.headers)


def _unauthorized() -> Response:
    """What a request without one of the keys gets."""
    return _error(
        401, "unauthorized", "an API key is needed", "send the header Authorization: Bearer KEY",
        {"www-authenticate": "Bearer"},
    )  # fmt: skip


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette's router refuses: unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)
    path = _quote(request.url.path)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return _error(404, "not_found", f"there is nothing at {path}", "GET /openapi.json lists the paths")
    if error.status_code == 405:
        message = f"{path} does not take {request.method}"
        return _error(405, "method_not_allowed", message, f"it takes {headers.get('Allow')}", headers)
    return _error(error.status_code, "http_error", str(error.detail), headers=headers)


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours. Starlette raises it again after this answer, and uvicorn logs it on stderr."""
    del request, error
    return _error(500, "internal_error", "the server failed on this request; its log says how")


def _error(
    status: int, code: str, message: str, hint: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    detail = ErrorDetail(code, message, hint if hint is not None else msgspec.UNSET)
    return _json(ErrorResponse(detail), status, headers)


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(body), status, headers, media_type="application/json")
