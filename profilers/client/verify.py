"""Whether a server gives the scores that were profiled, and what HTTP adds to their time.

The same requests are answered in this process, by the call that `rbserve profile` times end to end, and by the server
and by its bare echo, over one connection: in turn, round after round, so that all meet the same machine. What HTTP adds
is judged by its ratio to the echo: milliseconds alone would call a healthy server on an older machine slow.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import httptools
import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.client import TIMEOUT_S, Client, address_of, request_bytes
from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.fields import TIME
from rbserve.core.tasks import TASKS
from rbserve.core.types import Progress, no_progress
from rbserve.core.wire import ECHO
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.data.request_set import RequestSet
from rbserve.features.counted import reads_time
from rbserve.profilers.measure.test_rows import check_same_requests, test_split
from rbserve.profilers.timing.calls import Exercise, adopted_end_to_end, list_wise, pair_wise
from rbserve.profilers.timing.latency import time_calls
from rbserve.profilers.timing.requests import bodies, draw, draw_rows, feature_bodies, request_coders
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.stats.intervals import student_interval

ROUNDS, RUNS, SECONDS = 10, 200, 2.0
SAME = 1e-6
COMPARED = 100
OVERHEAD_LIMIT = 3.0  # measured of a healthy server: 1.6 with one candidate, 2.3 to 2.6 with a hundred
"""How many times the p50 of the server's bare echo HTTP may add to a call's p50."""

Verdict = Literal["OK", "SLOWER", "INCONCLUSIVE", "OTHER SCORES"]


class Verified(msgspec.Struct, frozen=True):
    """A server beside the model itself and its bare echo. Milliseconds; intervals are over rounds, 95%.

    `difference` is the largest of a score; null where the server answered with other items. `echo_ms` is the p50 of the
    server's echo, which parses the same bodies and answers as much without a model: the floor. `ratio` is the overhead
    divided by it, `limit` how large that may be.
    """

    url: str
    path: str
    model: str
    variant: str
    slate: int
    compared: int
    difference: float | None
    in_process_ms: float
    served_ms: float
    overhead_ms: float
    overhead_ci95: tuple[float, float]
    echo_ms: float
    ratio: float
    ratio_ci95: tuple[float, float]
    limit: float
    rounds: int
    verdict: Verdict


class BothSides(NamedTuple):
    """Requests of a model in this process, and as JSON for its server.

    `names` are what the server calls the candidates of each request; None where the model itself names its items.
    """

    known: Exercise
    bodies: list[bytes]
    names: Sequence[Sequence[str | int]] | None


def verify(
    artifact: Artifact,
    data: Dataset | RequestSet,
    url: str,
    slate: int,
    limit: float = OVERHEAD_LIMIT,
    rounds: int = ROUNDS,
    seed: int = 2024,
    progress: Progress = no_progress,
) -> Verified:
    """Compares the server at `url` with an artefact that it says it serves.

    Raises UsageError for a server of another model or data set, RbserveError where it does not answer.
    """
    if rounds < 2:
        raise UsageError(f"rounds must be at least 2, not {rounds}", "an interval needs more than one")
    with Client(url) as client:
        served = client.model(artifact.name)
    served.require_data(artifact.manifest.dataset.fingerprint, url)
    path = TASKS[served.task].path
    comparison = _compare(artifact, data, served.variant, slate, np.random.default_rng(seed))
    known = comparison.known
    address = address_of(url)
    wire = Wire(url)
    try:
        wire_requests: list[tuple[Any, ...]] = [
            (request_bytes(address, path, body),) for body in comparison.bodies
        ]
        difference = _difference(comparison, wire, wire_requests)
        echoed = [(request_bytes(address, f"{ECHO}{path}", body),) for body in comparison.bodies]
        _require_echo(wire, echoed[0][0], url)
        medians = _medians(
            [(known.call, known.requests), (wire.ask, wire_requests), (wire.ask, echoed)], rounds, progress
        )
    finally:
        wire.close()
    calls, served_ms, echo_ms = medians.T
    added = served_ms - calls
    low, high = student_interval(added / echo_ms)
    return Verified(
        url=url, path=path, model=artifact.name, variant=served.variant, slate=slate,
        compared=min(COMPARED, len(wire_requests)),
        difference=difference, in_process_ms=float(np.median(calls)), served_ms=float(np.median(served_ms)),
        overhead_ms=float(added.mean()), overhead_ci95=student_interval(added),
        echo_ms=float(np.median(echo_ms)), ratio=float((added / echo_ms).mean()), ratio_ci95=(low, high),
        limit=limit, rounds=rounds, verdict=_verdict(difference, low, high, limit),
    )  # fmt: skip


Side = tuple[Callable[..., object], Sequence[tuple[Any, ...]]]
"""A function that a comparison times, and the arguments of each of its calls."""


def _medians(sides: Sequence[Side], rounds: int, progress: Progress) -> NDArray[np.float64]:
    """Median milliseconds [rounds, sides] of a call of each side, in turn, each round in the other order."""
    medians = np.empty((rounds, len(sides)))
    for number in range(rounds):
        progress(number, rounds, "rounds")
        for side in range(len(sides))[:: 1 if number % 2 == 0 else -1]:
            medians[number, side] = np.median(time_calls(*sides[side], RUNS, SECONDS).runs_ns) / 1e6
    return medians


def _require_echo(wire: Wire, request: bytes, url: str) -> None:
    """UsageError for a server that has no echo."""
    if wire.send(request) != 200:
        raise UsageError(
            f"{url} has no {ECHO}, which is what its overhead is held against: it is of an earlier version",
            "start it again with this version of rbserve",
        )


def _compare(
    artifact: Artifact, data: Dataset | RequestSet, variant: str, size: int, rng: np.random.Generator
) -> BothSides:
    if isinstance(data, RequestSet):
        return _compare_requests(artifact, data, variant, size, rng)
    return _compare_rows(artifact, data, variant, size, rng)


def _compare_rows(
    artifact: Artifact, dataset: Dataset, variant: str, k: int, rng: np.random.Generator
) -> BothSides:
    """Test rows of a data set: slates of k candidates, or lists of k items."""
    requests = draw(rng, test_split(artifact, dataset), k, len(dataset.items))
    coders = request_coders(dataset, {spec.name for spec in artifact.layout.fields})
    sent = bodies(requests, artifact.items, k, artifact.name, coders, reads_time(artifact.layout))
    histories = [requests.histories[row] for row in range(len(requests.histories))]
    if requests.candidates is None:
        ranker = open_ranker(artifact, variant, 1)
        return BothSides(list_wise(ranker, histories, k, False, artifact.items), sent, None)
    scorer = open_scorer(artifact, variant, 1)
    extras = [requests.extras_of(row, (*coders, TIME)) for row in range(len(histories))]
    known = pair_wise(scorer, histories, [*requests.candidates], artifact.items, extras)
    return BothSides(known, sent, [candidates for _, candidates, _ in known.requests])


def _compare_requests(
    artifact: Artifact, requests: RequestSet, variant: str, slate: int, rng: np.random.Generator
) -> BothSides:
    """Requests of the table that a model was adopted with, of `slate` candidates each."""
    check_same_requests(artifact, requests)
    drawn, signature = draw_rows(rng, requests.offsets, slate), artifact.signature
    values = [
        (requests.values_of(signature, rows, number), slate)
        for number, rows in zip(drawn.requests.tolist(), drawn.rows, strict=True)
    ]
    known = adopted_end_to_end(open_scorer(artifact, variant, 1), signature, values)
    sent = feature_bodies(requests, signature.columns, drawn, artifact.name)
    return BothSides(known, sent, [range(slate)] * len(sent))


def _difference(comparison: BothSides, wire: Wire, bodies: Sequence[tuple[Any, ...]]) -> float | None:
    """The largest difference of a score among the first requests; None where items differ."""
    largest = 0.0
    known, names = comparison.known, comparison.names
    for place, (request, sent) in enumerate(zip(known.requests[:COMPARED], bodies, strict=False)):
        answer: Any = known.call(*request)
        items, scores = answer if names is None else (names[place], answer)
        reply = wire.ask(*sent)
        entries = reply.get("scores") or reply.get("items") or []
        if [entry.get("item", entry.get("index")) for entry in entries] != list(items):
            return None
        if len(items):
            largest = max(
                largest, float(np.abs(np.array([entry["score"] for entry in entries]) - scores).max())
            )
    return largest


def _verdict(difference: float | None, low: float, high: float, limit: float) -> Verdict:
    if difference is None or difference > SAME:
        return "OTHER SCORES"
    if low > limit:
        return "SLOWER"
    return "OK" if high <= limit else "INCONCLUSIVE"


class Wire:
    """A connection whose own work is next to nothing, so that the times are those of the server."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for a text that is no address, RbserveError where no server listens."""
        address = address_of(url)
        if address.scheme != "http":
            raise UsageError(
                f"verify speaks plain HTTP, not to {url}", "ask the server itself, behind its proxy"
            )
        self._url = url
        assert address.hostname
        try:
            self._socket = socket.create_connection((address.hostname, address.port or 80), TIMEOUT_S)
        except OSError as error:
            raise RbserveError(
                f"no connection to {url}: {error}", "is rbserve serve running there?"
            ) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._body = bytearray()
        self._complete = False
        self._parser = httptools.HttpResponseParser(self)

    def ask(self, request: bytes) -> dict[str, Any]:
        """The decoded answer to a request. Raises RbserveError for any status but 200."""
        status = self.send(request)
        if status != 200:
            raise RbserveError(
                f"{self._url} answered with {status}: {self._body.decode(errors='replace')[:200]}"
            )
        answer: dict[str, Any] = msgspec.json.decode(self._body)
        return answer

    def send(self, request: bytes) -> int:
        """Sends a request; the status of its answer."""
        self._body.clear()
        self._complete = False
        try:
            self._socket.sendall(request)
            while not self._complete:
                data = self._socket.recv(1 << 16)
                if not data:
                    raise ConnectionError("the server closed the connection")
                self._parser.feed_data(data)
        except (OSError, httptools.HttpParserError) as error:
            raise RbserveError(f"no answer from {self._url}: {error}") from None
        status: int = self._parser.get_status_code()
        return status

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._complete = True
