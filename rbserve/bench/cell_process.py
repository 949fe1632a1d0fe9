"""A cell in a process of its own, `python -m rbserve.bench.worker`, whatever engine starts it.

The process's standard input stays open as long as whoever started it lives: its end, be it by Ctrl-C or by kill -9,
tells the process to stop, a training to save itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from rbserve.bench.journal import SCHEMA, Outcome
from rbserve.bench.matrix import Cell

GRACE_S = 20.0  # for a step of training to end and its checkpoint to be written


class CellTask(msgspec.Struct, frozen=True):
    """The input of a worker: a cell, the name of its bench, and the cores to run on (empty: all)."""

    cell: Cell
    bench: str
    cores: list[int] = []


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of a worker's output: its progress, and at the end its outcome.

    A node that does not share the bench's folder adds to the outcome the `log` of what the cell's process printed.
    """

    progress: tuple[int, int, str] | None = None
    outcome: Outcome | None = None
    log: bytes | None = None


class CellProcess:
    """The process of one cell; what it and its libraries print goes to the file `log`.

    It is of a group of its own, which Ctrl-C at the terminal does not reach. `inherited` are open files
    that it is to hold, such as a lock. `died`: it ended without an outcome, which nobody then has written.
    """

    def __init__(
        self, task: CellTask, log: Path, environment: Mapping[str, str], inherited: Sequence[int] = ()
    ) -> None:
        self._task, self._log, self._environment, self._inherited = task, log, environment, inherited
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self.died = False

    def messages(self) -> Iterator[Message]:
        """Runs the cell; yields its progress and, last, its outcome: a failed one if the process died without any.

        Whoever stops iterating stops the process, and waits for it.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        started, outcome = time.monotonic(), None
        with self._log.open("wb") as log, subprocess.Popen(
            [sys.executable, "-m", "rbserve.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            pass_fds=[*self._inherited],
            env={**self._environment},
        ) as process:  # fmt: skip
            self._process = process
            try:
                self._tell(process)
                assert process.stdout is not None
                for line in process.stdout:
                    message = msgspec.json.decode(line, type=Message)
                    if message.outcome:
                        outcome = message.outcome
                    else:
                        yield message
                process.wait()  # before its standard input is closed, which would stop it
            finally:
                self.stop()
        if outcome is None:
            seconds, died = time.monotonic() - started, _how_it_died(process.returncode)
            outcome = Outcome(SCHEMA, self._task.cell, "failed", seconds, error=died, hint=f"see {self._log}")
            self.died = True
        yield Message(outcome=outcome)

    def stop(self) -> None:
        """Tells the process to stop; a training saves itself. May be called from any thread."""
        self._stopped = True
        if self._process is not None:
            with contextlib.suppress(OSError):
                assert self._process.stdin is not None
                self._process.stdin.close()

    def kill(self) -> None:
        """Ends the process and those that it started, at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _tell(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError):
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(self._task) + b"\n")
            process.stdin.flush()
        if self._stopped:  # before there was a process
            self.stop()


def _how_it_died(code: int) -> str:
    if code == 130:
        return "its process was stopped"
    if code < 0:
        likely = "; memory may have run out" if -code == signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-code).name}{likely}"
    return f"its process died (exit {code})"
