"""One process of a training on several machines, as a task of Ray: it runs `rbserve train` as torchrun does.

The process ends with the task's own process, and that with the node's raylet: nothing is left to write a checkpoint
when the training has begun again elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec

WATCH_S = 1.0
SAVE_S = 30.0
PR_SET_PDEATHSIG = 1  # prctl(2)
LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec little may be done


class RankOrder(msgspec.Struct, frozen=True):
    """A process of a training: the words behind `rbserve`, its environment, and a file that all nodes must see."""

    words: list[str]
    environment: dict[str, str]
    marker: str


class RankMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line that the process wrote, or the code that it ended with; `blind`: the node does not see the folder."""

    line: str = ""
    code: int | None = None
    blind: str = ""


def meeting_point() -> tuple[str, int]:
    """The address of this node in its cluster, and a free port there, for the processes to meet at."""
    import ray

    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), free.getsockname()[1]


def run_rank(order: bytes) -> Iterator[bytes]:
    """Runs the process of an encoded RankOrder; yields encoded RankMessages, its exit code last. A task of Ray."""
    task = msgspec.json.decode(order, type=RankOrder)
    for message in _messages(task):
        yield msgspec.json.encode(message)


def _messages(order: RankOrder) -> Iterator[RankMessage]:
    if not Path(order.marker).is_file():
        yield RankMessage(blind=socket.gethostname())
        return
    with subprocess.Popen(
        [sys.executable, "-m", "rbserve", *order.words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(order.environment),
        cwd=order.environment["RBSERVE_HOME"],
        start_new_session=True,
        preexec_fn=_end_with_parent,
        text=True,
    ) as process:
        threading.Thread(target=_end_with_raylet, args=(process, os.getppid()), daemon=True).start()
        try:
            assert process.stderr is not None
            yield from _lines(process.stderr)
            process.wait()
        except (
            BaseException
        ):  # a cancelled task: the first process saves the training, and the others only wait for it
            _stop(process, order.environment["RANK"] == "0")
            raise
        yield RankMessage(code=process.returncode)


def _lines(stream: IO[str]) -> Iterator[RankMessage]:
    for line in stream:
        yield RankMessage(line=line.rstrip("\n"))


def _environment(of_rank: Mapping[str, str]) -> dict[str, str]:
    environment = {**os.environ, **of_rank}
    if environment.get("CUDA_VISIBLE_DEVICES") == "":  # as Ray hides devices from tasks that take none
        del environment["CUDA_VISIBLE_DEVICES"]
    return environment


def _end_with_parent() -> None:
    """Lets Linux kill this process when its parent has died, however it died."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_raylet(process: subprocess.Popen[str], raylet: int) -> None:
    """Kills the process, and this one, when the raylet has died, the parent of this process."""
    while process.poll() is None:
        if os.getppid() != raylet:
            process.kill()
            os._exit(1)
        try:
            process.wait(WATCH_S)
        except subprocess.TimeoutExpired:
            continue


def _stop(process: subprocess.Popen[str], saves: bool) -> None:
    """Ends the process; one that `saves` has time to write its checkpoint."""
    if saves:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SAVE_S)
    process.kill()
