"""Language models that cannot be had or used, through the command line: one line and a hint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entry_point import rbserve_process, run_here
from small_backbone import make_backbone

from rbserve.data.artifact import open_artifact
from rbserve.data.dataset import Dataset

Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backbone("llama", tmp_path_factory.mktemp("backbones") / "llama")


@pytest.fixture
def backbone(llama: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(llama, tmp_path / "changed"))


@pytest.fixture
def run(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Trains a recipe with a backbone on the planted data, in this process, and gives what it says."""
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    shutil.copytree(planted.path, tmp_path / "data" / "planted")

    def run(recipe: str, backbone: object, *words: str, code: int) -> list[str]:
        line = ["train", "--model", recipe, "--backbone", str(backbone), "--dataset", "planted", *words]
        left = run_here(monkeypatch, *line)
        said = capsys.readouterr().err.strip().splitlines()
        assert left == code, said
        if code:
            assert [line.split(":")[0] for line in said[-2:]] == ["error", "hint"]
            assert not (tmp_path / "artifacts").exists() or not any((tmp_path / "artifacts").rglob("*.json"))
        return said[-2:]

    return run


def change(file: Path, edit: Callable[[Any], object]) -> None:
    document = json.loads(file.read_text())
    edit(document)
    file.write_text(json.dumps(document))


def test_a_hub_id_without_a_network(planted: Dataset, tmp_path: Path) -> None:
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    words = ("train", "--model", "text", "--backbone", "some/model", "--dataset", "planted")
    hub = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path / "hub")}
    done = rbserve_process(*words, home=tmp_path, check=1, **hub)
    error, hint = done.stderr.strip().splitlines()
    assert error.startswith("error: cannot get language model some/model: ")
    assert "give a directory" in hint


def test_a_tokeniser_without_a_padding_token_will_do(run: Run, llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(llama).pad_token is None  # type: ignore[no-untyped-call]
    run("text", llama, "--set", "lora_rank=4", "--batch", "4", "--epochs", "1", "--epoch-rows", "8", code=0)
    assert open_artifact(tmp_path / "artifacts/planted/text-llama").manifest.training.epochs == 1


@pytest.mark.parametrize(
    ("kind", "message"), [("bloom", "not supported: bloom"), ("frobnicator", "`frobnicator`")]
)
def test_an_unknown_architecture(run: Run, backbone: Path, kind: str, message: str) -> None:
    change(backbone / "config.json", lambda config: config.update(model_type=kind))
    error, hint = run("zeroshot", backbone, code=1)
    assert message in error
    assert "supported: bert" in hint or "give a directory" in hint


def test_a_language_model_whose_yes_is_several_tokens(run: Run, backbone: Path) -> None:
    change(backbone / "tokenizer.json", lambda tokenizer: tokenizer["model"].update(merges=[]))
    error, _ = run("zeroshot", backbone, code=1)
    assert "has no single token for 'Yes'" in error


def test_weights_that_are_cut_short(run: Run, backbone: Path) -> None:
    weights = backbone / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    error, _ = run("zeroshot", backbone, code=1)
    assert "cannot load a language model from" in error


def test_memory_that_ends_while_training(run: Run, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from rbserve.train.tasks.language import LanguageTask

    monkeypatch.setattr(LanguageTask, "loss", lambda *_: torch.empty(2**50))
    error, hint = run("text", llama, "--batch", "4", "--micro-batch", "2", code=1)
    assert error == "error: out of memory while training text-llama"
    assert "--micro-batch" in hint
