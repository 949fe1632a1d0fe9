"""From a request's ids and texts to what its model takes, and from its deadline to an answer or a refusal.

Both APIs go through here: items are looked up, texts are checked, and the model answers in the request's turn.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from starlette.requests import Request

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.ids import EDGE, value_text
from rbserve.core.types import Items
from rbserve.core.wire import DEADLINE, MIN_DEADLINE_MS
from rbserve.runtimes.texts import Mixed, mixed
from rbserve.server.api.options import Limits, UnknownHistory
from rbserve.server.api.schema import ItemId, NewItem
from rbserve.server.http.requests import RequestError, check_length, quote
from rbserve.server.scoring.adopted import UnscorableError
from rbserve.server.scoring.service import ExpiredError, OverloadedError, Service
from rbserve.server.scoring.work import Scoring

MAX_LISTED_IDS = 5
PATIENCE_S = 0.02


def item_rows(service: Service[Any, Any], field: str, ids: Sequence[ItemId]) -> Items:
    """Rows int32[N] of the model's item table. Raises RequestError that names some of the unknown ids.

    Retired items are refused as candidates and accepted in a history.
    """
    items = service.items
    try:
        rows: Items = items.lookup(ids)
    except KeyError as error:
        raise RequestError(
            422,
            "unknown_items",
            f"{field} has items that data set {service.dataset.name} does not: {_list_ids(error.args[0])}",
            'send "unknown_history": "skip", or leave them out'
            if field == "history"
            else "leave out items that the model does not know",
        ) from None
    if items.retired and field == "candidates":
        retired = [item for item, row in zip(ids, rows.tolist(), strict=True) if row in items.retired]
        if retired:
            message = f"candidates has items that are retired: {_list_ids(retired)}"
            raise RequestError(422, "retired_items", message, "leave them out; a history may have them")
    return rows


def check_candidates(candidates: Sequence[object], limits: Limits) -> None:
    """Raises RequestError for a slate that is empty or too long."""
    check_length("candidates", candidates, limits.max_candidates)
    if not candidates:
        raise RequestError(422, "empty_candidates", "candidates is empty: name at least one item to score")


def check_slate_size(size: int, limits: Limits) -> None:
    """Raises RequestError for a request of an adopted model with no candidates, or too many."""
    if size > limits.max_candidates:
        message = f"the request has {size} candidates, the limit is {limits.max_candidates}"
        raise RequestError(422, "too_many_candidates", message)
    if not size:
        message = "the request has no candidates: send at least one to score"
        raise RequestError(422, "empty_candidates", message)


def _list_ids(ids: Sequence[ItemId]) -> str:
    """The first few distinct ids of a list, for a message."""
    distinct = list(dict.fromkeys(map(value_text, ids)))
    more = len(distinct) - MAX_LISTED_IDS
    return ", ".join(map(quote, distinct[:MAX_LISTED_IDS])) + (f" and {more} more" if more > 0 else "")


def known_ids(sent: Sequence[ItemId | NewItem]) -> Sequence[ItemId]:
    """The ids among what was sent, without new items that are given by their texts."""
    if NewItem not in {*map(type, sent)}:
        return sent  # type: ignore[return-value]
    return [item for item in sent if not isinstance(item, NewItem)]


class KnownHistory(NamedTuple):
    """A history as rows int32[T] of the item table; the ids that were skipped, or UNSET where none may be."""

    rows: Items
    skipped: list[str] | msgspec.UnsetType


def add_texts(
    service: Service[Any, Any],
    rows: Items,
    sent: Sequence[ItemId | NewItem],
    skipped: Collection[str],
    limits: Limits,
) -> Items | Mixed:
    """Items as the model takes them: `rows` int32[K], or rows and texts in the order sent, where texts were sent.

    `rows` are those of the ids that were not `skipped`. Raises RequestError for a text that is blank or too long, and
    for a model that reads no texts.
    """
    if NewItem not in {*map(type, sent)}:
        return rows
    texts = [item.text for item in sent if isinstance(item, NewItem)]
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
    """The rows of a history; unknown ids are skipped, or refused with a RequestError.

    `unknown` is the choice of the request; where it is UNSET, that of the server in `limits`.
    """
    if unknown is msgspec.UNSET:
        unknown = limits.unknown_history
    if unknown == "refuse":
        return KnownHistory(item_rows(service, "history", ids), msgspec.UNSET)
    rows = [service.items.find(item) for item in ids]
    skipped = dict.fromkeys(value_text(item) for item, row in zip(ids, rows, strict=True) if row is None)
    return KnownHistory(np.array([row for row in rows if row is not None], np.int32), list(skipped))


class ModelQuery(NamedTuple):
    """A query for one model. `has_texts`: the model has to read texts first, which takes long."""

    service: Service[Any, Any]
    query: Any
    has_texts: bool = False


async def answer_queries(request: Request, limits: Limits, queries: Sequence[ModelQuery]) -> list[Any]:
    """The models' answers, one query after another: on the event loop where that is quick, else on a scoring thread.

    Raises RequestError where a deadline passes, a queue is full, or the client has left.
    """
    deadline = deadline_of(request.headers.get(DEADLINE), limits.deadline_ms)
    answers = []
    for place, query in enumerate(queries):
        if place:
            await asyncio.sleep(0)  # other requests have their turn between two users
        answers.append(await _answer(request, limits, query, deadline))
    return answers


async def _answer(request: Request, limits: Limits, model_query: ModelQuery, deadline: float | None) -> Any:
    service, query, has_texts = model_query
    try:
        at_once = None if has_texts else service.answer_now(query)
        if at_once is not None:
            return at_once
        later = service.answer_later(query, limits.max_waiting, deadline)
        return await _wait_while_connected(request, later)
    except Exception as error:
        refusal = refusal_of(service, error, has_texts)
        if refusal is None:
            raise
        raise refusal from None


def refusal_of(service: Service[Any, Any], error: Exception, has_texts: bool = False) -> RequestError | None:
    """What the client is told of a failure to answer, which is counted; None for a fault of the server's."""
    if isinstance(error, OverloadedError):
        service.count_refusal()
        return overload_error(error.waiting, retry_after_s(error.wait_s))
    if isinstance(error, UnscorableError):
        message = f"{service.model} has no score for these values: {error}"
        return RequestError(422, "unscorable", message, "send values as in its request table")
    if isinstance(error, UsageError | ArtifactError) and has_texts:
        message = f"{service.model} cannot read texts here: {error.message}"
        return RequestError(501, "texts_unavailable", message, error.hint)
    if isinstance(error, ExpiredError):
        service.count_refusal("deadline")
        message = "the deadline passed before the model came to this request"
        return RequestError(504, "deadline_exceeded", message)
    if isinstance(error, ClientGoneError):
        service.count_refusal("client gone")
        return RequestError(499, "client_disconnected", "the client left before its answer")
    return None


