"""What /metrics tells: requests by route and status, latencies, items scored, and the process itself."""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import perf_counter
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rbserve.core.types import Task

# A table lookup scores in microseconds and a language model in seconds.
BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip


class Telemetry:
    """The counters of one server, in a registry of their own so that two servers in a process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "route", "status")
        self.request_seconds = self._histogram(
            "request", "From the request's head to the end of the answer.", "route"
        )
        self.items: dict[Task, Counter] = {
            "ctr": self._counter("candidates_scored", "Candidates the model scored.", "model"),
            "seqrec": self._counter("recommendations_asked", "Items the model was asked for.", "model"),
        }
        self.scoring_seconds = self._histogram("scoring", "Time in the model, a request a sample.", "model")
        self.queue_seconds = self._histogram(
            "queue", "Time until the scoring thread came to a request.", "model"
        )
        self.refused = self._counter("refused", "Requests that were not computed.", "model", "reason")
        self.waiting = Gauge(
            "rbserve_waiting",
            "Requests on the scoring thread or waiting for it.",
            ("model",),
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)  # resident memory, CPU time, open files

    def of(self, model: str, task: Task, waiting: Callable[[], float]) -> ModelTelemetry:
        """The counters of one of the models; `waiting` tells how many requests wait for it."""
        self.waiting.labels(model).set_function(waiting)
        seconds = self.scoring_seconds.labels(model), self.queue_seconds.labels(model)
        return ModelTelemetry(*seconds, self.items[task].labels(model))

    def exposition(self) -> bytes:
        """Every metric in the Prometheus text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(f"rbserve_{name}", told, labels, registry=self.registry)

    def _histogram(self, name: str, told: str, *labels: str) -> Histogram:
        return Histogram(
            f"rbserve_{name}_duration_seconds", told, labels, buckets=BUCKETS_S, registry=self.registry
        )


class ModelTelemetry(NamedTuple):
    """What one model counts."""

    scoring_seconds: Histogram
    queue_seconds: Histogram
    items: Counter


class Observed:
    """ASGI middleware that counts and times every request under the name of its route.

    Paths outside `routes` share one label: a scanner must not be able to grow the metrics without bound.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, routes: Collection[str]) -> None:
        self._app = app
        self._telemetry = telemetry
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        status = 500  # what an unhandled exception is turned into, outside of this middleware

        async def remember_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, remember_status)
        finally:
            path = scope["path"]
            route = path if path in self._routes else "other"
            self._telemetry.requests.labels(route, str(status)).inc()
            self._telemetry.request_seconds.labels(route).observe(perf_counter() - started)
