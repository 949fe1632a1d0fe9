"""Adopts a model that was made elsewhere: converts it, tries it on its requests, and writes the artefact.

`pipeline/adopting.py` calls `adopt` with the request set that it made of the user's table. `formats.py` finds the
converter; the artefact is written beside its place and renamed when all is well.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from rbserve.core.adoption import AdoptOptions
from rbserve.core.files import digest, replacing_directory
from rbserve.core.libraries import library_versions
from rbserve.core.tasks import CTR, GRADED, Task
from rbserve.core.variants import DEFAULT_SERVED
from rbserve.data.artifact import (
    SCHEMA,
    Adopted,
    Artifact,
    ArtifactManifest,
    DatasetReference,
    Parity,
    TrainingRecord,
    VariantRecord,
    open_artifact,
    write_manifest,
)
from rbserve.data.request_set import RequestSet
from rbserve.exporters.adopt.check import check_scores
from rbserve.exporters.adopt.converted import Converted
from rbserve.exporters.adopt.formats import Format, find_format
from rbserve.exporters.adopt.native_process import fill_in_process
from rbserve.exporters.adopt.onnx_file import GRAPH
from rbserve.exporters.adopted import find_unchanged
from rbserve.exporters.export import export
from rbserve.models.zoo import BEYOND_GROUP
from rbserve.runtimes.opening import open_scorer

CONFIG_KIND = "adopted"
UNCOMPARED = Parity(rows=0, max_abs=0.0, mean_abs=0.0, auc_reference=None, auc=None, auc_difference=None)
"""Of a graph before it is compared with its reference."""


def adopt(source: str, requests: RequestSet, options: AdoptOptions, path: Path) -> Artifact:
    """Makes an artefact at `path` of a model that a file, a directory or a text such as `module:factory` names.

    The model is tried on some of its requests (`check_scores`), and its graph is compared with its reference. Raises
    UsageError or ParityError in one line, and leaves nothing behind, where the model cannot be read, does not fit the
    columns of the requests, does not give each candidate a score, or where the graph does not compute the model.
    """
    row = find_format(source)
    fill_folder = fill_in_process if row.native else fill
    with replacing_directory(path) as folder:
        fill_folder(source, requests, options, folder, path.name)
    return open_artifact(path)


def fill(source: str, requests: RequestSet, options: AdoptOptions, folder: Path, name: str) -> None:
    """Fills `folder` with the artefact of a model; raises what `adopt` raises, and what the model's library does."""
    row = find_format(source)
    converted = row.convert(source, requests.manifest.columns, options, folder)
    artifact = package(folder, name, source, row, in_place(converted, folder), requests)
    scorer = open_scorer(artifact, artifact.variants[0])
    _note(artifact, check_scores(scorer, converted.signature, requests), find_unchanged(artifact))
    if converted.graph is not None:
        export(open_artifact(folder), requests, ["fp32"])


def in_place(converted: Converted, folder: Path) -> Converted:
    """The graph at its place in an artefact, beside its weights; a converter may write them anywhere in the folder."""
    if converted.graph is None or converted.graph == folder / GRAPH:
        return converted
    graph = folder / GRAPH
    graph.parent.mkdir(exist_ok=True)
    data = [file.rename(graph.parent / file.relative_to(converted.graph.parent)) for file in converted.data]
    return converted._replace(graph=converted.graph.rename(graph), data=data)


def package(
    folder: Path, name: str, source: str, row: Format, converted: Converted, requests: RequestSet
) -> Artifact:
    """Writes the manifest of an artefact whose files stand in `folder`."""
    graph, data, files = (
        [file.relative_to(folder).as_posix() for file in group]
        for group in ([converted.graph] if converted.graph else [], converted.data, converted.files)
    )
    own, data_set = (requests.name, requests.fingerprint), requests.manifest.data_set
    task = task_of(requests)
    manifest = ArtifactManifest(
        schema=SCHEMA,
        name=name,
        group=BEYOND_GROUP,
        task=task.name,
        item_form=row.item_form,
        config_kind=CONFIG_KIND,
        config={},
        dataset=DatasetReference(*(data_set or own)),
        training=TrainingRecord(0, {}, 0, 0, task.metric, None, 0.0),
        libraries=library_versions(),
        files={file: digest(folder / file) for file in (*graph, *data, *files)},
        variants={DEFAULT_SERVED: VariantRecord(graph[0], UNCOMPARED, data_files=data)} if graph else {},
        adopted=Adopted(
            converted.kind,
            converted.format,
            Path(source).name if converted.callable is None else source,
            converted.signature,
            DatasetReference(*own),
            files,
            list(converted.guessed),
            converted.callable,
            requests.features(converted.signature),
        ),
    )
    write_manifest(folder, manifest)
    return Artifact(folder, manifest)


def task_of(requests: RequestSet) -> Task:
    """The task of a model that is judged on requests: by their labels; without any, click prediction."""
    return GRADED if requests.manifest.labels == "graded" else CTR


def _note(artifact: Artifact, notes: list[str], unchanged: dict[str, str]) -> None:
    """Adds to an artefact what was found out about the model, and which precisions would change nothing in it."""
    assert artifact.manifest.adopted is not None
    guessed = [*artifact.manifest.adopted.guessed, *notes]
    adopted = msgspec.structs.replace(artifact.manifest.adopted, guessed=guessed, unchanged=unchanged)
    write_manifest(artifact.path, msgspec.structs.replace(artifact.manifest, adopted=adopted))
