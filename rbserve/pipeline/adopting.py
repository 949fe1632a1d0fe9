"""From a model that was made elsewhere and a table of its requests to a request set and an artefact."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import ArtifactError, UsageError, memory_told, needs_extra
from rbserve.core.files import home, require_replaceable, scratch
from rbserve.core.names import plain_name
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.data.request_set import RequestSet, bound_to, is_request_set, open_request_set
from rbserve.home.paths import artifact_path, dataset_path, is_there, prepared_datasets
from rbserve.home.target import check_free_name
from rbserve.pipeline.data import check_dataset, is_source
from rbserve.progress import progress_bar, say


def adopt(
    source: str,
    table: Path,
    options: Mapping[str, Any] | None = None,
    *,
    dataset: str | None = None,
    name: str | None = None,
    force: bool = False,
) -> Artifact:
    """Makes an artefact of a model that a file, a directory or a text such as `module:factory` names.

    The requests of the table become data/<table>/, unless a request set with the same content is there, and the model
    artifacts/<table>/<name>/. With `dataset` they are the test rows of that prepared data set, and the artefact stands
    among its models. `options` has fields of `AdoptOptions`. Raises UsageError or DataError, and leaves nothing behind,
    for a model or a table that cannot be read, for columns that do not fit, and for a name that is taken.
    """
    with needs_extra("adopt", "adopting a model"):
        from rbserve.exporters.adopt.adopt import adopt as adopt_model
        from rbserve.exporters.adopt.formats import find_format

    chosen = AdoptOptions(**(options or {}))
    called = plain_name(name or default_name(source), "--name", "for example --name my-ranker")
    check_free_name(called)
    find_format(source)
    if not table.is_file():
        raise UsageError(f"there is no table {table}", "--requests takes a Parquet, CSV or JSON lines file")
    data = None if dataset is None else _prepared(dataset)
    if data is not None:
        _require_free(artifact_path(called, data.name), source, force)
    advice = memory_told(f"adopting {called}", "fewer rows of the table, or a machine with more memory")
    with advice, needs_extra("adopt", "adopting a model"), _requests_of(table, chosen, data) as requests:
        path = artifact_path(called, data.name if data else requests.name)
        _require_free(path, source, force)
        with progress_bar(f"adopt {called}"):
            artifact = adopt_model(source, requests, chosen, path)
    say(f"adopted {artifact.name}: {', '.join(artifact.variants)} -> {path}")
    return artifact


def requests_of(artifact: Artifact) -> RequestSet:
    """The request set that an artefact was adopted with."""
    assert artifact.manifest.adopted is not None
    return open_request_set(dataset_path(artifact.manifest.adopted.requests.name))


def default_name(source: str) -> str:
    """The name of a model that nobody named: of its file without the ending, of its directory, or the last word."""
    path = Path(source)
    if path.exists():
        return path.resolve().stem if path.is_file() else path.resolve().name
    return re.split(r"[/:]", source.rstrip("/"))[-1]


def _prepared(name: str) -> Dataset:
    """The prepared data set of a name; UsageError where no data set has it, DataError where it is not prepared."""
    check_dataset(name)
    return open_dataset(dataset_path(name))


def _require_free(path: Path, source: str, force: bool) -> None:
    """Raises UsageError where an artefact of another model would be replaced, unless `force`."""
    require_replaceable(path)
    if force or not is_there(path):
        return
    try:
        adopted = open_artifact(path).manifest.adopted
    except ArtifactError:
        return
    if adopted is None or adopted.source not in (source, Path(source).name):
        made = "trained" if adopted is None else f"adopted from {adopted.source}"
        raise UsageError(
            f"{path.name} is there, {made}: it would be replaced",
            "--name takes another name; --force replaces it",
        )


@contextmanager
def _requests_of(table: Path, options: AdoptOptions, data: Dataset | None) -> Iterator[RequestSet]:
    """The request set of a table: one that is there with the same content, or a new one.

    A new one gets its place below data/ when all that is inside has been done, and takes that of a damaged one with the
    same content; where it fails nothing is left.
    """
    from rbserve.data.request_table import write_request_set

    usual = plain_name(f"{data.name}-{table.stem}" if data else table.stem, "--requests", "rename the file")
    with scratch(home() / "data", usual) as folder:
        with progress_bar(f"read {table.name}", bound="about") as progress:
            requests = write_request_set(table, folder / usual, options, usual, progress, data)
        known = _same_content(requests)
        if known is not None and known.is_whole:
            yield known
            return
        name = known.name if known else _free_name(usual, requests.fingerprint)
        yield bound_to(requests, requests.manifest.data_set, name)
        if known is not None:
            known.path.rename(folder / "damaged")
        requests.path.rename(dataset_path(name))


def _same_content(requests: RequestSet) -> RequestSet | None:
    """The request set below the home directory that has the same content, of the same data set."""
    for path in filter(is_request_set, prepared_datasets()):
        known = open_request_set(path)
        same = (known.fingerprint, known.manifest.data_set)
        if same == (requests.fingerprint, requests.manifest.data_set):
            return known
    return None


def _free_name(usual: str, fingerprint: str) -> str:
    """A name that no data set or source has: the usual one, else one with the beginning of the fingerprint."""
    marked = f"{usual}-{fingerprint[:6]}"
    names = chain([usual, marked], (f"{marked}-{number}" for number in count(2)))
    return next(name for name in names if not is_source(name) and not dataset_path(name).exists())
