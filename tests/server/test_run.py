"""Real server processes: how they start, stop, and refuse to start."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from time import monotonic

import httpx
import pytest
from serving import serving

from rbserve.core.errors import RbserveError, UsageError
from rbserve.data.artifact import Artifact
from rbserve.server.api.options import ServerOptions
from rbserve.server.observe.telemetry import Telemetry
from rbserve.server.process.draining import DrainingServer
from rbserve.server.process.sockets import listen
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import Opening, ServedVariant

# Slow for a history of two items, and slow enough otherwise that warm-up chooses the scoring thread.
SLOW = """
import time
import numpy as np
from rbserve.core.requests import slate_of
class Slow:
    def score(self, request):
        history, candidates = slate_of(request)
        time.sleep(0.002)
        if len(history) == 2:
            print("scoring", flush=True)
            time.sleep(1.0)
        return np.zeros(len(candidates), np.float32)
reload.open_scorer = lambda *_: Slow()
"""

NO_TORCH = """
loaded = {name.partition(".")[0] for name in sys.modules}
print("loaded:", *sorted(loaded & {"torch", "transformers", "onnxruntime"}))
"""


def score(url: str, history: list[str]) -> httpx.Response:
    return httpx.post(f"{url}/v1/score", json={"history": history, "candidates": ["i3", "i4"]}, timeout=20)


def test_it_is_ready_soon_scores_without_torch_and_ends_cleanly(artifact: Artifact) -> None:
    started = monotonic()
    with serving(artifact, after=NO_TORCH) as server:
        assert server.announcement.startswith("serving toy onnx-fp32 (tiny) on http://127.0.0.1:")
        assert httpx.get(f"{server.url}/v1/health/ready").status_code == 200
        assert monotonic() - started < 10  # generous: the target of 2 s is measured elsewhere
        assert [scored["item"] for scored in score(server.url, ["i1"]).json()["scores"]] == ["i3", "i4"]
        assert server.stop() == (0, "loaded: onnxruntime\n", "")


def test_a_model_that_ranks_is_served_without_torch_too(listwise: Artifact) -> None:
    with serving(listwise, after=NO_TORCH) as server:
        answer = httpx.post(f"{server.url}/v1/recommend", json={"history": ["i1"], "k": 3}, timeout=20)
        assert len(answer.json()["items"]) == 3
        assert server.stop() == (0, "loaded: onnxruntime\n", "")


def test_models_of_both_tasks_are_served_beside_one_another(artifact: Artifact, listwise: Artifact) -> None:
    with serving(artifact, listwise) as server, httpx.Client(base_url=server.url) as http:
        assert server.announcement.startswith(
            "serving toy onnx-fp32 (tiny), rank onnx-fp32 (tiny) on http://"
        )
        assert [one["name"] for one in http.get("/v1/models").json()["models"]] == ["toy", "rank"]
        assert len(http.post("/v1/recommend", json={"history": ["i1"], "k": 3}).json()["items"]) == 3
        assert score(server.url, ["i1"]).status_code == 200
        assert server.stop() == (0, "", "")


def test_two_models_of_one_name_are_one_line_and_a_hint(artifact: Artifact) -> None:
    with serving(artifact, artifact) as server:
        assert server.end() == (2, "", "")
    assert server.announcement.startswith("two models have the name toy / ")


def test_oversized_bodies_are_refused_over_a_real_connection_that_then_still_works(
    artifact: Artifact,
) -> None:
    with serving(artifact) as server, httpx.Client(base_url=server.url) as http:
        headers = {"content-type": "application/json"}
        large = b" " * 5_000_000
        assert http.post("/v1/score", content=large, headers=headers).status_code == 413
        assert http.post("/v1/score", content=iter([large]), headers=headers).status_code == 413
        assert http.get("/v1/health/live").status_code == 200


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_lets_the_request_in_flight_finish(artifact: Artifact, sig: signal.Signals) -> None:
    answers: list[httpx.Response] = []
    with serving(artifact, before=SLOW) as server:
        request = threading.Thread(target=lambda: answers.append(score(server.url, ["i1", "i2"])))
        request.start()
        assert server.stdout.readline() == "scoring\n"
        assert server.stop(sig) == (0, "", "")
        request.join()
    assert [answer.status_code for answer in answers] == [200]


def test_a_connection_that_is_made_as_the_port_is_given_up_is_answered(artifact: Artifact) -> None:
    opening = Opening([ServedVariant(artifact.path, "onnx-fp32")])
    models = Models(opening.open(Telemetry()))

    async def nothing() -> None:
        return None

    async def check() -> bytes:
        server = DrainingServer(models, opening, ServerOptions(), reload=nothing, on_ready=lambda: None)
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        listener = listen("127.0.0.1", 0)
        await server.startup([listener])
        with socket.create_connection(listener.getsockname()) as client:  # the loop has not accepted it yet
            client.settimeout(10)
            client.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            await server.shutdown([listener])
            return client.recv(1000)

    assert asyncio.run(check()).startswith(b"HTTP/1.1 200 OK")


def test_requests_are_logged_where_that_is_asked_for(artifact: Artifact) -> None:
    with serving(artifact, log="requests") as server:
        sent = score(server.url, ["i1"])
        line = json.loads(server.stdout.readline())
        assert (line["request_id"], line["model"]) == (sent.headers["x-request-id"], "toy")
        assert server.stop() == (0, "", "")


def test_a_failure_is_logged_on_stderr(artifact: Artifact) -> None:
    broken = SLOW + (
        "def score(self, request):\n"
        "    history, candidates = slate_of(request)\n"
        "    return np.zeros(len(candidates), np.float32) / (len(history) != 2)\n"
        "Slow.score = score\n"
    )
    with serving(artifact, before=broken) as server:
        assert score(server.url, ["i1", "i2"]).status_code == 500
        code, _, err = server.stop()
    assert code == 0
    assert "a score is not finite" in err


def test_a_port_in_use_is_one_line_and_a_hint(artifact: Artifact) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with serving(artifact, port=port) as server:
            assert server.end() == (1, "", "")
    assert server.announcement == (
        f"port {port} is in use / --port N (0 takes a free one), or stop the other process"
    )


def test_a_model_that_cannot_score_is_one_line_and_a_hint(artifact: Artifact) -> None:
    broken = SLOW + "Slow.score = lambda self, request: 1 / 0\n"
    with serving(artifact, before=broken) as server:
        assert server.end() == (1, "", "")
    assert server.announcement.startswith("toy onnx-fp32 cannot score: division by zero / ")


def test_an_address_others_can_reach_is_warned_about(artifact: Artifact) -> None:
    with serving(artifact, host="0.0.0.0") as server:
        _, _, err = server.stop()
    assert err == "warning: reachable from other machines; there is no authentication\n"


def test_two_listeners_cannot_share_a_port() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(RbserveError, match=f"port {port} is in use"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "error", "said"),
    [
        ("127.0.0.1", 70_000, UsageError, "port 70000 is not between 0 and 65535"),
        ("no.such.host.invalid", 0, RbserveError, "cannot listen on no.such.host.invalid: "),
        ("a..b", 0, RbserveError, "cannot listen on a..b: "),
        ("192.0.2.1", 0, RbserveError, "cannot listen on 192.0.2.1 port 0: "),
    ],
)
def test_addresses_that_cannot_be_listened_on_are_named(
    host: str, port: int, error: type[RbserveError], said: str
) -> None:
    with pytest.raises(error, match=said):
        listen(host, port)
