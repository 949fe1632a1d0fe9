"""Runs the cells of a bench in order: each once, when the cells that it needs are done; a failure stops only those."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Protocol

from rbserve.bench.executor import Executor
from rbserve.bench.journal import SCHEMA, Journal, Outcome
from rbserve.bench.matrix import Cell, Node


class Watcher(Protocol):
    """Is told of every cell of a bench: once at its start, then from any thread how far it is, once at its end."""

    def started(self, cell: Cell) -> None:
        """A cell starts."""
        ...

    def moved(self, cell: Cell, done: int, total: int, line: str) -> None:
        """`done` steps of `total` (0: unknown) are done; `line` says how it goes."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """A cell has ended, or its outcome of an earlier bench stands."""
        ...


def run(nodes: Sequence[Node], journal: Journal, executor: Executor, watcher: Watcher) -> list[Outcome]:
    """The outcome of every cell, in the order of the matrix; cells whose outcome stands are not run again."""
    outcomes: dict[str, Outcome] = {}
    running: dict[Future[Outcome], Cell] = {}
    waiting = list(nodes)
    while waiting or running:
        for node in list(waiting):
            if not all(needed in outcomes for needed in (*node.needs, *node.after)):
                continue
            blocked = _blocked(node, outcomes)
            if not (blocked or executor.has_room(node.cell, running.values())):
                continue
            waiting.remove(node)
            settled = blocked or journal.standing(node.cell)
            if settled:
                outcomes[node.cell.id] = settled
                watcher.ended(settled)
            else:
                watcher.started(node.cell)
                running[executor.submit(node.cell, partial(watcher.moved, node.cell))] = node.cell
        ended, _ = wait(running, return_when=FIRST_COMPLETED)  # idle meanwhile: a latency cell may be at work
        for future in ended:
            cell = running.pop(future)
            outcomes[cell.id] = _outcome(cell, future)
            watcher.ended(outcomes[cell.id])
    return [outcomes[node.cell.id] for node in nodes]


def _outcome(cell: Cell, future: Future[Outcome]) -> Outcome:
    """The outcome of a cell; a failed one if its worker was lost."""
    lost = future.exception()
    if lost is None:
        return future.result()
    return Outcome(SCHEMA, cell, "failed", error=f"its engine lost it: {type(lost).__name__}: {lost}")


def _blocked(node: Node, outcomes: dict[str, Outcome]) -> Outcome | None:
    """The outcome of a cell that cannot run, because one that it needs has failed."""
    failed = next((outcomes[need] for need in node.needs if not outcomes[need].ok), None)
    if failed is None:
        return None
    return Outcome(
        SCHEMA, node.cell, "not run", error=f"{failed.cell.title}: {failed.error}", hint=failed.hint
    )
