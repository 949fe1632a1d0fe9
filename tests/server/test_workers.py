"""Real servers of several workers: they share a port, are counted together, replaced, reloaded and stopped together."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import Process, serving
from versions import scale_embeddings

from rbserve.data.artifact import Artifact, add_variants, open_artifact

BODY = {"history": ["i1"], "candidates": ["i3", "i4"]}
Metrics = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def score(url: str) -> httpx.Response:
    """Over a connection of its own, so that the kernel chooses a worker."""
    return httpx.post(f"{url}/v1/score", json=BODY, timeout=20)


def metrics(url: str) -> Metrics:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=20).text)
        for sample in family.samples
    }


def workers(server: Process) -> list[int]:
    """Pids by what the server said of them, in their order."""
    said = sorted(line for line in server.before if line.startswith("worker"))
    assert [re.sub(r"pid \d+", "pid N", line) for line in said] == [
        f"worker {place} of 2: pid N, 1 thread a call" for place in (1, 2)
    ]
    return [int(re.findall(r"pid (\d+)", line)[0]) for line in said]


def wait_for(true: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def served(artifact: Artifact, tmp_path: Path) -> Artifact:
    return open_artifact(Path(shutil.copytree(artifact.path, tmp_path / "toy")))


def write_version(served: Artifact, scale: float) -> None:
    """Another version in its place."""
    scale_embeddings(served.path / "onnx/fp32.onnx", scale)
    add_variants(served, served.manifest.variants)


def test_workers_answer_behind_one_port_and_are_counted_together(artifact: Artifact) -> None:
    with serving(artifact, workers=2) as server:
        assert server.announcement.startswith("serving toy onnx-fp32 (tiny) on http://127.0.0.1:")
        assert len({*workers(server), server.process.pid}) == 3
        for _ in range(40):
            assert score(server.url).status_code == 200
        found = metrics(server.url)
        assert found["rbserve_requests_total", (("route", "/v1/score"), ("status", "200"))] == 40
        assert found["rbserve_candidates_scored_total", (("model", "toy"),)] == 80
        resident = {labels[0][1]: size for (name, labels), size in found.items() if "resident" in name}
        assert {*map(int, resident)} == {*workers(server)}
        assert min(resident.values()) > 20_000_000
        busy = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in workers(server)]
        assert min(busy) > 0
        assert server.stop()[0] == 0
    assert not any(psutil.pid_exists(pid) for pid in workers(server))


def test_a_worker_that_is_killed_is_replaced_and_what_it_counted_stays(artifact: Artifact) -> None:
    with serving(artifact, workers=2) as server:
        for _ in range(10):
            score(server.url)
        victim, other = workers(server)
        os.kill(victim, signal.SIGKILL)
        for _ in range(20):  # those whose connection it would have had wait for the next
            assert score(server.url).status_code == 200
        lost, ready = server.stderr.readline(), server.stderr.readline()
        assert lost == f"worker 1, pid {victim}, was lost: signal SIGKILL; another takes its place now\n"
        assert re.fullmatch(r"worker 1 of 2: pid \d+, 1 thread a call\n", ready)
        assert psutil.pid_exists(other)
        assert metrics(server.url)["rbserve_candidates_scored_total", (("model", "toy"),)] == 60
        assert server.stop()[0] == 0


def test_all_workers_take_up_a_new_version(served: Artifact) -> None:
    with serving(served, workers=2) as server:
        (before,) = {str(score(server.url).json()) for _ in range(20)}
        write_version(served, 0.5)
        server.process.send_signal(signal.SIGHUP)
        assert server.stderr.readline() == "new versions are served: toy\n"
        (after,) = {str(score(server.url).json()) for _ in range(20)}
        assert after != before
        server.process.send_signal(signal.SIGHUP)
        assert server.stderr.readline() == "nothing new: the models are served as before\n"
        assert {str(score(server.url).json()) for _ in range(10)} == {after}
        assert server.stop()[0] == 0


def test_a_version_that_one_worker_refuses_none_takes(served: Artifact) -> None:
    with serving(served, workers=2, admin=True) as server:
        (before,) = {str(score(server.url).json()) for _ in range(20)}
        (served.path / "onnx/fp32.onnx").write_bytes(b"no graph")
        told = httpx.post(f"{server.url}/v1/admin/reload", timeout=30)
        assert (told.status_code, told.json()["error"]["code"]) == (409, "reload_refused")
        assert server.stderr.readline().startswith(
            "not reloaded, the models are served as before: artefact toy is"
        )
        assert {str(score(server.url).json()) for _ in range(20)} == {before}
        assert server.stop()[0] == 0


def test_a_single_worker_reloads_as_well(served: Artifact) -> None:
    with serving(served, admin=True) as server:
        before = score(server.url).json()
        write_version(served, 0.5)
        assert httpx.post(f"{server.url}/v1/admin/reload", timeout=30).status_code == 200
        after = score(server.url).json()
        assert after != before
        write_version(served, 0.5)
        server.process.send_signal(signal.SIGHUP)
        assert server.stderr.readline() == "new versions are served: toy\n"
        assert score(server.url).json() not in (before, after)
        server.process.send_signal(signal.SIGHUP)
        assert server.stderr.readline() == "nothing new: the models are served as before\n"
        assert server.stop()[0] == 0


def test_models_that_cannot_score_are_one_line_and_a_hint(served: Artifact) -> None:
    (served.path / "onnx/fp32.onnx").write_bytes(b"no graph")
    with serving(served, workers=2) as server:
        code, _, err = server.end()
    assert code == 1
    assert server.announcement.startswith("artefact toy is damaged: ")
    assert err == ""


def test_a_port_in_use_is_found_out_though_workers_share_theirs(artifact: Artifact) -> None:
    with serving(artifact, workers=2) as first:
        port = int(first.url.rpartition(":")[2])
        for count in (1, 2):
            with serving(artifact, workers=count, port=port) as second:
                assert second.end()[0] == 1
            assert second.announcement.startswith(f"port {port} is in use / ")
        assert first.stop()[0] == 0


def test_workers_without_a_supervisor_end(artifact: Artifact) -> None:
    with serving(artifact, workers=2) as server:
        server.process.kill()
        wait_for(lambda: not any(psutil.pid_exists(pid) for pid in workers(server)))


@pytest.mark.parametrize("count", [1, 2])
def test_no_request_is_lost_by_a_stop_under_load(artifact: Artifact, count: int) -> None:
    """Connections are kept, as those of a balancer are, and stay in use while the server stops."""
    outcomes: Counter[Any] = Counter()

    def ask_until_refused(url: str) -> None:
        with httpx.Client(base_url=url, timeout=20) as http:
            while True:
                try:
                    outcomes[http.post("/v1/score", json=BODY).status_code] += 1
                except httpx.ConnectError:
                    return
                except httpx.HTTPError as error:
                    outcomes[repr(error)] += 1
                    return

    with serving(artifact, workers=count) as server:
        threads = [threading.Thread(target=ask_until_refused, args=(server.url,)) for _ in range(4)]
        for one in threads:
            one.start()
        time.sleep(0.5)
        assert server.stop()[0] == 0
        for one in threads:
            one.join(20)
    assert {*outcomes} == {200}
    assert outcomes[200] > 20


def test_a_connection_that_is_idle_ends_soon_after_a_stop(artifact: Artifact) -> None:
    with serving(artifact) as server, httpx.Client(base_url=server.url) as http:
        assert http.get("/v1/health/live").status_code == 200
        began = time.monotonic()
        assert server.stop()[0] == 0
        assert time.monotonic() - began < 5
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)


def test_the_admin_route_is_not_opened_to_everybody(artifact: Artifact) -> None:
    with serving(artifact, host="0.0.0.0", admin=True) as server:
        assert server.end()[0] == 2
    assert server.announcement.startswith("--admin on 0.0.0.0 without API keys lets everybody reload / ")
