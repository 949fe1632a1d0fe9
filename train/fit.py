"""From a zoo row and a data set to an artefact on disk."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import torch
from accelerate import PartialState
from torch import Tensor, nn

from rbserve.core.errors import ArtifactError
from rbserve.core.files import digest, replacing_directory, require_replaceable, require_writable
from rbserve.core.libraries import library_versions
from rbserve.core.tasks import TASKS
from rbserve.core.types import ModelSpec, Progress, no_progress
from rbserve.data.artifact import (
    ITEMS,
    SCHEMA,
    WEIGHTS,
    Artifact,
    ArtifactManifest,
    DatasetReference,
    PromptFit,
    TrainingRecord,
    open_artifact,
    write_manifest,
)
from rbserve.data.dataset import Dataset, Split, write_items
from rbserve.models.configs import EndpointConfig, LanguageConfig, config_to_dict, kind_of
from rbserve.train.distill.lesson import Lesson
from rbserve.train.loop import Checkpoint, Settings, State, TrainingTask, fit
from rbserve.train.tasks import ctr, endpoint, language, next_item, seq
from rbserve.train.tasks.language import LanguageTask
from rbserve.train.tasks.next_item import NextItemTask
from rbserve.train.tensors import save_drawn, save_tensors
from rbserve.train.warm_start import WarmStart, continue_identifiers


def train(
    spec: ModelSpec,
    dataset: Dataset,
    path: Path,
    settings: Settings,
    resume: bool = False,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda _: None,
    lesson: Lesson | None = None,
    init: Artifact | None = None,
) -> Artifact:
    """Fits a zoo row and writes its artefact at `path`, atomically, in place of the one that stood there.

    A `random` row is packaged with the weights that it begins with; a language model takes no memory then.
    A row that only decodes another one's weights (`weights_of`) takes them from the artefact beside `path`, where
    that was trained on the same data with the same config and settings; else it is trained anew. `say` is told which of
    the two and why, and, before training, what the row's prompts have no room for. With a `lesson`, a pair-wise row
    learns its soft labels in the place of the training rows'. With `init` the weights begin as that artefact's
    (`warm_start.py`), and are kept where no epoch validates better.
    """
    require_replaceable(path)
    require_writable(path.parent)
    start = WarmStart(init, dataset) if init is not None else None
    donor = None if start else _donor(spec, dataset, path, settings, say)
    if donor is not None:
        return _decoded_otherwise(donor, spec, path)
    checkpoint = Checkpoint(checkpoint_path(path), _identity(spec, dataset, settings, lesson, start))
    torch.manual_seed(settings.seed)
    if init is not None:
        continue_identifiers(init, dataset, progress)
    model, task = _maker(spec, lesson, start)(spec, dataset, progress)
    prompts = _prompt_fits(spec, dataset, task)
    for said in filter(None, (one.said(split) for split, one in prompts.items())):
        say(f"{spec.name}: {said}")
    learns = task.rows and not spec.random
    state = fit(model, task, settings, checkpoint, resume, progress, start is not None) if learns else State()
    processes = PartialState()
    if processes.is_main_process:
        _write(spec, dataset, path, settings, state, model, task, prompts, lesson, start)
        checkpoint.path.unlink(missing_ok=True)
    processes.wait_for_everyone()
    return open_artifact(path)


class SavedTask(TrainingTask, Protocol):
    """A task whose model needs more for scoring than its weights and the item table."""

    def save(self, folder: Path) -> None:
        """Writes that into the artefact's directory."""
        ...

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """What is saved of the trained model."""
        ...


Maker = Callable[[ModelSpec, Dataset, Progress], tuple[nn.Module, SavedTask]]


def _maker(spec: ModelSpec, lesson: Lesson | None, start: WarmStart | None) -> Maker:
    if lesson is not None:
        return partial(ctr.make, soft=lesson.rows)
    if isinstance(spec.config, EndpointConfig):
        return endpoint.make
    if isinstance(spec.config, LanguageConfig):  # which get the weights before their adapters
        return partial(next_item.make if TASKS[spec.task].ranks else language.make, start=start)
    make: Maker = seq.make if TASKS[spec.task].ranks else ctr.make
    return make if start is None else partial(_started, make, start)


def _started(
    make: Maker, start: WarmStart, spec: ModelSpec, dataset: Dataset, progress: Progress
) -> tuple[nn.Module, SavedTask]:
    """A model with the weights to start from, and its task."""
    model, task = make(spec, dataset, progress)
    start.load(model)
    return model, task


def checkpoint_path(artifact: Path) -> Path:
    """Where an unfinished training of the artefact keeps its state."""
    return artifact.with_name(f"{artifact.name}.checkpoint.safetensors")


