"""`rbserve bench` through its entry point: a matrix that fails in places, is killed, stopped and continued."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from entry_point import rbserve, rbserve_process

from rbserve.bench import matrix, schedule, work
from rbserve.bench.display import TimeLeft
from rbserve.bench.estimate import TimeEstimate
from rbserve.bench.executor import LocalExecutor, only_bench
from rbserve.bench.journal import SCHEMA, Journal, Outcome
from rbserve.bench.matrix import Cell, Node
from rbserve.bench.options import read_overrides
from rbserve.bench.summary import summarise
from rbserve.core.errors import ParityError, UsageError
from rbserve.core.files import sha256
from rbserve.core.types import Progress, no_progress
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.machine.environment import allowed_cores
from rbserve.models.zoo import find_model, select_models
from rbserve.pipeline import exporting, profiling
from rbserve.runs.measurement import Measurement

QUICK = ("--processes", "1", "--runs", "5", "--slates", "2")
INT8 = ("--variants", "onnx-int8")


@pytest.fixture
def home(trained: Artifact, planted: Dataset, tmp_path: Path) -> Path:
    """The planted data set and a dnn, trained and exported."""
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    shutil.copytree(trained.path, tmp_path / "artifacts" / "planted" / "dnn")
    return tmp_path


def _rows(done: subprocess.CompletedProcess[str]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["dataset"], row["model"], row["variant"]): row for row in json.loads(done.stdout)["rows"]}


def test_failures_stop_only_what_needs_them_and_the_same_command_does_the_rest(home: Path) -> None:
    """One artefact is damaged, one data set's raw files are missing, one variant cannot be."""
    damaged = home / "artifacts" / "planted" / "pnn"
    shutil.copytree(home / "artifacts" / "planted" / "dnn", damaged)
    whole = (damaged / "onnx" / "int8.onnx").read_bytes()
    (damaged / "onnx" / "int8.onnx").write_bytes(b"damaged")
    words = ("bench", "--models", "pnn,dnn", "--variants", "onnx-int8,onnx-int4", *QUICK, "--json")
    done = rbserve(*words, "--datasets", "mind,planted", home=home, check=1)
    rows = _rows(done)
    assert {key: row["status"] for key, row in rows.items()} == {
        ("mind", "dnn", "onnx-int8"): "not run",
        ("mind", "dnn", "onnx-int4"): "not run",
        ("mind", "pnn", "onnx-int8"): "not run",
        ("mind", "pnn", "onnx-int4"): "not run",
        ("planted", "dnn", "onnx-int8"): "measured",
        ("planted", "dnn", "onnx-int4"): "absent",
        ("planted", "pnn", "onnx-int8"): "failed",
        ("planted", "pnn", "onnx-int4"): "failed",
    }
    assert "--raw" in rows["mind", "dnn", "onnx-int8"]["reason"]
    assert "is damaged" in rows["planted", "pnn", "onnx-int8"]["reason"]
    assert "only torch-fp32, onnx-fp32, onnx-int8" in rows["planted", "dnn", "onnx-int4"]["reason"]
    assert "error: 6 of 8 rows were not measured" in done.stderr
    (run,) = (home / "runs").iterdir()
    assert rows["planted", "dnn", "onnx-int8"]["run"] == run.name
    assert [one["slate"] for one in rows["planted", "dnn", "onnx-int8"]["results"]] == [2]

    (damaged / "onnx" / "int8.onnx").write_bytes(whole)
    done = rbserve(*words, "--datasets", "planted", home=home)
    assert "profile dnn on planted: done before" in done.stderr
    assert {key: row["kept"] for key, row in _rows(done).items() if row["status"] == "measured"} == {
        ("planted", "dnn", "onnx-int8"): True,
        ("planted", "pnn", "onnx-int8"): False,
    }
    assert len(list((home / "runs").iterdir())) == 2


