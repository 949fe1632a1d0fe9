"""Layer-wise distillation: the layers of a student, its loss, and that it comes to think like its teacher."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_backbone import CAUSAL, MASKED, make_backbone
from torch import Tensor

from rbserve.core.distillation import check_layer_teacher, split_layers, student_name
from rbserve.core.errors import Interrupted, UsageError
from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.core.settings import Settings, Teaching
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import BACKBONE, WEIGHTS, Artifact
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.exporters.export import export
from rbserve.models.drivers import architecture_of
from rbserve.models.lm import LanguageModel, rebuild
from rbserve.models.zoo import find_model, with_backbone
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.runtimes.torch import load_model
from rbserve.train.distill.layers import (
    ClickStudentTask,
    LayerLesson,
    check_shape,
    cut_config,
    cut_weights,
    hidden_distance,
    initial_layers,
    layers_of,
    matched_layers,
    prepare_layer_lesson,
    recorded_outputs,
    shape_of,
)
from rbserve.train.fit import train
from rbserve.train.tasks import language, next_item
from rbserve.train.tasks.language import LanguageTask, load

ROWS = np.arange(12)


@pytest.fixture(autouse=True)
def short_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "VALIDATION_ROWS", 50)
    monkeypatch.setattr(next_item, "VALIDATION_ROWS", 20)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backbone("llama", tmp_path_factory.mktemp("backbones") / "llama")


def taught_spec(recipe: str, backbone: Path, **options: str) -> ModelSpec:
    """The spec of a row over a tiny backbone, all of whose weights are trained."""
    spec = with_backbone(recipe, str(backbone))
    return dataclasses.replace(spec, config=with_options(spec.config, {"lora_rank": "0", **options}))


@pytest.fixture(scope="module")
def teacher(llama: Path, judged: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    settings = Settings(batch=8, micro_batch=8, lr=3e-3, epochs=1, epoch_rows=240)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "VALIDATION_ROWS", 50)
        return train(
            taught_spec("text", llama), judged, tmp_path_factory.mktemp("made") / "teacher", settings
        )


def lesson_of(teacher: Artifact, dataset: Dataset, **teaching: Any) -> LayerLesson:
    return prepare_layer_lesson(teacher, teacher.name, dataset, Teaching(layers=1, **teaching))


def student_of(
    teacher: Artifact, dataset: Dataset, path: Path, resume: bool = False, **settings: Any
) -> Artifact:
    usual = {"batch": 8, "micro_batch": 8, "lr": 2e-3, "epochs": 2, "epoch_rows": 96}
    kind, config = teacher.manifest.config_kind, teacher.manifest.config
    spec = with_backbone(kind, config["backbone"])
    changed = {name: value for name, value in config.items() if name in ("lora_rank", "levels", "codes")}
    spec = dataclasses.replace(
        spec, name=path.name, config=with_options(spec.config, changed), weights_of=None
    )
    return train(
        spec, dataset, path, Settings(**usual | settings), resume, lesson=lesson_of(teacher, dataset)
    )


@pytest.fixture(scope="module")
def student(teacher: Artifact, judged: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("students") / student_name(teacher.name, "teacher", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "VALIDATION_ROWS", 50)
        return export(student_of(teacher, judged, path), judged, ["fp32", "int8"])


# ---- Layers ----


@pytest.mark.parametrize(
    ("depth", "layers", "first", "even", "matched"),
    [
        (6, 3, [0, 1, 2], [0, 2, 4], [1, 3, 5]),
        (6, 4, [0, 1, 2, 3], [0, 1, 3, 4], [1, 2, 4, 5]),
        (30, 4, [0, 1, 2, 3], [0, 7, 15, 22], [7, 14, 22, 29]),
        (2, 1, [0], [0], [1]),
    ],
)
def test_a_student_begins_with_some_layers_and_ends_where_its_teacher_does(
    depth: int, layers: int, first: list[int], even: list[int], matched: list[int]
) -> None:
    assert initial_layers(depth, layers, "first") == first
    assert initial_layers(depth, layers, "even") == even
    assert matched_layers(depth, layers) == matched


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_the_first_layer_alone_computes_what_it_does_in_the_whole_model(name: str, tmp_path: Path) -> None:
    whole = load(make_backbone(name, tmp_path / name), [5, 6])
    weights = {key: value.clone() for key, value in whole.state_dict().items()}
    kept = cut_weights(weights, architecture_of(whole.config).layers, [0])
    cut = rebuild(cut_config(whole.config, [0]), kept)
    assert len(layers_of(cut)) == 1 < len(layers_of(whole))
    (own,), (first, _) = (_states(model.eval()) for model in (cut, whole))
    torch.testing.assert_close(own, first)


def test_a_later_layer_takes_the_place_of_an_earlier_one(llama: Path) -> None:
    whole = load(llama, [5, 6])
    cut = rebuild(cut_config(whole.config, [1]), cut_weights(whole.state_dict(), "layers", [1]))
    name = "self_attn.q_proj.weight"
    assert torch.equal(cut.state_dict()[f"base.layers.0.{name}"], whole.state_dict()[f"base.layers.1.{name}"])


def _states(model: LanguageModel) -> list[Tensor]:
    tokens = torch.arange(2, 14).reshape(2, 6)
    positions, mask = torch.arange(6).expand(2, 6), torch.ones(6, 6).tril().bool().expand(2, 6, 6)
    with torch.no_grad(), recorded_outputs(layers_of(model)) as states:
        model(tokens, positions, mask, torch.full((2, 1), 5))
    return states


def test_the_distance_is_a_share_of_the_teachers_states_and_leaves_filling_out() -> None:
    theirs = [torch.ones(1, 3, 4), 2 * torch.ones(1, 3, 4)]
    own = [torch.ones(1, 3, 4), torch.zeros(1, 3, 4)]
    own[0][0, 2] = 100.0  # filling: it attends to itself alone, and nothing to it
    mask = torch.tensor([[[1, 1, 0], [1, 1, 0], [0, 0, 1]]]).bool()
    assert hidden_distance(own, theirs, mask).tolist() == [pytest.approx((0 + 1) / 2)]


# ---- The loss ----


def test_without_the_teachers_say_the_loss_is_that_of_the_labels(teacher: Artifact, judged: Dataset) -> None:
    spec = taught_spec("text", Path(teacher.manifest.config["backbone"]))
    model, task = lesson_of(teacher, judged, alpha=0.0, hidden=1e-30).make(spec, judged, lambda *_: None)
    model.eval()
    with torch.no_grad():
        expected = LanguageTask.loss(task, model, ROWS)  # type: ignore[arg-type]
        torch.testing.assert_close(task.loss(model, ROWS), expected)


def test_a_student_that_is_its_teacher_has_no_distance_from_it(
    teacher: Artifact, judged: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = taught_spec("text", Path(teacher.manifest.config["backbone"]))
    _, task = lesson_of(teacher, judged, alpha=1.0).make(spec, judged, lambda *_: None)
    assert isinstance(task, ClickStudentTask)
    model = load_model(teacher)
    guide = dataclasses.replace(task._guide, layers=layers_of(model)[-1:])
    tensors, _, _ = task.batch(ROWS, torch.device("cpu"))
    with torch.no_grad():
        own, wanted, distance = guide.compare(model, tensors)
    torch.testing.assert_close(own, wanted)
    assert distance.abs().max() < 1e-10


def test_a_student_moves_towards_its_teacher_and_its_loss_falls(
    student: Artifact, teacher: Artifact, judged: Dataset
) -> None:
    spec = taught_spec("text", Path(teacher.manifest.config["backbone"]))
    before, task = lesson_of(teacher, judged).make(spec, judged, lambda *_: None)
    assert isinstance(task, ClickStudentTask)
    after = load_model(student)
    guide = task._guide
    distances, losses = [], []
    for model in (before.eval(), after):
        own = dataclasses.replace(guide, layers=layers_of(model))
        task._guide = own
        tensors, _, _ = task.batch(ROWS, torch.device("cpu"))
        with torch.no_grad():
            distances.append(float(own.compare(model, tensors)[2].mean()))
            losses.append(float(task.loss(model, ROWS)))
    assert distances[1] < 0.8 * distances[0]
    assert losses[1] < 0.9 * losses[0]


# ---- Students ----


def test_a_student_has_fewer_layers_and_reads_what_its_teacher_reads(
    student: Artifact, teacher: Artifact
) -> None:
    assert json.loads(student.file(BACKBONE).read_text())["num_hidden_layers"] == 1
    assert not any(".layers.1." in name for name in load_file(student.file(WEIGHTS)))
    for name in teacher.manifest.files:
        if name.startswith(("prompt/", "backbone/tokenizer")):
            assert student.file(name).read_bytes() == teacher.file(name).read_bytes()
    record = student.manifest.training.distilled
    assert record is not None
    assert (record.layers, record.teacher_digest, record.variant) == (1, teacher.model_digest, "torch-fp32")
    assert record.changed == {"layers": "1"}
    assert record.said.startswith(f"1 layers of {teacher.name} (even), taught by its hidden states")


@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-int8"])
def test_an_exported_student_scores_like_the_torch_module(student: Artifact, variant: str) -> None:
    request = slate_request(np.array([1, 2, 3], np.int32), np.arange(4, 12, dtype=np.int32))
    reference, exported = (open_scorer(student, name).score(request) for name in ("torch-fp32", variant))
    np.testing.assert_allclose(exported, reference, atol=1e-4 if variant == "onnx-fp32" else 0.05)


def test_an_interrupted_student_resumes_to_the_same_weights(
    teacher: Artifact, judged: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"epochs": 1, "epoch_rows": 40}
    whole = student_of(teacher, judged, tmp_path / "whole", **small)
    shutil.move(whole.path, tmp_path / "kept")
    loss, calls = ClickStudentTask.loss, []

    def stopping(self: ClickStudentTask, *arguments: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ClickStudentTask, "loss", stopping)
        with pytest.raises(Interrupted):
            student_of(teacher, judged, tmp_path / "whole", **small)
    resumed = student_of(teacher, judged, tmp_path / "whole", resume=True, **small)
    expected, weights = load_file(tmp_path / "kept" / WEIGHTS), load_file(resumed.file(WEIGHTS))
    assert all(torch.equal(value, weights[name]) for name, value in expected.items())


@pytest.mark.parametrize(("recipe", "options"), [("seq-p5", {}), ("seq-sid", {"levels": "2", "codes": "16"})])
def test_a_row_that_names_items_is_cut_too(
    recipe: str, options: dict[str, str], llama: Path, planted: Dataset, tmp_path: Path
) -> None:
    data = open_dataset(shutil.copytree(planted.path, tmp_path / "planted"))
    settings = Settings(batch=16, micro_batch=16, lr=3e-3, epochs=1, epoch_rows=64)
    teacher = train(taught_spec(recipe, llama, **options), data, tmp_path / recipe, settings)
    student = student_of(teacher, data, tmp_path / "student", epochs=1, epoch_rows=64)
    assert len(layers_of(load_model(student))) == 1
    items, scores = open_ranker(student, "torch-fp32").top_k(np.array([1, 2, 3], np.int32), 5)
    assert len(set(items.tolist())) == 5
    assert np.isfinite(scores).all()


# ---- What cannot be ----


@pytest.mark.parametrize("layers", [2, 3, 40])
def test_a_student_has_fewer_layers_than_its_teacher(layers: int) -> None:
    with pytest.raises(
        UsageError, match=rf"x has 2 layers, and a student has fewer: --layers {layers}"
    ) as error:
        check_shape("x", {"model_type": "llama", "num_hidden_layers": 2}, layers)
    assert error.value.hint == "--layers from 1 to 1"


@pytest.mark.parametrize(
    ("kind", "reads_prompts", "random", "reason"),
    [
        ("dnn", False, False, "it is no language model"),
        ("endpoint", True, False, "it is no language model"),
        ("zeroshot", True, False, "it is not fine-tuned"),
        ("text", True, True, "its weights are random"),
    ],
)
def test_a_teacher_of_layers_is_a_fine_tuned_language_model(
    kind: str, reads_prompts: bool, random: bool, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        check_layer_teacher("x", kind, reads_prompts, random)


@pytest.mark.parametrize("backbone", ["p5-beauty", "bert-base"])
def test_the_shape_of_a_backbone_is_known_without_its_weights(backbone: str) -> None:
    shape = shape_of(None, backbone)
    if backbone == "bert-base":
        check_shape("x", shape, 11)
        return
    with pytest.raises(UsageError, match="x cannot be cut: t5 has not one list of layers"):
        check_shape("x", shape, 3)


def test_a_teacher_that_says_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="the teacher teaches nothing"):
        Teaching(layers=1, alpha=0.0, hidden=0.0)


def test_a_students_name_has_its_row_and_its_layers() -> None:
    assert student_name("text-opt-1b", "mine", 12) == "text-opt-1b-12l-from-mine"
    assert split_layers("text-opt-1b-12l") == ("text-opt-1b", 12)
    assert split_layers("text-minilm-l6") == ("text-minilm-l6", 0)
    assert find_model(split_layers("text-minilm-l6-3l")[0]).name == "text-minilm-l6"
