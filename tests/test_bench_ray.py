"""`rbserve bench --engine ray` on a cluster of two nodes: as on one machine, through kills, and by kind of machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from entry_point import rbserve, rbserve_process

from rbserve import cluster
from rbserve.bench.journal import Outcome
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset

pytest.importorskip("ray")
from local_cluster import LocalCluster, local_cluster

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1200)]
QUICK = ("--variants", "onnx-fp32", "--processes", "1", "--runs", "5", "--slates", "2",
         "--epochs", "2", "--patience", "2")  # fmt: skip
MATRIX = ("bench", "--models", "dnn,pnn", "--datasets", "planted", *QUICK)
WAIT_S = 300.0


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[LocalCluster]:
    with local_cluster("a", "b") as running:
        yield running


@pytest.fixture
def nodes(two_nodes: LocalCluster) -> LocalCluster:
    """The cluster with both nodes, whatever an earlier test has killed."""
    for name in {"a", "b"} - {*two_nodes.names}:
        two_nodes.add(name)
    return two_nodes


@pytest.fixture
def home(trained: Artifact, planted: Dataset, tmp_path: Path) -> Path:
    """The planted data set and a dnn, trained and exported."""
    folder = tmp_path / "home"
    shutil.copytree(planted.path, folder / "data" / "planted")
    shutil.copytree(trained.path, folder / "artifacts" / "planted" / "dnn")
    return folder


def _outcomes(home: Path, bench: str = "matrix") -> dict[str, Outcome]:
    files = (home / "bench" / bench / "journal").iterdir()
    outcomes = [msgspec.json.decode(file.read_bytes(), type=Outcome) for file in files]
    return {outcome.cell.id: outcome for outcome in outcomes}


def _whole(home: Path, bench: str = "matrix") -> None:
    """Every cell has one outcome that is no failure, and every latency cell one run file."""
    outcomes = _outcomes(home, bench)
    assert {*outcomes} >= {"build.planted.pnn", "profile.planted.dnn", "profile.planted.pnn"}
    assert all(outcome.ok and not outcome.failed for outcome in outcomes.values())
    runs = sorted(outcome.run for outcome in outcomes.values() if outcome.cell.step == "profile")
    assert sorted(file.name for file in (home / "runs").iterdir()) == runs


def _scores(home: Path, model: str) -> list[float]:
    run = _outcomes(home)[f"profile.planted.{model}"].run
    return json.loads((home / "runs" / run).read_text())["predictions"]["scores"]["onnx-fp32"]


def test_a_matrix_on_a_cluster_has_the_results_of_one_machine(nodes: LocalCluster, home: Path) -> None:
    alone = home.parent / "alone"
    shutil.copytree(home, alone)
    rbserve_process(*MATRIX, home=alone)
    done = rbserve_process(*MATRIX, "--engine", "ray", "--address", nodes.address, home=home)
    assert "measured" in done.stdout
    _whole(home)
    mine, theirs = _outcomes(home), _outcomes(alone)
    assert {*mine} == {*theirs}
    for name, outcome in mine.items():
        assert outcome.fingerprint == theirs[name].fingerprint
        assert outcome.comparability_key == theirs[name].comparability_key
    assert _scores(home, "pnn") == _scores(alone, "pnn")
    trained = [open_artifact(place / "artifacts" / "planted" / "pnn") for place in (home, alone)]
    assert trained[0].model_digest == trained[1].model_digest
    again = rbserve_process(*MATRIX, "--engine", "ray", "--address", nodes.address, home=home)
    assert again.stdout.count("kept") == 3, "two rows and the caption"


def test_every_kind_of_machine_is_measured_and_has_a_block_of_the_report(
    nodes: LocalCluster, home: Path
) -> None:
    words = ("bench", "--models", "dnn", "--datasets", "planted", *QUICK, "--engine", "ray",
             "--address", nodes.address, "--machines", "kind")  # fmt: skip
    plan = json.loads(rbserve_process(*words, "--dry-run", "--json", home=home).stdout)
    profiles = {"profile.planted.dnn.a", "profile.planted.dnn.b"}
    assert {cell["id"] for cell in plan} == {"prepare.planted", "build.planted.dnn", *profiles}
    done = rbserve_process(*words, "--report", "mine", "--json", home=home)
    rows = json.loads(done.stdout)["rows"]
    assert [(row["machine"], row["status"]) for row in rows] == [("a", "measured"), ("b", "measured")]
    keys = {_outcomes(home)[name].comparability_key for name in profiles}
    assert len(keys) == 2
    text = (home / "reports" / "mine" / "table.md").read_text()
    assert "| model | variant | slate | a: p50 ms [95%] | a: p99 ms | b: p50 ms [95%] | b: p99 ms |" in text
    report = json.loads((home / "reports" / "mine" / "report.json").read_text())
    assert sorted(section["environment"]["kind"] for section in report["sections"]) == ["a", "b"]
    assert {*report["machines"][0]["comparability_keys"]} == keys
    assert "Kinds of machines" in (home / "reports" / "mine" / "report.html").read_text()
    wrong = rbserve(*words[:-1], "knd", "--dry-run", home=home, check=2)
    assert "unknown label of nodes with a latency slot: knd" in wrong.stderr
    assert "did you mean kind?" in wrong.stderr


def test_a_node_killed_in_the_middle_costs_no_cell(nodes: LocalCluster, home: Path) -> None:
    with _started([*MATRIX, "--engine", "ray", "--address", nodes.address], home) as bench:
        worker = _until(lambda: _workers(home))[0]
        (name,) = [name for name in nodes.names if _below(worker, nodes.raylet(name))]
        nodes.kill(name)
        _, said = bench.communicate(timeout=WAIT_S)
        assert bench.returncode == 0, said
    assert "was lost" in said
    assert "elsewhere" in said
    assert "Traceback" not in said
    _whole(home)


def test_a_killed_worker_of_ray_costs_no_cell(nodes: LocalCluster, home: Path) -> None:
    with _started([*MATRIX, "--engine", "ray", "--address", nodes.address], home) as bench:
        worker = _until(lambda: _workers(home))[0]
        parent = worker.parent()
        assert parent is not None
        parent.kill()
        _, said = bench.communicate(timeout=WAIT_S)
        assert bench.returncode == 0, said
    assert "was lost" in said
    _whole(home)


def test_after_the_command_is_killed_the_same_command_continues(nodes: LocalCluster, home: Path) -> None:
    words = [*MATRIX, "--engine", "ray", "--address", nodes.address]
    with _started(words, home) as bench:
        workers = _until(lambda: _workers(home))
        bench.kill()
    _until(lambda: not any(map(_at_work, workers)))
    rbserve_process(*words, home=home)
    _whole(home)


def test_ctrl_c_stops_the_cells_on_all_nodes(nodes: LocalCluster, home: Path) -> None:
    words = [*MATRIX, "--engine", "ray", "--address", nodes.address]
    with _started(words, home) as bench:
        workers = _until(lambda: _workers(home))
        bench.send_signal(signal.SIGINT)
        _, said = bench.communicate(timeout=WAIT_S)
    assert bench.returncode == 130
    assert "the same command continues: rbserve bench --models dnn,pnn" in " ".join(said.split())
    assert "Traceback" not in said
    assert not [worker for worker in workers if _at_work(worker)]


def test_machines_that_share_no_folder_move_all_through_a_store(nodes: LocalCluster, home: Path) -> None:
    """The command runs where a mount hides its home from the nodes."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("takes mount namespaces")
    words = [*MATRIX, "--engine", "ray", "--address", nodes.address]
    hidden = home.parent / "hidden"
    hidden.mkdir()
    for number, store in enumerate(("", f"file://{home.parent / 'store'}")):
        script = f"mount --bind {home} {hidden} && cd {hidden} && exec {sys.executable} -m rbserve {' '.join(words)}"
        environment = _environment(hidden) | {"RBSERVE_STORE": store}
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, env=environment
        )
        if number == 0:
            assert done.returncode == 1
            assert f"does not see the folder {hidden}" in done.stderr
            assert "RBSERVE_STORE" in done.stderr
        else:
            assert done.returncode == 0, done.stderr
    _whole(home)
    assert (home / "artifacts" / "planted" / "pnn" / "onnx" / "fp32.onnx").is_file()
    assert "pnn on planted: trained" in (home / "bench/matrix/logs/build.planted.pnn.log").read_text()


