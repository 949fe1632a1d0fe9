"""Clients that are slow, silent, wrong or hostile, against a real server process.

Each gets an error in JSON or the end of its connection, others are served meanwhile, SIGTERM ends the server within its
drain time, and nothing that a client does prints a traceback.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from serving import Process, serving
from test_run import SLOW

from rbserve.data.artifact import Artifact

BODY = json.dumps({"history": ["i1"], "candidates": ["i3", "i4"]}).encode()
HEAD = (
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    % len(BODY)
)
HALF = HEAD + BODY[:10]
STUCK = """
import time
import numpy as np
from rbserve.core.requests import slate_of
class Stuck:
    def score(self, request):
        history, candidates = slate_of(request)
        time.sleep(0.002)
        if len(history) == 2:
            print("scoring", flush=True)
            time.sleep(60)
        return np.zeros(len(candidates), np.float32)
reload.open_scorer = lambda *_: Stuck()
"""


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[Process]:
    """One server for all that need no options; it stops without having said a word."""
    with serving(artifact) as running:
        yield running
        assert running.stop() == (0, "", "")


def connected(server: Process, data: bytes = b"") -> socket.socket:
    address = urlsplit(server.url)
    client = socket.create_connection((address.hostname, address.port), timeout=20)
    client.sendall(data)
    return client


def heard(client: socket.socket) -> bytes:
    """All that the server says until it ends the connection."""
    parts = []
    with client, contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def one_answer(client: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer on a connection that goes on."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer.status, answer.read()


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and error code of an answer, which is JSON and ends its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head, answer
    assert b"connection: close" in head, answer
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def is_served(server: Process) -> bool:
    answer = httpx.post(f"{server.url}/v1/score", content=BODY, headers={"content-type": "application/json"})
    return answer.status_code == 200


@contextlib.contextmanager
def many(server: Process, data: bytes, number: int = 50) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connected(server, data)) for _ in range(number)]


def test_half_a_body_is_answered_408_and_silence_is_ended(artifact: Artifact) -> None:
    with serving(artifact, read_timeout_s=1.0) as server:
        with many(server, HALF) as half, many(server, b"") as silent, many(server, HEAD[:30]) as headless:
            assert is_served(server)
            started = monotonic()
            assert {refusal(heard(client)) for client in half} == {(408, "request_timeout")}
            assert {refusal(heard(client)) for client in headless} == {(408, "request_timeout")}
            assert {heard(client) for client in silent} == {b""}
            assert monotonic() - started < 10
        metrics = httpx.get(f"{server.url}/metrics").text
        assert 'rbserve_requests_total{route="/v1/score",status="408"} 50.0' in metrics
        assert 'rbserve_requests_total{route="other",status="408"} 50.0' in metrics
        assert server.stop() == (0, "", "")


@pytest.mark.parametrize("head", [True, False])
def test_a_request_that_trickles_in_has_no_more_time_for_each_byte(artifact: Artifact, head: bool) -> None:
    with serving(artifact, read_timeout_s=1.0) as server, connected(server) as client:
        client.settimeout(0.2)
        data = iter(HEAD if head else HEAD + BODY)
        if not head:
            client.sendall(bytes(next(data) for _ in HEAD))
        started, answer = monotonic(), b""
        while not answer:
            with contextlib.suppress(TimeoutError):
                client.sendall(bytes([next(data)]))
                answer = client.recv(4096)
        assert 0.9 < monotonic() - started < 5
        client.settimeout(20)
        assert refusal(answer + heard(client))[0] == 408


def test_a_connection_that_is_kept_may_rest_longer_than_a_request_may_take(artifact: Artifact) -> None:
    with serving(artifact, read_timeout_s=1.0) as server, connected(server, HEAD + BODY) as client:
        assert one_answer(client)[0] == 200
        time.sleep(2.5)
        client.sendall(HEAD + BODY)
        assert one_answer(client)[0] == 200
        client.sendall(HALF)
        assert refusal(heard(client)) == (408, "request_timeout")


def test_a_request_behind_a_slow_one_keeps_its_time_until_that_is_answered(artifact: Artifact) -> None:
    slow = BODY.replace(b'["i1"]', b'["i1", "i2"]')
    head = HEAD.replace(b"%d" % len(BODY), b"%d" % len(slow))
    with (
        serving(artifact, before=SLOW, read_timeout_s=0.4) as server,
        connected(server, head + slow + HALF) as client,
    ):
        assert one_answer(client)[0] == 200, "a second later, and not 408"
        client.sendall(BODY[10:])
        assert one_answer(client)[0] == 200


def test_no_more_connections_than_are_allowed_and_there_is_room_again(artifact: Artifact) -> None:
    with serving(artifact, read_timeout_s=1.0, max_connections=5) as server:
        with many(server, b"", 5):
            time.sleep(0.1)
            answer = heard(connected(server))
            assert refusal(answer) == (503, "too_many_connections")
            assert b"retry-after: 1" in answer
        time.sleep(0.1)
        assert is_served(server)
        assert server.stop() == (0, "", "")


@pytest.mark.parametrize(
    ("sent", "refused"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400, "invalid_http")),
        (b"GET\r\n\r\n", (400, "invalid_http")),
        (b"GET \xff HTTP/1.1\r\nHost: x\r\n\r\n", (400, "invalid_http")),
        (b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", (400, "invalid_http")),
        (
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            (400, "invalid_http"),
        ),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 70_000, (431, "head_too_large")),
        (b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 20_000 + b"\r\n", (431, "head_too_large")),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", (431, "head_too_large")),
    ],
)
def test_what_is_no_request_is_refused_in_json(
    server: Process, sent: bytes, refused: tuple[int, str]
) -> None:
    client = connected(server)
    with contextlib.suppress(ConnectionError):
        client.sendall(sent)
    assert refusal(heard(client)) == refused
    assert is_served(server)


def test_an_upgrade_is_not_taken_up_and_the_request_is_answered(server: Process) -> None:
    upgrade = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    answer = heard(connected(server, upgrade))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer


def test_garbage_behind_a_request_does_not_cost_its_answer(server: Process) -> None:
    answer = heard(connected(server, HEAD + BODY + b"\x00\x01\x02 nonsense\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"scores"' in answer
    assert answer.count(b"HTTP/1.1 200") == 1, "what follows is a request of its own, and no HTTP"


def test_pipelined_requests_are_answered_in_their_order(server: Process) -> None:
    with connected(server) as client:
        last = HEAD.replace(b"Host: x", b"Host: x\r\nConnection: close") + BODY
        client.sendall((HEAD + BODY) * 20 + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" + last)
        statuses = [part.split()[0] for part in heard(client).split(b"HTTP/1.1 ")[1:]]
        assert statuses == [b"200"] * 20 + [b"404", b"200"]


def chunked(parts: Sequence[bytes], trailer: bytes = b"") -> bytes:
    head = HEAD.replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")
    return (
        head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"
    )


def test_chunked_bodies_are_read_and_their_trailers_are_not(server: Process) -> None:
    with connected(server) as client:
        client.sendall(chunked([BODY[at : at + 1] for at in range(len(BODY))]))
        assert one_answer(client)[0] == 200
        client.sendall(chunked([BODY], b"X-Request-Id: trailed\r\n"))
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"trailed" not in answer


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 422),
        (b"[" * 100_000 + b"]" * 100_000, 422),
        (b'{"history": ' + b"[" * 100_000 + b"]" * 100_000 + b', "candidates": ["i1"]}', 422),
        (b'{"history": [], "candidates": [NaN]}', 400),
        (b'{"history": [], "candidates": ["i1"], "x": 1e999}', 422),
        (b'{"history": ["\\ud800"], "candidates": ["i1"]}', 400),
        (b"\xff\xfe{}", 400),
        (b"", 400),
    ],
)
def test_bodies_that_are_no_request_are_refused_and_the_connection_goes_on(
    server: Process, body: bytes, status: int
) -> None:
    with httpx.Client(base_url=server.url) as http:
        answer = http.post("/v1/score", content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, *answer.json()) == (status, "error")
        answer = http.post("/v2/models/toy/infer", content=body)
        assert answer.status_code in {400, 422}
        assert isinstance(answer.json()["error"], str)
        assert http.get("/v1/health/live").status_code == 200


def test_a_body_without_an_end_is_ended_and_takes_no_memory(server: Process) -> None:
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    client = connected(server, chunked([]).removesuffix(b"0\r\n\r\n"))
    sent, piece = 0, b"10000\r\n" + b" " * 65536 + b"\r\n"
    with contextlib.suppress(ConnectionError):
        while sent < 1 << 28:
            client.sendall(piece)
            sent += len(piece)
    assert sent < 1 << 26, "the connection ended long before"
    assert process.memory_info().rss - before < 50_000_000
    client.close()


def test_who_never_reads_the_answers_is_let_go_and_takes_no_memory(artifact: Artifact) -> None:
    listing = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(artifact, read_timeout_s=0.5) as server:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        client = connected(server)
        client.settimeout(5)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                client.sendall(listing * 100)
        assert process.memory_info().rss - before < 50_000_000
        until = monotonic() + 10
        while process.net_connections() and any(
            one.status == "ESTABLISHED" for one in process.net_connections()
        ):
            assert monotonic() < until
            time.sleep(0.05)
        client.close()
        assert server.stop() == (0, "", "")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("data", [HALF, HEAD[:30], b"", HEAD + BODY])
def test_a_stop_ends_every_connection_within_the_drain_time(
    artifact: Artifact, data: bytes, workers: int
) -> None:
    options: dict[str, Any] = {"workers": workers, "drain_timeout_s": 3.0}
    with serving(artifact, **options) as server, many(server, data, 100) as clients:
        time.sleep(0.2)
        started = monotonic()
        code, out, err = server.stop()
        assert (code, out, err) == (0, "", "")
        assert monotonic() - started < 20
        if data == HALF:
            assert {refusal(heard(client)) for client in clients} == {(503, "shutting_down")}


def test_a_call_that_does_not_end_does_not_keep_a_stopped_server(artifact: Artifact) -> None:
    body = BODY.replace(b'["i1"]', b'["i1", "i2"]')
    head = HEAD.replace(b"%d" % len(BODY), b"%d" % len(body))
    with serving(artifact, before=STUCK, drain_timeout_s=2.0) as server:
        client = connected(server, head + body)
        assert server.stdout.readline() == "scoring\n"
        started = monotonic()
        code, _, err = server.stop()
        assert monotonic() - started < 20
        assert code == 0
        assert "Traceback" not in err
        assert refusal(heard(client)) == (503, "shutting_down")
