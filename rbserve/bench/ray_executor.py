"""Cells as tasks of a Ray cluster: each on a node that has room, and again on another one if its node is lost."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import msgspec

from rbserve.bench.cell_process import GRACE_S, Message
from rbserve.bench.journal import Journal, Outcome, bench_path
from rbserve.bench.matrix import Cell, Node
from rbserve.bench.placement import Placement
from rbserve.bench.ray_cell import FOLDER_HINT, CellOrder, run_cell, sees_folder
from rbserve.bench.transfers import Transfers
from rbserve.cluster import LATENCY_SLOT, ClusterNode, lives, nodes, on_each_node, on_node
from rbserve.core.errors import RbserveError, UsageError, first_line, unknown_name
from rbserve.core.files import home, write_bytes
from rbserve.core.types import Progress
from rbserve.profilers.measure.harness import THREAD_VARIABLES
from rbserve.progress import say
from rbserve.store.store import VARIABLE as STORE
from rbserve.store.store import Store, open_store

ATTEMPTS = 5  # at a cell whose node or worker was lost
NODE_S = 60.0  # how long a cell waits for a node that can run it, where none is left
CELLS = 256  # at a time, at most
SLOT_HINT = f"start a node with: ray start --address=HOST:PORT --resources '{{\"{LATENCY_SLOT}\": 1}}'"


class CellLostError(RuntimeError):
    """No attempt at a cell came to its end."""


class RayExecutor:
    """Up to `jobs` builds at a time on each node of a cluster; a latency cell has its node, or its cores, to itself.

    Every cell is a task that Ray starts on the node chosen here (`Placement`). A task that is lost with its node or
    worker is started again, on a node that answers. Leaving the context stops what still runs.
    """

    def __init__(self, ray: Any, bench: str, jobs: int = 1, latency_cores: int = 0, label: str = "") -> None:
        self._ray, self._journal = ray, Journal(bench)
        self._placement = Placement(jobs, latency_cores, label)
        self._jobs, self._latency_cores = jobs, latency_cores
        self._marker = f".folder-{uuid.uuid4().hex}"
        self._store: Store | None = None
        self._transfers: Transfers | None = None
        self._task = ray.remote(max_retries=0)(run_cell)
        self._pool = ThreadPoolExecutor(CELLS)
        self._tasks: dict[str, Any] = {}
        self._dead: set[str] = set()
        self._changed = threading.Condition()
        self._stopping = False

    def __enter__(self) -> Self:
        write_bytes(bench_path() / self._marker, b"")
        return self

    def __exit__(self, *_: object) -> None:
        """Stops what still runs, and waits for it; a second Ctrl-C does not wait."""
        self._stopping = True
        with self._changed:
            self._changed.notify_all()
        try:
            self._cancel(force=False)
            threading.Thread(target=self._cancel_at_last, daemon=True).start()
            self._pool.shutdown(cancel_futures=True)
        except KeyboardInterrupt:
            self._cancel(force=True)
            raise
        finally:
            (bench_path() / self._marker).unlink(missing_ok=True)

    @property
    def parallel(self) -> int:
        """How many builds run at a time, for an estimate of the time."""
        return max(1, self._jobs * sum(node.cpus > 0 for node in self._nodes()))

    def check(self, matrix: Sequence[Node]) -> None:
        """Raises RbserveError where no node can run a cell, or a node sees neither the folder nor a store."""
        living = self._nodes()
        for node in matrix:
            if not any(self._placement.can_run(node.cell, place) for place in living):
                raise _no_node(node.cell)
        answers = on_each_node(self._ray, living, sees_folder, str(home().absolute()), self._marker)
        blind = [node.host for node, sees in zip(living, answers, strict=True) if sees is False]
        if not blind:
            return
        if not os.environ.get(STORE):
            raise RbserveError(
                f"node {blind[0]} of the cluster does not see the folder {home().absolute()}", FOLDER_HINT
            )
        self._store = open_store()
        self._transfers = Transfers(self._store)

    def has_room(self, cell: Cell, running: Collection[Cell]) -> bool:
        """Whether a node can take the cell now; true with nothing running, `submit` then waits for a node."""
        with self._changed:
            return self._placement.choose(cell, self._nodes()) is not None or not running

    def submit(self, cell: Cell, progress: Progress) -> Future[Outcome]:
        """Starts the cell on a node."""
        with self._changed:
            node = self._placement.choose(cell, self._nodes())
            if node is not None:
                self._placement.start(cell, node)
        return self._pool.submit(self._run, cell, progress, node)

    def _run(self, cell: Cell, progress: Progress, node: ClusterNode | None) -> Outcome:
        lost = ""
        for attempt in range(1, ATTEMPTS + 1):
            node = node or self._wait_for_node(cell)
            try:
                return self._attempt(cell, progress, node, attempt)
            except self._ray.exceptions.RayTaskError:  # no fault of the node
                raise
            except self._ray.exceptions.RayError as error:
                if self._stopping:
                    raise
                lost = f"{node.host}: {first_line(error)}"
            finally:
                self._give_back(cell)
            self._note_loss(cell, node)
            node = None
        raise CellLostError(f"{ATTEMPTS} attempts were lost, the last on node {lost}")

    def _attempt(self, cell: Cell, progress: Progress, node: ClusterNode, attempt: int) -> Outcome:
        """Runs the cell on the node to its end; raises RayError where task or node are lost before it."""
        cpus = self._placement.cpus(cell, node)
        task = self._task.options(
            name=cell.title,
            num_cpus=cpus,
            num_returns="streaming",
            resources={LATENCY_SLOT: 1} if cell.quiet != "none" else None,
            scheduling_strategy=on_node(self._ray, node),
        )
        if self._transfers:
            self._transfers.send_needed(cell)
        messages = task.remote(msgspec.json.encode(self._order(cell, cpus, node, attempt)))
        self._tasks[cell.id] = messages
        if self._stopping:
            self._ray.cancel(messages)
        outcome = None
        for reference in messages:
            message = msgspec.json.decode(self._ray.get(reference), type=Message)
            if message.progress:
                progress(*message.progress)
            outcome = message.outcome or outcome
            if message.log is not None:
                write_bytes(self._journal.log(cell), message.log)
        if outcome is None:
            raise CellLostError("its task ended without an outcome")
        if self._transfers:
            self._transfers.take_made(outcome)
            self._journal.write(outcome)
        return outcome

    def _order(self, cell: Cell, cpus: int, node: ClusterNode, attempt: int) -> CellOrder:
        threads = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
        if not threads and cell.quiet == "none":
            threads = dict.fromkeys(THREAD_VARIABLES, str(cpus))
        return CellOrder(
            cell=cell,
            bench=self._journal.name,
            home=str(home().absolute()),
            marker=self._marker,
            threads=threads,
            latency_cores=self._latency_cores if node.latency_slots else 0,
            attempt=attempt,
            store=self._store.url if self._store else "",
        )

    def _wait_for_node(self, cell: Cell) -> ClusterNode:
        """The node that the cell is now placed on; CellLostError where no node is left that can run it."""
        last_able = time.monotonic()
        with self._changed:
            while not self._stopping:
                living = self._nodes()
                node = self._placement.choose(cell, living)
                if node is not None:
                    self._placement.start(cell, node)
                    return node
                if any(self._placement.can_run(cell, able) for able in living):
                    last_able = time.monotonic()
                elif time.monotonic() - last_able > NODE_S:
                    raise CellLostError(f"no node is left that can run it; {SLOT_HINT}")
                self._changed.wait(1.0)
        raise CellLostError("the bench was stopped")

    def _give_back(self, cell: Cell) -> None:
        self._tasks.pop(cell.id, None)
        with self._changed:
            self._placement.end(cell)
            self._changed.notify_all()

    def _note_loss(self, cell: Cell, node: ClusterNode) -> None:
        """Says what was lost, and leaves a node alone that does not answer."""
        if lives(self._ray, node):
            say(f"the worker of {cell.title} on node {node.host} was lost; it is run again")
            return
        with self._changed:
            self._dead.add(node.id)
        say(f"node {node.host} ({node.id[:8]}) was lost; {cell.title} is run again elsewhere")

    def _nodes(self) -> list[ClusterNode]:
        return [node for node in nodes(self._ray) if node.id not in self._dead]

    def _cancel_at_last(self) -> None:
        """Ends tasks that have not stopped after the time that they have for it."""
        time.sleep(GRACE_S + 5)
        self._cancel(force=True)

    def _cancel(self, force: bool) -> None:
        for messages in [*self._tasks.values()]:
            try:
                self._ray.cancel(messages, force=force)
            except (self._ray.exceptions.RayError, ValueError, TypeError):  # it has ended, or the cluster has
                continue


def kinds(ray: Any, label: str) -> list[str]:
    """The kinds of machines by a label of the nodes that offer a latency slot; UsageError where none has it."""
    measuring = [node for node in nodes(ray) if node.latency_slots]
    values = {node.labels[label] for node in measuring if label in node.labels}
    if values:
        return sorted(values)
    if not measuring:
        raise RbserveError("no node of the cluster has a latency slot", SLOT_HINT)
    known = {name for node in measuring for name in node.labels}
    raise unknown_name("label of nodes with a latency slot", label, known)


def _no_node(cell: Cell) -> RbserveError:
    if cell.quiet != "none":
        return RbserveError(
            f"no node of the cluster can measure: {cell.title} needs a latency slot", SLOT_HINT
        )
    return UsageError(
        f"no node of the cluster runs tasks: {cell.title} needs a processor", "ray start --num-cpus=N"
    )
