"""Training of a zoo row on a data set: fits its model and writes the artefact."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import msgspec
import torch
from accelerate import PartialState
from torch import Tensor, nn

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.files import digest, replacing_directory, require_replaceable, require_writable
from rbserve.core.libraries import library_versions
from rbserve.core.settings import Computation, without_place
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
from rbserve.data.mapped_items import item_members, write_mapped_items
from rbserve.models.configs import (
    EndpointConfig,
    GbdtConfig,
    ItemKnnConfig,
    LanguageConfig,
    LayersConfig,
    SasRecTextConfig,
    config_to_dict,
    kind_of,
)
from rbserve.models.lm import ClickModel
from rbserve.runtimes.meeting import describe_table
from rbserve.runtimes.torch import with_item_states
from rbserve.train.distill.layers import LayerLesson
from rbserve.train.distill.lesson import TrainingLesson
from rbserve.train.fitting.device import cpu_threads, resolve
from rbserve.train.fitting.loop import Checkpoint, Settings, State, TrainingTask, fit
from rbserve.train.fitting.tensors import save_drawn, save_tensors
from rbserve.train.tasks import ctr, endpoint, gbdt, itemknn, language, next_item, seq, seq_text
from rbserve.train.tasks.ctr import CtrTask
from rbserve.train.tasks.gbdt import GbdtTask
from rbserve.train.tasks.language import LanguageTask
from rbserve.train.tasks.next_item import NextItemTask
from rbserve.train.tasks.warm_start import WarmStart, continue_identifiers


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
    """Trains a zoo row and writes its artefact at `path`, atomically; an earlier artefact there is replaced.

    - A `random` row is saved with its initial weights; a language model then takes no memory.
    - A row that decodes the weights of another row (`weights_of`) copies them from the artefact beside `path` if that
      was trained on the same data with the same config and settings, and is trained anew otherwise.
    - With a `lesson`, a pair-wise row learns the lesson's soft labels instead of the labels of the training rows; a
      `LayerLesson` makes the model, of layers of its teacher.
    - With `init`, training starts from the weights of that artefact (`warm_start.py`), which stay if no epoch
      validates better.

    `say` gets a line that says whose weights are used and why, one about histories that prompts cut, one with the size
    of the table of item states, of a model that has one, and how much work the training is.
    """
    computed = resolve(settings, gains_by_bf16(spec))
    _require_rows(spec, dataset)
    require_replaceable(path)
    require_writable(path.parent)
    start = WarmStart(init, dataset) if init is not None else None
    donor = None if start else _donor(spec, dataset, path, settings, say)
    if donor is not None:
        return _copy_weights(donor, spec, path)
    checkpoint = Checkpoint(
        checkpoint_path(path), _identity(spec, dataset, settings, computed, lesson, start)
    )
    torch.manual_seed(settings.seed)
    if init is not None:
        continue_identifiers(init, dataset, progress)
    model, task = _maker(spec, lesson, start)(spec, dataset, progress)
    prompts = _prompt_fits(spec, dataset, task)
    for warning in filter(None, (prompt_fit.said(split) for split, prompt_fit in prompts.items())):
        say(f"{spec.name}: {warning}")
    if isinstance(task, LanguageTask) and task.prompts.pieces.meet:
        width = cast(ClickModel, model).language.config.hidden_size
        say(f"{spec.name}: {describe_table(task.prompts, width)}")
    state = State()
    if isinstance(task, WholeTask) and task.rows and not spec.random:
        with cpu_threads(computed.threads):
            state = task.fit_whole(model, path, progress)
    elif task.rows and not spec.random:
        state = fit(
            model, task, computed, checkpoint, resume, progress, start is not None,
            lambda line: say(f"{spec.name}: {line}"),
        )  # fmt: skip
    processes = PartialState()
    if processes.is_main_process:
        _write(spec, dataset, path, settings, computed, state, model, task, prompts, lesson, start, progress)
        checkpoint.path.unlink(missing_ok=True)
    processes.wait_for_everyone()
    return open_artifact(path)


def gains_by_bf16(spec: ModelSpec) -> bool:
    """Whether `--precision auto` trains a row in bf16 where it can: language models, and rows that do so unasked."""
    return isinstance(spec.config, LanguageConfig | LayersConfig) or spec.training.get("precision") == "bf16"


def _require_rows(spec: ModelSpec, dataset: Dataset) -> None:
    """Raises UsageError for a model of a task that the data set has no rows of: a log of clicks has no sequences."""
    if not len(dataset.rows(spec.task, "train")):
        raise UsageError(
            f"data set {dataset.name} has no training rows for {spec.name}, a model of task {spec.task}",
            f"rbserve datasets show {dataset.name} has the rows of each task",
        )


class SavedTask(TrainingTask, Protocol):
    """A training task that can write its model into an artefact."""

    def save(self, folder: Path) -> None:
        """Writes what scoring needs beside weights and item table, such as prompts, into the artefact's directory."""
        ...

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """The weights of the trained model to save, by name."""
        ...


