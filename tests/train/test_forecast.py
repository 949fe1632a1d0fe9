"""A training says its work before it begins, and after its first updates how long it will take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from test_loop import Line, model_with_dropout

from rbserve.core.errors import Interrupted
from rbserve.train.fitting import forecast as forecast_module
from rbserve.train.fitting.device import resolve
from rbserve.train.fitting.forecast import Forecast, duration
from rbserve.train.fitting.loop import Checkpoint, Settings, fit


def said_after(seconds: Iterable[float], done: int = 0, **settings: int) -> list[str]:
    """The lines about a training of 1,055 updates an epoch, after updates of these seconds each."""
    now, lines = 0.0, list[str]()
    forecast = Forecast(resolve(Settings(**settings)), 1_055, done, lines.append, lambda: now)  # type: ignore[arg-type]
    for duration_s in seconds:
        with forecast.update():
            now += duration_s
    return lines


def test_the_time_is_said_once_and_does_not_count_the_first_update() -> None:
    assert said_after([60.0, *[2.0] * 9], epochs=3, patience=3) == [
        "about 1.8 h for 3 epochs, validation apart (2 s an update, 1,055 updates an epoch)"
    ]


def test_quick_updates_are_timed_for_seconds_before_anything_is_said() -> None:
    assert said_after([0.25] * 20) == []
    assert len(said_after([0.25] * 21)) == 1


def test_a_training_that_may_stop_early_takes_that_long_at_most() -> None:
    (line,) = said_after([2.0] * 4, epochs=3, patience=2)
    assert line.startswith("about 1.8 h at most for 3 epochs")


def test_a_training_that_is_resumed_is_told_by_what_is_left() -> None:
    (line,) = said_after([2.0] * 4, done=1_055 + 211, epochs=3, patience=3)
    assert line.startswith("about 63 min for 1.8 of 3 epochs")


@pytest.mark.parametrize(
    ("seconds", "words"), [(7.4, "7 s"), (99.4, "99 s"), (720.0, "12 min"), (12_240.0, "3.4 h")]
)
def test_a_duration_is_in_the_unit_that_fits_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_training_says_its_work_before_it_and_its_time_in_it_and_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(batch=10, micro_batch=10, lr=0.05, epochs=3, device="cpu", threads=1)
    checkpoint = Checkpoint(tmp_path / "checkpoint.safetensors", {})
    silent = model_with_dropout()
    fit(silent, Line(), settings, checkpoint)
    monkeypatch.setattr(forecast_module, "TIMED_S", 0.0)
    lines, timed = list[str](), model_with_dropout()
    fit(timed, Line(), settings, checkpoint, say=lines.append)
    assert lines[0] == "64 training rows an epoch in 7 updates, 3 epochs; on cpu in fp32, 1 CPU thread"
    assert len(lines) == 2
    assert " for 3 epochs, validation apart (" in lines[1]
    assert torch.equal(silent[0].weight, timed[0].weight)  # type: ignore[arg-type,index]


def test_a_resumed_training_says_the_time_of_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_module, "TIMED_S", 0.0)
    settings = Settings(batch=10, micro_batch=10, epochs=8, patience=5, epoch_rows=40)
    checkpoint, lines = Checkpoint(tmp_path / "checkpoint.safetensors", {}), list[str]()
    with pytest.raises(Interrupted):
        fit(model_with_dropout(), Line(stop_after=6), settings, checkpoint)
    fit(model_with_dropout(), Line(), settings, checkpoint, resume=True, say=lines.append)
    assert lines[0].startswith("40 of 64 training rows an epoch in 4 updates, at most 8 epochs")
    assert " at most for 6.5 of 8 epochs" in lines[1]
