"""More requests than the model can answer: who waits, who is refused, and what is not computed any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from rbserve.core.requests import Request, slate_of
from rbserve.core.tasks import CTR
from rbserve.core.types import Scores
from rbserve.server.api.openapi import openapi
from rbserve.server.api.options import Limits
from rbserve.server.http.admission import AdmissionProtocol
from rbserve.server.http.keys import read_keys
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Scoring, SlateQuery

Connect = Callable[[], httpx.AsyncClient]
ScoreService = Service[SlateQuery, Scores]
BODY = {"history": [], "candidates": ["i1"]}


class Gated:
    """Scores zeros once the gate is open, and counts what it scored."""

    def __init__(self) -> None:
        self.entered, self.gate, self.calls = threading.Event(), threading.Event(), 0

    def score(self, request: Request) -> Scores:
        _, candidates = slate_of(request)
        self.calls += 1
        self.entered.set()
        assert self.gate.wait(10)
        return np.zeros(len(candidates), np.float32)


@pytest.fixture
def limits() -> Limits:
    return Limits(max_history=30, max_candidates=40, max_k=60, max_body_bytes=10_000, max_waiting=3)


@pytest.fixture
def gated(service: ScoreService) -> Gated:
    """What the service now scores with, always on its thread."""
    scorer = Gated()
    service.work, service.inline_size = Scoring(scorer, service.items), 0
    return scorer


def metric(service: ScoreService, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(service.telemetry.exposition().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0


async def post(http: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await http.post(
        "/v1/score", json=BODY, headers={"x-deadline-ms": headers["ms"]} if headers else {}
    )


async def filled(http: httpx.AsyncClient, service: ScoreService, scorer: Gated, number: int) -> list[Any]:
    """That many requests, the first of them computed and the others waiting."""
    tasks = [asyncio.create_task(post(http)) for _ in range(number)]
    await asyncio.to_thread(scorer.entered.wait, 10)
    while service.waiting < number:
        await asyncio.sleep(0.001)
    return tasks


def test_who_finds_the_queue_full_is_told_at_once_and_nobody_else_is_lost(
    connect: Connect, service: ScoreService, gated: Gated
) -> None:
    async def check() -> None:
        async with connect() as http:
            tasks = await filled(http, service, gated, 3)
            assert metric(service, "rbserve_waiting", model="toy") == 3
            started = perf_counter()
            refused = await post(http)
            assert perf_counter() - started < 0.5, "it did not wait for the gate"
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            gated.gate.set()
            assert [(await task).status_code for task in tasks] == [200, 200, 200]
            assert (await post(http)).status_code == 200, "and there is room again"

    asyncio.run(check())
    assert gated.calls == 4
    assert service.waiting == 0
    assert metric(service, "rbserve_refused_total", model="toy", reason="overloaded") == 1
    assert metric(service, "rbserve_queue_duration_seconds_count", model="toy") == 4


def test_a_request_whose_deadline_passes_while_it_waits_is_not_computed(
    connect: Connect, service: ScoreService, gated: Gated
) -> None:
    async def check() -> None:
        async with connect() as http:
            (first,) = await filled(http, service, gated, 1)
            late, patient = (asyncio.create_task(post(http, ms=ms)) for ms in ("20", "60000"))
            await asyncio.sleep(0.1)
            gated.gate.set()
            assert (await first).status_code == 200
            assert ((await late).status_code, (await late).json()["error"]["code"]) == (
                504,
                "deadline_exceeded",
            )
            assert (await patient).status_code == 200

    asyncio.run(check())
    assert gated.calls == 2
    assert metric(service, "rbserve_refused_total", model="toy", reason="deadline") == 1


def test_a_request_that_would_wait_past_its_deadline_is_refused_at_once(
    connect: Connect, service: ScoreService, gated: Gated
) -> None:
    service._pace = 10.0

    async def check() -> None:
        async with connect() as http:
            (first,) = await filled(http, service, gated, 1)
            hurried = await post(http, ms="500")
            assert (hurried.status_code, hurried.headers["retry-after"]) == (503, "10")
            gated.gate.set()
            assert (await first).status_code == 200

    asyncio.run(check())
    assert gated.calls == 1


def test_the_server_has_a_deadline_of_its_own_for_requests_without_one(
    service: ScoreService, gated: Gated
) -> None:
    app = build_app(Models([service]), Limits(deadline_ms=20))

    async def check() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            (first,) = await filled(http, service, gated, 1)
            waits = asyncio.create_task(post(http))
            await asyncio.sleep(0.1)
            gated.gate.set()
            assert [(await task).status_code for task in (first, waits)] == [200, 504]

    asyncio.run(check())


def test_nothing_is_computed_for_a_client_that_left(
    service: ScoreService, limits: Limits, gated: Gated
) -> None:
    app = build_app(Models([service]), limits)
    sent: list[MutableMapping[str, Any]] = []

    async def request(leaves: asyncio.Event) -> None:
        messages = iter([{"type": "http.request", "body": b'{"history": [], "candidates": ["i1"]}'}])

        async def receive() -> MutableMapping[str, Any]:
            for message in messages:
                return message
            await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/score", "query_string": b"", "http_version": "1.1",
                 "headers": [(b"content-type", b"application/json")]}  # fmt: skip
        await app(scope, receive, send)

    async def check() -> None:
        stays, leaves = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(request(stays))
        await asyncio.to_thread(gated.entered.wait, 10)
        second = asyncio.create_task(request(leaves))
        while service.waiting < 2:
            await asyncio.sleep(0.001)
        leaves.set()
        await second
        assert service.waiting == 1, "its place is free"
        gated.gate.set()
        await first

    asyncio.run(check())
    assert gated.calls == 1
    assert [one["status"] for one in sent if one["type"] == "http.response.start"] == [499, 200]
    assert metric(service, "rbserve_refused_total", model="toy", reason="client gone") == 1


@pytest.mark.parametrize("said", ["soon", "0", "0.5", "-5", "nan", "inf"])
def test_a_deadline_is_a_number_of_milliseconds(connect: Connect, service: ScoreService, said: str) -> None:
    async def check() -> None:
        async with connect() as http:
            answer = await post(http, ms=said)
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_deadline")
            assert said in answer.json()["error"]["message"]
            assert (await post(http, ms="1000")).status_code == 200

    asyncio.run(check())


def test_the_openapi_document_tells_of_deadlines_and_refusals(limits: Limits) -> None:
    operation = openapi(limits, [CTR])["paths"]["/v1/score"]["post"]
    assert [one["name"] for one in operation["parameters"]] == ["X-Deadline-Ms"]
    assert {"503", "504"} <= operation["responses"].keys()


def test_a_request_that_is_computed_for_nobody_has_its_place_until_it_is_done(
    connect: Connect, service: ScoreService, gated: Gated
) -> None:
    async def check() -> None:
        async with connect() as http:
            (first,) = await filled(http, service, gated, 1)
            first.cancel()
            await asyncio.sleep(0.05)
            assert service.waiting == 1
            gated.gate.set()
            while service.waiting:
                await asyncio.sleep(0.001)
            assert (await post(http)).status_code == 200

    asyncio.run(check())


class Connection:
    """A connection on which a test says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, text: str) -> None:
        self._writer.write(text.encode())

    async def hear(self) -> tuple[int, dict[str, str], str]:
        """Status, headers and body of the next answer."""
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self._reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers, body.decode()


