"""Layer-wise distillation: a language model teaches a copy of itself with fewer layers (SLMRec, Xu et al. 2024).

The student begins with the teacher's embeddings, head and some of its layers, and keeps its prompts and tokeniser.
Layer j of L stands for the teacher's layers up to number ceil(j n / L) of n: its hidden states are held against that
layer's (arXiv 2405.17890, whose two distances, of direction and of length, are one here: the squared error relative to
the square of the teacher's states). Its answers are held against the teacher's and the labels:

    loss = sum over answers of CE(alpha teacher + (1 - alpha) label) + hidden * mean over layers and tokens of
           |student - teacher|^2 / |teacher|^2
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from rbserve.core.distillation import Distillation
from rbserve.core.errors import UsageError
from rbserve.core.settings import Teaching
from rbserve.core.types import ModelSpec, Progress
from rbserve.core.variants import REFERENCE
from rbserve.data.artifact import BACKBONE, TOKENIZER, WEIGHTS, Artifact
from rbserve.data.dataset import Dataset, check_same_data
from rbserve.data.semantic_ids import FOLDER as SIDS
from rbserve.models.depth import cut_config, cut_values, depth
from rbserve.models.drivers import ARCHITECTURES, architecture_of
from rbserve.models.lm import ClickModel, LanguageModel
from rbserve.models.prompts import FOLDER as PROMPTS
from rbserve.models.shapes import SHAPES
from rbserve.runtimes.contents import artifact_prompts
from rbserve.runtimes.torch import backbone_config, load_model, rebuild_model
from rbserve.train.encoders.backbone import locate
from rbserve.train.fitting.loop import Rows
from rbserve.train.tasks.backbones import adapted
from rbserve.train.tasks.language import LanguageTask
from rbserve.train.tasks.next_item import NextItemTask

READ = (PROMPTS, TOKENIZER, SIDS)
"""The parts of an artefact that say how a model reads a request, which a student has of its teacher."""


@dataclass(frozen=True)
class LayerLesson:
    """A language model that teaches some of its own layers, and the record of that for the student's manifest."""

    teacher: Artifact
    record: Distillation

    def make(
        self, spec: ModelSpec, dataset: Dataset, progress: Progress
    ) -> tuple[nn.Module, ClickStudentTask | NextItemStudentTask]:
        """The student, and its training task."""
        del progress
        teacher = load_model(self.teacher).requires_grad_(False)
        config = backbone_config(self.teacher)
        initial = initial_layers(depth(config.to_dict()), self.record.layers, self.record.keep)
        weights = cut_weights(load_file(self.teacher.file(WEIGHTS)), architecture_of(config).layers, initial)
        student = rebuild_model(self.teacher, cut_config(config, initial), weights)
        ends = matched_layers(len(layers_of(teacher)), len(initial))
        every = layers_of(teacher)
        guide = Guide(teacher, [every[layer] for layer in ends], layers_of(student), self.record)
        language = _language(student)
        language.base = adapted(language.base, spec.config)
        made = NextItemStudentTask if isinstance(student, LanguageModel) else ClickStudentTask
        return student, made(dataset, spec, self.teacher, guide)


def prepare_layer_lesson(
    teacher: Artifact,
    row: str,
    dataset: Dataset,
    teaching: Teaching,
    say: Callable[[str], None] = lambda _: None,
) -> LayerLesson:
    """The lesson of a teacher for `teaching.layers` of its layers; `say` gets which layers they are.

    UsageError for a number of layers that the teacher has not more of, for an architecture without one list of layers,
    and for a teacher of other data or with added or retired items.
    """
    check_same_data(teacher.name, teacher.manifest.dataset.fingerprint, dataset)
    shape = shape_of(teacher, teacher.name)
    check_shape(teacher.name, shape, teaching.layers)
    if teacher.manifest.catalogue is not None:
        raise UsageError(
            f"{teacher.name} has added or retired items, which its data set does not have", "train it anew"
        )
    if teacher.manifest.config.get("meet"):
        raise UsageError(
            f"the candidates of {teacher.name} meet the history behind layer {teacher.manifest.config['meet']}",
            "a teacher with meet=0",
        )
    every = depth(shape)
    initial = initial_layers(every, teaching.layers, teaching.keep)
    say(
        f"{teacher.name} teaches {teaching.layers} of its {every} layers: the student begins with layers "
        f"{_numbers(initial)}, and the states of its layers are held against those of layers "
        f"{_numbers(matched_layers(every, len(initial)))}"
    )
    record = Distillation(
        student=row, teacher=teacher.name, teacher_digest=teacher.model_digest, variant=REFERENCE,
        labelled=len(dataset.rows(teacher.manifest.task, "train")), unlabelled=0, slope=1.0, intercept=0.0,
        teacher_auc=None, pairs=0, alpha=teaching.alpha, layers=teaching.layers, keep=teaching.keep,
        hidden=teaching.hidden,
    )  # fmt: skip
    return LayerLesson(teacher, record)