def test_a_measurement_stands_as_long_as_plan_variants_artefact_data_and_run_file_are_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rbserve("bench", "--models", "dnn", "--datasets", "planted", *INT8, *QUICK, home=home)
    monkeypatch.setenv("RBSERVE_HOME", str(home))
    journal = Journal("matrix")
    (file,) = (home / "bench" / "matrix" / "journal").glob("profile.*")
    outcome = msgspec.json.decode(file.read_bytes(), type=Outcome)
    cell = outcome.cell
    assert cell.plan is not None
    assert journal.standing(cell) == msgspec.structs.replace(outcome, status="there", seconds=0.0)
    longer = msgspec.structs.replace(cell.plan, runs=6)
    assert journal.standing(msgspec.structs.replace(cell, plan=longer)) is None
    assert journal.standing(msgspec.structs.replace(cell, variants=["onnx-fp32"])) is None
    for changed in (
        "artifacts/planted/dnn/manifest.json",
        "data/planted/manifest.json",
        f"runs/{outcome.run}",
    ):
        path = home / changed
        whole = path.read_text()
        path.write_text(whole.replace(outcome.fingerprint, "0" * 64) + " ")
        if changed.startswith("runs"):
            path.unlink()
        assert journal.standing(cell) is None, changed
        path.write_text(whole)
        assert journal.standing(cell) is not None


def test_killed_in_a_training_the_bench_continues_where_it_was(home: Path) -> None:
    words = ["bench", "--models", "dnn,pnn", "--datasets", "planted", *INT8, *QUICK, "--out", "mine",
             "--epochs", "4", "--patience", "4"]  # fmt: skip
    with _at_a_terminal(words, home) as (process, screen):
        _wait_for(screen, "epoch 2")
        process.kill()
    before = {file.name for file in (home / "runs").glob("*-dnn-*")}
    done = rbserve(*words, "--report", "mine", home=home)
    assert "profile dnn on planted: done before" in done.stderr
    assert "trained before with other settings" in done.stderr
    assert {file.name for file in (home / "runs").glob("*-dnn-*")} == before
    log = (home / "bench" / "mine" / "logs" / "build.planted.pnn.log").read_text()
    assert "the training of pnn goes on where it was cut off" in log
    assert "pnn on planted: trained, 4 epochs" in log
    assert "kept" in done.stdout
    assert "measured" in done.stdout
    assert (home / "reports" / "mine" / "report.html").is_file()


def test_ctrl_c_stops_what_is_at_work_and_says_how_to_go_on(home: Path) -> None:
    words = ["bench", "--models", "dnn", "--datasets", "planted", *INT8, "--processes", "500"]
    with _at_a_terminal(words, home) as (process, screen):
        seen = _wait_for(screen, "process 1/500")
        at_work = psutil.Process(process.pid).children(recursive=True)
        assert at_work
        process.send_signal(signal.SIGINT)
        seen += _rest(screen)
        assert process.wait(timeout=30) == 130
    assert "the same command continues: rbserve bench --models dnn" in " ".join(seen.split())
    assert "Traceback" not in seen
    psutil.wait_procs(at_work, timeout=10)
    assert not [one for one in at_work if one.is_running()]
    assert not (home / "bench" / "matrix" / "journal").exists()


def test_a_dry_run_says_what_it_would_take_and_from_where_it_knows(home: Path) -> None:
    words = ("bench", "--models", "dnn,gdcn", "--datasets", "planted", *INT8, "--processes", "3", "--seconds", "2",
             "--slates", "2", "--dry-run")  # fmt: skip
    done = rbserve_process(*words, home=home)
    assert "the plan's seconds" in done.stdout
    assert "3 of 5 cells to do" in done.stderr
    assert "2 of them counted with what their plan allows" in done.stderr
    rbserve("profile", "--model", "dnn", "--dataset", "planted", *INT8, *QUICK, home=home)
    cells = {one["id"]: one for one in json.loads(rbserve_process(*words, "--json", home=home).stdout)}
    known, guess = (cells[f"profile.planted.{model}"]["estimate"] for model in ("dnn", "gdcn"))
    assert "run of" in known["source"]
    assert not known["bound"]
    assert guess["source"] == "the plan's seconds, without accuracy"
    assert guess["bound"]
    assert guess["seconds"] >= 3 * 2
    assert known["memory"] > 0
    assert cells["build.planted.gdcn"]["estimate"]["source"] == "1 trainings of its kind on planted"
    assert not (home / "bench").exists()