def test_a_node_with_another_version_is_named(
    nodes: LocalCluster, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "__version__", "99.0")
    done = rbserve(*MATRIX, "--engine", "ray", "--address", nodes.address, home=home, check=1)
    assert "of the cluster has rbserve" in done.stderr
    assert "this machine 99.0" in done.stderr
    assert "pip install 'rbserve[all,ray]==99.0' there" in done.stderr


# ---- processes


def _environment(home: Path) -> dict[str, str]:
    return os.environ | {"RBSERVE_HOME": str(home), "OMP_NUM_THREADS": "1"}


class _Started:
    """A bench in the background, ended with the context."""

    def __init__(self, words: list[str], home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rbserve", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(home),
            cwd=home,
        )

    def __enter__(self) -> subprocess.Popen[str]:
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


_started = _Started


def _workers(home: Path) -> list[psutil.Process]:
    """The processes of the cells of a home that build or measure."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "rbserve.bench.worker" in (process.info["cmdline"] or []):
            try:
                if process.environ().get("RBSERVE_HOME") == str(home):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
    return found


def _at_work(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended is a zombie until its parent, here an ended one, takes note."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _below(process: psutil.Process, ancestor: psutil.Process) -> bool:
    return ancestor in process.parents()


def _until(ready: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT_S
    while not (found := ready()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)
    return found
