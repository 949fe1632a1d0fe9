"""The server's routes: thin handlers around a Service, and one shape for every error.

    POST /v1/score         {"history": [id, ...], "candidates": [id, ...]} -> a score for each candidate
    POST /v1/recommend     {"history": [id, ...], "k": 10, "exclude_seen": false} -> the k best items
                           both take a list of such requests as well, and answer with a list
    GET  /v1/models        what is served
    GET  /v1/health/live   200 while the process answers
    GET  /v1/health/ready  200 between warm-up and draining, else 503
    GET  /metrics          Prometheus text
    GET  /openapi.json     all of this, for machines
    GET  /                 all of this, for people (page.html)
    POST /v1/admin/reload  new versions take the models' places (reload.py), where it was asked for
    /v2/…                  the same models by the Open Inference Protocol (inference.py)

A model has one of the first two, by its task; of several the request names one.

Starlette with msgspec rather than Litestar: a JSON echo of one candidate took p50 0.23 to 0.28 ms against
0.30 to 0.40 ms, and importing it 0.12 s against 0.48 s of start-up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rbserve.core.ids import value_text
from rbserve.core.tasks import CTR, SEQREC, TASKS, Task
from rbserve.core.types import Scores
from rbserve.core.wire import RELOAD
from rbserve.server import inference, logs
from rbserve.server.asking import (
    Headers,
    Question,
    RequestError,
    answer,
    check_length,
    encode,
    history_rows,
    json_response,
    parse,
    quote,
    read_json,
    require_room,
    rows,
    with_texts,
)
from rbserve.server.cors import Cors
from rbserve.server.keys import Authorized, Digests, may_ask
from rbserve.server.logs import ASKED, CODE, HEADER, Log
from rbserve.server.models import Models
from rbserve.server.replies import error_response, shutting_down
from rbserve.server.schema import (
    FREE,
    Health,
    ItemId,
    Limits,
    ModelInfo,
    ModelsResponse,
    NewItem,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
    ScoredItem,
    ScoreRequest,
    ScoreResponse,
    openapi,
)
from rbserve.server.service import Ranked, Service, Slate, Top
from rbserve.server.telemetry import Observed, Observer

PAGE_HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}

EXAMPLES = 5
"""Ids of candidates that the list of models shows of each."""

Asked = TypeVar("Asked", ScoreRequest, RecommendRequest)
Handler = Callable[[Request], Awaitable[Response]]
Reload = Callable[[], Awaitable[str | None]]
"""Lets new versions take the models' places, or says why it did not."""

_score_request = msgspec.json.Decoder(ScoreRequest | list[ScoreRequest])
_recommend_request = msgspec.json.Decoder(RecommendRequest | list[RecommendRequest])


