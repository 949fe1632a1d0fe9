"""The models of a server by name, each in one version at a time.

A request looks up its model's `Service` once and keeps it. A reload in the meantime therefore changes nothing of that
request: its ids, scores and names are of one version. The old version lives until its last request is answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rbserve.core.tasks import Task
from rbserve.server.observe.telemetry import Telemetry
from rbserve.server.scoring.service import STATUSES, Service


class Models:
    """The services of a server, which share one telemetry. Iterates over the services that answer now.

    `draining`: the server was told to stop and is unready. `closing`: connections are closed after their next answer.
    """

    def __init__(self, services: Sequence[Service[Any, Any]]) -> None:
        self.telemetry: Telemetry = services[0].telemetry
        self.draining = self.closing = False
        self.replace(services)

    def __iter__(self) -> Iterator[Service[Any, Any]]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Service[Any, Any]:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @property
    def status(self) -> str:
        """One of STATUSES: the worst among the models."""
        if self.draining:
            return "draining"
        return max((service.status for service in self), key=STATUSES.index)

    def of_task(self, task: Task) -> Mapping[str, Service[Any, Any]]:
        """The services of models that are asked at the path of a task, by name."""
        return self._by_path.get(task.path, {})

    def replace(self, services: Sequence[Service[Any, Any]]) -> None:
        """Replaces all services by these, in one step."""
        by_path: dict[str, dict[str, Service[Any, Any]]] = {}
        for service in services:
            by_path.setdefault(service.work.task.path, {})[service.model] = service
        self._by_name = {service.model: service for service in services}
        self._by_path = by_path

    def close(self) -> None:
        """Cancels the requests that wait in the models' queues."""
        for service in self:
            service.close()
