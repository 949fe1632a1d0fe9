"""`rbserve distill` through the real entry point: a tiny language model teaches, its student is a row of its own."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from entry_point import rbserve, run_here
from small import train_small
from small_backbone import make_backbone

from rbserve.core.options import with_options
from rbserve.data.artifact import open_artifact, write_manifest
from rbserve.data.dataset import Dataset
from rbserve.models.zoo import find_model
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings
from rbserve.train.tasks import language

Here = Callable[..., tuple[object, list[str]]]
TINY = ["--set", "hidden=16", "--set", "dim=8", "--batch", "1000", "--lr", "5e-3", "--epochs", "2"]
TEACH = ["--dataset", "judged", "--teacher-users", "30", "--pairs", "4", *TINY]
TEACHER = "artifacts/judged/text-llama"
NAME = "gdcn-from-text-llama"


@pytest.fixture(scope="module")
def home(judged: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a data set, a tiny fine-tuned language model and a conventional row."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(judged.path, home / "data" / "judged")
    train_small("dnn", judged, home / "artifacts" / "judged" / "dnn")
    spec = find_model("text-smollm2-135m")
    backbone = make_backbone("llama", tmp_path_factory.mktemp("backbones") / "llama")
    config = with_options(spec.config, {"backbone": str(backbone), "lora_rank": 0})
    spec = dataclasses.replace(spec, name="text-llama", config=config)
    settings = Settings(batch=4, micro_batch=4, lr=3e-3, epochs=1, epoch_rows=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "VALIDATION_ROWS", 50)
        train(spec, judged, home / TEACHER, settings)
    return home


@pytest.fixture(scope="module")
def said(home: Path) -> str:
    """What is said while the language model teaches."""
    return rbserve(
        "distill", "--teacher", "artifacts/judged/text-llama", "--student", "gdcn", *TEACH, home=home
    ).stderr


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The function that the entry point calls, in this process: exit code and lines on standard error."""
    monkeypatch.setenv("RBSERVE_HOME", str(home))
    monkeypatch.chdir(home)

    def run(*words: str) -> tuple[object, list[str]]:
        return run_here(monkeypatch, *words), capsys.readouterr().err.strip().splitlines()

    return run


def test_what_it_takes_is_told_before_and_scores_are_kept(here: Here, said: str) -> None:
    first, second, work, *_, last = said.strip().splitlines()
    assert re.fullmatch(
        r"text-llama torch-fp32 scores [\d,]+ pairs of 30 training users: [\d,]+ labelled, 120 not; "
        r"about [\d,]+ tokens to read\. Ctrl-C keeps what is scored\.",
        first,
    )
    assert "its log-odds x become" in second
    assert re.fullmatch(
        rf"{NAME}: [\d,]+ training rows an epoch in \d+ updates?, 2 epochs; on cpu in fp32, .*", work
    )
    assert f"{NAME} on judged: taught by text-llama torch-fp32 (alpha 0.5)" in last
    code, again = here("distill", "--teacher", TEACHER, "--student", "dnn", *TEACH)
    assert code == 0
    assert "were scored before" in again[0]
    assert "tokens" not in again[0]


def test_a_student_is_a_row_like_any_other(home: Path, said: str) -> None:
    rbserve("export", "--model", NAME, "--dataset", "judged", home=home)
    measure = (
        "--dataset",
        "judged",
        "--processes",
        "1",
        "--runs",
        "5",
        "--slates",
        "4",
        "--no-cost",
        "--json",
    )
    run = json.loads(rbserve("profile", "--model", NAME, *measure, home=home).stdout)
    assert (run["model"], run["group"], run["distilled"]["teacher"]) == (NAME, "A", "text-llama")
    assert {one["variant"] for one in run["results"]} == {"torch-fp32", "onnx-fp32", "onnx-int8"}
    manifest = open_artifact(home / "artifacts" / "judged" / NAME).manifest
    assert manifest.training.distilled is not None
    assert manifest.training.distilled.teacher_users == 30


def test_a_student_is_listed_with_its_row(home: Path, said: str) -> None:
    def listed(*words: str) -> list[str]:
        return [row["name"] for row in json.loads(rbserve("models", "--json", *words, home=home).stdout)]

    assert NAME in listed()
    assert listed("--group", "gdcn") == ["gdcn", NAME]
    assert listed("--group", "C")[-1] == "gdcn-emb"