def _donor(
    spec: ModelSpec, dataset: Dataset, path: Path, settings: Settings, say: Callable[[str], None]
) -> Artifact | None:
    """The artefact beside `path` whose weights are those that training this row would give; says which, or why none."""
    beside = path.with_name(spec.weights_of) if spec.weights_of and not spec.random else None
    if beside is None or not (beside / "manifest.json").is_file():
        return None
    try:
        donor = open_artifact(beside)
        other = _differences(donor, spec, dataset, settings)
    except ArtifactError as error:
        donor, other = None, [error.message]
    if donor is None or other:
        say(
            f"{spec.name} is trained anew, without the weights of {spec.weights_of}: {'; '.join(other)} "
            f"(rbserve train --model {spec.name} takes them, with the options that they were trained with)"
        )
        return None
    say(f"{spec.name} takes the weights of {donor.name}: its data, config and training settings are the same")
    return donor


def _differences(donor: Artifact, spec: ModelSpec, dataset: Dataset, settings: Settings) -> list[str]:
    """In what an artefact's data, config and training settings differ from those that a row is to be trained with."""
    theirs = donor.manifest
    wanted = config_to_dict(spec.config) | {"decoding": theirs.config.get("decoding")}
    pairs = [
        ("config", theirs.config, json.loads(json.dumps(wanted))),
        ("setting", theirs.training.settings, dataclasses.asdict(settings)),
    ]
    other = [] if theirs.dataset.fingerprint == dataset.fingerprint else ["they are of other data"]
    if theirs.training.continued is not None:
        other.append("they were continued from those of another artefact")
    return other + [
        f"{kind} {key} was {had.get(key)} for them, not {now.get(key)}"
        for kind, had, now in pairs
        for key in sorted(had.keys() | now.keys())
        if had.get(key) != now.get(key)
    ]


def _decoded_otherwise(donor: Artifact, spec: ModelSpec, path: Path) -> Artifact:
    """An artefact with the donor's trained files and this row's way to decode."""
    exported = {name for record in donor.manifest.variants.values() for name in record.exported}
    kept = {name: digest for name, digest in donor.manifest.files.items() if name not in exported}
    with replacing_directory(path) as partial:
        for name in kept:
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(donor.file(name), partial / name)
        manifest = msgspec.structs.replace(
            donor.manifest,
            name=spec.name,
            config=config_to_dict(spec.config),
            training=msgspec.structs.replace(donor.manifest.training, taken_from=donor.name),
            files=kept,
            variants={},
        )
        write_manifest(partial, manifest)
    return open_artifact(path)


def _prompt_fits(spec: ModelSpec, dataset: Dataset, task: SavedTask) -> dict[str, PromptFit]:
    """What a language model's prompts have room for: those that are tested, and those that train it, if any do."""
    if not isinstance(task, LanguageTask | NextItemTask):
        return {}
    names: tuple[Split, ...] = ("train", "test") if task.rows else ("test",)
    return {
        name: task.prompts.fit(dataset.rows(spec.task, name).histories, task.max_history) for name in names
    }


def _identity(
    spec: ModelSpec, dataset: Dataset, settings: Settings, lesson: Lesson | None, start: WarmStart | None
) -> dict[str, object]:
    """What must be the same for a checkpoint to be continued."""
    return {
        "model": spec.name,
        **{f"config {key}": value for key, value in config_to_dict(spec.config).items()},
        **{f"setting {key}": value for key, value in dataclasses.asdict(settings).items()},
        "data": dataset.fingerprint,
        **({"lesson": msgspec.to_builtins(lesson.record)} if lesson else {}),
        **({"init": start.init.model_digest} if start else {}),
    }


def _write(
    spec: ModelSpec, dataset: Dataset, path: Path, settings: Settings, state: State, model: nn.Module,
    task: SavedTask, prompts: dict[str, PromptFit], lesson: Lesson | None, start: WarmStart | None,
) -> None:  # fmt: skip
    with replacing_directory(path) as partial:
        if spec.random:
            save_drawn(partial / WEIGHTS, task.weights(model), settings.seed)
        else:
            save_tensors(partial / WEIGHTS, task.weights(model))
        write_items(partial / ITEMS, dataset.items)
        task.save(partial)
        manifest = ArtifactManifest(
            schema=SCHEMA,
            name=spec.name,
            group=spec.group,
            task=spec.task,
            item_form=spec.item_form,
            config_kind=kind_of(spec.config),
            config=config_to_dict(spec.config),
            dataset=DatasetReference(dataset.name, dataset.fingerprint),
            training=TrainingRecord(
                seed=settings.seed,
                settings=dataclasses.asdict(settings),
                epochs=state.epoch,
                best_epoch=state.best_epoch + 1,
                metric=task.metric,
                best_metric=state.best_metric if state.metrics else None,
                seconds=round(state.seconds, 3),
                random=spec.random,
                distilled=lesson.record if lesson else None,
                continued=start.record if start else None,
            ),
            libraries=library_versions(),
            prompts=prompts,
            files={
                str(file.relative_to(partial)): digest(file)
                for file in sorted(partial.rglob("*"))
                if file.is_file()
            },
        )
        write_manifest(partial, manifest)
