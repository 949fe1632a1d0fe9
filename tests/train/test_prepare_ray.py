"""Interactions prepared by tasks of a real Ray cluster, which is started on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_partitioned import SPLITS, files, write_hm

import rbserve
from rbserve.cluster import connected, run_jobs
from rbserve.core.errors import RbserveError, UsageError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of Ray's own processes
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with connected(cpus=2) as ray:
        yield ray


@pytest.mark.parametrize("split", ["users", "time"])
def test_a_cluster_prepares_the_bytes_of_one_process(split: str, ray: Any, tmp_path: Path) -> None:
    folder = write_hm(tmp_path / "raw")
    home = rbserve.Home(tmp_path / "home")
    protocol = {"max_rows": 0, **SPLITS[split]}
    alone = home.prepare("hm", folder, name="shop", protocol=protocol)
    bytes_alone = files(alone)
    parts = home.prepare("hm", folder, name="shop", protocol=protocol, partitions=3, memory=256 << 20)
    assert parts.fingerprint == alone.fingerprint
    assert files(parts) == bytes_alone


def test_a_task_whose_worker_is_killed_runs_again(ray: Any, tmp_path: Path) -> None:
    def work(number: int) -> int:
        marker = tmp_path / str(number)
        if number == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    done: list[int] = []
    assert run_jobs(ray, work, range(4), done.append) == [0, 1, 4, 9]
    assert done[-1] == 4


def test_an_error_of_a_task_is_told_as_it_is(ray: Any) -> None:
    def refuse(number: int) -> None:
        raise UsageError(f"no {number} here", "another one")

    def stumble(number: int) -> float:
        return 1 / number

    with pytest.raises(UsageError, match="no 7 here") as caught:
        run_jobs(ray, refuse, [7], print)
    assert caught.value.hint == "another one"
    with pytest.raises(RbserveError, match="a task of the cluster failed: division by zero"):
        run_jobs(ray, stumble, [0], print)


def test_memory_that_no_node_has_is_refused_at_once(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no node of the cluster offers more"):
        rbserve.Home(tmp_path).prepare(
            "hm", write_hm(tmp_path / "raw"), protocol={"max_rows": 0}, partitions=2, memory=1 << 50
        )