SENT = '{"history":[],"candidates":["i1"]}'


def head(*lines: str, method: str = "POST", path: str = "/v1/score") -> str:
    given = ("Host: x", "Content-Type: application/json", f"Content-Length: {len(SENT)}", *lines)
    return "\r\n".join((f"{method} {path} HTTP/1.1", *given, "", ""))


@asynccontextmanager
async def wired(
    models: Models, limits: Limits, keys: frozenset[bytes] = frozenset()
) -> AsyncIterator[Connection]:
    """A connection to a real server, in this process."""
    app = build_app(models, limits, keys)
    http: Any = partial(AdmissionProtocol, refuse=app.state.refuse)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http=http, lifespan="off", log_level="error"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        server.should_exit = True
        await running


async def busy(service: ScoreService, scorer: Gated, number: int) -> None:
    """That many requests wait for the model."""
    for _ in range(number):
        service.answer_later(SlateQuery(np.empty(0, np.int32), np.zeros(1, np.int32)), number)
    await asyncio.to_thread(scorer.entered.wait, 10)


def test_a_request_that_can_only_be_refused_is_refused_before_its_body_comes(
    models: Models, service: ScoreService, limits: Limits, gated: Gated
) -> None:
    async def check() -> None:
        async with wired(models, limits) as connection:
            await busy(service, gated, 3)
            connection.say(head("X-Request-Id: mine"))
            status, headers, body = await connection.hear()
            assert (status, headers["x-request-id"]) == (503, "mine")
            assert int(headers["retry-after"]) >= 1
            assert '"code":"overloaded"' in body
            connection.say(SENT + head() + SENT + head(path="/v2/models/toy/infer") + SENT)
            connection.say(head(path="/v2/models/toy/versions/1/infer"))
            second, third = await connection.hear(), await connection.hear()
            assert (second[0], third[0]) == (503, 503)
            assert third[2] == '{"error":"3 requests wait for the model already"}'
            assert (await connection.hear())[0] == 503, "before its body, by its version as well"
            connection.say(SENT)
            connection.say(head(method="GET") + SENT)
            assert (await connection.hear())[0] == 405, "who asks for something else hears of that"
            connection.say(head("X-Deadline-Ms: soon") + SENT)
            assert (await connection.hear())[0] == 422
            gated.gate.set()
            while service.waiting:
                await asyncio.sleep(0.001)
            connection.say(head() + SENT)
            assert (await connection.hear())[0] == 200, "the connection and the model go on"

    asyncio.run(check())
    assert gated.calls == 4
    assert metric(service, "rbserve_refused_total", model="toy", reason="overloaded") == 4
    assert metric(service, "rbserve_requests_total", route="/v1/score", status="503") == 2
    assert metric(service, "rbserve_requests_total", route="/v1/score", status="200") == 1


def test_who_has_no_key_is_told_that_and_not_how_busy_the_server_is(
    models: Models, service: ScoreService, limits: Limits, gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_API_KEYS", "a-key-that-is-hard-to-guess")

    async def check() -> None:
        async with wired(models, limits, read_keys(None)) as connection:
            await busy(service, gated, 3)
            connection.say(head() + SENT)
            assert (await connection.hear())[0] == 401
            connection.say(head("Authorization: Bearer a-key-that-is-hard-to-guess") + SENT)
            assert (await connection.hear())[0] == 503
            gated.gate.set()

    asyncio.run(check())
