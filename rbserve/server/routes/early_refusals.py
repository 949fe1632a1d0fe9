"""Refusals from a request's head, before an asyncio task is made for it: a full queue then costs little time."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rbserve.core.tasks import PAPER_TASKS
from rbserve.core.wire import RERANK
from rbserve.server.api.options import Limits
from rbserve.server.http.keys import Digests, may_ask
from rbserve.server.http.requests import (
    Headers,
    RequestError,
)
from rbserve.server.observe.logs import HEADER
from rbserve.server.observe.telemetry import Observer
from rbserve.server.routes import oip
from rbserve.server.routes.answering import (
    require_room,
)
from rbserve.server.routes.errors import refuse_with
from rbserve.server.routes.rerank import rerankers
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service


class EarlyRefusals:
    """The refusal of a request that there is no room for, from its head alone: what its handler would reply later.

    Only where the path alone says which model is meant, and only to clients that may ask it.
    """

    def __init__(self, models: Models, limits: Limits, keys: Digests, observer: Observer) -> None:
        self._models, self._limits, self._keys, self._observer = models, limits, keys, observer
        self._infer = {
            f"{path}/infer".encode(): service.model
            for service in models
            for path in oip.model_paths(service.model)
        }
        self._task = {task.path.encode(): task for task in PAPER_TASKS}

    def __call__(self, method: bytes, path: bytes, headers: Headers) -> Response | None:
        service = self._service(path)
        if service is None or not service.waiting or method != b"POST" or self._models.closing:
            return None
        scope = {"type": "http", "method": "POST", "path": path.decode(), "headers": headers}
        if self._keys and not may_ask(scope, self._keys):
            return None
        request, started = Request(scope), perf_counter()
        if "origin" in request.headers:  # a page in a browser, whose reply needs the headers of CORS
            return None
        try:
            require_room(request, self._limits, service)
        except RequestError as error:
            response = refuse_with(request, error)
            response.headers[HEADER.decode()] = self._observer.begins(scope)
            self._observer.ends(scope, error.status, perf_counter() - started)
            return response
        return None

    def _service(self, path: bytes) -> Service[Any, Any] | None:
        """The model that a path alone determines; None where several can be meant."""
        task = self._task.get(path)
        if task is not None:
            able = self._models.of_task(task)
            return next(iter(able.values())) if len(able) == 1 else None
        if path == RERANK.encode():
            able = rerankers(self._models)
            return next(iter(able.values())) if len(able) == 1 else None
        name = self._infer.get(path)
        return self._models[name] if name is not None else None
