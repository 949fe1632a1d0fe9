"""What `rbserve size` simulates: the options of the command. Nothing here imports NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from rbserve.core.discipline import MAX_WAITING
from rbserve.core.options import Amount, Count, Options, Positive, Share

Balance = Literal["random", "least", "shared", "connections"]


@dataclass(frozen=True)
class CapacityPlan(Options):
    """The load, the server's options, and how the simulation is done."""

    rate: Annotated[
        Positive | None,
        Meta(
            description="Requests per second, of all replicas together.",
            extra={"note": "that of the file of --arrivals"},
        ),
    ] = None
    workers: Annotated[Count, Meta(description="Workers of a replica (serve --workers), a core each.")] = 1
    balance: Annotated[
        Balance,
        Meta(
            description="Which worker gets a request: random, as the kernel and most balancers deal out; least: that "
            "with the fewest requests; shared: requests wait at the balancer for a free worker; connections: a "
            "client's connections, the last one that became free first."
        ),
    ] = "random"
    deadline_ms: Annotated[
        Positive | None,
        Meta(
            description="Milliseconds after which an answer is of no use (serve --deadline).",
            extra={"note": "no deadline"},
        ),
    ] = None
    max_waiting: Annotated[Count, Meta(description="Requests that may wait for a model (serve --queue).")] = (
        MAX_WAITING
    )
    overhead_ms: Annotated[
        Amount | None,
        Meta(
            description="Milliseconds that HTTP adds to a call at this slate, as rbserve verify measures them.",
            extra={"note": "that of --verified, else 0.25"},
        ),
    ] = None
    refusal_ms: Annotated[
        Amount | None,
        Meta(
            description="Milliseconds of a worker that a refused request takes.",
            extra={"note": "a quarter of the overhead"},
        ),
    ] = None
    http_core: Annotated[
        bool, Meta(description="A worker has a second core, for HTTP; the first is its model's alone.")
    ] = False
    batch_share: Annotated[
        Share,
        Meta(
            description="Time that a further request of a batch takes, in calls, for models that rank: requests that "
            "wait and whose histories have one length share a call. 1: batches save nothing."
        ),
    ] = 1.0
    requests: Annotated[Count, Meta(description="Requests of a simulated worker.")] = 20_000
    draws: Annotated[
        Annotated[int, Meta(ge=2)], Meta(description="Resamples of the measured times, for the intervals.")
    ] = 40
    most: Annotated[Count, Meta(description="Replicas beyond which the search ends.")] = 10_000
    seed: Annotated[int, Meta(description="Seed of arrivals and resamples.")] = 2024