def retry_after_s(wait_s: float) -> int:
    """Whole seconds after which to ask again where a queue takes `wait_s`."""
    return max(1, math.ceil(wait_s))


def overload_error(waiting: int, retry_s: int) -> RequestError:
    """The refusal of a request that there is no room for."""
    message = f"{waiting} requests wait for the model already"
    return RequestError(503, "overloaded", message, headers={"retry-after": str(retry_s)})


class ClientGoneError(Exception):
    """The client closed its connection while its request waited."""


async def _wait_while_connected(request: Request, answer: asyncio.Future[Any]) -> Any:
    """The answer. Raises ClientGoneError, and cancels the computation, when the client leaves while it waits.

    The connection is watched only after PATIENCE_S: most answers are quicker, and watching costs as much as a small
    model.
    """
    loop = asyncio.get_running_loop()
    watches: list[asyncio.Task[None]] = []

    def start_watch() -> None:
        watches.append(loop.create_task(_disconnected(request)))
        watches[0].add_done_callback(lambda _: answer.cancel())

    timer = loop.call_later(PATIENCE_S, start_watch)
    try:
        return await answer
    except asyncio.CancelledError:
        if any(watch.done() and not watch.cancelled() for watch in watches):
            raise ClientGoneError from None
        raise
    finally:
        timer.cancel()
        for watch in watches:
            watch.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def deadline_of(header: str | None, usual_ms: float | None) -> float | None:
    """The time of `perf_counter` after which an answer is of no use: that of the header, or `usual_ms` from now.

    Raises RequestError for a header that is no number of milliseconds.
    """
    if header is None:
        return None if usual_ms is None else perf_counter() + usual_ms / 1000
    try:
        milliseconds = float(header)
    except ValueError:
        milliseconds = math.nan
    if not MIN_DEADLINE_MS <= milliseconds < math.inf:
        raise RequestError(
            422,
            "invalid_deadline",
            f"{DEADLINE} is no number of milliseconds of {MIN_DEADLINE_MS} at least: {quote(header)}",
            f"{DEADLINE}: 50",
        )
    return perf_counter() + milliseconds / 1000
