"""The server as a Ray Serve application: Ray's proxy speaks HTTP, each replica is the ASGI application (extra `ray`).

    serve deploy docs/deploy/ray-serve.yaml           # import_path: rbserve.server.ray_app:application

Replicas are alike and keep nothing between requests: Ray may add, stop and replace them. A replica is ready once its
models are warm and answer as when they were exported. `rbserve serve` is faster on one machine (it answers short
requests without an ASGI application); Ray Serve adds machines, autoscaling and rolling updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.core.errors import RbserveError, UsageError, needs_extra, unknown_name
from rbserve.core.options import from_mapping
from rbserve.core.variants import DEFAULT_SERVED, check_variants
from rbserve.server.api.options import Limits

if TYPE_CHECKING:
    from starlette.applications import Starlette

NAME = "rbserve"
"""The deployment's name, by which a config of Ray Serve sets its replicas."""
ARGUMENTS = ("model", "variant", "threads", "limits")
ONGOING = 16
"""Requests of a replica beside those that wait for its model: its own queue, not that of Ray's proxy, refuses."""


def application(arguments: Mapping[str, Any]) -> Any:
    """A Ray Serve application of the artefact in the directory `model`, for `import_path` of a Serve config.

    `arguments` also has `variant`, `threads` a call (default 1) and `limits`, values by the names of
    `rbserve.server.api.options.Limits`. Raises UsageError for an unknown name or value.
    """
    with needs_extra("ray", "serving on a cluster"):
        from ray import serve
    opening = _opening(arguments)

    def build() -> Starlette:
        return _open_app(opening)

    class Replica:
        """A replica: Ray asks it whether it is healthy."""

        def check_health(self) -> None:
            """Raises RbserveError where the models do not answer."""
            _check_health(self.app)  # type: ignore[attr-defined]  # of Ray's wrapper

    deployment = serve.deployment(
        name=NAME,
        num_replicas=1,
        max_ongoing_requests=opening.limits.max_waiting + ONGOING,
        ray_actor_options={"num_cpus": opening.threads},
    )(serve.ingress(build)(Replica))
    return deployment.bind()


def _opening(arguments: Mapping[str, Any]) -> Any:
    """What the arguments say is to be opened; the artefact itself is looked for where a replica starts."""
    from rbserve.server.scoring.reload import Opening, ServedVariant

    for name in arguments:
        if name not in ARGUMENTS:
            raise unknown_name("argument of the application", name, ARGUMENTS)
    if "model" not in arguments:
        raise UsageError("the application's argument model is missing", "args: {model: /models/gdcn}")
    variant, threads = arguments.get("variant", DEFAULT_SERVED), arguments.get("threads", 1)
    check_variants([variant])
    if not isinstance(threads, int) or threads < 1:
        raise UsageError(f"threads is {threads!r}", "threads takes an integer of at least 1")
    limits = from_mapping(Limits, arguments.get("limits", {}))
    return Opening([ServedVariant(Path(arguments["model"]), variant)], threads=threads, limits=limits)


def _open_app(opening: Any) -> Starlette:
    """The ASGI application of warm models."""
    from rbserve.server.observe.telemetry import Telemetry
    from rbserve.server.routes.app import build_app
    from rbserve.server.scoring.models import Models

    models = Models(opening.open(Telemetry()))
    app = build_app(models, opening.limits)
    app.state.models = models
    return app


def _check_health(app: Starlette) -> None:
    status = app.state.models.status
    if status != "ready":
        raise RbserveError(f"the models are {status}")
