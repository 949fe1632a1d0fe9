"""The process of one cell: `python -m rbserve.bench.worker`.

Reads a CellTask, one line of JSON on standard input, and writes Messages, a line each, on standard output. Standard
input ends when the bench ends: the worker then stops as after Ctrl-C, and is killed with its children after a while.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

import msgspec

from rbserve.bench.cell_process import GRACE_S, CellTask, Message
from rbserve.bench.work import work
from rbserve.core.errors import Interrupted

EVERY_S = 0.2


def main() -> None:
    """Does the task; exit code 130 when it was stopped."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    messages = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no message
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=CellTask)
    threading.Thread(target=_stop_with_the_bench, daemon=True).start()
    if task.cores:
        os.sched_setaffinity(0, task.cores)
    last = 0.0

    def send(message: Message) -> None:
        with contextlib.suppress(
            BrokenPipeError
        ):  # the bench is gone, and the thread is about to stop the work
            messages.write(msgspec.json.encode(message) + b"\n")

    def progress(done: int, total: int, line: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY_S or done == total:
            send(Message(progress=(done, total, line)))
            last = now

    try:
        send(Message(outcome=work(task.cell, task.bench, progress)))
    except (KeyboardInterrupt, Interrupted):
        sys.exit(130)


def _stop_with_the_bench() -> None:
    while os.read(0, 1):  # not sys.stdin: a thread that waits there keeps Python from leaving
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