@runtime_checkable
class ChoosingTask(Protocol):
    """A task that chooses options on validation; `chosen` has those of the model that is saved."""

    chosen: Mapping[str, float]


@runtime_checkable
class WholeTask(ChoosingTask, Protocol):
    """A task that fits its model as a whole, without the training loop."""

    def fit_whole(self, model: nn.Module, path: Path, progress: Progress) -> State:
        """Fits the model in place; temporary files may stand beside the artefact's `path` meanwhile."""
        ...


Maker = Callable[[ModelSpec, Dataset, Progress], tuple[nn.Module, SavedTask]]


Lesson = TrainingLesson | LayerLesson


def _maker(spec: ModelSpec, lesson: Lesson | None, start: WarmStart | None) -> Maker:
    if isinstance(lesson, LayerLesson):
        return lesson.make
    if lesson is not None:
        return partial(ctr.make, soft=lesson.rows)
    if isinstance(spec.config, EndpointConfig):
        return endpoint.make
    if isinstance(spec.config, ItemKnnConfig):
        return itemknn.make
    if isinstance(spec.config, GbdtConfig):
        return gbdt.make
    if isinstance(spec.config, LanguageConfig):  # takes the weights before it adds adapters
        return partial(next_item.make if TASKS[spec.task].ranks else language.make, start=start)
    make: Maker = seq.make if TASKS[spec.task].ranks else ctr.make
    if isinstance(spec.config, SasRecTextConfig):
        make = seq_text.make
    return make if start is None else partial(_make_started, make, start)


def _make_started(
    make: Maker, start: WarmStart, spec: ModelSpec, dataset: Dataset, progress: Progress
) -> tuple[nn.Module, SavedTask]:
    """A model with the weights of the artefact to start from, and its training task."""
    model, task = make(spec, dataset, progress)
    if isinstance(task, CtrTask):
        start.require_fields(task.layout)
    start.load(model)
    return model, task


def checkpoint_path(artifact: Path) -> Path:
    """The file beside an artefact that an unfinished training of it can be resumed from."""
    return artifact.with_name(f"{artifact.name}.checkpoint.safetensors")


def _donor(
    spec: ModelSpec, dataset: Dataset, path: Path, settings: Settings, say: Callable[[str], None]
) -> Artifact | None:
    """The artefact beside `path` whose weights this row can use; `say` gets whose weights are used, or why not."""
    beside = path.with_name(spec.weights_of) if spec.weights_of and not spec.random else None
    if beside is None or not (beside / "manifest.json").is_file():
        return None
    try:
        donor = open_artifact(beside)
        differences = _differences(donor, spec, dataset, settings)
    except ArtifactError as error:
        donor, differences = None, [error.message]
    if donor is None or differences:
        say(
            f"{spec.name} is trained anew, without the weights of {spec.weights_of}: {'; '.join(differences)} "
            f"(rbserve train --model {spec.name} takes them, with the options that they were trained with)"
        )
        return None
    say(f"{spec.name} takes the weights of {donor.name}: its data, config and training settings are the same")
    return donor


