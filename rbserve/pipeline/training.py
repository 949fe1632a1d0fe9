"""From a zoo row and a data set to an artefact: trained, distilled, or opened where it is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.core.distillation import (
    LAYER_OPTIONS,
    SCORE_OPTIONS,
    check_layer_teacher,
    check_student,
    check_teacher,
    student_name,
)
from rbserve.core.errors import ArtifactError, UsageError, memory_told, needs_extra
from rbserve.core.files import require_replaceable
from rbserve.core.options import with_options
from rbserve.core.settings import Settings, Teaching
from rbserve.data.artifact import Artifact, ArtifactManifest, open_artifact
from rbserve.data.dataset import Dataset, check_same_data, open_dataset
from rbserve.home.paths import artifact_path, dataset_path, is_prepared, teachers_path
from rbserve.home.target import Target, artifact_name
from rbserve.models.configs import EndpointConfig, ItemKnnConfig, config_from_dict, config_to_dict, kind_of
from rbserve.models.zoo import with_backbone
from rbserve.pipeline.data import check_dataset, ensure_dataset
from rbserve.progress import progress_bar, say

if TYPE_CHECKING:
    from rbserve.core.types import ModelSpec
    from rbserve.train.fit import Lesson


LESS_MEMORY = (
    "a smaller --micro-batch, or --batch, or a smaller row; --set checkpointing=true where a row has it"
)


def train(
    spec: ModelSpec,
    dataset: str,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
    resume: bool = False,
    api_base: str | None = None,
    init: Path | None = None,
) -> Artifact:
    """Trains a row on a data set into a new artefact, or packages it untrained if `spec.random`.

    `settings` changes the training, `options` the config; `api_base` is the address of the endpoint that a row asks.
    The training begins with the weights and the config of the artefact at `init`. UsageError for arguments that do not
    fit the row.
    """
    if api_base is not None:
        options = {**(options or {}), "api_base": _checked_address(spec, api_base)}
    spec = replace(spec, config=with_options(spec.config, options or {}))
    start = None if init is None else _artifact_to_continue(init, spec.random)
    if start is not None:
        from rbserve.train.tasks.warm_start import continued_spec

        spec = continued_spec(spec, start, [*(options or {})])
    chosen = _settings(spec, settings)
    if isinstance(spec.config, ItemKnnConfig) and (unused := {*(settings or {})} - {"seed"}):
        say(f"{spec.name} is counted, without a training loop: {', '.join(sorted(unused))} do not apply")
    path = out or artifact_path(artifact_name(spec.name, spec.random), dataset)
    _check_training(spec, path, resume, chosen)
    check_dataset(dataset)
    return _fit(spec, ensure_dataset(dataset), path, chosen, resume, init=start)


def _checked_address(spec: ModelSpec, api_base: str) -> str:
    if not isinstance(spec.config, EndpointConfig):
        raise UsageError(
            f"{spec.name} asks no endpoint, so there is no --api-base for it",
            "zeroshot-gpt-3.5 asks one, with any model: --set model=NAME",
        )
    return api_base


def _settings(spec: ModelSpec, changes: Mapping[str, Any] | None) -> Settings:
    """The settings of a row's training with some values changed."""
    return Settings(**{**spec.training, **(changes or {})})


def _artifact_to_continue(path: Path, random: bool) -> Artifact:
    """The artefact that a training continues."""
    if random:
        raise UsageError("--init and --weights random cannot go together", "leave one of them out")
    with needs_extra("train", "training"):
        from rbserve.train.tasks.warm_start import require_continuable
    artifact = open_artifact(path)
    require_continuable(artifact)
    return artifact


