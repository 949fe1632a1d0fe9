"""Where things live below the home directory, and which artefacts are there."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rbserve.core.distillation import FROM
from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.files import home
from rbserve.core.names import plain_name
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.models.zoo import find_model

DEFAULT_DATASET = "ml-100k"
RANDOM = "-random"  # behind the name of a row whose weights were drawn
MOST_NAMED = 8  # artefacts that an error lists


def dataset_path(name: str) -> Path:
    """Where a data set lives below the home directory."""
    return home() / "data" / plain_name(name, "a data set")


def artifact_path(model: str, dataset: str) -> Path:
    """Where a model trained on a data set lives below the home directory."""
    return home() / "artifacts" / plain_name(dataset, "a data set") / plain_name(model, "a model")


def runs_path() -> Path:
    """Where profiles are kept."""
    return home() / "runs"


def choices_path() -> Path:
    """Where it is kept which variant was chosen."""
    return home() / "choices"


def report_path(name: str) -> Path:
    """Where a report is drawn."""
    return home() / "reports" / plain_name(name, "a report", "for example --name mine")


def is_path(model: str) -> bool:
    """Whether --model names a directory rather than a zoo row."""
    return "/" in model or model.startswith(".") or (Path(model) / "manifest.json").is_file()


def model_path(model: str, dataset: str) -> Path:
    """The directory that a value of --model means on a data set: the value itself, or where that model lives."""
    return Path(model) if is_path(model) else artifact_path(model, dataset)


def is_prepared(dataset: str) -> bool:
    """Whether a data set is there."""
    return (dataset_path(dataset) / "manifest.json").is_file()


class Place(NamedTuple):
    """A model's name and the data set that it is trained on: artifacts/<dataset>/<model>."""

    dataset: str
    model: str


def places(model: str = "*", dataset: str = "*") -> list[Place]:
    """Every artefact of these names that is there, sorted; "*" is any name."""
    found = (home() / "artifacts").glob(f"{_literal(dataset)}/{_literal(model)}/manifest.json")
    return sorted(Place(*file.parent.parts[-2:]) for file in found if not _hidden(file))


def is_trained(model: str, dataset: str | None = None) -> bool:
    """Whether there is an artefact of a model on a data set, or on any."""
    if dataset is None:
        return bool(places(model))
    return (artifact_path(model, dataset) / "manifest.json").is_file()


def find_artifact(model: str, dataset: str | None = None) -> tuple[Artifact, str | None]:
    """An artefact that is there: by its directory, or of a model on a data set. Nothing is made.

    Without a data set, it is that on ml-100k, else on the only one that the model is trained on; a line for the user
    then says which. UsageError, with what there is and how to make it, where none is meant for sure.
    """
    if is_path(model):
        return open_artifact(Path(model)), None
    find_model(model.partition(FROM)[0])  # an unknown name is refused before anything is looked for
    if not is_trained(model, dataset):
        raise _absent(model, dataset)
    if dataset is not None:
        return open_artifact(artifact_path(model, dataset)), None
    there = [place.dataset for place in places(model)]
    chosen = DEFAULT_DATASET if DEFAULT_DATASET in there else there[0]
    others = [name for name in there if name != chosen]
    if others and chosen != DEFAULT_DATASET:
        raise UsageError(
            f"{model} is trained on several data sets: {', '.join(there)}", f"for example --dataset {chosen}"
        )
    also = f"; it is also trained on {', '.join(others)} (--dataset)" if others else ""
    line = f"{model} on {chosen}{also}" if others or chosen != DEFAULT_DATASET else None
    return open_artifact(artifact_path(model, chosen)), line


def left_behind(dataset: str, fingerprint: str) -> Iterator[Artifact]:
    """The artefacts of a data set's name that were made from other data than it holds now."""
    for place in places(dataset=dataset):
        try:
            artifact = open_artifact(artifact_path(place.model, place.dataset))
        except ArtifactError:  # one that cannot be read is no reason to fail here
            continue
        if artifact.manifest.dataset.fingerprint != fingerprint:
            yield artifact


def how_to_make(model: str, dataset: str) -> str:
    """The command that makes an artefact."""
    student, taught, teacher = model.partition(FROM)
    if taught:
        return f"rbserve distill --teacher {teacher} --student {student} --dataset {dataset}"
    return f"rbserve train --model {model} --dataset {dataset}"


def options_of(artifact: Artifact) -> str:
    """The options that mean an artefact: --model and --dataset, or --model and its directory."""
    dataset = artifact.manifest.dataset.name
    usual = home() / "artifacts" / dataset / artifact.name
    if artifact.path.absolute() == usual.absolute():
        return f"--model {artifact.name} --dataset {shlex.quote(dataset)}"
    return f"--model {shlex.quote(str(artifact.path))}"


def _absent(model: str, dataset: str | None) -> UsageError:
    """What to say of a model that is not trained there: what is, and what to do."""
    there = [place.dataset for place in places(model)]
    if there:
        known = f"it is trained on {', '.join(there)}: --dataset {there[0]}"
    else:
        names = [f"{place.model} on {place.dataset}" for place in places()]
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        known = f"there are {', '.join(names[:MOST_NAMED])}{more}" if names else "nothing is trained here"
    where = dataset or "any data set"
    return UsageError(
        f"{model} is not trained on {where}; {known}", how_to_make(model, dataset or DEFAULT_DATASET)
    )


def _literal(name: str) -> str:
    return name if name == "*" else glob.escape(name)


def _hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parent.parts[-2:])
