"""Where data sets, artefacts, run files and reports are below the home directory, and which artefacts are there."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rbserve.core.errors import ArtifactError
from rbserve.core.files import home
from rbserve.core.names import plain_name
from rbserve.data.artifact import Artifact, open_artifact


def dataset_path(name: str) -> Path:
    """The directory of a data set."""
    return home() / "data" / plain_name(name, "a data set")


def artifact_path(name: str, dataset: str) -> Path:
    """The directory of an artefact that is trained on a data set."""
    return home() / "artifacts" / plain_name(dataset, "a data set") / plain_name(name, "a model")


def teachers_path(dataset: str) -> Path:
    """The folder of the scores that teachers gave to the users of a data set."""
    return home() / "teachers" / dataset


def runs_path() -> Path:
    """The folder of run files."""
    return home() / "runs"


def choices_path() -> Path:
    """The folder of the variants that `--precision auto` chose."""
    return home() / "choices"


def report_path(name: str) -> Path:
    """The folder of a report."""
    return home() / "reports" / plain_name(name, "a report", "for example --name mine")


def is_there(path: Path) -> bool:
    """Whether a directory holds a data set or an artefact."""
    return (path / "manifest.json").is_file()


def is_prepared(dataset: str) -> bool:
    """Whether a data set is below the home directory."""
    return is_there(dataset_path(dataset))


def prepared_datasets() -> list[Path]:
    """The directories of all data sets below the home directory, sorted."""
    folders = (file.parent for file in (home() / "data").glob("*/manifest.json"))
    return sorted(path for path in folders if not path.name.startswith("."))


class Place(NamedTuple):
    """An artefact's directory below the home directory: artifacts/<dataset>/<model>."""

    dataset: str
    model: str

    @property
    def path(self) -> Path:
        """The directory."""
        return home() / "artifacts" / self.dataset / self.model


def places(model: str = "*", dataset: str = "*") -> list[Place]:
    """Every artefact of these names below the home directory, sorted; "*" is any name."""
    files = (home() / "artifacts").glob(f"{_literal(dataset)}/{_literal(model)}/manifest.json")
    return sorted(Place(*file.parent.parts[-2:]) for file in files if not _is_hidden(file))


def readable_artifacts(dataset: str = "*", model: str = "*") -> Iterator[Artifact]:
    """The artefacts below the home directory, of one name or data set or of all; unreadable ones are left out."""
    for place in places(model, dataset):
        try:
            yield open_artifact(place.path)
        except ArtifactError:
            continue


def outdated_artifacts(dataset: str, fingerprint: str) -> list[str]:
    """The names of the artefacts of a data set that were made from other data than those of the fingerprint."""
    return [
        artifact.path.name
        for artifact in readable_artifacts(dataset)
        if artifact.manifest.dataset.fingerprint != fingerprint
    ]


def _literal(name: str) -> str:
    return name if name == "*" else glob.escape(name)


def _is_hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parent.parts[-2:])
