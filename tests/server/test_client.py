"""The typed client, and what holds a server against the model itself: over real connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import uvicorn

from rbserve.client import Client, ServedModel, ServerError
from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.requests import Request, slate_request
from rbserve.core.types import Scores
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.profilers.client.load import run_load
from rbserve.profilers.client.plan import LoadPlan
from rbserve.profilers.client.verify import verify
from rbserve.profilers.timing.requests import bodies, draw
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.server.api.options import Limits
from rbserve.server.routes.app import build_app
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import open_service
from rbserve.server.scoring.service import Service


@contextlib.contextmanager
def listening(*services: Service[Any, Any]) -> Iterator[str]:
    """The address of a server of services, which it warms up."""
    for service in services:
        service.warm_up(Limits())
    server = uvicorn.Server(
        uvicorn.Config(build_app(Models(services), Limits()), log_level="error", timeout_keep_alive=75)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def test_a_client_gets_what_the_model_says(artifact: Artifact, listwise: Artifact) -> None:
    scorer, ranker = open_scorer(artifact, "onnx-fp32"), open_ranker(listwise, "onnx-fp32")
    items, history = artifact.items, np.array([1, 2], np.int32)
    with listening(open_service(artifact, "onnx-fp32", 1)) as url, Client(url) as client:
        assert client.ready()
        assert client.models() == [ServedModel("toy", "onnx-fp32", "ctr", "tiny", "f" * 64, 50)]
        found = client.score(["i1", "i2"], ["i3", "i4"])
        np.testing.assert_allclose(
            found, scorer.score(slate_request(history, np.array([3, 4], np.int32))), atol=1e-7
        )
        with pytest.raises(ServerError, match="history has items that data set tiny does not") as refused:
            client.score(["nobody"], ["i3"])
        assert (refused.value.status, refused.value.code) == (422, "unknown_items")
        assert client.score([], ["i3"], model="toy"), "and the connection still works"
        with pytest.raises(ServerError, match="toy has no /v1/recommend"):
            client.recommend(["i1"])
    with listening(open_service(listwise, "onnx-fp32", 1)) as url, Client(f"{url}/") as client:
        best, scores = ranker.top_k(history, 3)
        found_items = client.recommend(["i1", "i2"], k=3)
        assert [item for item, _ in found_items] == items.names(best)
        np.testing.assert_allclose([score for _, score in found_items], scores, rtol=1e-6)


def test_a_client_outlives_its_connection_and_says_when_nobody_is_there(artifact: Artifact) -> None:
    with listening(open_service(artifact, "onnx-fp32", 1)) as url:
        client = Client(url, timeout_s=5)
        before = client.score(["i1"], ["i3"])
        assert client._connection.sock is not None
        client._connection.sock.shutdown(socket.SHUT_RDWR)
        assert client.score(["i1"], ["i3"]) == before
    with pytest.raises(RbserveError, match="no answer from http") as gone:
        client.score(["i1"], ["i3"])
    assert gone.value.hint == "is rbserve serve running there?"


def test_which_model_is_named_when_it_is_not_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("http://127.0.0.1:1")
    one, other = (ServedModel(name, "onnx-fp32", "ctr", "tiny", "f", 5) for name in ("dnn", "gdcn"))
    monkeypatch.setattr(Client, "models", lambda _: [one, other])
    assert client.model("gdcn") == other
    with pytest.raises(UsageError, match="serves dnn, gdcn: which"):
        client.model()
    with pytest.raises(UsageError, match="does not serve dcnv2, but dnn, gdcn"):
        client.model("dcnv2")


def test_a_server_of_something_else_is_told_from_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("http://127.0.0.1:1")
    for status, answer, said in (
        (200, b"<html>", "is no server of rbserve"),
        (502, b"", "answered with status 502"),
    ):
        monkeypatch.setattr(Client, "_exchange", lambda *_, found=(status, answer): found)
        with pytest.raises(RbserveError, match=said):
            client.models()


def test_served_scores_are_the_models_and_what_http_adds_is_measured(
    trained: Artifact, planted: Dataset
) -> None:
    with listening(open_service(trained, "onnx-fp32", 1)) as url:
        found = verify(trained, planted, url, slate=5, limit=1_000.0, rounds=3)
        assert found.verdict == "OK"
        assert found.difference is not None
        assert found.difference <= 1e-6
        assert found.compared == 100
        low, high = found.overhead_ci95
        assert low <= found.overhead_ms <= high
        assert found.served_ms > found.in_process_ms > 0
        assert found.echo_ms > 0
        least, most = found.ratio_ci95
        assert least <= found.ratio <= most
        assert verify(trained, planted, url, slate=1, limit=-1_000.0, rounds=3).verdict == "SLOWER"


def test_a_server_whose_scores_are_others_is_found_out(trained: Artifact, planted: Dataset) -> None:
    service = open_service(trained, "onnx-fp32", 1)
    honest = service.work.scorer

    class Off:
        def score(self, request: Request) -> Scores:
            return honest.score(request) + np.float32(1e-4)

    service.work.scorer = Off()
    with listening(service) as url:
        found = verify(trained, planted, url, slate=5, limit=1_000.0, rounds=2)
    assert found.verdict == "OTHER SCORES"
    assert found.difference == pytest.approx(1e-4, rel=0.05)


def test_a_server_of_another_model_or_data_set_is_refused(
    trained: Artifact, planted: Dataset, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        listening(open_service(artifact, "onnx-fp32", 1)) as url,
        pytest.raises(UsageError, match=f"does not serve {trained.name}, but toy"),
    ):
        verify(trained, planted, url, slate=5)
    other = ServedModel(trained.name, "onnx-fp32", "ctr", "planted", "f" * 64, 50)
    monkeypatch.setattr(Client, "models", lambda _: [other])
    with pytest.raises(
        UsageError, match="of another planted than the one here: fingerprint ffffffffffff and not"
    ):
        verify(trained, planted, "http://127.0.0.1:1", slate=5)


def test_load_is_answered_as_single_requests_are(trained: Artifact, planted: Dataset) -> None:
    asked = draw(np.random.default_rng(1), planted.ctr("test"), 5, len(planted.items))
    with listening(open_service(trained, "onnx-fp32", 1)) as url:
        plan = LoadPlan(rate=200, seconds=1.0, warm_up_s=0.2)
        load = run_load(url, "/v1/score", bodies(asked, planted.items, 5, trained.name), plan)
        assert set(load.answers) == {"200"}
        assert load.answers["200"] == load.sent
        assert not load.failures
        refused = run_load(
            url, "/v1/score", [b'{"history": []}'], LoadPlan(rate=50, seconds=0.5, warm_up_s=0)
        )
    assert set(refused.answers) == {"422"}
    assert refused.latency_ms is None
    assert refused.goodput_per_s == 0
