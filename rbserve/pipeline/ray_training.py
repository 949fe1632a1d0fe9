"""A training on several machines: N processes of the one training loop, started by Ray, gradients summed over gloo.

Each process computes its share of every batch (`train/fitting/loop.py`). Where a process or its node is lost, all
begin again from the last checkpoint.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import msgspec

from rbserve.cluster import connected, nodes
from rbserve.core.errors import Interrupted, RbserveError
from rbserve.core.files import home, write_bytes
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.pipeline.data import ensure_dataset
from rbserve.pipeline.ray_rank import RankMessage, RankOrder, meeting_point, run_rank
from rbserve.progress import say

ATTEMPTS = 5
READY_S = 10.0
MEET_S = 120.0
STOP_S = 40.0


class RankLostError(Exception):
    """A process of a training was killed, or its node lost."""


def train_on_cluster(
    words: Sequence[str], dataset: str, path: Path, address: str | None, workers: int | None, threads: int
) -> Artifact:
    """Runs `rbserve WORDS`, a training that writes its artefact at `path`, as `workers` processes on a cluster.

    `workers` is by default a process for each node that runs tasks, `threads` (of each process) 0 for an equal share
    of a node. `words` without --resume begin anew; after a loss the training continues from its checkpoint. Raises
    RbserveError with the error line of a process that failed, Interrupted after Ctrl-C.
    """
    from rbserve.train.fit import checkpoint_path

    with connected(address) as ray:
        ensure_dataset(dataset)
        count = workers or max(1, sum(node.cpus > 0 for node in nodes(ray)))
        _train(ray, words, count, threads or _share(ray, count), checkpoint_path(path))
    return open_artifact(path)


def _train(ray: Any, words: Sequence[str], workers: int, threads: int, checkpoint: Path) -> None:
    """Runs the training until no process is lost in it."""
    marker = home().absolute() / f".folder-{uuid.uuid4().hex}"
    write_bytes(marker, b"")
    try:
        for _ in range(ATTEMPTS):
            try:
                _train_once(ray, words, workers, threads, marker)
                return
            except RankLostError as lost:
                saved = checkpoint.is_file()
                say(f"{lost}; the training begins again {'from its checkpoint' if saved else 'at its start'}")
                words = [*(word for word in words if word != "--resume"), *["--resume"] * saved]
        raise RbserveError(f"processes of the training were lost {ATTEMPTS} times", "see the nodes' memory")
    finally:
        marker.unlink(missing_ok=True)


def _share(ray: Any, workers: int) -> int:
    """The processors of each process where they are spread over the nodes."""
    cpus = sorted((node.cpus for node in nodes(ray) if node.cpus), reverse=True)[:workers]
    if not cpus:
        raise RbserveError("no node of the cluster runs tasks", "ray start --num-cpus=N")
    return max(1, cpus[-1] // math.ceil(workers / len(cpus)))


def _train_once(ray: Any, words: Sequence[str], workers: int, threads: int, marker: Path) -> None:
    """Starts all processes and waits for them; raises RankLostError if one is lost, after the others have ended."""
    _require_room(ray, workers, threads)
    group = ray.util.placement_group([{"CPU": threads}] * workers, strategy="SPREAD")
    running: list[Any] = []
    try:
        if not group.wait(READY_S):
            say(f"waits until the cluster has {workers} times {threads} processors free")
            while not group.wait(READY_S):
                _require_room(ray, workers, threads)
        place = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        address, port = _meet(ray, place(group, 0), threads)
        task = ray.remote(max_retries=0)(run_rank)
        for rank in range(workers):
            order = RankOrder([*words], _environment(rank, workers, threads, address, port), str(marker))
            options = {
                "num_cpus": threads,
                "num_returns": "streaming",
                "scheduling_strategy": place(group, rank),
            }
            running.append(task.options(**options).remote(msgspec.json.encode(order)))
        _follow(ray, running)
    except KeyboardInterrupt:
        _cancel(ray, running[:1])
        raise Interrupted("stopped", "--resume continues from the checkpoint") from None
    finally:
        _cancel(ray, running)
        ray.util.remove_placement_group(group)


def _require_room(ray: Any, workers: int, threads: int) -> None:
    """Raises RbserveError where the cluster could not run all processes at a time if nothing else ran there."""
    cpus = [node.cpus for node in nodes(ray)]
    if sum(count // threads for count in cpus) < workers:
        raise RbserveError(
            f"the cluster has no room for {workers} processes of {threads} processors each ({sum(cpus)} in all)",
            "fewer --workers or --threads",
        )


def _meet(ray: Any, strategy: Any, threads: int) -> tuple[str, int]:
    task = ray.remote(max_retries=0)(meeting_point)
    try:
        address, port = ray.get(
            task.options(num_cpus=threads, scheduling_strategy=strategy).remote(), timeout=MEET_S
        )
    except ray.exceptions.RayError as error:
        raise RankLostError(f"a node was lost ({type(error).__name__})") from None
    return address, port


def _environment(rank: int, workers: int, threads: int, address: str, port: int) -> dict[str, str]:
    """What torchrun sets for a process, and the home of this command."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(workers),
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "ACCELERATE_USE_CPU": "true",
        "RBSERVE_HOME": str(home().absolute()),
        "RBSERVE_PROGRESS_SECONDS": os.environ.get("RBSERVE_PROGRESS_SECONDS", "10"),
    }