MISTAKES = [
    (("--models", "dcnv3"), "unknown model or group: dcnv3", "did you mean dcnv2?"),
    (("--models", "A", "--datasets", "plantd"), "unknown data set: plantd", "did you mean planted?"),
    (("--models", "A", "--datasets", ","), "no data set is selected", "--datasets ml-100k"),
    (("--models", "A", "--variants", "onnx-int9"), "unknown variant: onnx-int9", "did you mean onnx-int"),
    (("--models", "A", "--slates", "0"), "slates must be whole numbers, not 0", "--slates 1,100"),
    (("--models", "G", "--top", "ten"), "top must be whole numbers, not ten", "--top"),
    (("--models", "A", "--scope", "forwards"), "'forwards' is not one of 'forward'", "--help"),
    (("--models", "A", "--out", "../x"), "--out takes a plain name", "--out"),
    (("--models", "A", "--jobs", "0"), "--jobs", "--help"),
    (("--models", "A", "--quiet", "core", "--threads", "999"), "999 of", "--quiet machine"),
    (("--models", "A", "--options", "gone.toml"), "cannot read gone.toml", "rbserve bench --help"),
    ((), "--models", "--help"),
]


@pytest.mark.parametrize(("words", "message", "hint"), MISTAKES, ids=[" ".join(one[0]) for one in MISTAKES])
def test_a_mistake_is_one_line_and_a_hint(
    words: tuple[str, ...], message: str, hint: str, planted: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    where = () if "--datasets" in words else ("--datasets", "planted")
    lines = rbserve("bench", *where, *words, home=tmp_path, check=2).stderr.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert message in lines[-2]
    assert hint in lines[-1]
    assert not (tmp_path / "artifacts").exists()


# ---- the parts


class Spoken:
    """An engine with a queue of its own that runs nothing: each cell ends as it was told."""

    def __init__(self, failing: Collection[str] = (), lost: Collection[str] = ()) -> None:
        self.failing, self.lost, self.order = failing, lost, list[str]()

    def has_room(self, cell: Cell, running: Collection[Cell]) -> bool:
        del cell, running
        return True

    def submit(self, cell: Cell, progress: Progress) -> Future[Outcome]:
        del progress
        self.order.append(cell.id)
        future: Future[Outcome] = Future()
        if cell.id in self.lost:
            future.set_exception(ConnectionError("no node"))
            return future
        failed = cell.id in self.failing
        future.set_result(
            Outcome(SCHEMA, cell, "failed" if failed else "done", error="no" if failed else None)
        )
        return future


class Unseen:
    def started(self, cell: Cell) -> None: ...

    def moved(self, cell: Cell, done: int, total: int, line: str) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...


def _nodes(models: str, datasets: list[str]) -> list[Node]:
    return matrix.nodes(select_models(models), datasets, lambda spec, _: matrix.plan_of(spec, {}))


def test_cells_run_after_what_they_need_and_a_data_set_is_prepared_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    engine = Spoken(failing={"build.a.dnn", "prepare.b"})
    outcomes = schedule.run(_nodes("dnn,pnn", ["a", "b"]), Journal("x"), engine, Unseen())
    assert sorted(engine.order) == ["build.a.dnn", "build.a.pnn", "prepare.a", "prepare.b", "profile.a.pnn"]
    assert (
        engine.order.index("prepare.a")
        < engine.order.index("build.a.pnn")
        < engine.order.index("profile.a.pnn")
    )
    assert [outcome.cell.id for outcome in outcomes if outcome.status == "not run"] == [
        "profile.a.dnn", "build.b.dnn", "profile.b.dnn", "build.b.pnn", "profile.b.pnn",
    ]  # fmt: skip


def test_a_cell_that_its_engine_loses_has_failed_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    engine = Spoken(lost={"build.a.dnn"})
    outcomes = {
        one.cell.id: one for one in schedule.run(_nodes("dnn,pnn", ["a"]), Journal("x"), engine, Unseen())
    }
    assert outcomes["build.a.dnn"].error == "its engine lost it: ConnectionError: no node"
    assert outcomes["profile.a.dnn"].status == "not run"
    assert outcomes["profile.a.pnn"].status == "done"


def test_models_that_share_identifiers_or_weights_wait_for_the_one_that_makes_them() -> None:
    after = {node.cell.id: node.after for node in _nodes("H,dnn", ["a"]) if node.cell.step == "build"}
    assert after["build.a.dnn"] == []
    assert after["build.a.sid-sasrec-3l"] == []
    assert after["build.a.sid-sasrec-6l-cbs"] == ["build.a.sid-sasrec-3l", "build.a.sid-sasrec-6l"]
    alone = {node.cell.id: node.after for node in _nodes("sid-sasrec-3l-cbs", ["a"])}
    assert alone["build.a.sid-sasrec-3l-cbs"] == []


def test_an_endpoint_is_asked_only_where_it_is_named() -> None:
    endpoint = find_model("zeroshot-gpt-3.5")
    assert matrix.without_endpoints([endpoint], ["E"]) == ([], ["zeroshot-gpt-3.5"])
    assert matrix.without_endpoints([endpoint], ["zeroshot-gpt-3.5"]) == ([endpoint], [])
    assert matrix.plan_of(endpoint, {"runs": 7}).processes == 1
    assert matrix.plan_of(endpoint, {"runs": 7}).runs == 7


@pytest.mark.skipif(len(allowed_cores()) < 2, reason="takes two cores")
def test_latency_has_the_machine_or_its_core_to_itself() -> None:
    build, profile = Cell("build", "a", "dnn"), Cell("profile", "a", "pnn", quiet="machine")
    with LocalExecutor("x", lock=0, jobs=2) as machine:
        assert machine.has_room(build, [build])
        assert not machine.has_room(build, [build, build])
        assert not machine.has_room(build, [profile])
        assert machine.has_room(profile, [])
        assert not machine.has_room(profile, [build])
    profile = msgspec.structs.replace(profile, quiet="core")
    with LocalExecutor("x", lock=0, jobs=2, latency_cores=1) as core:
        assert core.has_room(profile, [build, build])
        assert not core.has_room(profile, [profile])
        assert core.has_room(build, [build, profile])
        assert not core.has_room(build, [build, build, profile])


def test_a_cell_whose_process_is_killed_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    with only_bench() as lock, LocalExecutor("x", lock) as executor:
        outcome = executor.submit(Cell("prepare", "a"), no_progress).result(timeout=20)
    assert outcome.error == "its process was killed by SIGKILL; memory may have run out"
    assert Journal("x").read(outcome.cell) == outcome


def test_an_export_that_fails_costs_its_variant_alone(
    trained: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def ensure_exported(artifact: Artifact, variants: list[str]) -> Artifact:
        if "onnx-int8" in variants:
            raise ParityError("the scores differ")
        made.extend(variants)
        return artifact

    monkeypatch.setattr(exporting, "ensure_exported", ensure_exported)
    cell = Cell("build", "planted", "dnn", ["onnx-fp32", "onnx-int8"])
    monkeypatch.setattr(work, "_trained", lambda _: trained)
    monkeypatch.setattr(work, "missing_variants", lambda *_: cell.variants)
    build = work._build(cell)
    assert made == ["onnx-fp32"]
    assert (build.status, build.failed) == ("done", {"onnx-int8": "the scores differ"})
    profile = msgspec.structs.replace(build, cell=msgspec.structs.replace(cell, step="profile"), failed={})
    lost, failed = summarise([build, profile])
    assert (failed.status, failed.reason) == ("failed", "the scores differ")
    assert (lost.status, lost.variant) == ("failed", "onnx-fp32"), "no variant goes missing"


def test_a_variant_whose_process_dies_costs_its_cell_nothing_else_and_is_measured_again(
    home: Path, measured: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(home))
    lost = [one for one in measured.results if one.variant != "onnx-int8"]
    digest = sha256(home / "artifacts" / "planted" / "dnn" / "manifest.json")
    run = msgspec.structs.replace(
        measured, artifact_digest=digest, results=lost, failed={"onnx-int8": "killed"}
    )
    monkeypatch.setattr(profiling, "profile", lambda *_: run)
    (home / "runs").mkdir()
    (home / "runs" / f"{run.id}.json").touch()
    variants = ["onnx-fp32", "onnx-int8"]
    cell = Cell("profile", "planted", "dnn", variants, plan=measured.plan)
    outcome = work.work(cell, "x")
    assert (outcome.status, outcome.failed) == ("done", {"onnx-int8": "killed"})
    build = msgspec.structs.replace(outcome, cell=msgspec.structs.replace(cell, step="build"), failed={})
    rows = {row.variant: row for row in summarise([build, outcome])}
    assert (rows["onnx-fp32"].status, rows["onnx-int8"].status) == ("measured", "failed")
    assert rows["onnx-int8"].reason == "killed"
    assert Journal("x").standing(cell) is None
    Journal("x").write(msgspec.structs.replace(outcome, failed={}))
    assert Journal("x").standing(cell) is not None


def test_a_file_of_options_says_what_some_rows_are_trained_with_and_judged_by(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text(
        """
        [[options]]
        models = "G,dnn"
        lr = 0.01
        epochs = 3

        [[options]]
        models = "sasrec-3l"
        datasets = ["a"]
        epochs = 9
        test_users = 5
        set = { layers = 2, norm_first = false }
        """
    )
    read = read_overrides(file)
    first, other = find_model("sasrec-3l"), find_model("sasrec-6l")
    assert read.training(first, "a") == {"lr": 0.01, "epochs": 9}
    assert read.training(first, "b") == {"lr": 0.01, "epochs": 3}
    assert read.plan(first, "a") == {"test_users": 5}
    assert read.plan(first, "b") == read.training(find_model("gdcn"), "a") == {}
    assert read.training(other, "a") == {"lr": 0.01, "epochs": 3}
    assert read.config(first, "a") == {"layers": "2", "norm_first": "false"}
    assert read.config(first, "b") == read.config(other, "a") == {}


def test_the_references_options_are_some() -> None:
    read = read_overrides(Path(__file__).parent.parent / "docs" / "reference.toml")
    free, constrained = find_model("sid-sasrec-6l"), find_model("sid-sasrec-6l-cbs")
    assert read.training(free, "microlens") == read.training(constrained, "microlens") != {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[options", "holds no options"),
        ('[[option]]\nmodels = "dnn"', "unknown table of"),
        ('[[options]]\nmodels = "dnn"\nepoch = 3', "unknown key of"),
        ("[[options]]\nepochs = 3", "options 1: models is a text"),
        ('[[options]]\nmodels = "dmn"', "unknown model or group: dmn"),
        ('[[options]]\nmodels = "dnn"\nepochs = 0', "options 1: invalid option: epochs=0"),
        ('[[options]]\nmodels = "dnn"\nepochs = "3"', "options 1: invalid option: epochs='3'"),
        ('[[options]]\nmodels = "dnn"\nset = "neighbours=100"', "options 1: set is a table"),
        ('[[options]]\nmodels = "dnn"\nset = { layers = [1] }', "options 1: set is a table"),
        ('[[options]]\nmodels = "dnn"\ntest_users = true', "options 1: invalid option: test_users=True"),
    ],
)
def test_options_that_cannot_be_are_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "options.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_overrides(tmp_path / "options.toml")
    with pytest.raises(UsageError, match="cannot read"):
        read_overrides(tmp_path / "gone.toml")


def test_two_benches_do_not_share_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    with only_bench():
        done = rbserve("bench", "--models", "dnn", "--datasets", "synthetic", home=tmp_path, check=1)
    assert "another bench is at work" in done.stderr


def test_a_torn_outcome_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    journal, cell = Journal("x"), Cell("profile", "a", "dnn")
    journal.write(Outcome(SCHEMA, cell, "done"))
    (file,) = (tmp_path / "bench" / "x" / "journal").iterdir()
    assert journal.read(cell) is not None
    file.write_bytes(msgspec.json.encode(Outcome(SCHEMA, cell, "done"))[:-9])
    assert journal.read(cell) is None


def test_the_time_left_counts_unknown_cells_like_those_that_have_ended() -> None:
    allowed = TimeEstimate(99.0, "the plan's seconds, without accuracy", bound=True)
    assert str(TimeLeft({"profile.a.x": allowed}, jobs=1)) == "about 0:01:39 left"
    clock = TimeLeft({"build.a.x": TimeEstimate(None, "not known"), "build.a.y": allowed}, jobs=1)
    assert str(clock) == "at least 0:01:39 left"
    cell = Cell("build", "a", "x")
    clock.start(cell)
    clock.end(Outcome(SCHEMA, cell, "done", seconds=30.0))
    assert str(clock) == "about 0:00:30 left"


# ---- a terminal


@contextlib.contextmanager
def _at_a_terminal(words: list[str], home: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command line with its standard error at a terminal; yields the process and the terminal's other end."""
    screen, terminal = pty.openpty()
    environment = os.environ | {"RBSERVE_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-m", "rbserve", *words],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env=environment,
        cwd=home,
    ) as process:
        os.close(terminal)
        try:
            yield process, screen
        finally:
            process.kill()
            os.close(screen)


def _wait_for(screen: int, text: str, seconds: float = 60) -> str:
    """What the terminal shows until `text` is there."""
    seen, end = "", time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < end, seen[-2000:]
        seen += os.read(screen, 4096).decode(errors="replace")
    return seen


def _rest(screen: int) -> str:
    """What the terminal shows until the process closes it (Linux: EIO)."""
    seen = ""
    with contextlib.suppress(OSError):
        while piece := os.read(screen, 4096):
            seen += piece.decode(errors="replace")
    return seen
