"""Which node of a cluster a cell runs on: what is measured has its node, or its cores, to itself.

Rules alone, without Ray: `ClusterNode`s in, one of them out. What other programs do on a cluster Ray keeps apart: each
cell takes the processors, and what is measured the latency slot, of its node.
"""

from __future__ import annotations

from collections.abc import Sequence

from rbserve.bench.matrix import Cell
from rbserve.cluster import ClusterNode


class Placement:
    """The cells at work on each node of a cluster.

    A node does up to `jobs` builds at a time. A latency cell runs on a node with a latency slot: alone there, or,
    with `latency_cores`, on so many of its cores while builds keep to the others. `label` is the key of the label that
    tells kinds of machines apart. A node that a latency cell waits for gets no further builds.
    """

    def __init__(self, jobs: int = 1, latency_cores: int = 0, label: str = "") -> None:
        self._jobs, self._latency_cores, self._label = jobs, latency_cores, label
        self._at_work: dict[str, tuple[str, Cell]] = {}
        self._kept_free: dict[str, str] = {}

    def choose(self, cell: Cell, nodes: Sequence[ClusterNode]) -> ClusterNode | None:
        """The node to run a cell on now; None where it has to wait."""
        can = [node for node in nodes if self.can_run(cell, node)]
        free = [node for node in can if self._has_room(cell, node)]
        if cell.quiet != "none":
            self._kept_free.pop(cell.id, None)
            if can and not free:
                self._kept_free[cell.id] = min(can, key=lambda node: len(self._cells(node))).id
        return min(
            free, key=lambda node: (node.latency_slots, len(self._cells(node)), -node.cpus), default=None
        )

    def can_run(self, cell: Cell, node: ClusterNode) -> bool:
        """Whether a node, with nothing else on it, can run the cell."""
        if cell.quiet == "none":
            return self.cpus(cell, node) >= 1
        right_kind = not cell.machine or node.labels.get(self._label) == cell.machine
        return node.latency_slots > 0 and right_kind and node.cpus >= self.cpus(cell, node) > 0

    def cpus(self, cell: Cell, node: ClusterNode) -> int:
        """The processors of the node that the cell takes."""
        if cell.quiet == "machine":
            return node.cpus
        if cell.quiet == "core":
            return self._latency_cores
        return min(node.cpus, max(1, self._others(node) // self._jobs)) if self._others(node) else 0

    def start(self, cell: Cell, node: ClusterNode) -> None:
        """Notes that a cell runs on a node."""
        self._at_work[cell.id] = (node.id, cell)
        self._kept_free.pop(cell.id, None)

    def end(self, cell: Cell) -> None:
        """Notes that a cell no longer runs."""
        self._at_work.pop(cell.id, None)

    def _has_room(self, cell: Cell, node: ClusterNode) -> bool:
        here = self._cells(node)
        measured = [other for other in here if other.quiet != "none"]
        if cell.quiet == "machine" or any(other.quiet == "machine" for other in measured):
            return not here
        if cell.quiet == "core":
            return not measured
        waited_for = not self._latency_cores and node.id in self._kept_free.values()
        return not waited_for and len(here) - len(measured) < self._jobs

    def _others(self, node: ClusterNode) -> int:
        """The processors of a node that builds may take."""
        return node.cpus - (self._latency_cores if node.latency_slots else 0)

    def _cells(self, node: ClusterNode) -> list[Cell]:
        return [cell for place, cell in self._at_work.values() if place == node.id]