def build_app(
    models: Models,
    limits: Limits,
    keys: Digests = frozenset(),
    *,
    reload: Reload | None = None,
    log: Log | None = None,
    origins: Sequence[str] = (),
) -> Starlette:
    """The ASGI application of models. It closes them when it shuts down.

    With `keys`, all but health and the document of the API takes one. `reload` is what the admin route does, which is
    not there without. Pages of `origins` may ask from a browser.
    """
    handlers = Handlers(models, limits, bool(keys), reload, log)
    routes = [Route(path, handler, methods=[method]) for method, path, handler in handlers.table]
    observer = Observer(models.telemetry, [route.path for route in routes], log)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        models.close()

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Observed, observer=observer, closing=lambda: models.closing, stopped=shutting_down),
            *([Middleware(Cors, origins=origins)] if origins else []),
            *([Middleware(Authorized, keys=keys, free=FREE, refusal=_unauthorized)] if keys else []),
        ],
        exception_handlers={
            RequestError: _answer_request_error,
            HTTPException: partial(_answer_http_exception, models),
            Exception: _answer_unexpected,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.refuse = Refusals(models, limits, keys, observer)
    app.state.note = observer.note
    return app


class Refusals:
    """Tells of a request's head whether it can only be refused: what its handler would say, before there is a body.

    Only where the path alone says which model is meant, and to whom may ask.
    """

    def __init__(self, models: Models, limits: Limits, keys: Digests, observer: Observer) -> None:
        self._models, self._limits, self._keys, self._observer = models, limits, keys, observer
        self._infer = {
            f"{path}/infer".encode(): one.model for one in models for path in inference.model_paths(one.model)
        }
        self._task = {task.path.encode(): task for task in TASKS.values()}

    def __call__(self, method: bytes, path: bytes, headers: Headers) -> Response | None:
        service = self._service(path)
        if service is None or not service.waiting or method != b"POST" or self._models.closing:
            return None
        scope = {"type": "http", "method": "POST", "path": path.decode(), "headers": headers}
        if self._keys and not may_ask(scope, self._keys):
            return None
        request, started = Request(scope), perf_counter()
        if (
            "origin" in request.headers
        ):  # a browser's page, which can read what the middleware for it lets through
            return None
        try:
            require_room(request, self._limits, service)
        except RequestError as error:
            response = _refused(request, error)
            response.headers[HEADER.decode()] = self._observer.begins(scope)
            self._observer.ends(scope, error.status, perf_counter() - started)
            return response
        return None

    def _service(self, path: bytes) -> Service[Any, Any] | None:
        """The only model that can be meant."""
        task = self._task.get(path)
        if task is not None:
            able = self._models.of_task(task)
            return next(iter(able.values())) if len(able) == 1 else None
        name = self._infer.get(path)
        return self._models[name] if name is not None else None


class _Prepared(NamedTuple):
    """A user's request as its model takes it, and what is made of the answer. `size` counts candidates or items."""

    asked: ScoreRequest | RecommendRequest
    question: Question
    size: int
    reply: Callable[[Any], ScoreResponse | RecommendResponse]


class Handlers:
    """One method a route."""

    def __init__(
        self, models: Models, limits: Limits, keyed: bool, reload: Reload | None, log: Log | None
    ) -> None:
        self._models, self._limits, self._reload = models, limits, reload
        self._tasks = [task for task in TASKS.values() if models.of_task(task)]
        self._log = log
        self._page = (
            (Path(__file__).parent / "page.html").read_text().replace("{TASKS}", encode(TASKS).decode())
        )
        self._openapi = encode(openapi(limits, self._tasks, keyed, admin=reload is not None))

    @property
    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of every route."""
        return [
            ("POST", CTR.path, self.score if CTR in self._tasks else self.other_task),
            ("POST", SEQREC.path, self.recommend if SEQREC in self._tasks else self.other_task),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/health/live", self.live),
            ("GET", "/v1/health/ready", self.ready),
            ("GET", "/metrics", self.metrics),
            ("GET", "/openapi.json", self.openapi),
            ("GET", "/", self.page),
            *([("POST", RELOAD, self.reload)] if self._reload else []),
            *self._inference(),
        ]

    def _inference(self) -> Iterator[tuple[str, str, Handler]]:
        """The same models by the Open Inference Protocol."""
        yield "GET", inference.PREFIX, inference.server
        yield "GET", f"{inference.PREFIX}/health/live", self.live
        yield "GET", f"{inference.PREFIX}/health/ready", self.ready
        models = [inference.Model(self._models, one.model, self._limits) for one in self._models]
        repository = inference.Repository(self._models, models)
        yield "POST", f"{inference.PREFIX}/repository/index", repository.index
        yield "GET", f"{inference.PREFIX}/models/stats", repository.stats
        for model in models:
            for path in inference.model_paths(model.name):
                yield "GET", path, model.metadata
                yield "GET", f"{path}/ready", model.ready
                yield "GET", f"{path}/config", model.config
                yield "GET", f"{path}/stats", model.stats
                yield "POST", f"{path}/infer", model.infer

    async def score(self, request: Request) -> Response:
        """Scores a slate, or one for each of several users."""
        example = '{"history": ["50"], "candidates": ["172"]}; ids are strings or numbers'
        return await self._each(request, CTR, _score_request, example, self._prepare_slate)

    def _prepare_slate(self, service: Service[Any, Any], asked: ScoreRequest) -> _Prepared:
        check_length("candidates", asked.candidates, self._limits.max_candidates)
        if not asked.candidates:
            raise RequestError(
                422, "empty_candidates", "candidates is empty: name at least one item to score"
            )
        names = [item.name if isinstance(item, NewItem) else value_text(item) for item in asked.candidates]
        known = [item for item in asked.history if not isinstance(item, NewItem)]
        found, skipped = history_rows(service, known, asked.unknown_history, self._limits)
        history = with_texts(service, found, asked.history, skipped or (), self._limits)

        def reply(scores: Scores) -> ScoreResponse:
            scored = [*map(ScoredItem, names, scores.tolist())]
            return ScoreResponse(service.model, service.variant, scored, skipped)

        slate = self._slate(service, asked.candidates)
        return _Prepared(asked, Question(service, history, slate), len(names), reply)

    def _slate(self, service: Service[Any, Any], candidates: Sequence[ItemId | NewItem]) -> Slate:
        """Candidates as the model takes them."""
        found = rows(service, "candidates", [item for item in candidates if not isinstance(item, NewItem)])
        return with_texts(service, found, candidates, (), self._limits)

    async def recommend(self, request: Request) -> Response:
        """Ranks the catalogue for a user, or for each of several."""
        example = '{"history": ["50"], "k": 10}; ids are strings or numbers'
        return await self._each(request, SEQREC, _recommend_request, example, self._prepare_top)

    def _prepare_top(self, service: Service[Any, Any], asked: RecommendRequest) -> _Prepared:
        if asked.k > self._limits.max_k:
            raise RequestError(422, "k_too_large", f"k is {asked.k}, the limit is {self._limits.max_k}")

        history, skipped = history_rows(service, asked.history, asked.unknown_history, self._limits)

        def reply(found: Ranked) -> RecommendResponse:
            named = zip(service.items.names(found.items), found.scores.tolist(), strict=True)
            best = [RecommendedItem(item, score) for item, score in named]
            return RecommendResponse(service.model, service.variant, best, skipped)

        return _Prepared(asked, Question(service, history, Top(asked.k, asked.exclude_seen)), asked.k, reply)

    async def _each(
        self,
        request: Request,
        task: Task,
        decoder: msgspec.json.Decoder[Asked | list[Asked]],
        example: str,
        prepare: Callable[[Service[Any, Any], Asked], _Prepared],
    ) -> Response:
        """Answers a request, or a list of them in turn: all, or, where one of them cannot be, none."""
        sent = parse(await read_json(request, self._limits.max_body_bytes), decoder, example)
        several = isinstance(sent, list)
        users = sent if isinstance(sent, list) else [sent]
        check_length("users", users, self._limits.max_users)
        prepared = []
        for place, asked in enumerate(users):
            try:
                check_length("history", asked.history, self._limits.max_history)
                prepared.append(prepare(self._service(task, asked.model), asked))
            except RequestError as error:
                raise error.of_user(place) if several else error from None
        if prepared and self._log is not None:
            request.scope[ASKED] = _logged(prepared, self._log.items)
        answers = await answer(request, self._limits, [one.question for one in prepared])
        replies = [one.reply(found) for one, found in zip(prepared, answers, strict=True)]
        started = perf_counter()
        response = json_response(replies if several else replies[0])
        if prepared:
            prepared[0].question.service.encoded(perf_counter() - started)
        return response

    async def other_task(self, request: Request) -> Response:
        """Says which of the two paths the models have."""
        del request
        raise self._other_task(next(iter(self._models)))

    def _other_task(self, service: Service[Any, Any]) -> RequestError:
        task = service.work.task
        other = SEQREC if task is CTR else CTR
        message = f"{service.model} has no {other.path}: it {task.answers}"
        return RequestError(409, "other_task", message, f"POST {task.path}")

    def _service(self, task: Task, name: str | msgspec.UnsetType) -> Service[Any, Any]:
        """The model of this task that a request names, or the only one."""
        able = self._models.of_task(task)
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
        if name in self._models:
            raise self._other_task(self._models[name])
        raise _unknown_model(self._models, name)

    async def models(self, request: Request) -> Response:
        """Names the models, their variants and data sets."""
        del request
        return json_response(ModelsResponse([_info(service) for service in self._models]))

    async def reload(self, request: Request) -> Response:
        """Lets new versions take the models' places; 409 where one of them may not, and all stay as they are."""
        del request
        assert self._reload
        reason = await self._reload()
        if reason is not None:
            raise RequestError(409, "reload_refused", reason, "the models that were served still are")
        return json_response(ModelsResponse([_info(service) for service in self._models]))

    async def live(self, request: Request) -> Response:
        """Answers: that is the news."""
        del request
        return json_response(Health("live"))

    async def ready(self, request: Request) -> Response:
        """Whether a load balancer should send requests here."""
        del request
        status = self._models.status
        return json_response(Health(status), 200 if status == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """Everything counted since the start."""
        del request
        exposition = self._models.telemetry.exposition()
        return Response(exposition, headers={"content-type": CONTENT_TYPE_LATEST})

    async def page(self, request: Request) -> Response:
        """What is served, for people, and a form to try it."""
        del request
        return Response(self._page, headers=PAGE_HEADERS, media_type="text/html")

    async def openapi(self, request: Request) -> Response:
        """The API, described."""
        del request
        return Response(self._openapi, media_type="application/json")


def _logged(prepared: Sequence[_Prepared], items: bool) -> logs.Asked:
    """What the log says of a request, with or without its items."""
    service = prepared[0].question.service
    return logs.Asked(
        service.model, service.variant, sum(one.size for one in prepared), len(prepared),
        [one.asked for one in prepared] if items else None,
    )  # fmt: skip


def _unknown_model(models: Models, name: str) -> RequestError:
    known = ", ".join(service.model for service in models)
    return RequestError(404, "unknown_model", f"there is no model {quote(name)}", f"served: {known}")


def _info(service: Service[Any, Any]) -> ModelInfo:
    data, items = service.dataset, service.items
    candidates = (item for row, item in enumerate(items.ids) if row not in items.retired)
    return ModelInfo(
        service.model, service.variant, service.version, service.work.task.name, data.name, data.fingerprint,
        len(items), service.profiled.measured, service.profiled.note, [*islice(candidates, EXAMPLES)],
    )  # fmt: skip


async def _answer_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _refused(request, error)


def _refused(request: Request, error: RequestError) -> Response:
    return _refuse(request, error.status, error.code, error.message, error.hint, error.headers)


def _unauthorized(path: str) -> Response:
    """What a request without one of the keys gets."""
    return error_response(
        path, 401, "unauthorized", "an API key is needed", "send the header Authorization: Bearer KEY",
        {"www-authenticate": "Bearer"},
    )  # fmt: skip


async def _answer_http_exception(models: Models, request: Request, error: Exception) -> Response:
    """What Starlette's router refuses: unknown paths, also of models that are not served, and wrong methods."""
    assert isinstance(error, HTTPException)
    path = quote(request.url.path)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        name = inference.model_name(request.scope["path"])
        if name is not None and name not in models:
            return _refused(request, _unknown_model(models, name))
        hint = "GET /openapi.json lists the paths"
        return _refuse(request, 404, "not_found", f"there is nothing at {path}", hint)
    if error.status_code == 405:
        message, hint = f"{path} does not take {request.method}", f"it takes {headers.get('Allow')}"
        return _refuse(request, 405, "method_not_allowed", message, hint, headers)
    return _refuse(request, error.status_code, "http_error", str(error.detail), headers=headers)


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours. Starlette raises it again after this answer, and uvicorn logs it on stderr."""
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
    """An error, as the protocol of its path has it."""
    request.scope[CODE] = code
    return error_response(request.scope["path"], status, code, message, hint, headers)