def _differences(donor: Artifact, spec: ModelSpec, dataset: Dataset, settings: Settings) -> list[str]:
    """Differences of a row's data, config and settings from those an artefact was trained with, a phrase each."""
    theirs = donor.manifest
    wanted = config_to_dict(spec.config) | {"decoding": theirs.config.get("decoding")}
    pairs = [
        ("config", theirs.config, json.loads(json.dumps(wanted))),
        ("setting", without_place(theirs.training.settings), settings.recipe),
    ]
    differences = [] if theirs.dataset.fingerprint == dataset.fingerprint else ["they are of other data"]
    if theirs.training.continued is not None:
        differences.append("they were continued from those of another artefact")
    return differences + [
        f"{kind} {key} was {before.get(key)} for them, not {now.get(key)}"
        for kind, before, now in pairs
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _copy_weights(donor: Artifact, spec: ModelSpec, path: Path) -> Artifact:
    """Writes an artefact with the donor's trained files and the config of this row, which decodes them otherwise."""
    exported = {name for record in donor.manifest.variants.values() for name in record.exported}
    trained = {name: digest for name, digest in donor.manifest.files.items() if name not in exported}
    with replacing_directory(path) as partial:
        for name in trained:
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(donor.file(name), partial / name)
        manifest = msgspec.structs.replace(
            donor.manifest,
            name=spec.name,
            config=config_to_dict(spec.config),
            training=msgspec.structs.replace(donor.manifest.training, taken_from=donor.name),
            files=trained,
            variants={},
        )
        write_manifest(partial, manifest)
    return open_artifact(path)


def _prompt_fits(spec: ModelSpec, dataset: Dataset, task: SavedTask) -> dict[str, PromptFit]:
    """How much of the histories fits into a language model's prompts, by split: test and, if it is trained, train."""
    if not isinstance(task, LanguageTask | NextItemTask):
        return {}
    names: tuple[Split, ...] = ("train", "test") if task.rows else ("test",)
    return {
        name: task.prompts.fit(dataset.rows(spec.task, name).histories, task.max_history) for name in names
    }


def _identity(
    spec: ModelSpec,
    dataset: Dataset,
    settings: Settings,
    computed: Settings,
    lesson: Lesson | None,
    start: WarmStart | None,
) -> dict[str, object]:
    """What a run must have in common with a checkpoint to be resumed from it; `computed` are its resolved settings."""
    return {
        "model": spec.name,
        **{f"config {key}": value for key, value in config_to_dict(spec.config).items()},
        **{f"setting {key}": value for key, value in settings.recipe.items()},
        "setting precision": computed.precision,
        "data": dataset.fingerprint,
        **({"lesson": msgspec.to_builtins(lesson.record)} if lesson else {}),
        **({"init": start.init.model_digest} if start else {}),
    }


def _write(
    spec: ModelSpec, dataset: Dataset, path: Path, settings: Settings, computed: Settings, state: State,
    model: nn.Module, task: SavedTask, prompts: dict[str, PromptFit], lesson: Lesson | None,
    start: WarmStart | None, progress: Progress,
) -> None:  # fmt: skip
    with replacing_directory(path) as partial:
        if spec.random:
            save_drawn(partial / WEIGHTS, task.weights(model), settings.seed)
        elif weights := task.weights(model):
            save_tensors(partial / WEIGHTS, weights)
        write_items(partial / ITEMS, dataset.items)
        if item_members(dataset.items):
            write_mapped_items(partial, dataset.items)
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
                computation=None
                if spec.random
                else Computation(computed.device, computed.threads, computed.precision),
            ),
            libraries=library_versions(),
            prompts=prompts,
            chosen={**task.chosen} if isinstance(task, ChoosingTask) else {},
            fields=[*task.layout.fields] if isinstance(task, CtrTask | GbdtTask) else [],
            files={
                str(file.relative_to(partial)): digest(file)
                for file in sorted(partial.rglob("*"))
                if file.is_file()
            },
        )
        if isinstance(task, LanguageTask) and task.prompts.pieces.meet:
            manifest = with_item_states(Artifact(partial, manifest), progress)
        write_manifest(partial, manifest)
