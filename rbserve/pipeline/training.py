"""From a zoo row and a data set to an artefact: trained, distilled, or found where it is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.core.distillation import FROM, check_student, check_teacher, student_name
from rbserve.core.errors import (
    ArtifactError,
    UsageError,
    memory_told,
    needs_extra,
)
from rbserve.core.files import home, require_replaceable
from rbserve.core.settings import Teaching
from rbserve.data.artifact import (
    Artifact,
    TrainingRecord,
    open_artifact,
)
from rbserve.data.dataset import Dataset, check_same_data, open_dataset
from rbserve.home.abilities import abilities, check_variants_of
from rbserve.home.places import (
    RANDOM,
    artifact_path,
    dataset_path,
    how_to_make,
    is_path,
    is_prepared,
    model_path,
    places,
)
from rbserve.models.configs import EndpointConfig, kind_of
from rbserve.models.zoo import find_model, with_backbone
from rbserve.pipeline.data import check_dataset, ensure_dataset
from rbserve.progress import progress_bar, say

if TYPE_CHECKING:
    from rbserve.core.types import ModelSpec
    from rbserve.train.distill.lesson import Lesson
    from rbserve.train.loop import Settings


LESS_MEMORY = (
    "a smaller --micro-batch, or --batch, or a smaller row; --set checkpointing=true where a row has it"
)


def train(
    model: str,
    dataset: str,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
    resume: bool = False,
    backbone: str | None = None,
    api_base: str | None = None,
    random: bool = False,
    init: str | None = None,
) -> Artifact:
    """Trains a zoo row anew, or a recipe with a backbone; of `random` weights it is packaged untrained.

    `settings` and `options` change the training's and the config's defaults; `api_base` is the address of the endpoint
    that a row asks. UsageError for a row that asks none. `init` is an artefact (its directory, or a row of the data
    set) whose weights and config the training begins with.
    """
    spec = with_backbone(model, backbone) if backbone else find_model(model)
    if api_base is not None:
        if not isinstance(spec.config, EndpointConfig):
            raise UsageError(
                f"{spec.name} asks no endpoint, so there is no --api-base for it",
                "zeroshot-gpt-3.5 asks one, with any model: --set model=NAME",
            )
        options = {**(options or {}), "api_base": api_base}
    with needs_extra("train", "training"):
        from rbserve.core.options import with_options
        from rbserve.train.loop import Settings
    spec = replace(spec, config=with_options(spec.config, options or {}), random=random)
    began = None if init is None else _to_continue(init, dataset, random)
    if began is not None:
        from rbserve.train.warm_start import continued_spec

        spec = continued_spec(spec, began, [*(options or {})])
    chosen: Settings = Settings(**{**spec.training, **(settings or {})})
    path = out or artifact_path(f"{spec.name}{RANDOM * random}", dataset)
    check_dataset(dataset)
    _check_training(spec, path, resume)
    data = ensure_dataset(dataset)
    return _fit(spec, data, path, chosen, resume, init=began)


def _to_continue(init: str, dataset: str, random: bool) -> Artifact:
    """The artefact that a training goes on from."""
    from rbserve.train.warm_start import require_continuable

    if random:
        raise UsageError("--init and --weights random cannot go together", "leave one of them out")
    artifact = open_artifact(model_path(init, dataset))
    require_continuable(artifact)
    return artifact


def distill(
    teacher: str,
    student: str,
    dataset: str,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    out: Path | None = None,
    resume: bool = False,
    variant: str | None = None,
    teaching: Mapping[str, Any] | None = None,
) -> Artifact:
    """Trains a pair-wise zoo row on a teacher's scores; the teacher is made if it is missing.

    `teaching` changes the defaults of `Teaching`; the rest is as in `train`. UsageError for what cannot
    teach, or learn.
    """
    spec, wanted = find_model(student), Teaching(**(teaching or {}))
    check_student(spec)
    if not is_path(teacher) and FROM not in teacher:  # before it is trained for hours
        row = find_model(teacher)
        check_teacher(row.name, row.task, kind_of(row.config))
    with needs_extra("train", "distilling"):
        from rbserve.core.options import with_options
        from rbserve.train.distill.lesson import prepare_lesson
        from rbserve.train.loop import Settings
    spec = replace(spec, config=with_options(spec.config, options or {}))
    chosen: Settings = Settings(**{**spec.training, **(settings or {})})
    check_variants_of(abilities(teacher, dataset), [] if variant is None else [variant])
    if not is_path(teacher):
        check_dataset(dataset)
        path = out or artifact_path(student_name(student, teacher), dataset)
        _check_training(spec, path, resume)
    teaches = ensure_artifact(teacher, dataset)
    data = ensure_dataset(dataset)
    with progress_bar(f"score {teaches.name}") as progress:
        lesson = prepare_lesson(
            teaches, student, data, wanted, chosen.seed, home() / "teachers" / dataset, variant, progress, say
        )
    spec = replace(spec, name=student_name(student, teaches.name))
    return _fit(spec, data, out or artifact_path(spec.name, dataset), chosen, resume, lesson)


def student_rows(rows: Mapping[str, ModelSpec]) -> list[dict[str, object]]:
    """Of every student of these rows that was made, what a listing of models says."""
    found: list[dict[str, object]] = []
    for file in sorted((home() / "artifacts").glob(f"*/*{FROM}*/manifest.json")):
        try:
            manifest = open_artifact(file.parent).manifest
        except ArtifactError as error:  # one that cannot be read must not hide the others
            say(f"left out: {error.message}")
            continue
        taught = manifest.training.distilled
        if taught is None or taught.student not in rows:
            continue
        spec = rows[taught.student]
        found.append({
            "name": manifest.name,
            "group": spec.group,
            "task": spec.task,
            "item_form": spec.item_form,
            "paper_name": f"{spec.paper_name}, distilled",
            "recipe": spec.recipe,
            "backbone": spec.backbone,
            "runnable": True,
            "needs": (f"nothing: made on {manifest.dataset.name}",),
        })  # fmt: skip
    return found


def _check_training(spec: ModelSpec, path: Path, resume: bool) -> None:
    """Raises for a training that cannot begin: nothing to resume, no such language model, a place that is taken."""
    from rbserve.train.encoders.backbone import require_findable
    from rbserve.train.fit import checkpoint_path

    require_replaceable(path)
    if resume and not checkpoint_path(path).is_file():
        raise UsageError(
            f"nothing to resume: no checkpoint at {checkpoint_path(path)}", "train without --resume"
        )
    for option in ("encoder", "backbone"):
        name = getattr(spec.config, option, None)
        if isinstance(name, str) and not spec.random:
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
    """Trains a row into its artefact, and says what came of it."""
    from rbserve.train.fit import checkpoint_path
    from rbserve.train.fit import train as fit_model

    if not resume and checkpoint_path(path).is_file():
        say(f"an unfinished training of {path.name} is discarded (--resume would have continued it)")
    _say_what_is_replaced(path)
    with memory_told(f"training {spec.name}", LESS_MEMORY), progress_bar(f"train {path.name}") as progress:
        artifact = fit_model(spec, data, path, settings, resume, progress, say, lesson, init)
    record = artifact.manifest.training
    say(f"{artifact.name} on {data.name}: {_how(record)} -> {path}")
    return artifact


def _say_what_is_replaced(path: Path) -> None:
    """Says of an artefact that a training replaces what became of its items, for that goes with it."""
    try:
        changes = open_artifact(path).manifest.catalogue
    except ArtifactError:
        return
    if changes is not None:
        say(
            f"the artefact that is replaced has {changes.added:,} added and {changes.retired:,} retired items; the new "
            "one has the items of the data set: rbserve items add and rbserve items retire change them again"
        )


def _how(record: TrainingRecord) -> str:
    if record.random:
        return "packaged with random weights, for its latency"
    if record.best_metric is None:
        return "packaged as it is"
    how = f"weights of {record.taken_from}" if record.taken_from else "trained"
    if record.distilled:
        how = record.distilled.said
    if record.continued:
        how = record.continued.said
    epochs = f"{record.epochs} epochs in {record.seconds:.0f} s"
    return f"{how}, {epochs}, valid {record.metric} {record.best_metric:.4f}"


def ensure_artifact(model: str, dataset: str, random: bool = False) -> Artifact:
    """The artefact at a path, or of a zoo row on a data set, trained (or its weights drawn) if it is not there.

    A student is found by the name of its artefact, and not made: who asks for it has to say how it is taught.
    """
    if is_path(model):
        return open_artifact(Path(model))
    student, taught, _ = model.partition(FROM)
    find_model(student)  # an unknown name is refused before anything is looked for
    path = artifact_path(f"{model}{RANDOM * random}", dataset)
    if not (path / "manifest.json").is_file():
        if taught:
            raise UsageError(f"no artefact of {model} at {path}", how_to_make(model, dataset))
        check_dataset(dataset)
        others = [] if random else [place.dataset for place in places(model)]
        elsewhere = f" (it is trained on {', '.join(others)}: --dataset)" if others else ""
        say(f"{model} is not {'packaged for' if random else 'trained on'} {dataset} yet{elsewhere}; doing so")
        return train(model, dataset, random=random)
    artifact = open_artifact(path)
    if is_prepared(dataset):
        check_same_data(
            artifact.name, artifact.manifest.dataset.fingerprint, open_dataset(dataset_path(dataset))
        )
    return artifact
