"""What every route asks of a request: a body of bounded size, known items, a deadline; and of a model, in its turn.

And how it replies in JSON.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Collection, Sequence
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rbserve.core.errors import ArtifactError, RbserveError, UsageError
from rbserve.core.ids import EDGE, value_text
from rbserve.core.types import Items
from rbserve.core.wire import DEADLINE, MIN_DEADLINE_MS
from rbserve.runtimes.texts import Mixed, mixed
from rbserve.server.schema import UNKNOWN_HISTORY, ItemId, Limits, NewItem, UnknownHistory
from rbserve.server.service import ExpiredError, OverloadedError, Scoring, Service

NAMED_UNKNOWN_ITEMS = 5
ID_CHARACTERS = 40
PATIENCE_S = 0.02
LATE = "rbserve.late"
"""Where in an ASGI scope the protocol leaves that the body did not arrive in time."""

encode = msgspec.json.Encoder().encode

Asked = TypeVar("Asked")
Headers = list[tuple[bytes, bytes]]


class RequestError(RbserveError):
    """A request that cannot be answered, and the HTTP status that says whose fault it is."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        hint: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.status, self.code, self.headers = status, code, headers

    def of_user(self, place: int) -> RequestError:
        """The same, of one request of a list."""
        message = f"at index {place}: {self.message}"
        return RequestError(self.status, self.code, message, self.hint, self.headers)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply in JSON."""
    return Response(encode(body), status, headers, media_type="application/json")


async def read_body(request: Request, limit: int) -> bytearray:
    """The body of a request, inflated where it is compressed, read no further than `limit` bytes."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        message = f"the body is compressed: {quote(encoding)}"
        headers = {"accept-encoding": "gzip, identity"}
        raise RequestError(415, "unsupported_encoding", message, "send it as it is, or in gzip", headers)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise RequestError(400, "client_disconnected", "the client left before its body arrived") from None
    if LATE in request.scope:
        raise RequestError(
            408, "request_timeout", f"the body did not arrive in time: {len(body)} bytes did",
            headers={"connection": "close"},
        )  # fmt: skip
    return body if encoding == "identity" else inflate(body, limit)


def inflate(body: bytearray, limit: int) -> bytearray:
    """What a body in gzip says; RequestError where that has more than `limit` bytes, or is no gzip."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(400, "invalid_gzip", f"the body is not gzip: {error}") from None
    if len(inflated) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        what = "bytes follow its end" if inflater.eof else "it ends too soon"
        raise RequestError(400, "invalid_gzip", f"the body is not one gzip file: {what}")
    return bytearray(inflated)


async def read_json(request: Request, limit: int) -> bytearray:
    """The same of a request that says it is JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestError(
            415,
            "unsupported_media_type",
            f"the body is {quote(media_type)}, not application/json"
            if media_type
            else "no content type is given",
            "send the header Content-Type: application/json",
        )
    return await read_body(request, limit)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, "body_too_large", f"the body is larger than {limit} bytes")


