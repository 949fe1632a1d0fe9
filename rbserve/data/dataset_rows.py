"""Requests that are the test rows of a prepared data set: checked row by row, and numbered as it numbers its users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.errors import UsageError
from rbserve.core.ids import id_text
from rbserve.data.columns import ColumnWriter, open_column
from rbserve.data.dataset import Dataset
from rbserve.data.dataset_export import ITEM, LABEL, USER
from rbserve.data.request_layout import RequestLayout
from rbserve.data.request_set import read_column

PIECE = 1 << 14  # rows


def bind_test_rows(layout: RequestLayout, folder: Path, dataset: Dataset) -> None:
    """Gives the closed columns of a request set in `folder` the users of the test rows of a data set.

    Raises UsageError, which names the first row that differs, unless there are as many rows as test rows of click
    prediction, in their order, with the same items, users and labels.
    """
    test, source = dataset.ctr("test"), layout.table.source
    hint = f"rbserve datasets export {dataset.name} writes them as a table; keep all rows of its test table, in order"
    rows = len(open_column(folder / "user.npy"))
    if rows != len(test):
        raise UsageError(f"{source} has {rows:,} rows, but {dataset.name} has {len(test):,} test rows", hint)
    for name in (layout.user or USER, ITEM):
        if name not in layout.columns:
            raise UsageError(
                f"{source} has no column {name}, by which test rows of {dataset.name} are known", hint
            )
    if layout.label is None:
        raise UsageError(f"{source} has no column {LABEL}: test rows of {dataset.name} have labels", hint)
    for begin in range(0, rows, PIECE):
        _check_rows(layout, folder, dataset, np.arange(begin, min(begin + PIECE, rows)), hint)
    users = ColumnWriter(folder / "user.npy", np.int32)
    users.append(test.users)
    users.close()


def _check_rows(
    layout: RequestLayout, folder: Path, dataset: Dataset, rows: NDArray[np.int64], hint: str
) -> None:
    test = dataset.ctr("test").take(rows)
    labels = open_column(folder / "label.npy")[rows].astype(np.int64)
    pairs = {
        "item": (_texts(layout, folder, ITEM, rows), dataset.items.names(test.candidates)),
        "user": (_texts(layout, folder, layout.user or USER, rows), _user_ids(dataset, test.users)),
        "label": ([*map(str, labels.tolist())], [*map(str, test.labels.tolist())]),
    }
    for kind, (values, expected) in pairs.items():
        for row, value, other in zip(rows.tolist(), values, expected, strict=True):
            if value not in (other, id_text(other)):
                raise UsageError(
                    f"{layout.table.source} has {kind} {value} in row {row + 1:,}, but test row {row + 1:,} of "
                    f"{dataset.name} has {other}",
                    hint,
                )


def _texts(layout: RequestLayout, folder: Path, name: str, rows: NDArray[np.int64]) -> list[str]:
    """The ids of a column for each candidate; a value of the request once for each of its candidates."""
    record = layout.columns[name]
    if record.scope == "request":
        rows = np.searchsorted(open_column(folder / "offsets.npy"), rows, side="right") - 1
    return [id_text(value) for value in read_column(record, folder.joinpath).take(rows).tolist()]


def _user_ids(dataset: Dataset, users: NDArray[np.int32]) -> list[str]:
    """The raw ids of users."""
    table = pq.read_table(dataset.file("users.parquet"), use_threads=False)
    places = np.searchsorted(table["user"].to_numpy(), users)
    ids: list[str] = table["user_id"].combine_chunks().take(places).to_pylist()
    return ids
