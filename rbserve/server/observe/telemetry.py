"""The metrics of /metrics: requests by route and status, latencies by stage, items scored, and process memory.

Several workers write their counters into files of one directory, PROMETHEUS_MULTIPROC_DIR, which has to be set before
this module is imported; the worker that is asked for the metrics adds them up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from time import perf_counter
from traceback import format_exc
from typing import NamedTuple

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rbserve.core.tasks import Task
from rbserve.server.observe.logs import CODE, Log, request_id

# A table lookup scores in microseconds and a language model in seconds.
BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip
SHARED = "PROMETHEUS_MULTIPROC_DIR"


class Telemetry:
    """The counters of one server, in a registry of their own so that two servers in a process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests answered.", "route", "status")
        self.request_seconds = self._histogram(
            "request", "From the request's head to the end of the answer.", "route"
        )
        self.candidates = self._counter("candidates_scored", "Candidates the model scored.", "model")
        self.recommendations = self._counter(
            "recommendations_asked", "Items the model was asked for.", "model"
        )
        self.scoring_seconds = self._histogram("scoring", "Time in the model, a call a sample.", "model")
        self.stage_seconds = self._histogram(
            "stage", "Parts of a language model's scoring, and encoding an answer.", "model", "stage"
        )
        self.queue_seconds = self._histogram(
            "queue", "Time until the scoring thread came to a request.", "model"
        )
        self.batch = Histogram(
            "rbserve_batch_requests", "Requests that one call of the scoring thread answered.", ("model",),
            buckets=(1, 2, 4, 8, 16), registry=self.registry,
        )  # fmt: skip
        self.refused = self._counter("refused", "Requests that were not computed.", "model", "reason")
        self.prompt_tokens = self._counter(
            "user_prompt_tokens", "Tokens of users' prompts: remembered, or read anew.", "model", "source"
        )
        self.reloads = self._counter("reloads", "New versions, of each worker: taken, or refused.", "outcome")
        self.waiting = Gauge(
            "rbserve_waiting",
            "Requests on the scoring thread or waiting for it.",
            ("model",),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._shared = os.environ.get(SHARED)
        if self._shared is None:
            ProcessCollector(registry=self.registry)  # resident memory, CPU time, open files

    def for_model(self, model: str, task: Task) -> ModelTelemetry:
        """The counters of one of the models."""
        return ModelTelemetry(
            self.scoring_seconds.labels(model),
            self.queue_seconds.labels(model),
            (self.recommendations if task.ranks else self.candidates).labels(model),
            self.waiting.labels(model),
            self.batch.labels(model),
            lambda stage: self.stage_seconds.labels(model, stage),
            lambda source: self.prompt_tokens.labels(model, source),
        )

    def exposition(self) -> bytes:
        """Every metric in the Prometheus text format, of all workers where there are several."""
        return generate_latest(self._all_workers())

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample by its name and labels, collected once: figures that belong together are of one moment."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for metric in self._all_workers().collect()
            for sample in metric.samples
        }

    def _all_workers(self) -> CollectorRegistry:
        if self._shared is None:
            return self.registry
        together = CollectorRegistry()
        MultiProcessCollector(together, self._shared)  # type: ignore[no-untyped-call]
        together.register(WorkerMemory(Path(self._shared)))
        return together

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"rbserve_{name}", description, labels, registry=self.registry)

    def _histogram(self, name: str, description: str, *labels: str) -> Histogram:
        return Histogram(
            f"rbserve_{name}_duration_seconds", description, labels, buckets=BUCKETS_S, registry=self.registry
        )


class WorkerMemory(Collector):
    """Resident memory of each worker, read from the system: it cannot be added up from the workers' files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[GaugeMetricFamily]:
        resident = GaugeMetricFamily(
            "rbserve_worker_resident_memory_bytes", "Resident memory of a worker.", labels=["pid"]
        )
        for file in sorted(self._folder.glob("gauge_livesum_*.db")):
            pid = file.stem.rpartition("_")[2]
            try:
                resident.add_metric([pid], psutil.Process(int(pid)).memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        yield resident


def forget_worker(pid: int, folder: str) -> None:
    """Removes the gauges of a process that ended; its counters stay."""
    mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


class ModelTelemetry(NamedTuple):
    """The metrics of one model. `stage` and `prompt_tokens` take a label."""

    scoring_seconds: Histogram
    queue_seconds: Histogram
    items: Counter
    waiting: Gauge
    batch: Histogram
    stage: Callable[[str], Histogram]
    prompt_tokens: Callable[[str], Counter]


class Stopwatch:
    """An `Observe` that counts how long each stage took, from `start` on."""

    def __init__(self, counts: ModelTelemetry) -> None:
        self._stage, self._last = counts.stage, 0.0

    def start(self) -> None:
        """A call begins."""
        self._last = perf_counter()

    def __call__(self, stage: str) -> None:
        now = perf_counter()
        self._stage(stage).observe(now - self._last)
        self._last = now


class Observer:
    """Counts and times every request under the name of its route, gives it an id, and logs it.

    Paths outside `routes` share one label: a scanner must not be able to grow the metrics without bound.
    """

    def __init__(self, telemetry: Telemetry, routes: Collection[str], log: Log | None) -> None:
        self._telemetry, self._routes, self._log = telemetry, frozenset(routes), log
        self._children: dict[
            tuple[str, int], tuple[Counter, Histogram]
        ] = {}  # of routes and statuses, looked up once

    def begins(self, scope: Scope) -> str:
        """The request's id, which it has in its scope from now on."""
        own = scope["request_id"] = request_id(scope["headers"])
        return own

    def note(self, status: int, code: str) -> None:
        """A request was refused before its head was read."""
        scope: Scope = {"type": "http", "method": "", "path": "", "headers": [], CODE: code}
        self.begins(scope)
        self.ends(scope, status, 0.0)

    def ends(self, scope: Scope, status: int, seconds: float, failure: str | None = None) -> None:
        """It was answered so; `failure` is the traceback of one that should have been."""
        path = scope["path"]
        route = path if path in self._routes else "other"
        children = self._children.get((route, status))
        if children is None:
            children = self._children[route, status] = (
                self._telemetry.requests.labels(route, str(status)),
                self._telemetry.request_seconds.labels(route),
            )
        children[0].inc()
        children[1].observe(seconds)
        if self._log is not None:
            self._log.request(scope, route, status, seconds, failure)


class Observed:
    """ASGI middleware around everything that an application answers.

    When the server is `closing`, connections end with their answers, so that nobody sends a request into one that
    goes away. `stopped(path)` is the answer to a request that the end of the drain cancels: nothing else does.
    """

    def __init__(
        self,
        app: ASGIApp,
        observer: Observer,
        closing: Callable[[], bool],
        stopped: Callable[[str], ASGIApp],
    ) -> None:
        self._app, self._observer, self._closing, self._stopped = app, observer, closing, stopped

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, answered = perf_counter(), False
        status, failure = 500, None  # what an unhandled exception is turned into, outside of this middleware
        own = self._observer.begins(scope)

        async def remember_status(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = own
                if self._closing():
                    headers["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, remember_status)
        except asyncio.CancelledError:
            if not answered:
                await self._stopped(scope["path"])(scope, receive, remember_status)
        except Exception:
            failure = format_exc()
            raise
        finally:
            self._observer.ends(scope, status, perf_counter() - started, failure)
