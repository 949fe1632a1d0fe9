"""The handlers of rbserve's own API: thin, around a Service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from rbserve.core.tasks import CTR, SEQREC, TASKS, Task
from rbserve.core.wire import (
    OIP_PREFIX,
    RELOAD,
    RERANK,
)
from rbserve.server.api.openapi import openapi
from rbserve.server.api.options import Limits
from rbserve.server.api.schema import (
    FeatureScoreRequest,
    Health,
    ModelInfo,
    ModelsResponse,
    RecommendRequest,
    ScoreRequest,
)
from rbserve.server.http.requests import (
    RequestError,
    check_length,
    encode,
    json_response,
    parse,
    read_json,
)
from rbserve.server.observe.logs import QUERY, Log
from rbserve.server.routes import oip
from rbserve.server.routes.answering import (
    answer_queries,
)
from rbserve.server.routes.features import (
    adopted_info,
    feature_schemas,
    parse_scores,
)
from rbserve.server.routes.fields import fields_info
from rbserve.server.routes.preparing import PreparedQuery, Preparing, logged_query, other_task
from rbserve.server.routes.rerank import RerankRoute, reads_texts, rerankers
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service


class Handlers:
    """The handlers of the routes, one method each."""

    def __init__(
        self, models: Models, limits: Limits, keyed: bool, reload: Reload | None, log: Log | None
    ) -> None:
        self._models, self._limits, self._reload = models, limits, reload
        self._tasks = [task for task in (CTR, SEQREC) if models.of_task(task)]
        self._keyed, self._log = keyed, log
        page = (Path(__file__).parent / "page.html").read_text()
        self._page = page.replace("{TASKS}", encode(TASKS).decode())
        self._rerank = RerankRoute(models, limits, log)
        self._preparing = Preparing(models, limits)

    @property
    def table(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of every route, the frequent ones first: Starlette tries them one by one."""
        models = [oip.ModelRoutes(self._models, service.model, self._limits) for service in self._models]
        return [
            ("POST", CTR.path, self.score if CTR in self._tasks else self.other_task),
            ("POST", SEQREC.path, self.recommend if SEQREC in self._tasks else self.other_task),
            ("POST", RERANK, self._rerank.rerank),
            *(
                ("POST", f"{path}/infer", model.infer)
                for model in models
                for path in oip.model_paths(model.name)
            ),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/health/live", self.live),
            ("GET", "/v1/health/ready", self.ready),
            ("GET", "/metrics", self.metrics),
            ("GET", "/openapi.json", self.openapi),
            ("GET", "/", self.page),
            *([("POST", RELOAD, self.reload)] if self._reload else []),
            *self._oip_table(models),
        ]

    def _oip_table(self, models: Sequence[oip.ModelRoutes]) -> Iterator[tuple[str, str, Handler]]:
        """Method, path and handler of every other route of the Open Inference Protocol."""
        yield "GET", OIP_PREFIX, oip.server
        yield "GET", f"{OIP_PREFIX}/health/live", self.oip_live
        yield "GET", f"{OIP_PREFIX}/health/ready", self.oip_ready
        repository = oip.RepositoryRoutes(self._models, models)
        yield "POST", f"{OIP_PREFIX}/repository/index", repository.index
        yield "GET", f"{OIP_PREFIX}/models/stats", repository.stats
        for model in models:
            for path in oip.model_paths(model.name):
                yield "GET", path, model.metadata
                yield "GET", f"{path}/ready", model.ready
                yield "GET", f"{path}/config", model.config
                yield "GET", f"{path}/stats", model.stats

    async def score(self, request: Request) -> Response:
        """Scores a slate, or one for each of several users; of an adopted model by named features."""
        body = await read_json(request, self._limits.max_body_bytes)
        sent = parse_scores(body, self._models.of_task(CTR).values())
        return await self._answer_each(request, CTR, sent, self._preparing.scores)

    async def recommend(self, request: Request) -> Response:
        """Ranks the catalogue for a user, or for each of several."""
        example = '{"history": ["50"], "k": 10}; ids are strings or numbers'
        body = await read_json(request, self._limits.max_body_bytes)
        sent = parse(body, _recommend_request, example)
        return await self._answer_each(request, SEQREC, sent, self._preparing.top)

    async def _answer_each(
        self,
        request: Request,
        task: Task,
        sent: Body | Sequence[Body],
        prepare: Callable[[Service[Any, Any], Body], PreparedQuery],
    ) -> Response:
        """Answers a request, or a list of them in turn; where one of a list cannot be answered, none is."""
        several = isinstance(sent, list)
        users: Sequence[Body] = sent if isinstance(sent, list) else [sent]  # type: ignore[list-item]
        check_length("users", users, self._limits.max_users)
        prepared = []
        for place, body in enumerate(users):
            try:
                prepared.append(prepare(self._preparing.service(task, body.model), body))
            except RequestError as error:
                raise error.at_index(place) if several else error from None
        if prepared and self._log is not None:
            request.scope[QUERY] = logged_query(prepared, self._log.items)
        answers = await answer_queries(request, self._limits, [user.query for user in prepared])
        replies = [user.reply(answer) for user, answer in zip(prepared, answers, strict=True)]
        started = perf_counter()
        response = json_response(replies if several else replies[0])
        if prepared:
            prepared[0].query.service.observe_encoding(perf_counter() - started)
        return response

    async def other_task(self, request: Request) -> Response:
        """409: the models have the other one of the two paths."""
        del request
        raise other_task(next(iter(self._models)))

    async def models(self, request: Request) -> Response:
        """The models, their variants and data sets."""
        del request
        return json_response(ModelsResponse([_info(service) for service in self._models]))

    async def reload(self, request: Request) -> Response:
        """Lets new versions take the models' places; 409 where one of them may not, and all stay as they are."""
        del request
        assert self._reload
        reason = await self._reload()
        if reason is not None:
            raise RequestError(409, "reload_refused", reason, "the models that were served still are")
        return json_response(ModelsResponse([_info(service) for service in self._models]))

    async def live(self, request: Request) -> Response:
        """200 while the process answers."""
        del request
        return json_response(Health("live"))

    async def ready(self, request: Request) -> Response:
        """Whether a load balancer should send requests here."""
        del request
        status = self._models.status
        return json_response(Health(status), 200 if status == "ready" else 503)

    async def oip_live(self, request: Request) -> Response:
        """`live`, as clients of the protocol read it (KServe's), beside the status."""
        del request
        return json_response({"live": True, "status": "live"})

    async def oip_ready(self, request: Request) -> Response:
        """`ready` in the protocol: whether a load balancer should send requests here."""
        del request
        status = self._models.status
        ready = status == "ready"
        return json_response({"ready": ready, "status": status}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """The metrics in the Prometheus text format."""
        del request
        exposition = self._models.telemetry.exposition()
        return Response(exposition, headers={"content-type": CONTENT_TYPE_LATEST})

    async def page(self, request: Request) -> Response:
        """The page that shows what is served, with a form to try it."""
        del request
        return Response(self._page, headers=PAGE_HEADERS, media_type="text/html")

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document of the versions that are served now."""
        del request
        features = feature_schemas(self._models)
        tasks = [task for task in self._tasks if self._models.of_task(task).keys() - features.keys()]
        admin, reranks = self._reload is not None, bool(rerankers(self._models))
        return json_response(openapi(self._limits, tasks, self._keyed, admin, reranks, features))


def _info(service: Service[Any, Any]) -> ModelInfo:
    data, items = service.dataset, service.items
    candidates = (item for row, item in enumerate(items.ids) if row not in items.retired)
    return ModelInfo(
        service.model, service.variant, service.version, service.work.task.name, data.name, data.fingerprint,
        len(items), service.profiled.measured, service.profiled.note, [*islice(candidates, EXAMPLES)],
        reranks=reads_texts(service), **adopted_info(service), **fields_info(service),
    )  # fmt: skip


Handler = Callable[[Request], Awaitable[Response]]


Reload = Callable[[], Awaitable[str | None]]
"""Replaces the models by their new versions; returns the reason where it did not."""


Body = TypeVar("Body", ScoreRequest | FeatureScoreRequest, RecommendRequest)


_recommend_request = msgspec.json.Decoder(RecommendRequest | list[RecommendRequest])


PAGE_HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


EXAMPLES = 5
"""Ids of candidates that the list of models shows of each."""
