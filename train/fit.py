"""From a zoo row and a data set to an artefact on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from accelerate import PartialState

from rbserve.core.artifact import (
    ITEMS,
    SCHEMA,
    WEIGHTS,
    Artifact,
    ArtifactManifest,
    DatasetReference,
    TrainingRecord,
    library_versions,
    open_artifact,
    write_manifest,
)
from rbserve.core.dataset import Dataset, write_items
from rbserve.core.files import digest, replacing_directory
from rbserve.core.types import ModelSpec, Progress, no_progress
from rbserve.models.configs import config_to_dict, kind_of
from rbserve.models.ctr import build
from rbserve.models.zoo import require_runnable
from rbserve.train.ctr import CtrTask
from rbserve.train.loop import Checkpoint, Settings, State, fit
from rbserve.train.tensors import save_tensors


def train(
    spec: ModelSpec,
    dataset: Dataset,
    path: Path,
    settings: Settings,
    resume: bool = False,
    progress: Progress = no_progress,
) -> Artifact:
    """Fits a zoo row and writes its artefact at `path`, atomically, in place of the one that stood there."""
    require_runnable(spec)
    checkpoint = Checkpoint(checkpoint_path(path), _identity(spec, dataset, settings))
    torch.manual_seed(settings.seed)
    model = build(spec.config, len(dataset.items))
    task = CtrTask(dataset)
    model.blank_items(torch.from_numpy(~task.trained_items(len(dataset.items))))
    state = fit(model, task, settings, checkpoint, resume, progress)
    processes = PartialState()
    if processes.is_main_process:
        _write(spec, dataset, path, settings, state, model)
        checkpoint.path.unlink(missing_ok=True)
    processes.wait_for_everyone()
    return open_artifact(path)


def checkpoint_path(artifact: Path) -> Path:
    """Where an unfinished training of the artefact keeps its state."""
    return artifact.with_name(f"{artifact.name}.checkpoint.safetensors")


def _identity(spec: ModelSpec, dataset: Dataset, settings: Settings) -> dict[str, object]:
    """What must be the same for a checkpoint to be continued."""
    return {
        "model": spec.name,
        **{f"config {key}": value for key, value in config_to_dict(spec.config).items()},
        **{f"setting {key}": value for key, value in dataclasses.asdict(settings).items()},
        "data": dataset.fingerprint,
    }


def _write(
    spec: ModelSpec, dataset: Dataset, path: Path, settings: Settings, state: State, model: torch.nn.Module
) -> None:
    with replacing_directory(path) as partial:
        save_tensors(partial / WEIGHTS, model.state_dict())
        write_items(partial / ITEMS, dataset.items)
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
                metric=CtrTask.metric,
                best_metric=state.best_metric,
                seconds=round(state.seconds, 3),
            ),
            libraries=library_versions(),
            files={name: digest(partial / name) for name in (WEIGHTS, ITEMS)},
        )
        write_manifest(partial, manifest)
