"""The load on a server: the options of `rbserve load`. Nothing here imports NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from rbserve.core.options import Amount, Count, Options, Positive


@dataclass(frozen=True)
class LoadPlan(Options):
    """Requests at random times, whether or not earlier ones were answered."""

    rate: Annotated[Positive, Meta(description="Requests per second, at the times of a Poisson process.")]
    seconds: Annotated[Positive, Meta(description="Seconds that are counted.")] = 10.0
    warm_up_s: Annotated[Amount, Meta(description="Seconds before them that are not counted.")] = 1.0
    connections: Annotated[Count, Meta(description="Requests under way at once, at most.")] = 256
    timeout_s: Annotated[Positive, Meta(description="Seconds after which a request counts as failed.")] = 10.0
    deadline_ms: Annotated[
        Positive | None,
        Meta(
            description="Milliseconds after which an answer is no goodput; sent with each request (X-Deadline-Ms).",
            extra={"note": "every success is goodput"},
        ),
    ] = None
    seed: Annotated[int, Meta(description="Seed of the times and of the requests.")] = 2024
