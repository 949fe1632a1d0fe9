"""`rbserve serve`: takes the port, loads and warms the models, answers until told to stop.

The port is taken before a model is loaded: a port in use is known at once, and requests that come while the models
load wait instead of failing.
"""

from __future__ import annotations

import asyncio

from rbserve.core.errors import UsageError
from rbserve.server.api.options import ServerOptions
from rbserve.server.observe.telemetry import Telemetry
from rbserve.server.process.draining import DrainingServer
from rbserve.server.process.sockets import announce, describe, is_loopback, listen, say_reloaded
from rbserve.server.process.supervisor import supervise
from rbserve.server.scoring.models import Models
from rbserve.server.scoring.reload import Opening, Reloader


def serve(opening: Opening, options: ServerOptions) -> None:
    """Serves models until SIGTERM or SIGINT, then finishes the requests in flight; SIGHUP takes up new versions.

    Says on stderr when it is ready. Raises RbserveError when the port cannot be had, ArtifactError or UsageError when
    a variant cannot be scored with.
    """
    if options.admin and not options.keys and not _is_loopback_name(options.host):
        raise UsageError(
            f"--admin on {options.host} without API keys lets everybody reload",
            "--api-keys FILE, or leave --admin out",
        )
    if options.workers > 1:
        supervise(opening, options)
        return
    with listen(options.host, options.port) as listener:
        models = Models(opening.open(Telemetry()))
        reload = _LocalReload(Reloader(models, opening))
        server = DrainingServer(
            models, opening, options, reload,
            on_ready=lambda: announce(describe(models), options, listener), on_hangup=reload.reload_and_say,
        )  # fmt: skip
        server.run(sockets=[listener])


class _LocalReload:
    """Reloading in this process, without workers."""

    def __init__(self, reloader: Reloader) -> None:
        self._reloader, self._lock = reloader, asyncio.Lock()

    async def __call__(self) -> str | None:
        """Reloads; returns the reason where nothing was reloaded."""
        async with self._lock:
            reason = await asyncio.to_thread(self._reloader.prepare)
            if reason is None:
                self._reloader.commit()
            return reason

    async def reload_and_say(self) -> None:
        """Reloads, and says the outcome on stderr."""
        say_reloaded(await self(), self._reloader.changed)


def _is_loopback_name(host: str) -> bool:
    try:
        return is_loopback(host)
    except ValueError:
        return host == "localhost"
