"""Long work says how far it is, every few seconds, where standard error is no terminal."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from rbserve import progress
from rbserve.bench.display import BenchLines, TimeLeft
from rbserve.bench.estimate import TimeEstimate
from rbserve.bench.matrix import Cell
from rbserve.core.errors import UsageError
from rbserve.data.dataset import Dataset
from rbserve.models.zoo import find_model
from rbserve.pipeline import training
from rbserve.progress import ProgressLines, progress_bar, progress_to


class Clock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_has_what_is_done_and_left_the_rate_and_the_time_left() -> None:
    clock = Clock()
    lines = ProgressLines("train dnn", clock=clock)
    clock.now += 10
    assert lines.line() == "train dnn: at work for 0:00:10"
    lines.update(0, 600, "steps at most, epoch 1")
    clock.now += 5
    lines.update(20, 600, "steps at most, epoch 2")
    assert lines.line() == "train dnn: 20 of 600 steps at most, epoch 2; 4 a second, at most 0:02:25 left"
    lines.update(600, 600, "steps at most, epoch 30")
    assert lines.line().endswith("epoch 30; 120 a second")


def test_a_stage_that_begins_has_a_rate_of_its_own() -> None:
    clock = Clock()
    lines = ProgressLines("train dnn-emb", "about", clock=clock)
    lines.update(0, 12_000, "texts through minilm-l6")
    clock.now += 10
    lines.update(4_000, 12_000, "texts through minilm-l6")
    assert lines.line().endswith("4,000 of 12,000 texts through minilm-l6; 400 a second, about 0:00:20 left")
    lines.update(0, 100, "steps at most, epoch 1")
    assert lines.line() == "train dnn-emb: 0 of 100 steps at most, epoch 1"
    clock.now += 10
    lines.update(10, 100, "steps at most, epoch 1")
    assert lines.line().endswith("1 a second, about 0:01:30 left")


def test_an_unknown_total_is_not_made_up() -> None:
    clock = Clock()
    lines = ProgressLines("prepare shop", clock=clock)
    lines.update(0, 0, "items read")
    clock.now += 2
    lines.update(1_000, 0, "items read")
    assert lines.line() == "prepare shop: 1,000 items read; 500 a second"


def test_lines_come_while_the_work_says_nothing_and_stop_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    twice = threading.Event()

    def write(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            twice.set()

    lines = ProgressLines("export big", every_s=0.001, write=write).start()
    assert twice.wait(60)
    lines.close()
    assert not lines._thread.is_alive()
    assert all(line.startswith("export big: at work for ") for line in said)


def test_a_bar_is_lines_where_standard_error_is_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = threading.Event()
    monkeypatch.setenv(progress.INTERVAL, "0.001")
    write = progress._write

    def hear(line: str) -> None:
        write(line)
        heard.set()

    monkeypatch.setattr(progress, "_write", hear)
    with progress_bar("sids shop") as update:
        update(3, 10, "steps at most, epoch 1")
        assert heard.wait(60)
    assert "sids shop: " in capsys.readouterr().err


def test_the_time_between_lines_is_ten_seconds_or_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(progress.INTERVAL)
    assert progress.interval_s() == 10
    monkeypatch.setenv(progress.INTERVAL, "2.5")
    assert progress.interval_s() == 2.5
    for wrong in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv(progress.INTERVAL, wrong)
        with pytest.raises(UsageError, match="RBSERVE_PROGRESS_SECONDS takes seconds"):
            progress.interval_s()


def test_no_time_between_lines_writes_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(progress.INTERVAL, "0")
    with progress_bar("sids shop") as update:
        update(3, 10, "steps at most, epoch 1")
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_what_goes_elsewhere_writes_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int, str]] = []
    with progress_to(lambda *of: told.append(of)), progress_bar("train dnn") as update:
        update(1, 2, "steps")
    assert told == [(1, 2, "steps")]
    assert capsys.readouterr().err == ""


def test_a_bench_says_of_each_cell_at_work_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    cell = Cell("build", "shop", "dnn")
    lines = BenchLines(TimeLeft({cell.id: TimeEstimate(60.0, "a guess")}, 1), every_s=0.001)
    lines.started(cell)
    lines.moved(cell, 20, 600, "steps at most, epoch 2")
    seen = ""
    while "epoch 2" not in seen:
        seen += capsys.readouterr().err
    lines.close()
    (line, *_) = [line for line in seen.splitlines() if "epoch 2" in line]
    assert line.startswith("    build dnn on shop: 20 of 600 steps at most, epoch 2; ")
    assert "left" in line


def test_a_training_says_steps_and_epochs_into_a_file(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest case: a training whose standard error is a file wrote nothing until its end."""
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    monkeypatch.setenv(progress.INTERVAL, "0.002")
    log = tmp_path / "log"
    with log.open("w") as file:
        assert not os.isatty(file.fileno())
        monkeypatch.setattr(sys, "stderr", file)
        settings = {"epochs": 2, "batch": 10, "epoch_rows": 500}
        training.train(find_model("dnn"), "planted", settings, {"dim": "4", "hidden": "8"})
    said = [line for line in log.read_text().splitlines() if line.startswith("train dnn: ")]
    assert any("steps at most, epoch 2, valid auc " in line and "a second" in line for line in said), said
