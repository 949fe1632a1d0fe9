"""The progress of long work: a bar if standard error is a terminal, else a line every ten seconds.

`RBSERVE_PROGRESS_SECONDS` is the time between two lines; 0 writes none. Work that takes long calls a `Progress` with
the steps done, the total (0: unknown) and the text behind the two numbers: `(20, 600, "steps at most, epoch 2")`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from datetime import timedelta

from rbserve.core.errors import UsageError
from rbserve.core.types import Progress

EVERY_S = 10.0
INTERVAL = "RBSERVE_PROGRESS_SECONDS"

_elsewhere: ContextVar[Progress | None] = ContextVar("progress", default=None)


def say(message: str) -> None:
    """Writes a line to standard error."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def progress_to(progress: Progress) -> Iterator[None]:
    """Sends the progress of the code inside to `progress`, instead of drawing it."""
    token = _elsewhere.set(progress)
    try:
        yield
    finally:
        _elsewhere.reset(token)


@contextmanager
def progress_bar(title: str, bound: str = "at most") -> Iterator[Progress]:
    """Shows the progress of the code inside, with the time left, which is told as `bound` ("about", "at most").

    Fewer steps done than before, or another total, start a new stage with a time of its own.
    """
    if (elsewhere := _elsewhere.get()) is not None:
        yield elsewhere
        return
    if not sys.stderr.isatty():
        with closing(ProgressLines(title, bound).start()) as lines:
            yield lines.update
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.fields[title]}"),
        progress.BarColumn(bar_width=24),
        progress.TextColumn("{task.completed:,}/{task.fields[of]}"),
        progress.TextColumn("{task.description}"),
        progress.TextColumn(bound),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", title=title, total=None, of="?")

        def update(done: int, total: int, line: str) -> None:
            if done < bar.tasks[0].completed:
                bar.reset(task, total=total or None)
            of = f"{total:,}" if total else "?"
            bar.update(task, completed=done, total=total or None, description=line, of=of)

        yield update


class ProgressLines:
    """Writes every few seconds, from a thread of its own, how far the work is.

    The lines go on, with the time spent, while the work does not call `update`.
    """

    def __init__(
        self,
        title: str,
        bound: str = "at most",
        every_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] | None = None,
        left: Callable[[], str] | None = None,
    ) -> None:
        """`every_s` is the time between two lines (0: no lines), by default that of `interval_s`.

        `left` gives the text about the time left; by default it follows from the rate so far.
        """
        self._title, self._bound = title, bound
        self._every_s = interval_s() if every_s is None else every_s
        self._clock, self._write, self._left = clock, write or _write, left
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._started = self._since = clock()
        self._first = self._done = self._total = 0
        self._text = ""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> ProgressLines:
        """Starts the thread; `close` ends it."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Writes no more lines."""
        self._ended.set()
        self._thread.join()

    def update(self, done: int, total: int, text: str) -> None:
        """Takes down how far the work is."""
        with self._lock:
            if done < self._done or total != self._total:
                self._since, self._first = self._clock(), done
            self._done, self._total, self._text = done, total, text

    def line(self) -> str:
        """`train dnn: 20 of 600 steps at most, epoch 2; 4.1 a second, at most 0:02:21 left`"""
        with self._lock:
            now = self._clock()
            if not self._text:
                return f"{self._title}: at work for {_hours(now - self._started)}"
            of = f" of {self._total:,}" if self._total else ""
            parts = [f"{self._title}: {self._done:,}{of} {self._text}"]
            rate = (self._done - self._first) / max(now - self._since, 1e-9)
            times = [f"{rate:,.0f} a second" if rate >= 100 else f"{rate:.3g} a second"] if rate > 0 else []
            if self._left is not None:
                times.append(self._left())
            elif rate > 0 and self._total > self._done:
                times.append(f"{self._bound} {_hours((self._total - self._done) / rate)} left")
            return "; ".join([*parts, ", ".join(times)] if times else parts)

    def _run(self) -> None:
        while not self._ended.wait(self._every_s or None):
            self._write(self.line())


def interval_s() -> float:
    """Seconds between two lines, from RBSERVE_PROGRESS_SECONDS; 0: none. UsageError for what is no such number."""
    text = os.environ.get(INTERVAL, "")
    try:
        seconds = float(text or EVERY_S)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise UsageError(f"{INTERVAL} takes seconds, not {text!r}", f"{INTERVAL}=10, or 0 for no lines")
    return seconds


def _write(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _hours(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
