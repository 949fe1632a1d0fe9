"""Refusals from a request's head, before an asyncio task is made for it: a full queue then costs little time."""

from __future__ import annotations

from functools import lru_cache
from time import perf_counter
from typing import Any

from rbserve.core.tasks import PAPER_TASKS
from rbserve.core.wire import DEADLINE, OIP_PREFIX, RERANK
from rbserve.server.api.options import Limits
from rbserve.server.http.admission import RawReply
from rbserve.server.http.keys import Digests, may_ask
from rbserve.server.http.replies import error_response
from rbserve.server.http.requests import Headers, RequestError
from rbserve.server.observe.logs import CODE, HEADER
from rbserve.server.observe.telemetry import Observer
from rbserve.server.routes import oip
from rbserve.server.routes.answering import deadline_of, overload_error, retry_after_s
from rbserve.server.routes.rerank import rerankers
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import OverloadedError, Service

DEADLINE_HEADER = DEADLINE.lower().encode()


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

    def __call__(self, method: bytes, path: bytes, headers: Headers) -> RawReply | None:
        service = self._service(path)
        if service is None or not service.waiting or method != b"POST" or self._models.closing:
            return None
        started, deadline = perf_counter(), None
        for name, value in headers:
            if name == DEADLINE_HEADER:
                deadline = value.decode("latin-1")
            elif name == b"origin":  # a page in a browser, whose reply needs the headers of CORS
                return None
        try:
            service.require_room(self._limits.max_waiting, deadline_of(deadline, self._limits.deadline_ms))
        except RequestError:  # of a deadline that is none: the handler says so
            return None
        except OverloadedError as error:
            return self._refusal(service, error, path, headers, started)
        return None

    def _refusal(
        self,
        service: Service[Any, Any],
        error: OverloadedError,
        path: bytes,
        headers: Headers,
        started: float,
    ) -> RawReply | None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": path.decode(),
            "headers": headers,
            CODE: "overloaded",
        }
        if self._keys and not may_ask(scope, self._keys):
            return None
        service.count_refusal()
        own = self._observer.begins(scope).encode()
        reply = _overloaded(path.startswith(OIP_PREFIX.encode()), error.waiting, retry_after_s(error.wait_s))
        self._observer.ends(scope, 503, perf_counter() - started)
        return RawReply(503, b"%s: %s\r\n%s" % (HEADER, own, reply))

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


@lru_cache(maxsize=4096)
def _overloaded(is_oip: bool, waiting: int, retry_s: int) -> bytes:
    """Headers and body of a refusal, encoded: the same few are sent all the time."""
    error = overload_error(waiting, retry_s)
    path = OIP_PREFIX if is_oip else ""
    response = error_response(path, error.status, error.code, error.message, error.hint, error.headers)
    lines = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
    return lines + b"\r\n" + bytes(response.body)
