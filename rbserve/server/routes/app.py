"""The server's routes: thin handlers around a Service, and one shape for every error.

    POST /v1/score         {"history": [id, ...], "candidates": [id, ...]} -> a score for each candidate
                           {"features": {"likes": [3, 4], "age": 7}} where an adopted model takes named features
    POST /v1/recommend     {"history": [id, ...], "k": 10, "exclude_seen": false} -> the k best items
                           both take a list of such requests as well, and answer with a list
    POST /v1/rerank        {"query": text, "documents": [text, ...]} -> their order, of models that read texts
    GET  /v1/models        what is served
    GET  /v1/health/live   200 while the process answers
    GET  /v1/health/ready  200 between warm-up and draining, else 503
    GET  /metrics          Prometheus text
    GET  /openapi.json     all of this, for machines
    GET  /                 all of this, for people (page.html)
    POST /v1/admin/reload  new versions take the models' places (reload.py), where it was asked for
    /v2/…                  the same models by the Open Inference Protocol (oip.py)
    POST /v1/echo/…        a body parsed and answered without a model (echo.py): what HTTP costs at least

A model has one of the first two, by its task; of several the request names one.

Starlette with msgspec rather than Litestar: a JSON echo of one candidate took p50 0.23 to 0.28 ms against
0.30 to 0.40 ms, and importing it 0.12 s against 0.48 s of start-up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from rbserve.server.api.openapi import FREE
from rbserve.server.api.options import Limits
from rbserve.server.http.cors import Cors
from rbserve.server.http.keys import Authorized, Digests
from rbserve.server.http.replies import shutting_down
from rbserve.server.http.requests import (
    RequestError,
)
from rbserve.server.observe.logs import Log
from rbserve.server.observe.telemetry import Observed, Observer
from rbserve.server.routes.direct import DirectRoutes
from rbserve.server.routes.early_refusals import EarlyRefusals
from rbserve.server.routes.echo import Echo
from rbserve.server.routes.errors import (
    answer_http_exception,
    answer_request_error,
    answer_unexpected,
    unauthorized,
)
from rbserve.server.routes.handlers import Handlers, Reload
from rbserve.server.scoring.models import Models


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

    With `keys`, every route but health and the API document needs one. `reload` is called by the admin route, which is
    absent without it. Pages of `origins` may call the API from a browser.
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
            Middleware(Echo, keys=keys, most_bytes=limits.max_body_bytes),
            Middleware(Observed, observer=observer, closing=lambda: models.closing, stopped=shutting_down),
            *([Middleware(Cors, origins=origins)] if origins else []),
            *([Middleware(Authorized, keys=keys, free=FREE, refusal=unauthorized)] if keys else []),
        ],
        exception_handlers={
            RequestError: answer_request_error,
            HTTPException: partial(answer_http_exception, models),
            Exception: answer_unexpected,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.refuse = EarlyRefusals(models, limits, keys, observer)
    app.state.note = observer.note
    app.state.answer = DirectRoutes(models, limits, keys, observer, log, cross_origin=bool(origins))
    return app
