"""A cell on a node, without a cluster: what a node refuses, one attempt at a time, and files through a store."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from entry_point import rbserve

from rbserve.bench import ray_cell
from rbserve.bench.cell_process import Message
from rbserve.bench.journal import SCHEMA, Journal, Outcome
from rbserve.bench.matrix import Cell
from rbserve.bench.ray_cell import CellOrder, run_cell
from rbserve.bench.transfers import Transfers
from rbserve.core.files import at_home
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.machine.environment import environment

PREPARE = Cell("prepare", "planted")
MARKER = ".folder-x"


@pytest.fixture
def home(planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with the planted data set, whose bench folder has the marker."""
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.setattr(ray_cell, "OWN_HOME", None)
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / MARKER).touch()
    return tmp_path


def _outcome(order: CellOrder) -> Outcome:
    *_, last = [msgspec.json.decode(line, type=Message) for line in run_cell(msgspec.json.encode(order))]
    assert last.outcome is not None
    return last.outcome


def test_a_cell_runs_in_a_process_of_its_own_and_a_second_attempt_finds_it_done(home: Path) -> None:
    order = CellOrder(PREPARE, "x", str(home), MARKER, threads={"OMP_NUM_THREADS": "1"})
    first = _outcome(order)
    assert (first.status, first.error) == ("done", None)
    assert Journal("x").read(PREPARE) == first
    log = Journal("x").log(PREPARE)
    log.unlink()
    assert _outcome(msgspec.structs.replace(order, attempt=2)) == first
    assert not log.exists(), "no process has run"


def test_an_attempt_waits_for_an_earlier_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cell, "LOCK_S", 0.5)
    locks = home / "bench" / "x" / "locks"
    locks.mkdir(parents=True)
    with (locks / "prepare.planted.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        outcome = _outcome(CellOrder(PREPARE, "x", str(home), MARKER))
    assert outcome.error == "an earlier attempt at prepare planted does not stop"
    assert not (home / "bench" / "x" / "journal").exists()


def test_a_node_refuses_what_it_cannot_do_in_one_line(home: Path, tmp_path: Path) -> None:
    blind = _outcome(CellOrder(PREPARE, "x", str(home), ".folder-other"))
    assert f"does not see the folder {home}" in (blind.error or "")
    assert "RBSERVE_STORE" in (blind.hint or "")
    newer = _outcome(CellOrder(PREPARE, "x", str(home), MARKER, version="99.0"))
    assert "the bench 99.0" in (newer.error or "")
    assert "pip install 'rbserve[all,ray]==99.0' there" in (newer.hint or "")


def test_a_node_with_the_folder_at_another_path_has_it_in_its_own_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cell, "OWN_HOME", str(home))
    assert ray_cell.sees_folder("/no/such/folder", MARKER)
    assert os.environ["RBSERVE_HOME"] == str(home)
    assert not ray_cell.sees_folder("/no/such/folder", ".folder-other")


def test_a_store_brings_a_node_what_its_cell_needs_and_takes_what_it_made(
    home: Path, trained: Artifact, tmp_path: Path
) -> None:
    store = pytest.importorskip("rbserve.store.store")
    pytest.importorskip("fsspec")
    build = Cell("build", "planted", "dnn")
    url, node = f"file://{tmp_path}/store", tmp_path / "node"
    Transfers(store.open_store(url)).send_needed(build)
    with at_home(node):
        there = Transfers(store.open_store(url))
        there.take_needed(build)
        assert (node / "data/planted/manifest.json").is_file()
        shutil.copytree(trained.path, node / "artifacts/planted/dnn")
        (node / "data/planted/added").write_text("vectors")
        there.send_made(Outcome(SCHEMA, build, "done"))
    mine = Transfers(store.open_store(url))
    mine.take_made(Outcome(SCHEMA, build, "done"))
    assert (home / "artifacts/planted/dnn/manifest.json").is_file()
    assert (home / "data/planted/added").read_text() == "vectors"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--address", "localhost:6379"), "--address is of a cluster", "add --engine ray"),
        (("--machines", "kind"), "--machines is of a cluster", "add --engine ray"),
        (
            ("--engine", "ray", "--address", "localhost"),
            "a cluster's address is host:port",
            "ray start --head",
        ),
        (
            ("--engine", "ray", "--address", "127.0.0.1:9"),
            "no Ray cluster at 127.0.0.1:9",
            "ray start --head",
        ),
    ],
)
def test_a_cluster_that_is_none_is_one_line(
    words: tuple[str, ...], message: str, hint: str, home: Path
) -> None:
    pytest.importorskip("ray")
    done = rbserve("bench", "--models", "dnn", "--datasets", "planted", *words, home=home, check=None)
    assert done.returncode in (1, 2)
    *_, error, advice = done.stderr.splitlines()
    assert message in error
    assert hint in advice
    trained = rbserve("train", "--model", "dnn", "--dataset", "planted", *words, home=home, check=None)
    if words[0] != "--machines":
        assert message in trained.stderr


def test_a_kind_of_machine_is_a_plain_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBSERVE_MACHINE", "c7i-large")
    assert environment().kind == "c7i-large"
