"""What a training is computed on: a device that is there, the threads that it may use, and bf16 where it is native."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from entry_point import run_here
from small import train_small

from rbserve.core.errors import UsageError
from rbserve.core.settings import Computation
from rbserve.data.artifact import open_artifact
from rbserve.data.dataset import Dataset
from rbserve.machine import environment
from rbserve.models.zoo import find_model
from rbserve.train.fit import _identity, gains_by_bf16
from rbserve.train.fitting import device
from rbserve.train.fitting.device import cpu_threads, open_device, resolve
from rbserve.train.fitting.loop import Settings


@pytest.mark.parametrize("there", [True, False])
def test_auto_is_the_cuda_device_where_there_is_one(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert resolve(Settings()).device == ("cuda" if there else "cpu")
    assert resolve(Settings(device="cpu")).device == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert resolve(Settings()).device == "cpu"


def test_a_device_that_is_not_there_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="there is no CUDA device to train on"):
        resolve(Settings(device="cuda"))
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    assert run_here(monkeypatch, "train", "--model", "dnn", "--dataset", "synthetic", "--device", "cuda") == 2
    assert "there is no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_the_device_of_one_process_is_the_chosen_one() -> None:
    assert open_device(Settings(device="cpu")) == torch.device("cpu")


@pytest.mark.parametrize(("quota", "usable"), [(None, 8), (2.5, 3), (0.5, 1), (64.0, 8)])
def test_usable_cores_are_those_that_affinity_and_quota_leave(
    quota: float | None, usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "allowed_cores", lambda: list(range(8)))
    monkeypatch.setattr(environment, "cgroup_cpus", lambda: quota)
    assert environment.usable_cores() == usable


def test_threads_are_those_of_torch_unless_fewer_cores_are_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    with cpu_threads(2):
        for cores, threads in ((1, 1), (2, 2), (8, 2)):
            monkeypatch.setattr(device, "usable_cores", lambda cores=cores: cores)
            assert resolve(Settings()).threads == threads
        assert resolve(Settings(threads=5)).threads == 5


def test_threads_are_set_for_the_work_inside_alone() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("flags", "native"), [({"avx512_bf16"}, True), ({"amx_bf16"}, True), ({"avx512f", "avx512_vnni"}, False)]
)
def test_auto_is_bf16_for_rows_that_gain_by_it_where_the_processor_has_it(
    flags: set[str], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "processor", lambda: ("a processor", flags))
    automatic = Settings(device="cpu", precision="auto")
    assert resolve(automatic, gains_by_bf16=True).precision == ("bf16" if native else "fp32")
    assert resolve(automatic).precision == "fp32"
    assert resolve(Settings(device="cpu"), gains_by_bf16=True).precision == "fp32"


def test_language_models_gain_by_bf16_and_small_rows_stay_as_they_are() -> None:
    gaining = [name for name in ("text-minilm-l6", "seq-p5-minilm-l6", "sasrec-12l", "sasrec-3l", "gdcn")
               if gains_by_bf16(find_model(name))]  # fmt: skip
    assert gaining == ["text-minilm-l6", "seq-p5-minilm-l6", "sasrec-12l"]


def test_an_artefact_records_what_computed_it_and_an_older_one_opens_without(
    planted: Dataset, tmp_path: Path
) -> None:
    made = train_small("dnn", planted, tmp_path / "dnn", epochs=1)
    computation = made.manifest.training.computation
    assert computation == Computation("cpu", resolve(Settings()).threads, "fp32")
    file = made.path / "manifest.json"
    older = json.loads(file.read_text())
    del older["training"]["computation"]
    for name in ("device", "threads"):
        del older["training"]["settings"][name]
    file.write_text(json.dumps(older))
    assert open_artifact(made.path).manifest.training.computation is None


def test_a_checkpoint_is_of_a_precision_and_of_no_device_or_threads(planted: Dataset) -> None:
    spec = find_model("dnn")
    settings = Settings(device="cpu", threads=1)
    identity = _identity(spec, planted, settings, settings, None, None)
    elsewhere = dataclasses.replace(settings, device="auto", threads=7)
    assert _identity(spec, planted, elsewhere, elsewhere, None, None) == identity
    lower = dataclasses.replace(settings, precision="bf16")
    assert _identity(spec, planted, settings, lower, None, None)["setting precision"] == "bf16"
    assert not {"setting device", "setting threads"} & identity.keys()