def _follow(ray: Any, running: Sequence[Any]) -> None:
    """Waits until all processes have ended; the first failure ends the others.

    Raises RankLostError where a process was killed or lost, RbserveError with the error line of a process that failed.
    """
    written: list[list[str]] = [[] for _ in running]
    with ThreadPoolExecutor(len(running)) as pool:
        ends = {
            pool.submit(_rank_code, ray, running[rank], written[rank], rank == 0): rank
            for rank in range(len(running))
        }
        try:
            wait(ends, return_when=FIRST_EXCEPTION)
            failed = _failed(ends)
            if failed:  # the others fail with it, or wait for it
                wait(ends, timeout=STOP_S)
        finally:
            _cancel(ray, [running[rank] for future, rank in ends.items() if not future.done()])
    for future in ends:
        error = future.exception() if not future.cancelled() else None
        if isinstance(error, RankLostError):
            raise error
    for rank in failed:
        lines = (
            [line for line in written[rank] if line.startswith("error: ")]
            or written[rank][-1:]
            or ["no line was written"]
        )
        raise RbserveError(f"the training failed: {lines[-1].removeprefix('error: ')}")


def _failed(ends: Mapping[Future[None], int]) -> list[int]:
    """The processes that ended with an error, the first one first."""
    return sorted(rank for future, rank in ends.items() if future.done() and future.exception())


class RankFailedError(Exception):
    """A process of a training ended with an exit code that says so; its lines say why."""


def _rank_code(ray: Any, messages: Any, written: list[str], aloud: bool) -> None:
    """Follows a process to its end.

    Raises RankLostError where it was killed or its task lost, RankFailedError where it failed, and RbserveError where
    its node does not see the folder.
    """
    code = None
    try:
        for reference in messages:
            message = msgspec.json.decode(ray.get(reference), type=RankMessage)
            if message.blind:
                written.append(f"error: node {message.blind} does not see the folder {home().absolute()}")
                raise RankFailedError
            if message.line:
                written.append(message.line)
                if aloud and not message.line.startswith(("error: ", "hint: ")):
                    say(message.line)
            code = message.code if message.code is not None else code
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise RankLostError(f"a process of the training was lost ({type(error).__name__})") from None
    if code is None or code < 0:
        raise RankLostError("a process of the training was killed")
    if code:
        raise RankFailedError(f"exit {code}")


def _cancel(ray: Any, running: Sequence[Any]) -> None:
    for messages in running:
        try:
            ray.cancel(messages)
        except (ray.exceptions.RayError, ValueError, TypeError):  # it has ended
            continue
