"""The engines that run a bench's cells: this machine, or a cluster of Ray (extra `ray`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from rbserve.bench.executor import Executor, LocalExecutor, only_bench
from rbserve.bench.journal import Journal
from rbserve.bench.matrix import Node, on_machines
from rbserve.core.errors import UsageError

EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class BenchEngine:
    """Where the cells of a bench run: `jobs` builds at a time (a node), and `latency_cores` kept for latency.

    `address` is that of a cluster, None for one of this machine; `machines` is the key of a label whose
    values are the kinds of machines to measure on, empty for any machine.
    """

    name: EngineName = "local"
    address: str | None = None
    machines: str = ""
    jobs: int = 1
    latency_cores: int = 0
    _ray: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.name == "local" and (self.address or self.machines):
            option = "--address" if self.address else "--machines"
            raise UsageError(f"{option} is of a cluster", f"add --engine ray, or leave out {option}")

    @contextmanager
    def connected(self, only_looked_at: bool = False) -> Iterator[None]:
        """Connects to the cluster, if any; to look at the matrix only where the nodes decide what is in it."""
        if self.name == "local" or (only_looked_at and not (self.address or self.machines)):
            yield
            return
        from rbserve.cluster import connected

        with connected(self.address) as ray:
            self._ray.append(ray)
            try:
                yield
            finally:
                self._ray.clear()

    def spread(self, nodes: Sequence[Node]) -> list[Node]:
        """The cells, of which those that measure are done on every kind of machine."""
        if not self.machines:
            return list(nodes)
        from rbserve.bench.ray_executor import kinds

        return on_machines(nodes, kinds(self._ray[0], self.machines))

    @contextmanager
    def executor(self, journal: Journal, nodes: Sequence[Node]) -> Iterator[tuple[Executor, int]]:
        """What runs the cells, and how many builds it runs at a time; the only bench of this home."""
        with ExitStack() as stack:
            lock = stack.enter_context(only_bench())
            if self.name == "local":
                local = LocalExecutor(journal.name, lock, self.jobs, self.latency_cores)
                yield stack.enter_context(local), self.jobs
                return
            from rbserve.bench.ray_executor import RayExecutor

            cluster = RayExecutor(self._ray[0], journal.name, self.jobs, self.latency_cores, self.machines)
            stack.enter_context(cluster)
            cluster.check(nodes)
            yield cluster, cluster.parallel
