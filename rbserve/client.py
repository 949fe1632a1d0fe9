"""A typed client of `rbserve serve`: one connection that is kept open, made of the standard library and msgspec.

    with Client("http://127.0.0.1:8000") as client:
        client.score(["50", "181"], ["172", "98"])      # [0.71, 0.55]
        client.recommend(["50", "181"], k=10)           # [("172", 3.1), ...]
        client.recommend(["50", "?"], unknown_history="skip")
        client.skipped                                  # ["?"]
        client.score(["50"], ["172"], user={"country": "DE"}, context={"hour": 7})      # of a model that reads fields
        client.score_features({"likes": [3, 4], "age": 7})      # of an adopted model: [0.64, 0.58]
        client.rerank("noodles", ["a cat", "soup"])     # [(1, 0.93), (0, 0.02)]

A client is for one thread. A request that the server refuses raises ServerError, with the server's message.
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
from rbserve.core.wire import (
    DEADLINE,
    RECOMMEND,
    RELOAD,
    RERANK,
    SCORE,
    ErrorDetail,
    ErrorResponse,
    FeatureInfo,
    FeatureScoreResponse,
    FieldInfo,
    RecommendResponse,
    RequestsInfo,
    RerankResponse,
    ScoreResponse,
)

Answer = TypeVar("Answer")

TIMEOUT_S = 30.0
KEY_VARIABLE = "RBSERVE_API_KEY"


class ServerError(RbserveError):
    """A refusal by the server: its HTTP status and error code beside its message and hint."""

    def __init__(self, status: int, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.status, self.code = status, code


class ServedModel(msgspec.Struct, frozen=True):
    """A model that a server answers for. `task` is ctr or rerank (`Client.score`), or seqrec (`Client.recommend`).

    An adopted model has `features` (`Client.score_features`) and `requests`; a model that reads fields has `fields`,
    and may take the time of a request (`reads_time`).
    """

    name: str
    variant: str
    task: TaskName
    dataset: str
    fingerprint: str
    items: int
    features: list[FeatureInfo] = []
    requests: RequestsInfo | None = None
    fields: list[FieldInfo] = []
    reads_time: bool = False

    def require_requests(self, fingerprint: str, url: str) -> None:
        """Raises UsageError where the model was adopted with other requests than those of the fingerprint."""
        if self.requests is None or self.requests.fingerprint != fingerprint:
            raise UsageError(
                f"{url} serves {self.name}, which was not adopted with the requests here ({fingerprint[:12]})",
                "RBSERVE_HOME says where the requests are that it was adopted with",
            )

    def require_data(self, fingerprint: str, url: str) -> None:
        """Raises UsageError where the model belongs to another data set than that of the fingerprint."""
        if self.fingerprint != fingerprint:
            raise UsageError(
                f"{url} serves {self.name} of another {self.dataset} than the one here: fingerprint "
                f"{self.fingerprint[:12]} and not {fingerprint[:12]}",
                "RBSERVE_HOME says where the data set is that it was trained on, --dataset which",
            )


class _Models(msgspec.Struct, frozen=True):
    """The answer of /v1/models, of which a client needs less than the server says."""

    models: list[ServedModel]


class Client:
    """Requests to the server at `url`, such as http://127.0.0.1:8000."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, api_key: str | None = None) -> None:
        """`api_key` defaults to RBSERVE_API_KEY. Raises UsageError for a text that is no address of a server."""
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
        user: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        time: int | None = None,
    ) -> list[float]:
        """A score for each candidate, in their order; ids of items, of the history oldest first.

        An item that the model does not have is {"text": …}, for models that read texts; of a candidate with its fields
        beside it, {"text": …, "fields": {…}}, where the model reads those. `model` is needed
        where the server has several that score. `unknown_history`: "refuse" or "skip" ids that the model does not
        know; `skipped` has those of the last answer. `user` and `context` have fields by name, for models that read
        them (`models()` lists them): one value each, of the context also a list with one for each candidate. `time`
        is in the unit of the data set.
        """
        body: dict[str, object] = {"history": list(history), "candidates": list(candidates)}
        further = _without_none(
            model=model, unknown_history=unknown_history, user=user, context=context, time=time
        )
        answer = self._post(SCORE, body | further, ScoreResponse)
        self.skipped = answer.skipped or []
        return [scored.score for scored in answer.scores]

    def score_features(self, features: Mapping[str, Any], model: str | None = None) -> list[float]:
        """A score for each candidate of an adopted model, by its named features.

        A list has a value for each candidate; a single value belongs to the whole request. `models()` lists the
        features. `model` is needed where the server has several that score.
        """
        body = {"features": dict(features), **_without_none(model=model)}
        return [scored.score for scored in self._post(SCORE, body, FeatureScoreResponse).scores]

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        exclude_seen: bool = False,
        model: str | None = None,
        unknown_history: str | None = None,
    ) -> list[tuple[str, float]]:
        """The k best items of the catalogue with their scores, best first; the options are those of `score`."""
        body: dict[str, object] = {"history": list(history), "k": k, "exclude_seen": exclude_seen}
        answer = self._post(
            RECOMMEND, body | _without_none(model=model, unknown_history=unknown_history), RecommendResponse
        )
        self.skipped = answer.skipped or []
        return [(item.item, item.score) for item in answer.items]

    def rerank(
        self,
        query: str | Sequence[str],
        documents: Sequence[str],
        top_n: int | None = None,
        model: str | None = None,
    ) -> list[tuple[int, float]]:
        """The places of the `top_n` documents, or of all, with their scores, best first; for models that read texts.

        A model of users takes a list of texts as the query as well: what the user consumed, oldest first.
        """
        body = {"query": query if isinstance(query, str) else list(query), "documents": list(documents)}
        answer = self._post(RERANK, body | _without_none(model=model, top_n=top_n), RerankResponse)
        return [(result.index, result.relevance_score) for result in answer.results]

    def models(self) -> list[ServedModel]:
        """The models that are served."""
        return self._send("GET", "/v1/models", None, _Models).models

    def model(self, name: str | None = None) -> ServedModel:
        """The model of that name, or the only one. Raises UsageError where there is none, or several without a name."""
        models = self.models()
        known = ", ".join(model.name for model in models)
        if name is None and len(models) != 1:
            raise UsageError(f"{self._url} serves {known}: which?", "--model NAME")
        for model in models:
            if name in (None, model.name):
                return model
        raise UsageError(f"{self._url} does not serve {name}, but {known}", "--model names what it serves")

    def reload(self) -> list[ServedModel]:
        """Tells the server to load new versions of its models (`serve --admin`); returns the models served then.

        Raises ServerError where a new version may not be served: all models stay as they were.
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

    def _post(self, path: str, body: Any, kind: type[Answer]) -> Answer:
        return self._send("POST", path, msgspec.json.encode(body), kind)

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
            failure = msgspec.json.decode(answer, type=ErrorResponse).error
        except msgspec.MsgspecError:
            if status != 200:
                failure = ErrorDetail("unknown", f"{self._url}{path} answered with status {status}")
            else:
                raise RbserveError(
                    f"{self._url}{path} is no server of rbserve: its answer cannot be read"
                ) from None
        raise ServerError(status, failure.code, failure.message, failure.hint or None)

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Status and body of the answer; sent again where a kept connection was closed: requests change nothing."""
        is_kept = self._connection.sock is not None
        try:
            return self._send_once(method, path, body, headers)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            if not is_kept:
                raise
            self.close()
            return self._send_once(method, path, body, headers)

    def _send_once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        if self._connection.sock is None:
            self._connection.connect()
            sock: socket.socket = self._connection.sock  # type: ignore[assignment]
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def address_of(url: str) -> SplitResult:
    """The parts of a server's address. Raises UsageError for a text that is no address."""
    try:
        address = urlsplit(url)
        usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # a port that is no number
        usable = None
    if not usable:
        raise UsageError(f"no address of a server: {url!r}", "such as --url http://127.0.0.1:8000")
    return address


def key_header(api_key: str | None = None) -> dict[str, str]:
    """The authorization header of `api_key`, else of RBSERVE_API_KEY; empty where there is no key."""
    key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
    return {"authorization": f"Bearer {key}"} if key else {}


def _without_none(**fields: object) -> dict[str, object]:
    """The fields of a request that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def request_bytes(address: SplitResult, path: str, body: bytes, deadline_ms: float | None = None) -> bytes:
    """The bytes of an HTTP/1.1 request with a JSON body, for callers with a connection of their own."""
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
