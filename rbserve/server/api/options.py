"""How a server behaves and what it allows: the options of `rbserve serve`. Nothing here imports NumPy or Starlette."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from rbserve.core.discipline import MAX_WAITING
from rbserve.core.options import Count, Options, Positive

Level = Literal["errors", "requests", "items"]
UnknownHistory = Literal["refuse", "skip"]
"""What becomes of a history's ids that the model's item table does not have."""


@dataclass(frozen=True)
class ServerOptions(Options):
    """How a server behaves, whatever it serves."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8000
    workers: Annotated[
        Count, Meta(description="Processes behind the port, each with the models in its memory.")
    ] = 1
    keys: Annotated[
        frozenset[bytes], Meta(description="Digests of the API keys, one of which a request must have.")
    ] = frozenset()
    admin: Annotated[
        bool, Meta(description="Let POST /v1/admin/reload take up new versions, as SIGHUP does.")
    ] = False
    log: Annotated[
        Level,
        Meta(
            description="What is logged: errors; requests: also a JSON line for each; items: also their ids."
        ),
    ] = "errors"
    drain_timeout_s: Annotated[
        Positive,
        Meta(description="Seconds after SIGTERM in which requests may finish; the rest are dropped."),
    ] = 30.0
    read_timeout_s: Annotated[
        Positive,
        Meta(description="Seconds in which a client must send a request (408 after that) or read an answer."),
    ] = 20.0
    max_connections: Annotated[
        Count, Meta(description="Open connections of each worker; one more is refused (503).")
    ] = 1000
    origins: Annotated[
        tuple[str, ...], Meta(description="Origins whose pages may send requests from a browser.")
    ] = ()


@dataclass(frozen=True)
class Limits(Options):
    """How much one request may ask for, and how many requests may wait."""

    max_history: Annotated[Count, Meta(description="Items of a history.")] = 1_000
    max_candidates: Annotated[Count, Meta(description="Candidates of a request.")] = 1_000
    max_k: Annotated[Count, Meta(description="Items to recommend.")] = 1_000
    max_users: Annotated[Count, Meta(description="Users of a request.")] = 100
    max_text: Annotated[Count, Meta(description="Characters of a new item's text, or of one to rerank.")] = (
        2_000
    )
    max_body_bytes: Annotated[Count, Meta(description="Bytes of a request's body.")] = 1 << 20
    max_waiting: Annotated[
        Count, Meta(description="Requests that may wait for a model; more are refused at once (503).")
    ] = MAX_WAITING
    deadline_ms: Annotated[
        Positive | None,
        Meta(
            description="Milliseconds after which a waiting request is not computed (504), unless it names its own.",
            extra={"note": "no deadline"},
        ),
    ] = None
    unknown_history: Annotated[
        UnknownHistory,
        Meta(
            description="Ids in a history that the model does not know: refuse the request (422), or skip them and "
            "list them in the answer; a request's own field unknown_history takes precedence."
        ),
    ] = "refuse"