def distill(
    teacher: Target,
    student: ModelSpec | None,
    dataset: str,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
    resume: bool = False,
    variant: str | None = None,
    teaching: Mapping[str, Any] | None = None,
) -> Artifact:
    """Trains a pair-wise row on the scores of a teacher, which is trained if it is missing.

    `variant` of the teacher scores; `teaching` changes the defaults of `Teaching`; the rest is as in `train`. Without a
    `student`, it is the teacher with `teaching["layers"]` layers. UsageError for a model that cannot teach, and for a
    row that cannot learn.
    """
    wanted = Teaching(**(teaching or {}))
    if bool(student) == bool(wanted.layers):
        raise UsageError(
            "a student is either a row or some layers of its teacher", "give --student ROW or --layers NUMBER"
        )
    if student is None:
        unused = {*(teaching or {})} & SCORE_OPTIONS | ({"teacher_variant"} if variant else set())
        _refuse_options(unused, "only with --student")
        return _distill_layers(teacher, dataset, wanted, settings, options, out, resume)
    _refuse_options({*(teaching or {})} & LAYER_OPTIONS, "only with --layers")
    check_student(student)
    check_teacher(teacher.name, teacher.task, _kind(teacher), teacher.random)
    with needs_extra("train", "distilling"):
        from rbserve.train.distill.lesson import prepare_lesson
    name = student_name(student.name, teacher.name)
    spec = replace(student, name=name, config=with_options(student.config, options or {}))
    chosen = _settings(spec, settings)
    teacher.check_variants([] if variant is None else [variant])
    path = out or artifact_path(name, dataset)
    _check_training(spec, path, resume, chosen)
    check_dataset(dataset)
    artifact, data, folder = ensure_artifact(teacher), ensure_dataset(dataset), teachers_path(dataset)
    with progress_bar(f"score {artifact.name}") as progress:
        lesson = prepare_lesson(
            artifact, student.name, data, wanted, chosen.seed, folder, variant, progress, say
        )
    return _fit(spec, data, path, chosen, resume, lesson)


def _distill_layers(
    teacher: Target,
    dataset: str,
    teaching: Teaching,
    settings: Mapping[str, Any] | None,
    options: Mapping[str, Any] | None,
    out: Path | None,
    resume: bool,
) -> Artifact:
    """Trains a copy of a language model with some of its layers on its hidden states and answers.

    The student has the teacher's config but for `options`, and is trained as its row is but for `settings`.
    """
    check_layer_teacher(teacher.name, _kind(teacher), teacher.is_language_model, teacher.random)
    with needs_extra("train", "distilling"):
        from rbserve.train.distill.layers import check_shape, prepare_layer_lesson, shape_of
    config = teacher.artifact.manifest.config if teacher.artifact else config_to_dict(teacher.spec.config)
    row = with_backbone(_kind(teacher), config["backbone"])
    changed = with_options(config_from_dict(_kind(teacher), config), options or {})
    check_shape(teacher.name, shape_of(teacher.artifact, config["backbone"]), teaching.layers)
    row_name = teacher.model.spec.name if teacher.model.spec else teacher.name
    name = student_name(row_name, teacher.name, teaching.layers)
    spec = replace(row, name=name, config=changed, weights_of=None)
    chosen = _settings(spec, settings)
    path = out or artifact_path(name, dataset)
    _check_training(spec, path, resume, chosen)
    check_dataset(dataset)
    artifact, data = ensure_artifact(teacher), ensure_dataset(dataset)
    return _fit(
        spec, data, path, chosen, resume, prepare_layer_lesson(artifact, row_name, data, teaching, say)
    )


def _kind(target: Target) -> str:
    """The kind of a model's config."""
    return target.artifact.manifest.config_kind if target.artifact else kind_of(target.spec.config)


def _refuse_options(names: set[str], reason: str) -> None:
    if names:
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names))
        raise UsageError(f"{listed} {reason}", "leave it out" if len(names) == 1 else "leave them out")


def _check_training(spec: ModelSpec, path: Path, resume: bool, settings: Settings) -> None:
    """Raises UsageError for a training that cannot begin: a path in use, nothing to resume, no such device or model."""
    with needs_extra("train", "training"):
        from rbserve.train.encoders.backbone import require_findable
        from rbserve.train.fit import checkpoint_path
        from rbserve.train.fitting.device import resolve
    require_replaceable(path)
    resolve(settings)
    if resume and not checkpoint_path(path).is_file():
        raise UsageError(
            f"nothing to resume: no checkpoint at {checkpoint_path(path)}", "train without --resume"
        )
    for name in [] if spec.random else spec.config.language_models:
        require_findable(name)


def _fit(
    spec: ModelSpec,
    data: Dataset,
    path: Path,
    settings: Settings,
    resume: bool,
    lesson: Lesson | None = None,
    init: Artifact | None = None,
) -> Artifact:
    """Trains a row into an artefact at `path`, and says how good it is."""
    from rbserve.train.fit import checkpoint_path
    from rbserve.train.fit import train as fit_model

    if not resume and checkpoint_path(path).is_file():
        say(f"an unfinished training of {path.name} is discarded (--resume would have continued it)")
    _say_what_is_replaced(path)
    with memory_told(f"training {spec.name}", LESS_MEMORY), progress_bar(f"train {path.name}") as progress:
        artifact = fit_model(spec, data, path, settings, resume, progress, say, lesson, init)
    say(f"{artifact.name} on {data.name}: {_how(artifact.manifest)} -> {path}")
    return artifact


def _say_what_is_replaced(path: Path) -> None:
    """Says how many added and retired items are lost with the artefact that a training replaces."""
    try:
        changes = open_artifact(path).manifest.catalogue
    except ArtifactError:
        return
    if changes is not None:
        say(
            f"the artefact that is replaced has {changes.added:,} added and {changes.retired:,} retired items; the new "
            "one has the items of the data set: rbserve items add and rbserve items retire change them again"
        )


def _how(manifest: ArtifactManifest) -> str:
    record = manifest.training
    if record.random:
        return "packaged with random weights, for its latency"
    if record.best_metric is None:
        return "packaged as it is"
    if not record.epochs:
        judged = f"valid {record.metric} {record.best_metric:.4f}"
        return f"counted in {record.seconds:.0f} s, {judged}{_chosen(manifest.chosen)}"
    how = f"weights of {record.taken_from}" if record.taken_from else "trained"
    if record.distilled:
        how = record.distilled.said
    if record.continued:
        how = record.continued.said
    epochs = f"{record.epochs} epochs in {record.seconds:.0f} s"
    return f"{how}, {epochs}, valid {record.metric} {record.best_metric:.4f}"


def _chosen(options: Mapping[str, float]) -> str:
    """The options that were chosen on validation, as the end of a sentence."""
    values = ", ".join(f"{name}={value:g}" for name, value in options.items())
    return f", chosen there: {values}" if values else ""


def ensure_artifact(target: Target) -> Artifact:
    """The artefact of a model, trained (or packaged with random weights) if it is not there.

    Raises UsageError for a student that is not there (only its user can say how it is taught), and for a row whose
    artefact was made from other data than the data set holds now.
    """
    if target.artifact:
        if target.model.spec and is_prepared(target.dataset):
            fingerprint = target.artifact.manifest.dataset.fingerprint
            check_same_data(target.name, fingerprint, open_dataset(dataset_path(target.dataset)))
        return target.artifact
    model, dataset = target.model, target.dataset
    if model.teacher is not None:
        raise UsageError(f"no artefact of {model} at {target.path}", target.how_to_make)
    check_dataset(dataset)
    others = [] if target.random else model.datasets
    elsewhere = f" (it is trained on {', '.join(others)}: --dataset)" if others else ""
    say(
        f"{model} is not {'packaged for' if target.random else 'trained on'} {dataset} yet{elsewhere}; doing so"
    )
    return train(replace(target.spec, random=target.random), dataset)
