"""Data sets: prepared from raw files, listed, looked at again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rbserve.cluster import connected, run_jobs
from rbserve.core.errors import DataError, Interrupted, UsageError, needs_extra, unknown_name
from rbserve.core.files import require_replaceable
from rbserve.core.names import plain_name
from rbserve.core.tasks import PAPER_TASKS
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.data.judging import Judging, judging_of, prepare_command
from rbserve.data.request_set import RequestSet, is_request_set, open_request_set
from rbserve.home.paths import dataset_path, is_prepared, is_there, outdated_artifacts, prepared_datasets
from rbserve.home.target import names_directory
from rbserve.progress import progress_bar, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from rbserve.core.types import Progress
    from rbserve.data.dataset import Split
    from rbserve.data.dataset_export import Columns, TableFormat
    from rbserve.data.integrity_report import IntegrityReport
    from rbserve.train.datasets.options import Reading
    from rbserve.train.datasets.partitioned import Partitions


def prepare(
    name: str,
    raw: Path | None = None,
    *,
    called: str | None = None,
    protocol: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    vocabulary: Path | None = None,
    texts: Mapping[str, Any] | None = None,
    memory: int | None = None,
    partitions: int | None = None,
    address: str | None = None,
    **options: Any,
) -> Dataset:
    """Makes a data set anew from its raw files; `protocol`, `reading` and `texts` change the defaults of the source.

    With `partitions` its events are read and sorted by tasks of the Ray cluster at `address`, or of one that is started
    on this machine; each takes `memory`. UsageError for options that the source does not take, and where too many raw
    rows cannot be read.
    """
    with needs_extra("train", "preparing data"):
        from rbserve.train.datasets import sources
        from rbserve.train.datasets.options import Reading
        from rbserve.train.protocol.splitting import Texts
        from rbserve.train.protocol.title_words import read_vocabulary

        source = sources.find_source(name)
        read = Reading(**(reading or {}))
        chosen = sources.protocol_of(source, protocol, read)
        _check_features(name, read, source.own)
        path = _path_for(name, called, judging_of(name, dataclasses.asdict(chosen)))
        require_replaceable(path)
        words = read_vocabulary(vocabulary) if vocabulary else None
        limit = memory or sources.MEMORY
        if partitions is not None:
            sources.check_partitions(source, read)
        with (
            _unfinished(path),
            progress_bar(f"prepare {path.name}", "about") as progress,
            _partitions(partitions, address, limit) as parts,
        ):
            dataset = sources.prepare(
                name,
                path,
                raw,
                chosen,
                reading=read,
                texts=Texts(**{**(texts or {}), **({"vocabulary": words} if words else {})}),
                memory=limit,
                progress=progress,
                partitions=parts,
                **options,
            )
    say(f"prepared {path.name}: {describe_counts(dataset)} -> {dataset.path}")
    _tell_times(dataset)
    _tell_fields(dataset, read)
    _tell_left_behind(path.name, dataset)
    return dataset


@contextmanager
def _partitions(count: int | None, address: str | None, memory: int) -> Iterator[Partitions | None]:
    """The engine of partitions on a Ray cluster; None without a number of them."""
    from rbserve.train.datasets.partitioned import Partitions

    if count is None:
        yield None
        return
    with connected(address) as ray:
        yield Partitions(count, partial(run_jobs, ray, memory=memory))


def _path_for(source: str, called: str | None, judging: Judging) -> Path:
    """Where the data set of a source and a judging goes; UsageError for a name that another data set has a right to."""
    from rbserve.train.datasets.sources import SOURCES

    suffix = "" if SOURCES[source].log else judging.suffix  # time is all that can divide a log
    usual = f"{source}{suffix}"
    path = dataset_path(usual if called is None else plain_name(called, "--name", "for example --name shop"))
    known = SOURCES.get(path.name)
    if suffix and known:
        raise UsageError(
            f"{path.name} is the data set with the paper's judging: another one needs another name",
            f"without --name it is {usual}",
        )
    if known and SOURCES[source].own and not known.own:
        raise UsageError(
            f"{path.name} is the name of a source of rbserve's own", "for example --name shop: another name"
        )
    return path


def _check_features(name: str, reading: Reading, is_own: bool) -> None:
    """Raises UsageError for features that cannot be read, before anything is."""
    from rbserve.train.datasets.feature_options import own_fields

    if own_fields(reading).specs and not is_own:
        raise UsageError(
            f"{name} has no feature columns to name: those are of your own tables",
            "prepare csv, json or parquet with --item-feature, --user-feature, --context",
        )


def _tell_times(dataset: Dataset) -> None:
    """Prints a warning where the times that divide the rows seem to be none."""
    from rbserve.data.integrity import STARTS_TOGETHER, shared_start

    share = shared_start(dataset) if dataset.by_time and not dataset.is_log else None
    if share is not None and share > STARTS_TOGETHER:
        say(
            f"warning: {share:.0%} of the training users begin at one moment: the times of this source look like "
            "places in each user's own order, by which periods mean nothing; --split users divides the users"
        )


def _tell_fields(dataset: Dataset, reading: Reading) -> None:
    """Prints a line for each field of the data set, and a warning for each that tells the label."""
    from rbserve.features.field_report import describe_fields, leak_warnings

    fields = describe_fields(dataset)
    for spec, field in zip(dataset.manifest.fields, fields, strict=True):
        values = "a number" if field.values is None else f"{field.values:,} values"
        if field.hashed:
            values = f"{field.values:,} hashes, since it has more values than --most-values"
        if field.kind == "multi":
            between = f"with {spec.separator!r} between them" if spec.separator else "the words of a text"
            values += f", up to {field.width} a row, {between}"
        origin = ", the first one of each user" if field.scope == "user" and reading.users is None else ""
        say(f"  field {field.name} of the {field.scope}: {values}{origin}; {field.missing:.1%} missing")
    for line in leak_warnings(fields):
        say(line)


def _tell_left_behind(name: str, dataset: Dataset) -> None:
    """Names the artefacts that were made from earlier rows of the data set."""
    outdated = outdated_artifacts(name, dataset.fingerprint)
    if outdated:
        say(
            f"left behind, made from earlier data of {name}: {', '.join(outdated)}; "
            "they can be served as they are, and "
            f"rbserve train --model MODEL --dataset {name} makes them of the new data "
            "(--init MODEL: beginning with the weights that they have)"
        )


@contextmanager
def _unfinished(path: Path) -> Iterator[None]:
    """Turns Ctrl-C into Interrupted, which says whether an earlier data set is still there."""
    try:
        yield
    except KeyboardInterrupt:
        there = "the earlier data set is as it was" if path.is_dir() else "nothing was written"
        raise Interrupted(f"stopped; {there}") from None


def export_tables(name: str, folder: Path, form: TableFormat, with_counted: bool = False) -> list[Path]:
    """Writes the rows of a prepared data set as flat tables to `folder` and returns their paths.

    `with_counted` adds the counts of training rows as features, without the similarities of texts.
    """
    from rbserve.data.dataset_export import export_dataset, no_columns

    if not names_directory(name):
        check_dataset(name)
    dataset = open_dataset(Path(name) if names_directory(name) else dataset_path(name))
    if with_counted and dataset.is_log:
        raise UsageError(
            f"{dataset.name} has nothing to count: its rows are about one item", "without --counted"
        )
    with progress_bar(f"export {dataset.name}") as progress:
        columns = _counted_columns(dataset, progress) if with_counted else no_columns
        tables = export_dataset(dataset, folder, form, progress, columns)
    say(f"exported {dataset.name}: {', '.join(path.name for path in tables)} -> {folder}")
    return tables


def _counted_columns(dataset: Dataset, progress: Progress) -> Columns:
    """The counted features of rows by name, without those that need vectors of texts."""
    with needs_extra("train", "counting features"):
        from rbserve.train.counting import counted_features

    counted = counted_features(dataset, None, progress=progress)
    names = [spec.name for spec in counted.fields]

    def columns(split: Split, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return dict(zip(names, counted.features(split)[rows].T, strict=True))

    return columns


def describe_counts(dataset: Dataset) -> str:
    """A line with the numbers of items, rows and dropped raw rows of a data set."""
    counts = dataset.manifest.counts
    rows = ", ".join(
        f"{sum(split['rows'] for split in counts[task.name].values()):,} {task.row_name}"
        for task in PAPER_TASKS
    )
    dropped = sum(count for reason, count in dataset.manifest.dropped.items() if ":" not in reason)
    return f"{counts['items']:,} items; {rows}; {dropped:,} raw rows dropped"


def dataset_rows() -> list[dict[str, object]]:
    """The entries of `rbserve datasets`: every source and every prepared data set."""
    with needs_extra("train", "listing the sources"):
        from rbserve.train.datasets.sources import SOURCES

    rows: list[dict[str, object]] = [
        {
            "name": name,
            "prepared": is_prepared(name),
            "about": source.about,
            "needs": source.needs,
            "own": source.own,
        }
        for name, source in SOURCES.items()
    ]
    rows += [
        {
            "name": path.name,
            "prepared": True,
            "about": _about(path),
            "needs": "",
            "own": False,
        }
        for path in prepared_datasets()
        if path.name not in SOURCES
    ]
    return rows


def is_source(name: str) -> bool:
    """Whether a data set of this name is prepared from a known source, where the extra for that is there."""
    try:
        from rbserve.train.datasets.sources import SOURCES
    except ModuleNotFoundError:
        return False
    return name in SOURCES


def _about(path: Path) -> str:
    """What a data set or a request set is, for a listing; an unreadable one must not hide the others."""
    try:
        if is_request_set(path):
            return describe_requests(open_request_set(path))
        manifest = open_dataset(path).manifest
        judging = judging_of(manifest.source, manifest.options)
        return (
            f"from {judging.source}: {judging.title}"
            if judging.suffix
            else f"your own, from {judging.source}"
        )
    except DataError as error:
        return f"not readable: {error.message}"


def describe_requests(requests: RequestSet) -> str:
    """A line with the source, the size and the labels of a request set."""
    manifest = requests.manifest
    labels = f"{manifest.labels} labels" if manifest.labels else "no labels"
    return f"requests from {manifest.source}: {manifest.requests:,} of {manifest.rows:,} candidates, {labels}"


def find_requests(name: str) -> RequestSet | None:
    """The request set of a name, or at a directory; None where there is another data set or none."""
    path = Path(name) if names_directory(name) else dataset_path(name)
    return open_request_set(path) if is_request_set(path) else None


def inspect_dataset(name: str) -> IntegrityReport:
    """Checks the files of a prepared data set, which is named or given by its directory, independently of `prepare`."""
    from rbserve.data.integrity import inspect
    from rbserve.features.field_report import describe_fields

    path = Path(name) if names_directory(name) else dataset_path(name)
    if not names_directory(name):
        check_dataset(name)
    dataset = open_dataset(path)
    with needs_extra("train", "comparing with the paper"):
        from rbserve.train.datasets.sources import SOURCES

    source = SOURCES.get(dataset.manifest.source)
    with progress_bar(f"inspect {dataset.name}"):
        report = inspect(dataset, source.paper if source else None)
        return msgspec.structs.replace(report, fields=describe_fields(dataset))


def check_dataset(name: str) -> None:
    """Raises UsageError for a data set that is not prepared and has no source."""
    if is_prepared(name):
        return
    rows = dataset_rows()
    if name not in [row["name"] for row in rows]:
        known = [str(row["name"]) for row in rows if not row["own"]]
        error = unknown_name("data set", name, known)
        if made := prepare_command(name, known):
            raise UsageError(error.message, f"{made} makes it")
        if error.hint and error.hint.startswith("known"):
            error.hint += f"; rbserve prepare csv --name {name} makes one of your own tables"
        raise error


def rows_of(artifact: Artifact) -> Dataset | RequestSet:
    """What an artefact is judged on: the requests that it was adopted with, or its data set, prepared if missing."""
    if artifact.manifest.adopted:
        return open_request_set(dataset_path(artifact.manifest.adopted.requests.name))
    return ensure_dataset(artifact.manifest.dataset.name)


def ensure_rows(name: str) -> Dataset | RequestSet:
    """The request set of a name, or the data set, prepared if it is not there."""
    path = dataset_path(name)
    return open_request_set(path) if is_request_set(path) else ensure_dataset(name)


def open_rows(name: str) -> Dataset | RequestSet:
    """The request set or the data set of a name; DataError where neither is there."""
    path = dataset_path(name)
    return open_request_set(path) if is_request_set(path) else open_dataset(path)


def ensure_dataset(name: str) -> Dataset:
    """The data set, prepared if it is not there."""
    path = dataset_path(name)
    if is_there(path):
        return open_dataset(path)
    check_dataset(name)
    say(f"data set {name} is not prepared yet; preparing it")
    return prepare(name)
