"""The HTTP API, for the server and its clients: paths, headers, and the types of answers."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rbserve.core.fields import FieldKind, FieldScope

SCORE, RECOMMEND, RERANK, RELOAD = "/v1/score", "/v1/recommend", "/v1/rerank", "/v1/admin/reload"
ECHO = "/v1/echo"
"""Before a path of a model: the same body is parsed and answered there, without a model."""
DEADLINE, MIN_DEADLINE_MS = "X-Deadline-Ms", 1
OIP_PREFIX = "/v2"
"""Where the routes of the Open Inference Protocol begin."""
OIP_JSON_BYTES = "inference-header-content-length"
"""Header of that protocol: bytes of JSON before the binary tensors."""

Skipped = Annotated[
    list[str] | UnsetType,
    Meta(description="With unknown_history skip: the ids of the history that the model does not know."),
]


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


class ScoredCandidate(msgspec.Struct, frozen=True):
    """One candidate of a request with named features, by its place in the lists, and its score."""

    index: int
    score: Annotated[float, Meta(description="A float32; higher is better.")]


class FeatureScoreResponse(msgspec.Struct, frozen=True):
    """The candidates' scores, in the order of the features' lists."""

    model: str
    variant: str
    scores: list[ScoredCandidate]


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


class RerankedDocument(msgspec.Struct, frozen=True):
    """The text of a document."""

    text: str


class RerankResult(msgspec.Struct, frozen=True):
    """A document and how relevant it is to the query."""

    index: Annotated[int, Meta(description="The document's place in the request, from 0.")]
    relevance_score: Annotated[
        float,
        Meta(
            description="A float32: a probability, or the cosine or product of two vectors. Larger is better."
        ),
    ]
    document: Annotated[RerankedDocument | UnsetType, Meta(description="With return_documents.")] = UNSET


class RerankResponse(msgspec.Struct, frozen=True):
    """The documents, best first; equal scores in the order sent."""

    model: str
    variant: str
    results: list[RerankResult]


class RequestsInfo(msgspec.Struct, frozen=True):
    """The request set that a model was adopted with."""

    name: str
    fingerprint: str


class FeatureInfo(msgspec.Struct, frozen=True):
    """A named feature of an adopted model, and what to send for it."""

    name: str
    takes: str


class FieldInfo(msgspec.Struct, frozen=True):
    """A field that a model reads, what it belongs to, and what to send for it: null where requests do not have it."""

    name: str
    scope: FieldScope
    kind: FieldKind
    takes: str | None = None


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong: a code for programs, a message for people, and what to do when that is known."""

    code: str
    message: str
    hint: str | UnsetType = UNSET


class ErrorResponse(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorDetail
