"""A user's table of requests, read in two passes of bounded memory and written as a request set.

Two layouts are read. *One row a candidate*: the rows with one value of the group column are a request and stand
together; without a group column each row is a request of one candidate. *One row a request*: labels and features of
candidates are lists of one length. A table has this layout where its labels are lists, or where it has lists but
neither labels nor a group; the columns whose lists are as long as the labels (without labels: the most columns of
equal lengths) are of candidates, all others of the request.

Labels are whole numbers of at least 0. Whole numbers with gaps become float64, in which a number that is not there is
NaN; gaps are counted by column.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import DataError, UsageError
from rbserve.core.files import replacing_directory, require_replaceable, scratch
from rbserve.core.types import Progress, no_progress
from rbserve.data.columns import blocks, open_column
from rbserve.data.dataset import Dataset
from rbserve.data.dataset_export import LABEL, REQUEST, USER
from rbserve.data.dataset_rows import bind_test_rows
from rbserve.data.request_layout import RequestLayout, find_layout
from rbserve.data.request_rows import WITHOUT_CANDIDATES, RequestReader
from rbserve.data.request_set import RequestSet, is_request_set, open_request_set
from rbserve.data.request_set_writer import Labels, RequestSetWriter
from rbserve.data.table_files import RequestTable, open_table


def write_request_set(
    table: Path, folder: Path, options: AdoptOptions, name: str, progress: Progress = no_progress,
    dataset: Dataset | None = None,
) -> RequestSet:  # fmt: skip
    """Writes the requests of a table to `folder`, whole or not at all, and opens them.

    A request set that is there is replaced. With a data set, the rows must be its test rows of click prediction, as
    `data/dataset_export.py` writes them; columns that the options do not name have the names of the export.

    Raises UsageError for a folder that holds something else, an option that names no column or rows that are not those
    of the data set, and DataError for a table that cannot be read or does not make requests.
    """
    require_no_data_set(folder)
    with scratch(folder.parent, folder.name) as temporary:
        opened = open_table(table, temporary, progress)
        layout = find_layout(opened, exported_columns(opened, options) if dataset else options)
        with replacing_directory(folder) as partial:
            _write(layout, partial, name, progress, dataset)
    return open_request_set(folder)


def require_no_data_set(folder: Path) -> None:
    """UsageError where a request set written to `folder` would destroy something that is none."""
    require_replaceable(folder)
    if (folder / "manifest.json").is_file() and not is_request_set(folder):
        raise UsageError(
            f"{folder} has a prepared data set, which requests would replace",
            "--name gives them another name",
        )


def exported_columns(table: RequestTable, options: AdoptOptions) -> AdoptOptions:
    """The options with the names of an export for the label, the group and the user, where the table has them."""
    names = {"label": LABEL, "group": REQUEST, "user": USER}
    known = {role: name for role, name in names.items() if name in table.schema.names}
    changes: dict[str, Any] = {role: getattr(options, role) or name for role, name in known.items()}
    return replace(options, **changes)


def _write(
    layout: RequestLayout, folder: Path, name: str, progress: Progress, dataset: Dataset | None
) -> None:
    writer = RequestSetWriter(folder, layout.columns, has_labels=layout.label is not None)
    reader = RequestReader(layout, progress)
    try:
        for piece in reader.pieces():
            writer.append(piece)
    finally:
        writer.close()
    reader.require_groups_together(folder)
    if not writer.requests:
        raise DataError(f"{layout.table.source} has no request with candidates", "each needs at least one")
    if dataset:
        bind_test_rows(layout, folder, dataset)
    skipped = {**layout.table.skipped, **({WITHOUT_CANDIDATES: reader.empty} if reader.empty else {})}
    writer.seal(
        name=name, source=layout.table.source.name, labels=_labels(layout, folder), skipped=skipped,
        missing=layout.missing, notes=layout.notes, data_set=(dataset.name, dataset.fingerprint) if dataset else None,
    )  # fmt: skip


def _labels(layout: RequestLayout, folder: Path) -> Labels:
    """Whether all labels are 0 or 1, or some are higher grades; None without labels."""
    if layout.label is None:
        return None
    highest = max(float(block.max(initial=0)) for block in blocks(open_column(folder / "label.npy")))
    return "binary" if highest <= 1 else "graded"


def describe(requests: RequestSet) -> list[str]:
    """What was read of a table, in lines: requests, labels, columns, what was guessed and what was left out."""
    manifest = requests.manifest
    labels = {None: "no labels: latency only", "binary": "labels 0 and 1", "graded": "graded labels"}[
        manifest.labels
    ]
    lines = [f"{manifest.source}: {manifest.requests:,} requests of {_slate_sizes(requests)}, {labels}"]
    for scope, title in (("candidate", "of candidates"), ("request", "of requests")):
        columns = [
            f"{column} {record.dtype}{_shape(record.width)}"
            for column, record in manifest.columns.items() if record.scope == scope
        ]  # fmt: skip
        lines += [f"columns {title}: {', '.join(columns)}"] if columns else []
    lines += manifest.notes
    return lines + [f"left out: {count:,} {reason}" for reason, count in manifest.skipped.items()]


def _slate_sizes(requests: RequestSet) -> str:
    """How many candidates the requests have: "8 candidates", "1 to 40 candidates"."""
    sizes = np.diff(requests.offsets)
    fewest, most = int(sizes.min()), int(sizes.max())
    return (
        f"{fewest:,} candidate{'s'[: fewest != 1]}"
        if fewest == most
        else f"{fewest:,} to {most:,} candidates"
    )


def _shape(width: int | None) -> str:
    return "" if width is None else "[T]" if width == -1 else f"[{width}]"