def test_a_student_that_is_not_there_says_how_to_make_it(here: Here) -> None:
    code, (error, hint) = here("serve", "--model", "dnn-from-gdcn", "--dataset", "judged")
    assert code == 2
    assert error.startswith("error: dnn-from-gdcn is not trained on judged; there are ")
    assert hint == "hint: rbserve distill --teacher gdcn --student dnn --dataset judged"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher", "dnn", "--student", "text-minilm-l6"], "text-minilm-l6 cannot be a student: it is a language"),
        (["--teacher", "dnn", "--student", "sasrec-3l"], "sasrec-3l cannot be a student: it ranks the catalogue"),
        (["--teacher", "sasrec-3l", "--student", "dnn"], "sasrec-3l cannot teach: it names the next item"),
        (["--teacher", "zeroshot-gpt-3.5", "--student", "dnn"], "zeroshot-gpt-3.5 cannot teach: an endpoint is paid"),
        (["--teacher", "dnnn", "--student", "dnn"], "unknown model: dnnn"),
        (["--teacher", "dnn", "--student", "gdnc"], "unknown model: gdnc"),
        (["--teacher", "./nowhere", "--student", "dnn"], "no artefact at nowhere"),
        (["--teacher", "dnn", "--student", "dnn", "--alpha", "2"], "Invalid value for '--alpha'"),
        (["--teacher", "dnn", "--student", "dnn", "--pairs", "-1"], "Invalid value for '--pairs'"),
        (["--teacher", "dnn", "--student", "dnn", "--pairs", "0", "--alpha", "0"], "the teacher teaches nothing"),
        (["--teacher", "dnn", "--student", "dnn", "--teacher-variant", "int9"], "unknown variant of dnn: int9"),
        (["--teacher", "dnn", "--student", "dnn", "--set", "dimm=8"], "dimm"),
        (["--teacher", "dnn", "--student", "dnn", "--resume"], "nothing to resume"),
    ],
)  # fmt: skip
def test_wrong_words_get_one_line_and_a_hint(home: Path, here: Here, words: list[str], message: str) -> None:
    code, (*_, error, hint) = here("distill", "--dataset", "judged", "--teacher-users", "5", *words)
    assert code in (1, 2)
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: ")
    assert not (home / "artifacts" / "judged" / "dnn-from-dnn").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher", TEACHER, "--layers", "2"], "text-llama has 2 layers, and a student has fewer: --layers 2"),
        (["--teacher", "text-minilm-l6", "--layers", "6"], "text-minilm-l6 has 6 layers, and a student has fewer"),
        (["--teacher", TEACHER, "--layers", "-1"], "Invalid value for '--layers'"),
        (["--teacher", TEACHER], "a student is either a row or some layers of its teacher"),
        (["--teacher", TEACHER, "--layers", "1", "--student", "dnn"], "a student is either a row or some layers"),
        (["--teacher", "dnn", "--layers", "1"], "not of dnn: it is no language model"),
        (["--teacher", "zeroshot-minilm-l6", "--layers", "1"], "it is not fine-tuned"),
        (["--teacher", TEACHER, "--layers", "1", "--pairs", "3"], "--pairs only with --student"),
        (["--teacher", "dnn", "--student", "dnn", "--keep", "first"], "--keep only with --layers"),
    ],
)  # fmt: skip
def test_layers_of_what_has_none_get_one_line_and_a_hint(here: Here, words: list[str], message: str) -> None:
    code, (*_, error, hint) = here("distill", "--dataset", "judged", *words)
    assert code == 2
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: ")


def test_some_layers_of_a_teacher_are_a_student_like_any_other(home: Path, here: Here) -> None:
    few = ("--batch", "4", "--micro-batch", "4", "--epochs", "1", "--epoch-rows", "8")
    code, lines = here("distill", "--teacher", TEACHER, "--layers", "1", "--dataset", "judged", *few)
    assert code == 0
    name = "text-llama-1l-from-text-llama"
    assert lines[0].startswith("text-llama teaches 1 of its 2 layers: the student begins with layers 1, ")
    assert "1 layers of text-llama (even), taught by its hidden states and answers" in lines[-1]
    assert open_artifact(home / "artifacts" / "judged" / name).manifest.training.distilled is not None
    code, (_, hint) = here(
        "export", "--model", "text-minilm-l6-3l-from-text-minilm-l6", "--dataset", "judged"
    )
    assert code == 2
    assert hint == "hint: rbserve distill --teacher text-minilm-l6 --layers 3 --dataset judged"


def test_a_teacher_of_another_data_set_is_refused(home: Path, here: Here) -> None:
    other = home / "artifacts" / "other" / "dnn"
    manifest = open_artifact(Path(shutil.copytree(home / "artifacts" / "judged" / "dnn", other))).manifest
    reference = msgspec.structs.replace(manifest.dataset, fingerprint="0" * 64)
    write_manifest(other, msgspec.structs.replace(manifest, dataset=reference))
    code, (error, _) = here("distill", "--teacher", str(other), "--student", "gdcn", "--dataset", "judged")
    assert code == 2
    assert error.startswith("error: artefact dnn was made from data 000000000000, but data set judged is")
