"""Training: the same seed gives the same weights, and stopping changes nothing."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from entry_point import rbserve_process
from safetensors.torch import load_file
from small import train_small
from small_backbone import make_backbone
from torch import Tensor, nn

from rbserve.core.errors import Interrupted, RbserveError, UsageError
from rbserve.data.artifact import WEIGHTS, Artifact, open_artifact
from rbserve.data.dataset import Dataset
from rbserve.train.fitting.loop import Checkpoint, Rows, Settings, State, fit

ROOT = Path(__file__).resolve().parents[2]


class Line:
    """Fit y = x w with noise from dropout, so that the random state matters."""

    metric = "score"
    rows = 64

    def __init__(self, stop_after: int | None = None) -> None:
        rng = np.random.default_rng(0)
        self.x = torch.from_numpy(rng.normal(size=(self.rows, 3)).astype(np.float32))
        self.y = self.x @ torch.tensor([1.0, -2.0, 3.0])
        self.stop_after = stop_after
        self.steps = 0

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        self.steps += 1
        if self.steps == self.stop_after:
            os.kill(os.getpid(), signal.SIGINT)
        loss: Tensor = (model(self.x[rows])[:, 0] - self.y[rows]).square().sum()
        return loss

    def validate(self, model: nn.Module) -> float:
        return 1 / (1 + float((model(self.x)[:, 0] - self.y).square().mean()))


def model_with_dropout() -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def _fit(
    tmp_path: Path, resume: bool = False, stop_after: int | None = None, **changes: object
) -> tuple[nn.Module, State]:
    settings = Settings(**{"batch": 10, "micro_batch": 10, "lr": 0.05, "epochs": 6, **changes})  # type: ignore[arg-type]
    model = model_with_dropout()
    checkpoint = Checkpoint(tmp_path / "checkpoint.safetensors", {"lr": settings.lr, "batch": settings.batch})
    return model, fit(model, Line(stop_after), settings, checkpoint, resume)


def _assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("stop_after", [1, 4, 7, 8, 20])
def test_an_interrupted_run_resumes_to_the_same_weights(
    tmp_path: Path, stop_after: int, schedule: str
) -> None:
    whole, expected = _fit(tmp_path, schedule=schedule)
    with pytest.raises(Interrupted, match="stopped in epoch"):
        _fit(tmp_path, stop_after=stop_after, schedule=schedule)
    resumed, state = _fit(tmp_path, resume=True, schedule=schedule)
    _assert_same(whole, resumed)
    assert state.metrics == expected.metrics
    assert (state.epoch, state.best_epoch) == (expected.epoch, expected.best_epoch)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    one, _ = _fit(tmp_path)
    again, _ = _fit(tmp_path)
    other, _ = _fit(tmp_path, seed=1)
    _assert_same(one, again)
    assert not torch.equal(one[0].weight, other[0].weight)  # type: ignore[index]


def test_a_cosine_schedule_rises_to_lr_and_falls_to_nothing_at_the_last_epoch(tmp_path: Path) -> None:
    rates: list[float] = []

    class Watched(Line):
        def loss(self, model: nn.Module, rows: Rows) -> Tensor:
            rates.append(self.optimizer.param_groups[0]["lr"])
            return super().loss(model, rows)

        @cached_property
        def optimizer(self) -> torch.optim.Optimizer:
            return next(one for one in gc.get_objects() if isinstance(one, torch.optim.Adam))

    settings = Settings(batch=1, micro_batch=1, lr=0.05, epochs=4, patience=4, schedule="cosine")
    fit(model_with_dropout(), Watched(), settings, Checkpoint(tmp_path / "c", {}))
    rates = rates[1:]  # each update's rate is read at the next one
    peak = int(np.argmax(rates))
    assert len(rates) == 4 * 64 - 1
    assert 0 < rates[0] < 0.02
    assert 4 <= peak <= 8
    assert max(rates) == pytest.approx(0.05, rel=0.01)
    assert all(earlier > later for earlier, later in pairwise(rates[peak:]))
    assert rates[-1] < 0.0001


def test_accumulated_micro_batches_give_the_gradient_of_the_batch(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    task = Line()
    rows = np.arange(10)
    task.loss(model, rows).backward()
    whole = model.weight.grad.clone()  # type: ignore[union-attr]
    model.zero_grad()
    for piece in np.split(rows, [4, 8]):
        task.loss(model, piece).backward()
    torch.testing.assert_close(model.weight.grad, whole)


def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    class Worsening(Line):
        def __init__(self) -> None:
            super().__init__()
            self.scores = iter([0.5, 0.9, 0.8, 0.7, 0.6, 0.5])
            self.weights: list[Tensor] = []

        def validate(self, model: nn.Module) -> float:
            self.weights.append(model.state_dict()["0.weight"].clone())
            return next(self.scores)

    task, model = Worsening(), model_with_dropout()
    state = fit(model, task, Settings(batch=10, epochs=6, patience=3), Checkpoint(tmp_path / "c", {}))
    assert (state.epoch, state.best_epoch, state.best_metric) == (5, 1, 0.9)
    assert torch.equal(model.state_dict()["0.weight"], task.weights[1])


def test_a_model_that_memory_cannot_train_is_refused_with_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = 4 * sum(one.numel() for one in model_with_dropout().parameters())
    free = SimpleNamespace(available=4 * trained)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    _fit(tmp_path, epochs=1)
    free.available -= 1
    with pytest.raises(RbserveError, match=r"training takes .* GiB more than the weights"):
        _fit(tmp_path, epochs=1)


def test_resuming_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        _fit(tmp_path, stop_after=3)
    with pytest.raises(UsageError, match=r"lr was 0\.05, now 0\.5"):
        _fit(tmp_path, resume=True, lr=0.5)


def test_resuming_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        _fit(tmp_path, resume=True)


def test_a_damaged_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"garbage")
    with pytest.raises(RbserveError, match="cannot read checkpoint"):
        _fit(tmp_path, resume=True)


@pytest.mark.parametrize("change", [{"lr": 0.0}, {"batch": 0}, {"epochs": 0}, {"patience": 0}])
def test_settings_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        Settings(**change)  # type: ignore[arg-type]


def test_the_same_seed_trains_a_recommender_to_the_same_weights(planted: Dataset, tmp_path: Path) -> None:
    for name in ("one", "other"):
        train_small("gdcn", planted, tmp_path / name, epochs=2)
    one, other = load_file(tmp_path / "one" / WEIGHTS), load_file(tmp_path / "other" / WEIGHTS)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_training_that_diverges_says_so(planted: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RbserveError, match="training diverged") as error:
        train_small("dnn", planted, tmp_path / "dnn", epochs=3, lr=1e30)
    assert "--lr" in (error.value.hint or "")
    assert not (tmp_path / "dnn").exists()


def test_embeddings_and_head_are_trained_and_restored(planted: Dataset, tmp_path: Path) -> None:
    """Defect 1 of the public reference code: every parameter moves, and loading is exact."""
    from rbserve.models.ctr import build
    from rbserve.runtimes.torch import load_model

    artifact = train_small("dnn", planted, tmp_path / "dnn", epochs=2)
    loaded = load_model(artifact)
    torch.manual_seed(2024)
    start = build(loaded.config, len(planted.items))
    for name, value in start.state_dict().items():
        assert not torch.equal(value, loaded.state_dict()[name]), f"{name} never moved"
    for name, value in load_file(artifact.file(WEIGHTS)).items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_a_killed_training_resumes_to_the_same_artefact(tmp_path: Path) -> None:
    """kill -9 in the middle, through the command line."""
    train = ["train", "--model", "dnn", "--dataset", "synthetic", "--epochs", "3", "--batch", "2000",
             "--set", "hidden=256,256", "--set", "dim=32"]  # fmt: skip
    # A checkpoint at every step, so that a kill at any moment loses little.
    code = ("import sys; from rbserve.train.fitting import loop; loop.Checkpoint.__init__.__defaults__ = (0.0,); "
            "from rbserve.cli.app import main; sys.argv[0] = 'rbserve'; main()")  # fmt: skip

    def command(*extra: str) -> list[str]:
        return [sys.executable, "-c", code, *train, *extra]

    def environment(name: str) -> dict[str, str]:
        return os.environ | {"RBSERVE_HOME": str(tmp_path / name), "OMP_NUM_THREADS": "1"}

    subprocess.run(command(), env=environment("whole"), check=True, capture_output=True)
    checkpoint = tmp_path / "killed/artifacts/synthetic/dnn.checkpoint.safetensors"
    process = subprocess.Popen(command(), env=environment("killed"), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not checkpoint.is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed/artifacts/synthetic/dnn").exists()
    done = subprocess.run(
        command("--resume"), env=environment("killed"), check=True, capture_output=True, text=True
    )
    assert "dnn on synthetic: trained, 3 epochs" in done.stderr
    whole = open_artifact(tmp_path / "whole/artifacts/synthetic/dnn").manifest
    resumed = open_artifact(tmp_path / "killed/artifacts/synthetic/dnn").manifest
    assert resumed.files == whole.files
    assert resumed.training.best_metric == whole.training.best_metric


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def _train_on_one_and_on_two(home: Path, *words: str) -> tuple[Artifact, Artifact]:
    """The same training through the command line, on one process and on two."""
    environment = os.environ | {
        "RBSERVE_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    rbserve_process("train", *words, "--out", str(home / "one"), home=home, ACCELERATE_USE_CPU="true")
    line = [*LAUNCHER, "-m", "rbserve", "train", *words, "--out", str(home / "two")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return open_artifact(home / "one"), open_artifact(home / "two")


def test_two_processes_train_to_the_weights_of_one(planted: Dataset, tmp_path: Path) -> None:
    """A batch divided among processes gives the gradient of the whole batch (dropout off: its masks differ)."""
    shutil.copytree(planted.path, tmp_path / "data/planted")
    one, two = _train_on_one_and_on_two(
        tmp_path, "--model", "dnn", "--dataset", "planted", "--epochs", "2", "--batch", "500",
        "--set", "dim=8", "--set", "hidden=32", "--set", "dropout=0",
    )  # fmt: skip
    expected, found = load_file(one.file(WEIGHTS)), load_file(two.file(WEIGHTS))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("recipe", "batch"), [pytest.param("text", 9, marks=pytest.mark.slow), ("seq-p5", 33)]
)
def test_two_processes_train_adapters_like_accumulated_gradients_on_one(
    recipe: str, batch: int, planted: Dataset, tmp_path: Path
) -> None:
    """Shares of unequal size take the processes unequal numbers of micro batches; one has none of the last batch."""
    shutil.copytree(planted.path, tmp_path / "data/planted")
    backbone = make_backbone("llama", tmp_path / "tiny")
    one, two = _train_on_one_and_on_two(
        tmp_path, "--model", recipe, "--backbone", str(backbone), "--dataset", "planted", "--epochs", "2",
        "--batch", str(batch), "--epoch-rows", str(4 * batch + 1), "--lr", "0.001",
        "--set", "lora_rank=4", "--set", "lora_dropout=0",
    )  # fmt: skip
    start = load_file(backbone / WEIGHTS)["model.layers.0.self_attn.q_proj.weight"]
    expected, found = load_file(one.file(WEIGHTS)), load_file(two.file(WEIGHTS))
    trained = next(value for name, value in expected.items() if name.endswith("0.self_attn.q_proj.weight"))
    assert (trained - start).abs().max() > 1e-4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)
    assert two.manifest.training.best_metric == pytest.approx(one.manifest.training.best_metric, abs=1e-5)
