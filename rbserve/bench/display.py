"""One display of a whole bench: a bar over its cells and what is left of it, a line a cell at work.

Without a terminal, plain lines: one when a cell starts, one when it ends, and in between one every ten seconds.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from statistics import mean
from typing import TYPE_CHECKING

from rbserve.bench.estimate import TimeEstimate
from rbserve.bench.journal import Outcome
from rbserve.bench.matrix import Cell
from rbserve.bench.schedule import Watcher
from rbserve.progress import ProgressLines, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def show_cells(estimates: Mapping[str, TimeEstimate], jobs: int) -> Iterator[Watcher]:
    """Shows the cells of a bench: bars if standard error is a terminal, else lines."""
    clock = TimeLeft(estimates, jobs)
    if not sys.stderr.isatty():
        with closing(BenchLines(clock)) as lines:
            yield lines
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.TextColumn("{task.fields[line]}"),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Bars(clock, bars)


class TimeLeft:
    """The time that a bench still takes: the estimates of its cells, or the mean time of the cells of their step."""

    def __init__(self, estimates: Mapping[str, TimeEstimate], jobs: int) -> None:
        self.total, self.done = len(estimates), 0
        self._left = dict(estimates)
        self._jobs = jobs
        self._took: dict[str, list[float]] = {}
        self._started: dict[str, float] = {}
        self._lock = threading.Lock()

    def start(self, cell: Cell) -> None:
        """Takes down when a cell started."""
        with self._lock:
            self._started[cell.id] = time.monotonic()

    def end(self, outcome: Outcome) -> None:
        """Takes down how long a cell took."""
        with self._lock:
            self.done += 1
            self._left.pop(outcome.cell.id, None)
            if self._started.pop(outcome.cell.id, None) is not None and outcome.ok:
                self._took.setdefault(outcome.cell.step, []).append(outcome.seconds)

    def __str__(self) -> str:
        """`about 0:12:30 left`; `at least` if the time of a cell is unknown."""
        with self._lock:
            seconds, unknown, now = 0.0, False, time.monotonic()
            for cell, estimate in self._left.items():
                step, expected = cell.split(".")[0], estimate.seconds
                if step in self._took and (estimate.bound or expected is None):
                    expected = mean(self._took[step])
                unknown |= expected is None
                spent = now - self._started[cell] if cell in self._started else 0.0
                seconds += max(0.0, (expected or 0.0) - spent) / (1 if step == "profile" else self._jobs)
        return f"{'at least' if unknown else 'about'} {in_hours(seconds)} left"


class BenchLines:
    """Writes a line when a cell starts, every few seconds while it runs, and when it ends."""

    def __init__(self, clock: TimeLeft, every_s: float | None = None) -> None:
        self._clock, self._every_s = clock, every_s
        self._at_work: dict[str, ProgressLines] = {}

    def started(self, cell: Cell) -> None:
        """Writes that a cell starts."""
        self._clock.start(cell)
        say(f"[{self._clock.done + 1}/{self._clock.total}] {cell.title} ({self._clock})")
        lines = ProgressLines(f"    {cell.title}", every_s=self._every_s, left=lambda: f"({self._clock})")
        self._at_work[cell.id] = lines.start()

    def moved(self, cell: Cell, done: int, total: int, line: str) -> None:
        """Takes down how far a cell is, for its next line."""
        if (lines := self._at_work.get(cell.id)) is not None:
            lines.update(done, total, line)

    def ended(self, outcome: Outcome) -> None:
        """Writes how a cell ended."""
        self._stop(outcome.cell.id)
        self._clock.end(outcome)
        say(f"[{self._clock.done}/{self._clock.total}] {describe(outcome)}")

    def close(self) -> None:
        """Stops the lines of all cells."""
        for cell in [*self._at_work]:
            self._stop(cell)

    def _stop(self, cell: str) -> None:
        if (lines := self._at_work.pop(cell, None)) is not None:
            lines.close()


class Bars:
    """Draws the bar of the bench, and below it a bar for each cell that runs."""

    def __init__(self, clock: TimeLeft, bars: Progress) -> None:
        self._clock, self._bars = clock, bars
        self._bench = bars.add_task("bench", total=clock.total, line="")
        self._tasks: dict[str, TaskID] = {}

    def started(self, cell: Cell) -> None:
        """Adds the bar of a cell."""
        self._clock.start(cell)
        self._tasks[cell.id] = self._bars.add_task(cell.title, total=None, line="")
        self._refresh()

    def moved(self, cell: Cell, done: int, total: int, line: str) -> None:
        """Moves the bar of a cell."""
        task = self._tasks.get(cell.id)
        if task is not None:
            self._bars.update(task, completed=done, total=total or None, line=line)
        self._refresh()

    def ended(self, outcome: Outcome) -> None:
        """Removes the bar of a cell, and writes how the cell ended."""
        self._clock.end(outcome)
        task = self._tasks.pop(outcome.cell.id, None)
        if task is not None:
            self._bars.remove_task(task)
        self._bars.console.print(describe(outcome), markup=False, highlight=False)
        self._refresh()

    def _refresh(self) -> None:
        done, total = self._clock.done, self._clock.total
        self._bars.update(self._bench, completed=done, line=f"{done}/{total} cells, {self._clock}")


def describe(outcome: Outcome) -> str:
    """The line for a cell that has ended: its time, and the variants that failed or are absent."""
    title = outcome.cell.title
    if outcome.status == "there":
        return f"{title}: done before"
    if not outcome.ok:
        hint = f" (hint: {outcome.hint})" if outcome.hint else ""
        return f"error: {title}: {outcome.error}{hint}" if outcome.status == "failed" else f"{title}: not run"
    failed = "".join(f"; error: {variant}: {why}" for variant, why in outcome.failed.items())
    absent = "".join(f"; {variant} absent: {why}" for variant, why in outcome.absent.items())
    return f"{title}: {in_hours(outcome.seconds)}{failed}{absent}"


def in_hours(seconds: float) -> str:
    """`0:03:20`; below ten seconds `1.3 s`."""
    return f"{seconds:.1f} s" if seconds < 10 else str(timedelta(seconds=round(seconds)))
