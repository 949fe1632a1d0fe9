"""A Ray cluster: connecting to one, what its nodes are, and what is wrong with it in one line (extra `ray`).

Ray runs tasks on many machines; the tasks are those of rbserve. Where no cluster runs, one is started on this machine
for the time of the command. Imports `core`. Imported by `bench`, `pipeline`, `server` and `train`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from rbserve.core.errors import RbserveError, UsageError, first_line, needs_extra
from rbserve.core.version import __version__

DIAL_S = 5.0
ANSWER_S = 60.0  # a busy node may start a process slowly; that a node is dead is known after 20
LATENCY_SLOT = "latency_slot"  # a resource that a node offers once; what is timed takes it
TRIES = 3  # of a task whose worker or node died
HINT_LOGS = "run the command again; the node's logs are in /tmp/ray/session_latest/logs"
HINT = "start one with `ray start --head`, or leave out --address to use this machine"


class ClusterNode(msgspec.Struct, frozen=True):
    """A machine, or a part of one, that runs tasks."""

    id: str
    host: str
    labels: dict[str, str]
    resources: dict[str, float]

    @property
    def latency_slots(self) -> int:
        """How many tasks may be timed on it at once: 1, or 0 where nothing is to be timed."""
        return int(self.resources.get(LATENCY_SLOT, 0))

    @property
    def cpus(self) -> int:
        """The processors that Ray gives tasks there; 0 on a node that runs none."""
        return int(self.resources.get("CPU", 0))


@contextmanager
def connected(address: str | None = None, cpus: int | None = None) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `address` (host:port), at RAY_ADDRESS, or to one of this machine.

    A cluster that was started here has `cpus` processors (all that this process may use, unless given), a latency slot,
    and stops at the end. Inside another `connected` the same cluster serves. Raises UsageError without ray
    and for an address that is none, RbserveError where nothing answers or a node has another rbserve.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns if unset
    with needs_extra("ray", "a cluster"):
        import ray
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address and address != "local":
        _dial(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RbserveError(f"no Ray cluster at {address}: {first_line(error)}", HINT) from None
    else:
        try:
            ray.init(
                address="local",
                num_cpus=cpus or len(os.sched_getaffinity(0)),
                resources={LATENCY_SLOT: 1},
                include_dashboard=False,
                **quiet,
            )
        except Exception as error:  # noqa: BLE001  (Ray raises this very class where a node does not start in time)
            raise RbserveError(
                f"no Ray cluster started on this machine: {first_line(error)}",
                "try again when it has less to do",
            ) from None
    try:
        _silence(ray)
        check_nodes(ray)
        yield ray
    finally:
        ray.shutdown()


def nodes(ray: Any) -> list[ClusterNode]:
    """The nodes that live, in the order of their ids."""
    found = [
        ClusterNode(node["NodeID"], node["NodeManagerAddress"], dict(node["Labels"]), dict(node["Resources"]))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: node.id)


def on_node(ray: Any, node: ClusterNode) -> Any:
    """Ray's way to say that a task runs on this node and on no other."""
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.id, soft=False)


def run_jobs(
    ray: Any,
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    progress: Callable[[int], None],
    memory: int = 0,
) -> list[Any]:
    """Calls a function of an installed module on every job, a task and a processor each, on any node.

    Returns the results in the jobs' order. A task of a node or worker that dies runs again elsewhere. `memory` are the
    bytes that a task needs; UsageError where no node has as many. The first error of a task stops the others.
    """
    most = max((int(node.resources.get("memory", 0)) for node in nodes(ray)), default=0)
    if memory > most:
        raise UsageError(
            f"a task takes {memory >> 20:,} MiB, and no node of the cluster offers more than {most >> 20:,} MiB",
            "a lower --memory-limit",
        )
    task = ray.remote(num_cpus=1, memory=memory or None, max_retries=TRIES)(function)
    tasks = [task.remote(job) for job in jobs]
    waiting = list(tasks)
    try:
        while waiting:
            done, waiting = ray.wait(waiting, timeout=1.0)
            for reference in done:
                ray.get(reference)
            progress(len(tasks) - len(waiting))
        return list(ray.get(tasks))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RbserveError):
            raise cause from None
        raise RbserveError(f"a task of the cluster failed: {first_line(cause or error)}", HINT_LOGS) from None
    except ray.exceptions.RayError as error:
        raise RbserveError(f"a task of the cluster was lost: {first_line(error)}", HINT_LOGS) from None
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def on_each_node(ray: Any, living: list[ClusterNode], function: Callable[..., Any], *given: Any) -> list[Any]:
    """What the function returns on each of the nodes; None of a node that does not answer within a minute."""
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    references = [task.options(scheduling_strategy=on_node(ray, node)).remote(*given) for node in living]
    ready, _ = ray.wait(references, num_returns=len(references), timeout=ANSWER_S) if references else ([], [])
    return [_result(ray, reference) if reference in ready else None for reference in references]


def lives(ray: Any, node: ClusterNode) -> bool:
    """Whether a node runs tasks now: a cluster notices only after a while that one is dead."""
    return on_each_node(ray, [node], _yes) == [True]


def _yes() -> bool:
    return True


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError:
        return None


def _silence(ray: Any) -> None:
    """Keeps pages of a dead node's log off the terminal, which Ray writes there whatever its options say."""
    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def check_nodes(ray: Any) -> None:
    """Raises RbserveError if a node has no rbserve, or another version of it. Ray itself asks for the same Python."""

    def version() -> str:
        try:
            from rbserve.core.version import __version__ as there
        except ImportError:
            return ""
        return there

    living = nodes(ray)
    for node, there in zip(living, on_each_node(ray, living, version), strict=True):
        if there is None:  # it died just now: what is placed there will find out
            continue
        if there != __version__:
            raise RbserveError(
                f"node {node.host} of the cluster has "
                + (f"rbserve {there}, this machine {__version__}" if there else "no rbserve"),
                f"pip install 'rbserve[all,ray]=={__version__}' there",
            )


def _dial(address: str) -> None:
    """Raises unless something listens at host:port: Ray itself tries for minutes, then ends the process."""
    bare = address.removeprefix("ray://")
    if bare == "auto":
        return
    host, colon, port = bare.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"a cluster's address is host:port, not {address!r}", HINT)
    try:
        socket.create_connection((host.strip("[]"), int(port)), DIAL_S).close()
    except OSError as error:
        raise RbserveError(f"no Ray cluster at {address}: {error.strerror or error}", HINT) from None