def parse(body: bytearray, decoder: msgspec.json.Decoder[Asked], example: str) -> Asked:
    """What a body says; RequestError, with the example and what its ids are, where that is not what was asked for."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message = str(error)
        if message.endswith(".unknown_history`"):
            message += f": it takes {UNKNOWN_HISTORY}"
        raise RequestError(422, "invalid_request", message, f"send {example}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, "invalid_json", f"the body is not JSON: {error}") from None


def check_length(field: str, ids: Sequence[object], limit: int) -> None:
    """RequestError for a list that is longer than the limit."""
    if len(ids) > limit:
        raise RequestError(422, f"too_many_{field}", f"{field} has {len(ids)} items, the limit is {limit}")


def rows(service: Service[Any, Any], field: str, ids: Sequence[ItemId]) -> Items:
    """Rows int32[N] of the model's item table; RequestError that names some of the ids that it does not have.

    Retired items are no candidates.
    """
    items = service.items
    try:
        found = items.lookup(ids)
    except KeyError as error:
        raise RequestError(
            422,
            "unknown_items",
            f"{field} has items that data set {service.dataset.name} does not: {_named(error.args[0])}",
            'send "unknown_history": "skip", or leave them out'
            if field == "history"
            else "leave out items that the model does not know",
        ) from None
    if items.retired and field == "candidates":
        retired = [item for item, row in zip(ids, found.tolist(), strict=True) if row in items.retired]
        if retired:
            message = f"candidates has items that are retired: {_named(retired)}"
            raise RequestError(422, "retired_items", message, "leave them out; a history may have them")
    return found


def _named(ids: Sequence[ItemId]) -> str:
    """Some of a list's distinct ids, for a message."""
    distinct = list(dict.fromkeys(map(value_text, ids)))
    more = len(distinct) - NAMED_UNKNOWN_ITEMS
    return ", ".join(map(quote, distinct[:NAMED_UNKNOWN_ITEMS])) + (f" and {more} more" if more > 0 else "")


class KnownHistory(NamedTuple):
    """A history as rows int32[T] of the item table; the ids that were skipped, or UNSET where none may be."""

    rows: Items
    skipped: list[str] | msgspec.UnsetType


def with_texts(
    service: Service[Any, Any],
    rows: Items,
    sent: Sequence[ItemId | NewItem],
    skipped: Collection[str],
    limits: Limits,
) -> Items | Mixed:
    """Items as the model takes them: rows int32[K], or, where texts of new ones were sent, both in their order.

    `rows` are those of the ids that were not `skipped`. RequestError for a text that is blank or too long, and for a
    model that reads none.
    """
    texts = [item.text for item in sent if isinstance(item, NewItem)]
    if not texts:
        return rows
    if not all(text.strip(EDGE) for text in texts):
        message = "a new item has no text, which is all that a model could score it by"
        raise RequestError(422, "empty_text", message, "send its text, or leave it out")
    longest = max(map(len, texts))
    if longest > limits.max_text:
        message = f"a text has {longest} characters, the limit is {limits.max_text}"
        raise RequestError(422, "text_too_long", message)
    work = service.work
    if not isinstance(work, Scoring) or isinstance(work.texts, str):
        why = work.texts if isinstance(work, Scoring) else "it ranks the items of its catalogue"
        message = f"{service.model} scores no new items: {why}"
        raise RequestError(422, "no_texts", message, "send ids of its items")
    known = [item for item in sent if isinstance(item, NewItem) or value_text(item) not in skipped]
    return mixed(rows, [item.text if isinstance(item, NewItem) else None for item in known])


def history_rows(
    service: Service[Any, Any],
    ids: Sequence[ItemId],
    unknown: UnknownHistory | msgspec.UnsetType,
    limits: Limits,
) -> KnownHistory:
    """A history's rows; unknown ids are skipped, or refused with a RequestError.

    `unknown` is the request's own choice; where it is UNSET the server's in `limits` holds.
    """
    if unknown is msgspec.UNSET:
        unknown = limits.unknown_history
    if unknown == "refuse":
        return KnownHistory(rows(service, "history", ids), msgspec.UNSET)
    found = [(item, service.items.find(item)) for item in ids]
    skipped = dict.fromkeys(value_text(item) for item, row in found if row is None)
    return KnownHistory(np.array([row for _, row in found if row is not None], np.int32), list(skipped))


def quote(text: str) -> str:
    """A client's text as it may stand in a message: quoted, and cut when it is long."""
    short = text if len(text) <= ID_CHARACTERS else text[:ID_CHARACTERS] + "…"
    return f'"{short}"'


class Question(NamedTuple):
    """What one user asks of a model: history int32[T], or rows and texts, and candidates or how many items."""

    service: Service[Any, Any]
    history: Any  # Items | Mixed
    asked: Any


