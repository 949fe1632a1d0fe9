"""A Ray cluster of several nodes on this machine, each a raylet of its own, for tests and trials."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psutil

PATIENCE_S = 90.0
TRIES = 3


class LocalCluster:
    """A head that runs no tasks, and nodes of one processor and a latency slot, labelled `kind=NAME`."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._nodes: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """The address that `--address` takes."""
        return str(self._cluster.address)

    def add(self, name: str, **given: Any) -> None:
        """Starts a node."""
        options = {"num_cpus": 1, "resources": {"latency_slot": 1}, "labels": {"kind": name}} | given
        self._nodes[name] = _started(lambda: self._cluster.add_node(**options))

    def raylet(self, name: str) -> psutil.Process:
        """The process that is a node of Ray."""
        (process,) = [one for what, one in self._nodes[name].live_processes() if what == "raylet"]
        return psutil.Process(process.pid)

    def kill(self, name: str) -> None:
        """Ends a node as a loss of power does: its raylet gets SIGKILL."""
        self.raylet(name).kill()
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    @property
    def names(self) -> list[str]:
        """The nodes that run tasks."""
        return [*self._nodes]


def _started(start: Callable[[], Any]) -> Any:
    """What `start` returns; tried again where a raylet ends itself because its agents start too slowly."""
    for left in reversed(range(TRIES)):
        try:
            with _patience():
                return start()
        except Exception:  # Ray raises no class of its own
            if not left:
                raise
    return None


@contextmanager
def _patience() -> Iterator[None]:
    """Waits for a node's start as long as it takes; on a busy machine that is longer than Ray's 30 seconds."""
    from ray._private import services

    get_node = services.get_node

    def get_node_at_last(*words: Any, **options: Any) -> Any:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return get_node(*words, **options)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    with mock.patch.object(services, "get_node", get_node_at_last):
        yield


@contextmanager
def local_cluster(*names: str) -> Iterator[LocalCluster]:
    """A cluster with nodes of these names, which ends with the context."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    started = _started(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        cluster = LocalCluster(started)
        for name in names:
            cluster.add(name)
        yield cluster
    finally:
        started.shutdown()
