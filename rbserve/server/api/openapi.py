"""The OpenAPI document, made from the types of schema.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from rbserve.core.tasks import Task
from rbserve.core.version import __version__
from rbserve.core.wire import (
    DEADLINE,
    MIN_DEADLINE_MS,
    RELOAD,
    RERANK,
    SCORE,
    ErrorResponse,
    FeatureScoreResponse,
    RecommendResponse,
    RerankResponse,
    ScoreResponse,
)
from rbserve.server.api.options import Limits
from rbserve.server.api.schema import (
    TYPES,
    FeatureSchema,
    FeatureScoreRequest,
    Health,
    ModelsResponse,
    RecommendRequest,
    RerankRequest,
    ScoreRequest,
)

REF = "#/components/schemas/{name}"


FREE = ("/", "/v1/health/live", "/v1/health/ready", "/v2/health/live", "/v2/health/ready", "/openapi.json")
"""What takes no API key, where a server has any."""


MODEL_ERRORS = {
    "400": "The body is not JSON.",
    "404": "There is no model of this name.",
    "409": "The model of this name does the other of the two: scores, or recommends.",
    "413": "The body is larger than this server takes.",
    "408": "The body did not arrive in time.",
    "415": "The body is not declared as application/json, or is compressed otherwise than by gzip.",
    "422": "The JSON cannot be answered: wrong types, unknown items, an empty or oversized list.",
    "500": "The model failed; the server's log says how.",
    "503": "Too many requests wait (Retry-After says for how long), or the server stopped before it came to this one.",
    "504": "The deadline passed before the model came to this request; nothing was computed.",
}


def openapi(
    limits: Limits,
    tasks: Collection[Task],
    keyed: bool = False,
    admin: bool = False,
    reranks: bool = False,
    features: Mapping[str, FeatureSchema] | None = None,
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server with these limits, of zoo rows of these tasks.

    It may take API keys, have the admin route, have a model that `reranks` texts, and have adopted models, of which
    `features` has the named features.
    """
    types = [
        *dict.fromkeys(kind for task in tasks for kind in TYPES[task]),
        *([RerankRequest, RerankResponse] if reranks else []),
        *([FeatureScoreRequest, FeatureScoreResponse] if features else []),
        ErrorResponse,
        Health,
        ModelsResponse,
    ]
    _, components = msgspec.json.schema_components(types, ref_template=REF)
    for task in tasks:
        properties = components[TYPES[task][0].__name__]["properties"]
        properties["history"]["maxItems"] = limits.max_history
        if task.ranks:
            properties["k"]["maximum"] = limits.max_k
        else:
            properties["candidates"]["maxItems"] = limits.max_candidates
    paths = _paths(tasks, limits, admin)
    if reranks:
        components["RerankRequest"]["properties"]["documents"]["maxItems"] = limits.max_candidates
        paths[RERANK] = {"post": _rerank_operation()}
    if features:
        _add_features(paths, components, limits, features)
    if keyed:
        refused = {"401": _json("No API key, or none of this server's.", ErrorResponse)}
        for path in paths.keys() - set(FREE):
            for operation in paths[path].values():
                operation["security"] = [{"key": []}]
                operation["responses"] |= refused
    security = {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if keyed else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rbserve",
            "version": __version__,
            "description": "Scores candidate items, or recommends items, for one user with a trained recommender.",
        },
        "paths": paths,
        "components": {"schemas": components, **security},
    }


def _paths(tasks: Collection[Task], limits: Limits, admin: bool) -> dict[str, Any]:
    reloaded = {
        "200": _json("The new versions answer.", ModelsResponse),
        "409": _json("One of them may not: all stay as they are.", ErrorResponse),
    }
    ready = {"200": _json("Ready.", Health), "503": _json("Still warming up, or draining.", Health)}
    return {
        **{
            task.path: {"post": _recommend_operation(limits) if task.ranks else _score_operation(limits)}
            for task in tasks
        },
        **({RELOAD: {"post": _operation("reload", "Take up new versions", reloaded)}} if admin else {}),
        "/v1/models": {
            "get": _operation("listModels", "What is served", {"200": _json("The models.", ModelsResponse)})
        },
        "/v1/health/live": {
            "get": _operation("live", "Whether the process answers", {"200": _json("Live.", Health)})
        },
        "/v1/health/ready": {"get": _operation("ready", "Whether to send requests here", ready)},
        "/metrics": {
            "get": _operation(
                "metrics",
                "Counters and histograms in the Prometheus text format",
                {"200": _text("The metrics.")},
            )
        },
        "/": {
            "get": _operation(
                "page",
                "All of this, for people",
                {"200": _content("A page.", "text/html", {"type": "string"})},
            )
        },
        "/openapi.json": {
            "get": _operation(
                "openapi",
                "This document",
                {"200": _content("This document.", "application/json", {"type": "object"})},
            )
        },
    }


