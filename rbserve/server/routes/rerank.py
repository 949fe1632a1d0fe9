"""POST /v1/rerank, in the shape that Cohere and Jina gave it: a query and documents in, the documents' order out.

    {"query": "spicy noodles", "documents": ["…", {"text": "…"}], "top_n": 3, "return_documents": true}
    -> {"model": …, "results": [{"index": 1, "relevance_score": 0.93, "document": {"text": "…"}}, …]}

Answered by adopted rerankers and by zoo rows that read texts. For these the query is a user's history: one text, or a
list of texts, oldest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from rbserve.core.errors import UsageError
from rbserve.core.ids import EDGE
from rbserve.core.types import Scores
from rbserve.core.wire import RERANK, RerankedDocument, RerankResponse, RerankResult
from rbserve.server.api.options import Limits
from rbserve.server.api.schema import RerankRequest
from rbserve.server.http.requests import RequestError, check_length, json_response, parse, read_json
from rbserve.server.observe.logs import QUERY, Log, LoggedQuery
from rbserve.server.routes.answering import ModelQuery, answer_queries
from rbserve.server.routes.errors import unknown_model
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import TextWork

EXAMPLE = '{"query": "spicy noodles", "documents": ["cold noodles", {"text": "a cat"}], "top_n": 1}'
_decoder = msgspec.json.Decoder(RerankRequest)


class RerankRoute:
    """The handler of the route."""

    def __init__(self, models: Models, limits: Limits, log: Log | None) -> None:
        self._models, self._limits, self._log = models, limits, log

    async def rerank(self, request: Request) -> Response:
        """Orders documents by their relevance to a query."""
        body = parse(await read_json(request, self._limits.max_body_bytes), _decoder, EXAMPLE)
        queries = [body.query] if isinstance(body.query, str) else body.query
        documents = [document if isinstance(document, str) else document.text for document in body.documents]
        self._check("query", queries, self._limits.max_history)
        self._check("documents", documents, self._limits.max_candidates)
        if not documents:
            raise RequestError(422, "empty_documents", "documents is empty: send at least one to score")
        service = self._service(body.model)
        query = ModelQuery(service, _text_query(service, queries, documents), has_texts=True)
        if self._log is not None:
            items = [body] if self._log.items else None
            request.scope[QUERY] = LoggedQuery(service.model, service.variant, len(documents), 1, items)
        (scores,) = await answer_queries(request, self._limits, [query])
        started = perf_counter()
        results = best_first(scores, documents if body.return_documents else None, body.top_n)
        response = json_response(RerankResponse(service.model, service.variant, results))
        service.observe_encoding(perf_counter() - started)
        return response

    def _check(self, field: str, texts: Sequence[str], most: int) -> None:
        """Raises RequestError for too many texts, and for one that is blank or too long."""
        check_length(field, texts, most)
        if not all(text.strip(EDGE) for text in texts):
            raise RequestError(422, "empty_text", f"{field} has a blank text", "leave it out")
        longest = max(map(len, texts), default=0)
        if longest > self._limits.max_text:
            message = f"{field} has a text of {longest} characters, the limit is {self._limits.max_text}"
            raise RequestError(422, "text_too_long", message, "rbserve serve --max-text changes the limit")

    def _service(self, name: str | msgspec.UnsetType) -> Service[Any, Any]:
        """The model that a request names, or the only one that reads texts."""
        if name is not msgspec.UNSET:
            if name not in self._models:
                raise unknown_model(self._models, name)
            return self._models[name]
        able = rerankers(self._models)
        if len(able) > 1:
            message, hint = (
                f"several models do this: {', '.join(able)}",
                f'send "model": "{next(iter(able))}"',
            )
            raise RequestError(422, "which_model", message, hint)
        return next(iter(able.values() or self._models))


def rerankers(models: Models) -> Mapping[str, Service[Any, Any]]:
    """The models that read texts, by name."""
    return {service.model: service for service in models if reads_texts(service)}


def reads_texts(service: Service[Any, Any]) -> bool:
    """Whether a model orders documents by their texts."""
    return isinstance(service.work, TextWork) and service.work.no_texts is None


def _text_query(service: Service[Any, Any], queries: Sequence[str], documents: Sequence[str]) -> Any:
    """What the model takes. Raises RequestError for a model that reads no texts, or no such query."""
    work: Any = service.work
    reason = work.no_texts if isinstance(work, TextWork) else "it ranks the items of its catalogue"
    if reason is not None:
        message = f"{service.model} has no {RERANK}: {reason}"
        raise RequestError(422, "no_texts", message, f"POST {service.work.task.path}")
    try:
        return work.text_query(queries, documents)
    except UsageError as error:
        raise RequestError(422, "invalid_query", f"{service.model}: {error.message}", error.hint) from None


def best_first(scores: Scores, documents: Sequence[str] | None, top_n: int | None) -> list[RerankResult]:
    """The results of `top_n` documents, or all, with the best scores first; equal ones in the order sent."""
    order = np.argsort(-scores, kind="stable")[:top_n].tolist()
    values = scores.tolist()
    return [
        RerankResult(
            index, values[index], msgspec.UNSET if documents is None else RerankedDocument(documents[index])
        )
        for index in order
    ]
