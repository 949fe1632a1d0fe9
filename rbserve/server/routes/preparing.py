"""From a decoded request to what its model takes: the model that is meant, rows of its items, limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from rbserve.core.ids import value_text
from rbserve.core.tasks import CTR, SEQREC, Task
from rbserve.core.types import Scores
from rbserve.core.wire import (
    FeatureScoreResponse,
    RecommendedItem,
    RecommendResponse,
    ScoredCandidate,
    ScoredItem,
    ScoreResponse,
)
from rbserve.server.api.options import Limits
from rbserve.server.api.schema import FeatureScoreRequest, ItemId, NewItem, RecommendRequest, ScoreRequest
from rbserve.server.http.requests import RequestError, check_length
from rbserve.server.observe.logs import LoggedQuery
from rbserve.server.routes.answering import (
    ModelQuery,
    add_texts,
    check_candidates,
    history_rows,
    item_rows,
    known_ids,
)
from rbserve.server.routes.errors import unknown_model
from rbserve.server.routes.features import feature_query, require_items
from rbserve.server.routes.fields import field_entries, item_entries
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Ranked, SlateQuery, Top


class PreparedQuery(NamedTuple):
    """A user's request as its model takes it, and how its answer becomes a response. `size`: candidates, or k."""

    request: ScoreRequest | FeatureScoreRequest | RecommendRequest
    query: ModelQuery
    size: int
    reply: Callable[[Any], ScoreResponse | FeatureScoreResponse | RecommendResponse]


class Preparing:
    """Makes queries of the requests to a server's models. Every refusal is a RequestError."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self._models, self._limits = models, limits

    def scores(self, service: Service[Any, Any], body: ScoreRequest | FeatureScoreRequest) -> PreparedQuery:
        """A request for scores, by items or by named features."""
        if isinstance(body, FeatureScoreRequest):
            return self._features(service, body)
        return self._slate(service, body)

    def _features(self, service: Service[Any, Any], body: FeatureScoreRequest) -> PreparedQuery:
        query, size = feature_query(service, body, self._limits)

        def reply(scores: Scores) -> FeatureScoreResponse:
            scored = [ScoredCandidate(index, score) for index, score in enumerate(scores.tolist())]
            return FeatureScoreResponse(service.model, service.variant, scored)

        return PreparedQuery(body, ModelQuery(service, query), size, reply)

    def _slate(self, service: Service[Any, Any], body: ScoreRequest) -> PreparedQuery:
        require_items(service)
        check_length("history", body.history, self._limits.max_history)
        check_candidates(body.candidates, self._limits)
        kinds = {*map(type, body.candidates)}
        names = _names(body.candidates, kinds)
        slate, skipped = self._ids(service, body)
        if NewItem in kinds or NewItem in {*map(type, body.history)}:
            slate = self._with_texts(service, body, slate, skipped or ())

        def reply(scores: Scores) -> ScoreResponse:
            scored = [*map(ScoredItem, names, scores.tolist())]
            return ScoreResponse(service.model, service.variant, scored, skipped)

        return PreparedQuery(body, ModelQuery(service, slate, slate.has_texts), len(names), reply)

    def _ids(
        self, service: Service[Any, Any], body: ScoreRequest
    ) -> tuple[SlateQuery, list[str] | msgspec.UnsetType]:
        """The items that were sent as ids, with the fields; and the ids that were skipped."""
        known = history_rows(service, known_ids(body.history), body.unknown_history, self._limits)
        candidates = item_rows(service, "candidates", known_ids(body.candidates))
        slate = SlateQuery(known.rows, candidates)
        if body.user is body.context is body.time is msgspec.UNSET:
            return slate, known.skipped
        time = None if body.time is msgspec.UNSET else body.time
        entries = field_entries(service, body.fields, time, len(body.candidates))
        return slate._replace(entries=entries), known.skipped

    def _with_texts(
        self, service: Service[Any, Any], body: ScoreRequest, slate: SlateQuery, skipped: Sequence[str]
    ) -> SlateQuery:
        """The slate with the items that were sent as texts, each in its place."""
        history: Any = add_texts(service, slate.history, body.history, skipped, self._limits)  # type: ignore[arg-type]
        candidates = add_texts(service, slate.candidates, body.candidates, (), self._limits)  # type: ignore[arg-type]
        new = item_entries(service, body.history, body.candidates)
        return SlateQuery(history, candidates, {**slate.entries, **new})

    def top(self, service: Service[Any, Any], body: RecommendRequest) -> PreparedQuery:
        """A request for the best items."""
        check_length("history", body.history, self._limits.max_history)
        if body.k > self._limits.max_k:
            raise RequestError(422, "k_too_large", f"k is {body.k}, the limit is {self._limits.max_k}")

        history, skipped = history_rows(service, body.history, body.unknown_history, self._limits)

        def reply(ranked: Ranked) -> RecommendResponse:
            named = zip(service.items.names(ranked.items), ranked.scores.tolist(), strict=True)
            best = [RecommendedItem(item, score) for item, score in named]
            return RecommendResponse(service.model, service.variant, best, skipped)

        query = ModelQuery(service, Top(history, body.k, body.exclude_seen))
        return PreparedQuery(body, query, body.k, reply)

    def service(self, task: Task, name: str | msgspec.UnsetType) -> Service[Any, Any]:
        """The model of this task that a request names, or the only one."""
        able = self._models.of_task(task)
        if name is msgspec.UNSET:
            if len(able) == 1:
                return next(iter(able.values()))
            raise RequestError(
                422,
                "which_model",
                f"several models do this: {', '.join(able)}",
                f'send "model": "{next(iter(able))}"',
            )
        if name in able:
            return able[name]
        if name in self._models:
            raise other_task(self._models[name])
        raise unknown_model(self._models, name)


def other_task(service: Service[Any, Any]) -> RequestError:
    """The error of a request to the path that the model does not have."""
    task = service.work.task
    other = CTR if task.ranks else SEQREC
    message = f"{service.model} has no {other.path}: it {task.answers}"
    return RequestError(409, "other_task", message, f"POST {task.path}")


def _names(candidates: Sequence[ItemId | NewItem], kinds: set[type]) -> Sequence[str | None]:
    """What the answer calls the candidates, which are of these types."""
    if kinds == {str}:
        return candidates  # type: ignore[return-value]
    return [item.name if isinstance(item, NewItem) else value_text(item) for item in candidates]


def logged_query(prepared: Sequence[PreparedQuery], items: bool) -> LoggedQuery:
    """The fields of a log line about a request, with or without its items."""
    service = prepared[0].query.service
    return LoggedQuery(
        service.model, service.variant, sum(user.size for user in prepared), len(prepared),
        [user.request for user in prepared] if items else None,
    )  # fmt: skip