async def answer(request: Request, limits: Limits, questions: Sequence[Question]) -> list[Any]:
    """What the models say, question after question: at once where that is quick, else when their thread comes to it.

    Raises RequestError where one is not come to in time, or for who has left.
    """
    deadline = _deadline(request, limits.deadline_ms)
    answers = []
    for place, question in enumerate(questions):
        if place:
            await asyncio.sleep(0)  # between users others have their turn
        answers.append(await _answer(request, limits, question, deadline))
    return answers


async def _answer(request: Request, limits: Limits, question: Question, deadline: float | None) -> Any:
    service, history, asked = question
    has_texts = isinstance(history, list) or isinstance(asked, list)  # may take a language model to read
    at_once = None if has_texts else service.answer_now(history, asked)
    if at_once is not None:
        return at_once
    refused = service.telemetry.refused
    try:
        later = service.answer_later(history, asked, limits.max_waiting, deadline)
        return await _while_connected(request, later)
    except OverloadedError as error:
        raise _overloaded(service, error) from None
    except (UsageError, ArtifactError) as error:
        if not has_texts:
            raise
        message = f"{service.model} cannot read texts here: {error.message}"
        raise RequestError(501, "texts_unavailable", message, error.hint) from None
    except ExpiredError:
        refused.labels(service.model, "deadline").inc()
        raise RequestError(
            504, "deadline_exceeded", "the deadline passed before the model came to this request"
        ) from None
    except ClientGoneError:
        refused.labels(service.model, "client gone").inc()
        raise RequestError(499, "client_disconnected", "the client left before its answer") from None


def require_room(request: Request, limits: Limits, service: Service[Any, Any]) -> None:
    """RequestError, before anything is read, for a request that could only be refused afterwards.

    Reading it would take the time of those that can be answered.
    """
    if service.waiting:
        try:
            service.require_room(limits.max_waiting, _deadline(request, limits.deadline_ms))
        except OverloadedError as error:
            raise _overloaded(service, error) from None


def _overloaded(service: Service[Any, Any], error: OverloadedError) -> RequestError:
    service.telemetry.refused.labels(service.model, "overloaded").inc()
    message = f"{error.waiting} requests wait for the model already"
    headers = {"retry-after": str(max(1, math.ceil(error.wait_s)))}
    return RequestError(503, "overloaded", message, headers=headers)


class ClientGoneError(Exception):
    """Nobody waits for this answer any more."""


async def _while_connected(request: Request, answer: asyncio.Future[Any]) -> Any:
    """The answer; ClientGoneError, and no answer is computed, when the client leaves while it waits.

    Who is answered within PATIENCE_S is not watched: most are, and watching costs as much as a small model.
    """
    loop = asyncio.get_running_loop()
    watches: list[asyncio.Task[None]] = []

    def watch() -> None:
        watches.append(loop.create_task(_disconnected(request)))
        watches[0].add_done_callback(lambda _: answer.cancel())

    timer = loop.call_later(PATIENCE_S, watch)
    try:
        return await answer
    except asyncio.CancelledError:
        if any(one.done() and not one.cancelled() for one in watches):
            raise ClientGoneError from None
        raise
    finally:
        timer.cancel()
        for one in watches:
            one.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _deadline(request: Request, usual_ms: float | None) -> float | None:
    """The time of `perf_counter` after which an answer is of no use."""
    said = request.headers.get(DEADLINE)
    if said is None:
        return None if usual_ms is None else perf_counter() + usual_ms / 1000
    try:
        milliseconds = float(said)
    except ValueError:
        milliseconds = math.nan
    if not MIN_DEADLINE_MS <= milliseconds < math.inf:
        raise RequestError(
            422,
            "invalid_deadline",
            f"{DEADLINE} is no number of milliseconds of {MIN_DEADLINE_MS} at least: {quote(said)}",
            f"{DEADLINE}: 50",
        )
    return perf_counter() + milliseconds / 1000