def _score_operation(limits: Limits) -> dict[str, Any]:
    example = {"history": ["50", "181"], "candidates": ["172", "98"]}
    body = _one_or_several("One user's history and the candidates", ScoreRequest, limits, example)
    answer = _one_or_several("One score for each candidate, in order", ScoreResponse, limits)
    return _model_operation("score", "Score candidates for one user", body, answer)


def _recommend_operation(limits: Limits) -> dict[str, Any]:
    example = {"history": ["50", "181"], "k": 10}
    body = _one_or_several("One user's history", RecommendRequest, limits, example)
    answer = _one_or_several("The best items, best first", RecommendResponse, limits)
    return _model_operation("recommend", "Recommend items to one user", body, answer)


def _rerank_operation() -> dict[str, Any]:
    example = {"query": "spicy noodles", "documents": ["cold noodles", {"text": "a cat"}], "top_n": 1}
    body = _json("A query and documents.", RerankRequest)
    body["content"]["application/json"]["example"] = example
    answer = _json("The documents, best first.", RerankResponse)
    return _model_operation(
        RERANK.removeprefix("/v1/"), "Order documents by their relevance to a query", body, answer
    )


def _add_features(
    paths: dict[str, Any], components: dict[str, Any], limits: Limits, features: Mapping[str, FeatureSchema]
) -> None:
    """Adds requests by named features to the path of scores, with a schema for each adopted model."""
    schemas = {f"Features.{model}": own.schema for model, own in features.items()}
    sent = components[FeatureScoreRequest.__name__]["properties"]["features"]
    sent["anyOf"] = [{"$ref": REF.format(name=name)} for name in schemas]
    components |= schemas
    model, own = next(iter(features.items()))
    example = {"model": model, "features": own.example}
    operation = _model_operation(
        "score",
        "Score candidates by their named features",
        _one_or_several("The features of one request's candidates", FeatureScoreRequest, limits, example),
        _one_or_several("One score for each candidate, in order", FeatureScoreResponse, limits),
    )
    known = paths.setdefault(SCORE, {"post": operation})["post"]
    if known is not operation:
        for body, more in (
            (known["requestBody"], operation["requestBody"]),
            (known["responses"]["200"], operation["responses"]["200"]),
        ):
            schema = body["content"]["application/json"]["schema"]
            schema["anyOf"] += more["content"]["application/json"]["schema"]["anyOf"]


def _one_or_several(
    description: str, kind: type[msgspec.Struct], limits: Limits, example: Any = None
) -> dict[str, Any]:
    """A body for one user, or a list of them."""
    several = {"type": "array", "items": _reference(kind), "maxItems": limits.max_users}
    schema = {"anyOf": [_reference(kind), several]}
    content = _content(f"{description}; or a list of them, one a user.", "application/json", schema)
    if example is not None:
        content["content"]["application/json"]["example"] = example
    return content


def _model_operation(name: str, summary: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    errors = {status: _json(description, ErrorResponse) for status, description in MODEL_ERRORS.items()}
    deadline = {
        "name": DEADLINE,
        "in": "header",
        "description": "Milliseconds from now after which the answer is of no use: it is not computed then.",
        "schema": {"type": "number", "minimum": MIN_DEADLINE_MS},
    }
    asked = {"requestBody": body | {"required": True}, "parameters": [deadline]}
    return _operation(name, summary, {"200": answer} | errors) | asked


def _operation(name: str, summary: str, responses: Mapping[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "responses": dict(responses)}


def _reference(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": REF.format(name=kind.__name__)}


def _json(description: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    return _content(description, "application/json", _reference(kind))


def _text(description: str) -> dict[str, Any]:
    return _content(description, "text/plain", {"type": "string"})


def _content(description: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}
