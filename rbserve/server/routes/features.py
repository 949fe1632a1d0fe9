"""POST /v1/score of adopted models: named features in the place of a history and candidates.

    {"features": {"likes": [3, 4], "shows": [10, 20], "age": 7}} -> {"scores": [{"index": 0, "score": 0.7}, …]}

A server may have zoo rows beside adopted models: which of the two forms a body has is told by its field `features`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from rbserve.core.requests import Request
from rbserve.core.wire import FeatureInfo, RequestsInfo
from rbserve.server.api.options import Limits
from rbserve.server.api.schema import (
    FeatureSchema,
    FeatureScoreRequest,
    ScoreRequest,
    TensorInfo,
)
from rbserve.server.http.requests import RequestError, encode, parse
from rbserve.server.routes.answering import check_slate_size
from rbserve.server.routes.model_tensors import tensor_of_spec
from rbserve.server.scoring.adopted import AdoptedScoring
from rbserve.server.scoring.features import FeatureError
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.service import Service

ITEMS_EXAMPLE = '{"history": ["50"], "candidates": ["172"]}; ids are strings or numbers'
ScoreBody = ScoreRequest | FeatureScoreRequest

ScoreBodies = ScoreBody | Sequence[ScoreBody]

_by_items: msgspec.json.Decoder[ScoreBodies] = msgspec.json.Decoder(ScoreRequest | list[ScoreRequest])
_by_features: msgspec.json.Decoder[ScoreBodies] = msgspec.json.Decoder(
    FeatureScoreRequest | list[FeatureScoreRequest]
)


class _HasFeatures(msgspec.Struct):
    """As much of a body as tells its form."""

    features: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_form = msgspec.json.Decoder(_HasFeatures | list[_HasFeatures])


def parse_scores(body: bytes | bytearray, services: Collection[Service[Any, Any]]) -> ScoreBodies:
    """A request for scores, or a list of them, all in one of the two forms. Raises RequestError for any other body."""
    try:
        return parse(body, _by_items, ITEMS_EXAMPLE)
    except RequestError:
        adopted = [service.work for service in services if isinstance(service.work, AdoptedScoring)]
        if not (len(adopted) == len(services) or _has_features(body)):
            raise
    return parse(body, _by_features, features_example(adopted[0]) if adopted else ITEMS_EXAMPLE)


def _has_features(body: bytes | bytearray) -> bool:
    try:
        sent = _form.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    requests = sent if isinstance(sent, list) else [sent]
    return any(request.features is not msgspec.UNSET for request in requests)


def features_example(work: AdoptedScoring) -> str:
    """A body for an adopted model."""
    return encode({"features": work.reader.example(2)}).decode()


def feature_query(
    service: Service[Any, Any], body: FeatureScoreRequest, limits: Limits
) -> tuple[Request, int]:
    """The tensors of a request and how many candidates it has.

    Raises RequestError for features that make no request of the model, and for a model that takes none.
    """
    work = service.work
    if not isinstance(work, AdoptedScoring):
        message = f"{service.model} takes no features: it scores items of its catalogue"
        raise RequestError(422, "no_features", message, 'send "history" and "candidates"')
    try:
        request, size = work.reader.read(body.features)
    except FeatureError as error:
        raise RequestError(422, error.code, error.message, error.hint) from None
    check_slate_size(size, limits)
    return request, size


def require_items(service: Service[Any, Any]) -> None:
    """Raises RequestError for a model that is asked by named features."""
    if isinstance(service.work, AdoptedScoring):
        message = f"{service.model} takes named features, not a history and candidates"
        raise RequestError(422, "needs_features", message, f"send {features_example(service.work)}")


def feature_schemas(models: Models) -> Mapping[str, FeatureSchema]:
    """The named features of every adopted model, by its name."""
    return {
        service.model: FeatureSchema(service.work.reader.schema, service.work.reader.example(2))
        for service in models
        if isinstance(service.work, AdoptedScoring)
    }


def adopted_info(service: Service[Any, Any]) -> dict[str, Any]:
    """What the list of models says of an adopted model beside what it says of every model."""
    work = service.work
    if not isinstance(work, AdoptedScoring):
        return {}
    features = work.reader.features.items()
    return {
        "features": [FeatureInfo(name, feature.description) for name, feature in features],
        "inputs": [TensorInfo(*tensor_of_spec(spec)) for spec in work.signature.inputs],
        "requests": RequestsInfo(work.requests.name, work.requests.fingerprint),
        "example": work.reader.example(2),
    }
