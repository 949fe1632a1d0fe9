"""Load on a server: requests at the times of a Poisson process, whether or not earlier ones have been answered.

A client that waits for an answer before it asks again slows down with the server and hides what others would have
waited (coordinated omission). Here the times are drawn beforehand, and a request's latency counts from its time, not
from when it was sent. How late the generator itself was is measured; where that matters, the run is void.

One process, one event loop, HTTP/1.1 over kept connections. It never sleeps through the last two milliseconds before
a request, since timers of event loops are no finer than one: it takes a core of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any
from urllib.parse import SplitResult

import httptools
import msgspec
import numpy as np
import uvloop
from numpy.typing import NDArray

from rbserve.client import address_of, request_bytes
from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.types import Progress, no_progress
from rbserve.profilers.client.plan import LoadPlan
from rbserve.stats.intervals import certified_percentile

TIMED_OUT, LOST, NOT_CONNECTED = 0, -1, -2
FAILURES = {TIMED_OUT: "timed out", LOST: "connection lost", NOT_CONNECTED: "could not connect"}
OVERLOADED = (429, 503)

AWAKE_S = 0.002
LATE_MS, LATE_SHARE = 1.0, 0.1
"""A run is void when the generator was late by more than both, the second a share of the median latency, at its p99."""

Seconds = NDArray[np.float64]


class RequestTimes(msgspec.Struct, frozen=True):
    """Milliseconds of n requests. A percentile is null where they are too few to certify it."""

    n: int
    p50: float
    p90: float | None
    p99: float | None
    max: float


class Load(msgspec.Struct, frozen=True):
    """The result of a load. Rates are requests a second over the counted seconds.

    `latency_ms` is that of successes from their times, `service_ms` from when they were sent; `refusal_ms` that of
    answers 429 and 503, from when they were sent. `lag_ms` is how late the generator was; `waited` how many requests
    found every connection busy, which their latency includes. `void` says why the figures are not to be used.
    """

    url: str
    seconds: float
    asked_per_s: float
    sent: int
    answers: dict[str, int]
    failures: dict[str, int]
    goodput_per_s: float
    latency_ms: RequestTimes | None
    service_ms: RequestTimes | None
    refusal_ms: RequestTimes | None
    lag_ms: RequestTimes
    waited: int
    void: str | None


def run_load(
    url: str, path: str, bodies: Sequence[bytes], plan: LoadPlan, progress: Progress = no_progress
) -> Load:
    """Sends JSON `bodies` in turn to `path` of the server at `url`, at the plan's times.

    Raises UsageError for an address that is none, RbserveError where no connection can be made.
    """
    address = address_of(url)
    payloads = [request_bytes(address, path, body, plan.deadline_ms) for body in bodies]
    times = arrivals(plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        generator = runner.run(_generate(address, payloads, times, plan, progress))
    return summarise(url, plan, generator)


def arrivals(plan: LoadPlan) -> Seconds:
    """The times of a Poisson process from the start of the warm-up on, rising."""
    rng = np.random.default_rng(plan.seed)
    whole = plan.warm_up_s + plan.seconds
    mean = plan.rate * whole
    times = np.cumsum(rng.exponential(1 / plan.rate, int(mean + 6 * mean**0.5 + 10)))
    return times[times < whole]


class Generator:
    """Sends requests at their times, over as many connections as they need, and records their outcomes."""

    def __init__(
        self, address: SplitResult, payloads: Sequence[bytes], times: Seconds, plan: LoadPlan
    ) -> None:
        self._address, self._payloads, self._plan = address, payloads, plan
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._waiting: deque[int] = deque()
        self._open = self._done = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.all_done = asyncio.Event()
        self.begin = 0.0
        self.times = times
        self.fired, self.sent, self.ended = (np.full(len(times), np.nan) for _ in range(3))
        self.status = np.full(len(times), TIMED_OUT)
        self.waited = np.zeros(len(times), bool)

    async def connect(self) -> None:
        """Opens the first connection. Raises RbserveError where that fails."""
        self._open += 1
        try:
            self._idle.append(await self._connection())
        except OSError as error:
            raise RbserveError(
                f"no connection to {self._address.geturl()}: {error}", "is rbserve serve running there?"
            ) from None

    def fire(self, number: int) -> None:
        """Sends a request, or queues it for a connection."""
        self.fired[number] = self._now()
        while self._idle and not self._idle[-1].usable:  # the server closed it meanwhile
            self._idle.pop()
            self._open -= 1
        if self._idle:
            self._send(self._idle.pop(), number)
        elif self._open < self._plan.connections:
            self._open_for(number)
        else:
            self.waited[number] = True
            self._waiting.append(number)

    def close(self) -> None:
        """Closes the idle connections."""
        for connection in self._idle:
            connection.end()

    def _now(self) -> float:
        return perf_counter() - self.begin

    def _open_for(self, number: int) -> None:
        self._open += 1
        task = self._loop.create_task(self._connect_and_send(number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_and_send(self, number: int) -> None:
        try:
            connection = await self._connection()
        except (OSError, TimeoutError):
            self._finish(number, NOT_CONNECTED)
            self._lose()
        else:
            self._send(connection, number)

    async def _connection(self) -> _Connection:
        secure = self._address.scheme == "https"
        host, port = self._address.hostname, self._address.port or (443 if secure else 80)
        assert host
        async with asyncio.timeout(self._plan.timeout_s):
            _, made = await self._loop.create_connection(_Connection, host, port, ssl=secure or None)
        return made

    def _send(self, connection: _Connection, number: int) -> None:
        def done(status: int) -> None:
            timer.cancel()
            self._finish(number, status)
            self._free(connection)

        self.sent[number] = self._now()
        timer = self._loop.call_later(self._left(number), connection.give_up)
        connection.ask(self._payloads[number % len(self._payloads)], done)

    def _free(self, connection: _Connection) -> None:
        if not connection.usable:
            self._lose()
        elif (number := self._next()) is not None:
            self._send(connection, number)
        else:
            self._idle.append(connection)

    def _lose(self) -> None:
        """A connection was lost; a queued request gets a new one."""
        self._open -= 1
        number = self._next()
        if number is not None:
            self._open_for(number)

    def _next(self) -> int | None:
        """The next request of the queue; requests whose time is over are given up."""
        while self._waiting:
            number = self._waiting.popleft()
            if self._left(number) > 0:
                return number
            self._finish(number, TIMED_OUT)
        return None

    def _left(self, number: int) -> float:
        """Seconds until the request is given up."""
        return float(self.times[number]) + self._plan.timeout_s - self._now()

    def _finish(self, number: int, status: int) -> None:
        self.ended[number], self.status[number] = self._now(), status
        self._done += 1
        if self._done == len(self.times):
            self.all_done.set()


class _Connection(asyncio.Protocol):
    """A connection with one request at a time."""

    def __init__(self) -> None:
        self.usable = False
        self._parser = httptools.HttpResponseParser(self)
        self._done: Callable[[int], None] | None = None
        self._complete = self._gave_up = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self.usable = True

    def ask(self, payload: bytes, done: Callable[[int], None]) -> None:
        """Sends a request; `done` is called with the status of its answer, or with one of FAILURES."""
        self._done = done
        if self.usable:
            self._transport.write(payload)
        else:
            self._answer(LOST)

    def give_up(self) -> None:
        """Gives the request up and closes the connection, whose answer may still come."""
        self._gave_up, self.usable = True, False
        self._transport.abort()

    def end(self) -> None:
        """Closes the connection."""
        self.usable = False
        self._transport.close()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._complete = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.usable = False
            self._transport.abort()
            return
        if self._complete:
            self._complete = False
            if not self._parser.should_keep_alive():
                self.end()
            self._answer(self._parser.get_status_code())

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.usable = False
        self._answer(TIMED_OUT if self._gave_up else LOST)

    def _answer(self, status: int) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(status)


async def _generate(
    address: SplitResult, payloads: Sequence[bytes], times: Seconds, plan: LoadPlan, progress: Progress
) -> Generator:
    generator = Generator(address, payloads, times, plan)
    await generator.connect()
    whole, shown_at = plan.warm_up_s + plan.seconds, 0.0
    generator.begin = perf_counter()
    for number, at in enumerate(times.tolist()):
        if at > shown_at:
            progress(round(at), round(whole), f"seconds, {number:,} requests")
            shown_at = at + 0.5
        await _until(generator.begin + at)
        generator.fire(number)
    if len(times):
        await generator.all_done.wait()  # each has its timeout
    generator.close()
    await asyncio.sleep(0)  # connections end in the loop's next round
    return generator


async def _until(at: float) -> None:
    """A time of `perf_counter`: the loop's own clock has a resolution of a millisecond."""
    left = at - perf_counter()
    if left > AWAKE_S:
        await asyncio.sleep(left - AWAKE_S)
    while perf_counter() < at:
        await asyncio.sleep(0)


def summarise(url: str, plan: LoadPlan, ran: Generator) -> Load:
    """The figures of the counted requests."""
    counted = ran.times >= plan.warm_up_s
    status, times = ran.status[counted], ran.times[counted]
    latency, service = (ran.ended[counted] - since for since in (times, ran.sent[counted]))
    success = (status >= 200) & (status < 300)
    within = success if plan.deadline_ms is None else success & (latency * 1000 <= plan.deadline_ms)
    lag = _times(ran.fired[counted] - times)
    if lag is None:
        raise UsageError(
            f"no request falls into {plan.seconds:g} seconds at {plan.rate:g} a second",
            "ask for more of either",
        )
    met = _times(latency[success])
    counts = Counter(status.tolist())
    return Load(
        url=url,
        seconds=plan.seconds,
        asked_per_s=len(times) / plan.seconds,
        sent=len(times),
        answers={str(status): number for status, number in sorted(counts.items()) if status > 0},
        failures={FAILURES[status]: number for status, number in sorted(counts.items()) if status <= 0},
        goodput_per_s=int(within.sum()) / plan.seconds,
        latency_ms=met,
        service_ms=_times(service[success]),
        refusal_ms=_times(service[np.isin(status, OVERLOADED)]),
        lag_ms=lag,
        waited=int(ran.waited[counted].sum()),
        void=_void(lag, met),
    )


def _void(lag: RequestTimes, met: RequestTimes | None) -> str | None:
    late = lag.max if lag.p99 is None else lag.p99
    if met is None or late <= LATE_MS or late <= LATE_SHARE * met.p50:
        return None
    return (
        f"the generator itself was late by {late:.3g} ms (p99), where the median latency is {met.p50:.3g} ms: "
        "ask for fewer requests a second, or give it a core of its own"
    )


def _times(seconds: Seconds) -> RequestTimes | None:
    if not len(seconds):
        return None
    ms = seconds * 1000
    return RequestTimes(
        n=len(ms),
        p50=float(np.median(ms)),
        p90=certified_percentile(ms, 0.90),
        p99=certified_percentile(ms, 0.99),
        max=float(ms.max()),
    )
