"""A typed client of a server of ours: one connection that is kept, the standard library and msgspec.

    with Client("http://127.0.0.1:8000") as client:
        client.score(["50", "181"], ["172", "98"])      # [0.71, 0.55]
        client.recommend(["50", "181"], k=10)           # [("172", 3.1), ...]
        client.recommend(["50", "?"], unknown_history="skip")
        client.skipped                                  # ["?"]

A client is for one thread. What the server refuses is a `ServerError`, with the server's own words.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.tasks import TaskName
from rbserve.core.wire import DEADLINE, RECOMMEND, RELOAD, SCORE

Answer = TypeVar("Answer")

TIMEOUT_S = 30.0
KEY_VARIABLE = "RBSERVE_API_KEY"


class ServerError(RbserveError):
    """An answer that is no success: its HTTP status and the server's code beside what it says."""

    def __init__(self, status: int, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.status, self.code = status, code


class ServedModel(msgspec.Struct, frozen=True):
    """A model that a server answers for. `task` is ctr (`Client.score`) or seqrec (`Client.recommend`)."""

    name: str
    variant: str
    task: TaskName
    dataset: str
    fingerprint: str
    items: int

    def require_data(self, fingerprint: str, url: str) -> None:
        """UsageError where it is of another data set than that of a fingerprint."""
        if self.fingerprint != fingerprint:
            raise UsageError(
                f"{url} serves {self.name} of another {self.dataset} than the one here: fingerprint "
                f"{self.fingerprint[:12]} and not {fingerprint[:12]}",
                "RBSERVE_HOME says where the data set is that it was trained on, --dataset which",
            )


class _Item(msgspec.Struct, frozen=True):
    item: str
    score: float


class _Score(msgspec.Struct, frozen=True):
    score: float


class _Scores(msgspec.Struct, frozen=True):
    scores: list[_Score]
    skipped: list[str] = []


class _Items(msgspec.Struct, frozen=True):
    items: list[_Item]
    skipped: list[str] = []


class _Models(msgspec.Struct, frozen=True):
    models: list[ServedModel]


class _Detail(msgspec.Struct, frozen=True):
    code: str
    message: str
    hint: str | None = None


class _Failure(msgspec.Struct, frozen=True):
    error: _Detail


class Client:
    """What a server at `url`, such as http://127.0.0.1:8000, is asked."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, api_key: str | None = None) -> None:
        """The key is that of RBSERVE_API_KEY unless one is given. Raises UsageError for an address that is none."""
        self._url, address = url, address_of(url)
        self._base, self._headers = address.path.rstrip("/"), key_header(api_key)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        assert address.hostname
        self.skipped: list[str] = []  # ids of the last request's history that the model did not know
        self._connection = kind(address.hostname, address.port, timeout=timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; the next request makes another."""
        self._connection.close()

    def score(
        self,
        history: Sequence[str | Mapping[str, str]],
        candidates: Sequence[str | Mapping[str, str]],
        model: str | None = None,
        unknown_history: str | None = None,
    ) -> list[float]:
        """A score for each candidate, in their order; ids of items, of the history oldest first.

        An item that the model does not have is {"text": …}, for models that read texts. `model` is needed
        where the server has several that score. `unknown_history`: "refuse" or "skip" ids that the model does not
        know; `skipped` has those of the last answer.
        """
        asked = {"history": list(history), "candidates": list(candidates)}
        answer = self._post(SCORE, asked | _given(model=model, unknown_history=unknown_history), _Scores)
        self.skipped = answer.skipped
        return [scored.score for scored in answer.scores]

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        exclude_seen: bool = False,
        model: str | None = None,
        unknown_history: str | None = None,
    ) -> list[tuple[str, float]]:
        """The k best items of the catalogue with their scores, best first; the options are those of `score`."""
        asked = {"history": list(history), "k": k, "exclude_seen": exclude_seen}
        answer = self._post(RECOMMEND, asked | _given(model=model, unknown_history=unknown_history), _Items)
        self.skipped = answer.skipped
        return [(item.item, item.score) for item in answer.items]

    def models(self) -> list[ServedModel]:
        """What is served."""
        return self._send("GET", "/v1/models", None, _Models).models

    def model(self, name: str | None = None) -> ServedModel:
        """The model of a name, or the only one; UsageError where there is none, or no telling which."""
        found = self.models()
        known = ", ".join(one.name for one in found)
        if name is None and len(found) != 1:
            raise UsageError(f"{self._url} serves {known}: which?", "--model NAME")
        for one in found:
            if name in (None, one.name):
                return one
        raise UsageError(f"{self._url} does not serve {name}, but {known}", "--model names what it serves")

    def reload(self) -> list[ServedModel]:
        """Has the server take up new versions of its models, where it has the admin route; what is served then.

        Raises ServerError where one of them may not be served: all stay as they were.
        """
        return self._send("POST", RELOAD, None, _Models).models

    def ready(self) -> bool:
        """Whether the server takes requests: warm, and not draining."""
        try:
            self._send("GET", "/v1/health/ready", None, dict)
        except ServerError as error:
            if error.status == 503:
                return False
            raise
        return True

    def _post(self, path: str, asked: Any, kind: type[Answer]) -> Answer:
        return self._send("POST", path, msgspec.json.encode(asked), kind)

    def _send(self, method: str, path: str, body: bytes | None, kind: type[Answer]) -> Answer:
        headers = self._headers | ({"content-type": "application/json"} if body is not None else {})
        try:
            status, answer = self._exchange(method, self._base + path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise RbserveError(
                f"no answer from {self._url}: {_reason(error)}", "is rbserve serve running there?"
            ) from None
        try:
            if status == 200:
                return msgspec.json.decode(answer, type=kind)
            failure = msgspec.json.decode(answer, type=_Failure).error
        except msgspec.MsgspecError:
            if status != 200:
                failure = _Detail("unknown", f"{self._url}{path} answered with status {status}")
            else:
                raise RbserveError(
                    f"{self._url}{path} is no server of rbserve: its answer cannot be read"
                ) from None
        raise ServerError(status, failure.code, failure.message, failure.hint)

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Sent once more where a kept connection turns out to have been closed: these requests change nothing."""
        kept = self._connection.sock is not None
        try:
            return self._once(method, path, body, headers)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if not kept:
                raise
            self.close()
            return self._once(method, path, body, headers)

    def _once(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._connection.sock is None:
            self._connection.connect()
            made: socket.socket = self._connection.sock  # type: ignore[assignment]
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def address_of(url: str) -> SplitResult:
    """The parts of a server's address; UsageError where it is none."""
    try:
        address = urlsplit(url)
        usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # a port that is no number
        usable = None
    if not usable:
        raise UsageError(f"no address of a server: {url!r}", "such as --url http://127.0.0.1:8000")
    return address


def key_header(api_key: str | None = None) -> dict[str, str]:
    """The header of a key, or else of RBSERVE_API_KEY; none where there is no key."""
    key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
    return {"authorization": f"Bearer {key}"} if key else {}


def _given(**fields: str | None) -> dict[str, str]:
    """The fields of a request that are given."""
    return {name: value for name, value in fields.items() if value is not None}


def request_bytes(address: SplitResult, path: str, body: bytes, deadline_ms: float | None = None) -> bytes:
    """A whole HTTP/1.1 request with a JSON body, for those who bring a connection of their own."""
    headers = key_header() if deadline_ms is None else key_header() | {DEADLINE: f"{deadline_ms:g}"}
    lines = [
        f"POST {address.path.rstrip('/')}{path} HTTP/1.1",
        f"Host: {address.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
