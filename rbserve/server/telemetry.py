"""What /metrics tells: requests by route and status, latencies, items scored, and the process itself."""

from __future__ import annotations

from collections.abc import Collection
from time import perf_counter

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
        self.requests = Counter(
            "rbserve_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "rbserve_request_duration_seconds",
            "From the request's head to the end of the answer.",
            ("route",),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.items: dict[Task, Counter] = {
            "ctr": Counter(
                "rbserve_candidates_scored", "Candidates the model scored.", registry=self.registry
            ),
            "seqrec": Counter(
                "rbserve_recommendations_asked", "Items the model was asked for.", registry=self.registry
            ),
        }
        self.scoring_seconds = Histogram(
            "rbserve_scoring_duration_seconds",
            "Time in the model, a request a sample.",
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "rbserve_queue_duration_seconds",
            "Time until the scoring thread came to a request.",
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "rbserve_waiting", "Requests on the scoring thread or waiting for it.", registry=self.registry
        )
        self.refused = Counter(
            "rbserve_refused", "Requests that were not computed.", ("reason",), registry=self.registry
        )
        ProcessCollector(registry=self.registry)  # resident memory, CPU time, open files

    def exposition(self) -> bytes:
        """Every metric in the Prometheus text format."""
        return generate_latest(self.registry)


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
