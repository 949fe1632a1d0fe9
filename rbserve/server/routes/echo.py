"""The bare echo: a request's body, parsed, and an answer as long as the model's, without a model.

What any ASGI application of this server costs at least: `rbserve verify` holds what HTTP adds to a call against it. It
stands outside the routes, so that it has neither their metrics nor their request ids.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from rbserve.core.tasks import CTR, SEQREC
from rbserve.core.wire import (
    ECHO,
    FeatureScoreResponse,
    RecommendedItem,
    RecommendResponse,
    ScoredCandidate,
    ScoredItem,
    ScoreResponse,
)
from rbserve.server.api.schema import RecommendRequest, ScoreRequest
from rbserve.server.http.keys import Digests, may_ask
from rbserve.server.http.requests import encode

NAME = "echo"
SCORE = 0.123456789


class FeaturesEcho(msgspec.Struct):
    """A request with named features, as far as an echo reads it."""

    features: dict[str, Any]
    model: str | None = None


_scores: msgspec.json.Decoder[Any] = msgspec.json.Decoder(ScoreRequest)
_features: msgspec.json.Decoder[Any] = msgspec.json.Decoder(FeaturesEcho)
_recommend: msgspec.json.Decoder[Any] = msgspec.json.Decoder(RecommendRequest)
DECODERS = {f"{ECHO}{CTR.path}": (_scores, _features), f"{ECHO}{SEQREC.path}": (_recommend,)}


class Echo:
    """ASGI middleware that answers the paths of the echo."""

    def __init__(self, app: ASGIApp, keys: Digests, most_bytes: int) -> None:
        self._app, self._keys, self._most_bytes = app, keys, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        decoders = DECODERS.get(scope["path"], ()) if scope["type"] == "http" else ()
        if not decoders or scope["method"] != "POST" or (self._keys and not may_ask(scope, self._keys)):
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        while more and len(body) <= self._most_bytes:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        content = _echo(body, decoders) if len(body) <= self._most_bytes else None
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content or b""))]
        await send({"type": "http.response.start", "status": 200 if content else 400, "headers": headers})
        await send({"type": "http.response.body", "body": content or b""})


def _echo(body: bytes, decoders: tuple[msgspec.json.Decoder[Any], ...]) -> bytes | None:
    """The answer to a body; None to one that no decoder takes."""
    for decoder in decoders:
        try:
            return encode(_answer(decoder.decode(body)))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            continue
    return None


def _answer(sent: ScoreRequest | RecommendRequest | FeaturesEcho) -> msgspec.Struct:
    if isinstance(sent, ScoreRequest):
        return ScoreResponse(NAME, NAME, [ScoredItem(str(item), SCORE) for item in sent.candidates])
    if isinstance(sent, RecommendRequest):
        return RecommendResponse(NAME, NAME, [RecommendedItem(NAME, SCORE) for _ in range(sent.k)])
    size = max((len(value) for value in sent.features.values() if isinstance(value, list)), default=1)
    return FeatureScoreResponse(NAME, NAME, [ScoredCandidate(index, SCORE) for index in range(size)])
