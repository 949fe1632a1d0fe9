"""How long a training will take: the work that is known before it, and its time after the first updates.

The first update is not timed: it allocates memory. Timed updates are part of the training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from rbserve.core.settings import Settings

TIMED_UPDATES = 3
TIMED_S = 5.0


class Forecast:
    """Says before a training how much work it is, and once, after a few updates, how long it will take."""

    def __init__(
        self,
        settings: Settings,
        epoch_updates: int,
        done: int,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`settings` are resolved; `done` updates were made before this run, which continues a training if any were."""
        self._settings, self._epoch_updates, self._done = settings, epoch_updates, done
        self._say, self._clock = say, clock
        self._count, self._seconds = 0, 0.0

    def describe_work(self, rows: int) -> None:
        """Says how many rows, updates and epochs there are, and what computes them."""
        settings = self._settings
        read = min(rows, settings.epoch_rows or rows)
        of = "" if read == rows else f" of {rows:,}"
        self._say(
            f"{read:,}{of} training rows an epoch in {_plural(self._epoch_updates, 'update')}, "
            f"{'at most ' if self._may_stop else ''}{_plural(settings.epochs, 'epoch')}; "
            f"on {settings.device} in {settings.precision}, {_plural(settings.threads, 'CPU thread')}"
        )

    @contextmanager
    def update(self) -> Iterator[None]:
        """Times the update inside, and says after a few of them how long the training will take."""
        if self._is_known():
            yield
            return
        started = self._now()
        yield
        if self._count:
            self._seconds += self._now() - started
        self._count += 1
        if self._is_known():
            self._say(self.line())

    def line(self) -> str:
        """`about 12 min for 3 epochs, validation apart (0.21 s an update, 1,055 updates an epoch)`"""
        settings, each = self._settings, self._seconds / (self._count - 1)
        updates = settings.epochs * self._epoch_updates - self._done
        left = f"{updates / self._epoch_updates:.2g} of " if self._done else ""
        at_most = " at most" if self._may_stop else ""
        return (
            f"about {duration(updates * each)}{at_most} for {left}{_plural(settings.epochs, 'epoch')}, "
            f"validation apart ({each:.2g} s an update, {_plural(self._epoch_updates, 'update')} an epoch)"
        )

    def _is_known(self) -> bool:
        return self._count > TIMED_UPDATES and self._seconds >= TIMED_S

    @property
    def _may_stop(self) -> bool:
        """Whether a validation can end the training before its last epoch."""
        return self._settings.patience < self._settings.epochs

    def _now(self) -> float:
        if self._settings.device == "cuda":  # which works on after a call has returned
            torch.cuda.synchronize()
        return self._clock()


def duration(seconds: float) -> str:
    """A time in words: 40 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
