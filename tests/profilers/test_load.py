"""The load generator: requests at the times that were drawn, whatever the server does, and every one accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from rbserve.core.errors import RbserveError, UsageError
from rbserve.profilers.client.load import RequestTimes, _void, arrivals, run_load
from rbserve.profilers.client.plan import LoadPlan

# The scripted server may be stopped with a connection that it has accepted and not yet met.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

Answer = Callable[[int], tuple[float, int | None]]
"""Number of the request, from 0, to seconds until it is answered and the status; None: the connection is closed, of a
negative one after the answer."""


@contextlib.contextmanager
def scripted(answer: Answer) -> Iterator[str]:
    """The address of a server that answers as it is told."""
    count = iter(range(1_000_000))

    handling: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
                while True:
                    await reader.readuntil(b"\r\n\r\n{}")
                    seconds, status = answer(next(count))
                    await asyncio.sleep(seconds)
                    if status is None:
                        break
                    writer.write(f"HTTP/1.1 {abs(status)} x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
                    await writer.drain()
                    if status < 0:
                        writer.close()
                        await writer.wait_closed()
                        break
        finally:
            handling.discard(task)
            writer.transport.abort()

    started, stop = threading.Event(), asyncio.Event()
    found: list[tuple[int, asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        found.append((server.sockets[0].getsockname()[1], asyncio.get_running_loop()))
        started.set()
        await stop.wait()
        server.close()
        # Connections begin and end over several rounds of the loop; one whose handling never began would stay open.
        await rounds(20)
        for task in tuple(handling):
            task.cancel()
        await rounds(20)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{found[0][0]}"
    finally:
        found[0][1].call_soon_threadsafe(stop.set)
        thread.join(10)


async def rounds(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def at_once(number: int) -> tuple[float, int | None]:
    return 0.0, 200


def test_times_are_those_of_a_poisson_process_and_the_same_for_a_seed() -> None:
    plan = LoadPlan(rate=500, seconds=20, warm_up_s=0)
    times = arrivals(plan)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(10_000, abs=400)
    assert gaps.mean() == pytest.approx(1 / 500, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05), "of an exponential they are equal"
    np.testing.assert_array_equal(times, arrivals(plan))
    assert (np.diff(times) > 0).all()
    assert times[-1] < 20


def test_every_request_is_sent_and_answered() -> None:
    with scripted(at_once) as url:
        plan = LoadPlan(rate=300, seconds=1.0, warm_up_s=0.2)
        load = run_load(url, "/v1/score", [b"{}"], plan)
    expected = int((arrivals(plan) >= 0.2).sum())
    assert load.sent == expected
    assert load.answers == {"200": expected}
    assert load.failures == {}
    assert load.goodput_per_s == load.asked_per_s == expected
    assert load.latency_ms is not None
    assert load.latency_ms.n == expected
    assert load.latency_ms.p50 < 50


def test_a_connection_that_the_server_closed_meanwhile_is_not_used() -> None:
    with scripted(lambda _: (0.0, -200)) as url:
        load = run_load(url, "/v1/score", [b"{}"], LoadPlan(rate=50, seconds=1.0, warm_up_s=0, connections=4))
    assert (load.answers, load.failures) == ({"200": load.sent}, {})


def test_latency_counts_from_a_requests_time_when_a_stalled_server_lets_it_wait() -> None:
    """Coordinated omission: one connection, one stall of half a second; a third of all requests waits for it."""

    def stall(number: int) -> tuple[float, int | None]:
        return (0.5 if number == 20 else 0.0), 200

    with scripted(stall) as url:
        load = run_load(
            url, "/v1/score", [b"{}"], LoadPlan(rate=100, seconds=1.5, warm_up_s=0, connections=1)
        )
    assert load.latency_ms is not None
    assert load.service_ms is not None
    assert load.latency_ms.max == pytest.approx(500, abs=100)
    assert load.waited >= 20
    assert load.latency_ms.p90 is None or load.latency_ms.p90 > 100, (
        "requests behind the stall waited as well"
    )
    assert load.service_ms.p50 < 50


def test_a_slow_server_is_met_by_more_connections_not_by_fewer_requests() -> None:
    with scripted(lambda _: (0.2, 200)) as url:
        load = run_load(url, "/v1/score", [b"{}"], LoadPlan(rate=100, seconds=1.0, warm_up_s=0))
    assert load.asked_per_s > 70
    assert load.waited == 0
    assert load.latency_ms is not None
    assert load.latency_ms.p50 == pytest.approx(200, abs=60)


def test_what_goes_wrong_is_counted_by_how() -> None:
    def mixed(number: int) -> tuple[float, int | None]:
        return [(0.0, 200), (0.0, 503), (0.0, None), (5.0, 200)][number % 4]

    with scripted(mixed) as url:
        load = run_load(url, "/v1/score", [b"{}"], LoadPlan(rate=80, seconds=1.0, warm_up_s=0, timeout_s=0.3))
    assert set(load.answers) == {"200", "503"}
    assert set(load.failures) == {"connection lost", "timed out"}
    assert sum(load.answers.values()) + sum(load.failures.values()) == load.sent
    assert load.refusal_ms is not None
    assert load.refusal_ms.n == load.answers["503"]
    assert load.goodput_per_s == load.answers["200"]


def test_late_answers_are_no_goodput() -> None:
    def every_other_late(number: int) -> tuple[float, int | None]:
        return (0.3 if number % 2 else 0.0), 200

    with scripted(every_other_late) as url:
        plan = LoadPlan(rate=50, seconds=1.0, warm_up_s=0, deadline_ms=150)
        load = run_load(url, "/v1/score", [b"{}"], plan)
    answered = load.answers["200"]
    assert answered / 5 < load.goodput_per_s <= answered / 2 + 1, "others may be late too on a busy machine"


def test_a_server_that_goes_away_ends_no_run() -> None:
    with scripted(at_once) as url:
        done: list[object] = []
        plan = LoadPlan(rate=100, seconds=1.0, warm_up_s=0)
        thread = threading.Thread(target=lambda: done.append(run_load(url, "/v1/score", [b"{}"], plan)))
        thread.start()
        time.sleep(0.4)
    thread.join(20)
    (load,) = done
    assert getattr(load, "failures", None), "requests to nobody are failures"


def test_nobody_there_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RbserveError, match=f"no connection to {url}"):
        run_load(url, "/", [b"{}"], LoadPlan(rate=10, seconds=1))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://there", "http://", "http://a:b"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(UsageError, match="no address of a server"):
        run_load(url, "/", [b"{}"], LoadPlan(rate=10, seconds=1))


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"seconds": -1.0}, {"timeout_s": 0.0}, {"connections": 0},
                                   {"warm_up_s": -1.0}, {"rate": float("nan")}])  # fmt: skip
def test_plans_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        LoadPlan(**{"rate": 1.0, "seconds": 1.0, **wrong})  # type: ignore[arg-type]


def test_a_generator_that_lags_makes_its_figures_void() -> None:
    met = RequestTimes(100, p50=5.0, p90=6.0, p99=7.0, max=9.0)
    assert _void(RequestTimes(100, 0.1, 0.2, 0.9, 3.0), met) is None, "less than a millisecond"
    assert _void(RequestTimes(100, 0.1, 0.2, 2.0, 3.0), met) is not None
    assert _void(RequestTimes(100, 0.1, 0.2, 2.0, 3.0), RequestTimes(100, 50.0, 60.0, 70.0, 90.0)) is None, (
        "a 25th of it"
    )
    assert _void(RequestTimes(3, 0.1, None, None, 3.0), met) is not None, "of few requests the latest counts"