# ---- Layers ----


def shape_of(teacher: Artifact | None, backbone: str) -> dict[str, Any]:
    """transformers' config of a teacher, or of the backbone it would be trained from (fetched if need be)."""
    if teacher is None and backbone in SHAPES:
        return SHAPES[backbone]
    file = locate(backbone) / "config.json" if teacher is None else teacher.file(BACKBONE)
    return cast(dict[str, Any], json.loads(file.read_text()))


def check_shape(teacher: str, shape: Mapping[str, Any], layers: int) -> None:
    """UsageError unless a teacher whose config is `shape` has one list of layers, and more of them than a student."""
    architecture = ARCHITECTURES.get(shape["model_type"])
    if architecture is None or not architecture.layers:
        raise UsageError(
            f"{teacher} cannot be cut: {shape['model_type']} has not one list of layers",
            "a teacher such as text-minilm-l6",
        )
    if not 0 < layers < (every := depth(shape)):
        raise UsageError(
            f"{teacher} has {every} layers, and a student has fewer: --layers {layers}",
            f"--layers from 1 to {every - 1}" if every > 1 else "another teacher",
        )


def initial_layers(depth: int, layers: int, keep: str) -> list[int]:
    """The teacher's layers, from 0, that a student begins with: the first ones, or evenly spaced from the first."""
    return [layer if keep == "first" else layer * depth // layers for layer in range(layers)]


def matched_layers(depth: int, layers: int) -> list[int]:
    """The teacher's layer, from 0, that each layer of a student is to end in; the last ends in the last."""
    return [-(-(layer + 1) * depth // layers) - 1 for layer in range(layers)]


def cut_weights(weights: Mapping[str, Tensor], layers: str, initial: Sequence[int]) -> dict[str, Tensor]:
    """Copies of a language model's weights, of its list of layers those `initial` alone, numbered from 0."""
    pattern = re.compile(rf"^((?:language\.)?base\.{re.escape(layers)}\.)(\d+)\.")
    places = {layer: place for place, layer in enumerate(initial)}
    cut = {}
    for name, tensor in weights.items():
        layer = pattern.match(name)
        if layer is None:
            cut[name] = tensor.clone()
        elif int(layer[2]) in places:
            cut[f"{layer[1]}{places[int(layer[2])]}{name[layer.end() - 1 :]}"] = tensor.clone()
    return cut


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a language model without adapters, each as the module whose output is the layer's."""
    language = _language(model)
    architecture = architecture_of(language.config)
    layers = cast(nn.ModuleList, language.base.get_submodule(architecture.layers))
    return [layer.get_submodule(architecture.layer_end) for layer in layers]


def _language(model: nn.Module) -> LanguageModel:
    return model.language if isinstance(model, ClickModel) else cast(LanguageModel, model)


def _numbers(layers: Sequence[int]) -> str:
    return ", ".join(str(layer + 1) for layer in layers)


# ---- The loss ----


@dataclass(frozen=True)
class Guide:
    """A teacher beside its student: `ends` are the teacher's layers that the student's `layers` are held against."""

    teacher: nn.Module
    ends: Sequence[nn.Module]
    layers: Sequence[nn.Module]
    record: Distillation

    def compare(self, student: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Answers [B, N] or [B, N, K] of the student and of the teacher, and the distance float[B] of their states."""
        teacher = self.teacher.to(tensors["tokens"].device)
        with recorded_outputs(self.layers) as own:
            answers, _ = student(**tensors)
        with torch.no_grad(), recorded_outputs(self.ends) as theirs:
            wanted, _ = teacher(**tensors)
        distance = hidden_distance(own[: len(self.layers)], theirs, tensors["mask"])
        return answers.float(), wanted.float(), distance

    def mix(self, labels: Tensor, probabilities: Tensor) -> Tensor:
        """The targets of the student's answers: the labels, and the teacher's probabilities by weight alpha."""
        return torch.lerp(labels, probabilities, self.record.alpha)


def hidden_distance(own: Sequence[Tensor], theirs: Sequence[Tensor], mask: Tensor) -> Tensor:
    """The squared error of hidden states [B, L, d] of layers, relative to `theirs`: float[B], means over tokens.

    mask bool[B, L, L] says what a token attends to; what has no other token to attend to, or to be read by, is filling.
    """
    is_token = ((mask.sum(-1) > 1) | (mask.sum(-2) > 1)).float()
    errors = [
        (student.float() - teacher.float()).square().sum(-1)
        / teacher.float().square().sum(-1).clamp(min=1e-6)
        for student, teacher in zip(own, theirs, strict=True)
    ]
    error = torch.stack(errors).mean(0)
    return (error * is_token).sum(-1) / is_token.sum(-1).clamp(min=1)


@contextmanager
def recorded_outputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Yields a list that gets the output of each module, in the order in which they are called inside."""
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [module.register_forward_hook(record) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


# ---- Training tasks ----


class ClickStudentTask(LanguageTask):
    """The training task of a student that says whether the user is interested in a candidate."""

    def __init__(self, dataset: Dataset, spec: ModelSpec, teacher: Artifact, guide: Guide) -> None:
        super().__init__(dataset, spec, artifact_prompts(teacher), teacher.path)
        self._teacher, self._guide = teacher, guide

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy with labels and the teacher, and the states' distance, summed over candidates of the rows."""
        tensors, is_answer, labels = self.batch(rows, next(model.parameters()).device)
        odds, wanted, distance = self._guide.compare(model, tensors)
        target = self._guide.mix(labels, wanted[is_answer].sigmoid())
        entropy = F.binary_cross_entropy_with_logits(odds[is_answer], target, reduction="sum")
        return entropy + self._guide.record.hidden * (distance * is_answer.sum(-1)).sum()

    def save(self, folder: Path) -> None:
        """Writes how the teacher reads a request, and the language model's config with the student's layers."""
        save_student(self._teacher, self._guide.record, folder)


class NextItemStudentTask(NextItemTask):
    """The training task of a student that names the next item."""

    def __init__(self, dataset: Dataset, spec: ModelSpec, teacher: Artifact, guide: Guide) -> None:
        coded = any(name.startswith(f"{SIDS}/") for name in teacher.manifest.files)
        sids = teacher.sids if coded else None
        super().__init__(dataset, spec.config, artifact_prompts(teacher), teacher.path, sids)
        self._teacher, self._guide = teacher, guide

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy with labels and the teacher, and the states' distance, summed over the answers' tokens."""
        tensors, labels = self.batch(rows, next(model.parameters()).device)
        logits, wanted, distance = self._guide.compare(model, tensors)
        target = self._guide.mix(F.one_hot(labels, logits.size(-1)).float(), wanted.softmax(-1))
        entropy = F.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1), reduction="sum")
        return entropy + self._guide.record.hidden * labels.size(1) * distance.sum()

    def save(self, folder: Path) -> None:
        """Writes how the teacher reads a request, and the language model's config with the student's layers."""
        save_student(self._teacher, self._guide.record, folder)


def save_student(teacher: Artifact, record: Distillation, folder: Path) -> None:
    """Writes the teacher's prompts, tokeniser and semantic identifiers, and its config with the student's layers."""
    for name in teacher.manifest.files:
        if name == TOKENIZER or name.startswith(tuple(f"{part}/" for part in READ)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(teacher.file(name), folder / name)
    config = json.loads(teacher.file(BACKBONE).read_text())
    initial = initial_layers(depth(backbone_config(teacher).to_dict()), record.layers, record.keep)
    (folder / BACKBONE).write_text(json.dumps(config | cut_values(config, initial), indent=2))
