"""A Python function of the user's own, `module:factory`: its inputs are the columns of the request table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError
from rbserve.core.requests import SLATE, TEXT, Dimension, Signature, TensorSpec
from rbserve.data.request_set import ColumnRecord
from rbserve.exporters.adopt.converted import Converted
from rbserve.runtimes.python import load_function

FORMAT = "python"
SCORES = "scores"

Columns = Mapping[str, ColumnRecord]


def convert(source: Path | str, columns: Columns, options: AdoptOptions, folder: Path) -> Converted:  # noqa: ARG001
    """The signature of the function that `source`, `module:factory`, makes. Runs the user's code; writes no file.

    An input of `options.map` has its columns side by side; every other column but the label and the group is an input
    of its own. Raises UsageError for a table without a column of candidates, and where the user's code cannot be
    imported.
    """
    name = str(source)
    load_function(name)
    columns = {
        column: record for column, record in columns.items() if column not in (options.label, options.group)
    }
    mapped = options.columns_of
    inside = {column for names in mapped.values() for column in names}
    inputs = [_mapped_input(tensor, names, columns) for tensor, names in mapped.items()]
    inputs += [_own_input(column, record) for column, record in _others(columns, inside)]
    left_out = [
        column for column, record in columns.items() if column not in inside and not _is_tensor(record)
    ]
    if not any(spec.per_candidate for spec in inputs):
        raise UsageError(
            f"{name} would see no candidates: every column has one value for the whole request",
            "a request table with a row a candidate and --group, or with lists of candidates' values",
        )
    outputs = [TensorSpec(SCORES, "float32", [SLATE])]
    guessed = [f"{column}: left out, its lists have different lengths" for column in left_out]
    return Converted("callable", FORMAT, Signature(inputs, outputs, SCORES), guessed, callable=name)


def _others(columns: Columns, inside: set[str]) -> Iterator[tuple[str, ColumnRecord]]:
    """The columns that no input of the map has, and that can be a tensor."""
    return (
        (column, record) for column, record in columns.items() if column not in inside and _is_tensor(record)
    )


def _is_tensor(record: ColumnRecord) -> bool:
    """Whether a request's values of a column are an array, unlike texts' lists and candidates' lists of any length."""
    if record.dtype == TEXT:
        return record.width is None
    return record.width != -1 or record.scope == "request"


def _own_input(column: str, record: ColumnRecord) -> TensorSpec:
    """The input that is one column: [N] or [N, w] of candidates, [], [w] or of a length of its own of a request."""
    dims: list[Dimension] = [SLATE] if record.scope == "candidate" else []
    if record.width is not None:
        dims.append(f"T_{column}" if record.width == -1 else record.width)
    return TensorSpec(column, record.dtype, dims, [column])


def _mapped_input(tensor: str, names: list[str], columns: Columns) -> TensorSpec:
    """The input that has several columns side by side: [N, w], or [w] where all are of the whole request."""
    records = []
    for column in names:
        if column not in columns:
            raise UsageError(f"--map {tensor}={','.join(names)}: the table has no column {column}",
                             f"its columns: {', '.join(columns)}")  # fmt: skip
        records.append(columns[column])
    if len(names) == 1 and _is_tensor(records[0]):
        own = _own_input(names[0], records[0])
        return TensorSpec(tensor, own.dtype, own.dims, names)
    if any(record.dtype == TEXT or record.width == -1 for record in records):
        raise UsageError(
            f"--map {tensor}={','.join(names)}: texts and lists of different lengths cannot stand side by side"
        )
    width = sum(record.width or 1 for record in records)
    dims: list[Dimension] = (
        [SLATE, width] if any(record.scope == "candidate" for record in records) else [width]
    )
    return TensorSpec(tensor, str(np.result_type(*(record.dtype for record in records))), dims, names)
