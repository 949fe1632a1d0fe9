"""What goes over the wire: request and response types, their limits, and the OpenAPI document made from them.

The Structs validate requests and describe them, so the document cannot drift from what the server accepts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rbserve import __version__
from rbserve.core.ids import value_text
from rbserve.core.tasks import CTR, SEQREC, Task
from rbserve.core.wire import DEADLINE, MIN_DEADLINE_MS, RELOAD

NUMBERS = 'An id is a string; the number 50 is the id "50".'
REF = "#/components/schemas/{name}"

UnknownHistory = Literal["refuse", "skip"]
"""What becomes of a history's ids that the model's item table does not have."""
UNKNOWN_HISTORY = " or ".join(get_args(UnknownHistory))


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for: items of history, candidates, items to recommend, users of a list,
    characters of a new item's text, and bytes of body.

    And how many requests may wait for the model, and for how many milliseconds one that names no deadline; and what
    becomes of unknown ids in the history of a request that does not say.
    """

    max_history: int = 1_000
    max_candidates: int = 1_000
    max_k: int = 1_000
    max_users: int = 100
    max_text: int = 2_000
    max_body_bytes: int = 1 << 20
    max_waiting: int = 64
    deadline_ms: float | None = None
    unknown_history: UnknownHistory = "refuse"


ItemId = str | int | float
"""An item's id in a request. A number is the id that its digits spell: 50 and 50.0 are "50"."""
History = Annotated[
    list[ItemId],
    Meta(description="Ids of the items the user consumed, oldest first. Empty for a new user. " + NUMBERS),
]
Which = Annotated[
    str | UnsetType,
    Meta(description="Which of the server's models; may be left out where one alone does this."),
]
Unknown = Annotated[
    UnknownHistory | UnsetType,
    Meta(
        description="Ids of the history that the model does not know: refuse the request (422), or skip them. "
        "Left out, the server's --unknown-history decides."
    ),
]
Skipped = Annotated[
    list[str] | UnsetType,
    Meta(description="With unknown_history skip: the ids of the history that the model does not know."),
]


class NewItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item that the model's data set does not have, by its text; for models that read texts."""

    text: Annotated[str, Meta(description="Not blank.")]
    id: Annotated[ItemId | None, Meta(description="What the answer is to call it. " + NUMBERS)] = None

    @property
    def name(self) -> str | None:
        """What the answer calls it."""
        return None if self.id is None else value_text(self.id)


class ScoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One user and the slate to score for that user."""

    history: Annotated[
        list[ItemId | NewItem],
        Meta(
            description="Ids of the items the user consumed, or texts of new ones, oldest first. Empty for a new user."
        ),
    ]
    candidates: Annotated[
        list[ItemId | NewItem],
        Meta(
            description="Ids of the items to score, or texts of new ones. A repeated id is scored each time. "
            + NUMBERS,
            extra_json_schema={"minItems": 1},
        ),
    ]
    model: Which = UNSET
    unknown_history: Unknown = UNSET


class ScoredItem(msgspec.Struct, frozen=True):
    """One candidate and its score; null for a new item that was given no id."""

    item: str | None
    score: Annotated[float, Meta(description="Click probability, a float32.")]


class ScoreResponse(msgspec.Struct, frozen=True):
    """The candidates' scores, in the order the candidates were sent."""

    model: str
    variant: str
    scores: list[ScoredItem]
    skipped: Skipped = UNSET


class RecommendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One user, and how many items to recommend."""

    history: History
    k: Annotated[int, Meta(ge=1, description="How many items to recommend.")] = 10
    exclude_seen: Annotated[bool, Meta(description="Leave out the items of the history.")] = False
    model: Which = UNSET
    unknown_history: Unknown = UNSET


class RecommendedItem(msgspec.Struct, frozen=True):
    """One recommended item and its score."""

    item: str
    score: Annotated[
        float, Meta(description="A float32 that orders the items of one answer; no probability.")
    ]


class RecommendResponse(msgspec.Struct, frozen=True):
    """The best items of the whole catalogue, best first; fewer than k where the model has no more."""

    model: str
    variant: str
    items: list[RecommendedItem]
    skipped: Skipped = UNSET


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong: a code for programs, a message for people, and what to do when that is known."""

    code: str
    message: str
    hint: str | UnsetType = UNSET


class ErrorResponse(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class Health(msgspec.Struct, frozen=True):
    """The state of the process (live) or of the model in it (ready, warming, draining)."""

    status: str


class Measured(msgspec.Struct, frozen=True):
    """What `rbserve profile` measured of the very file that is served: one scope and slate (or k) of its newest run."""

    scope: str
    slate: int
    threads: int
    p50_ms: float
    p99_ms: Annotated[float | None, Meta(description="null: too few runs to certify it.")]
    metric: str
    accuracy: Annotated[float | None, Meta(description="null where it was not judged.")]
    run: str
    inconclusive: Annotated[
        list[str], Meta(description="Why the latency may have been disturbed; empty where it was not.")
    ] = []


class Profiled(msgspec.Struct, frozen=True):
    """The figures that profiles have of a variant; `note` says why there are none."""

    measured: list[Measured] = []
    note: str | None = None


NOT_PROFILED = Profiled(note="not profiled")


class ModelInfo(msgspec.Struct, frozen=True):
    """A served model and the data set its item ids come from."""

    name: str
    variant: str
    version: Annotated[str, Meta(description="A digest of the artefact.")]
    task: Annotated[
        str, Meta(description=" ".join(f"{task.name}: POST {task.path}." for task in (CTR, SEQREC)))
    ]
    dataset: str
    fingerprint: str
    items: Annotated[int, Meta(description="How many items can be scored.")]
    measured: Annotated[list[Measured], Meta(description="By a profile on this machine; empty without one.")]
    measured_note: Annotated[
        str | None, Meta(description="Why nothing is measured; null where something is.")
    ]
    examples: Annotated[list[str], Meta(description="Ids of some of its items that may be candidates.")]


class ModelsResponse(msgspec.Struct, frozen=True):
    """Every model this server answers for."""

    models: list[ModelInfo]


FREE = ("/", "/v1/health/live", "/v1/health/ready", "/v2/health/live", "/v2/health/ready", "/openapi.json")
"""What takes no API key, where a server has any."""
TYPES: dict[Task, tuple[type[msgspec.Struct], ...]] = {
    CTR: (ScoreRequest, ScoreResponse),
    SEQREC: (RecommendRequest, RecommendResponse),
}

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
    limits: Limits, tasks: Collection[Task], keyed: bool = False, admin: bool = False
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server with these limits, of models of these tasks.

    It may take API keys, and have the admin route.
    """
    types = [
        *dict.fromkeys(kind for task in tasks for kind in TYPES[task]),
        ErrorResponse,
        Health,
        ModelsResponse,
    ]
    _, components = msgspec.json.schema_components(types, ref_template=REF)
    for task in tasks:
        asked = components[TYPES[task][0].__name__]["properties"]
        asked["history"]["maxItems"] = limits.max_history
        if task.ranks:
            asked["k"]["maximum"] = limits.max_k
        else:
            asked["candidates"]["maxItems"] = limits.max_candidates
    paths = _paths(tasks, limits, admin)
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
