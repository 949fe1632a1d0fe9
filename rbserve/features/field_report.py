"""What the fields of a data set hold: sizes, missing and unseen values, and how well each one alone orders the labels.

A field that orders labels nearly perfectly is most likely known only after the click, and is told as a leak.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.fields import MISSING, UNSEEN, FieldSpec
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.data.integrity_report import LEAK, FieldFigures
from rbserve.stats.pairwise import auc

ROWS = 200_000
"""Rows of a split that are looked at, evenly spaced over the split."""


def describe_fields(dataset: Dataset) -> list[FieldFigures]:
    """The figures of each field of the user's own tables, in their order; none of a data set without fields."""
    if not dataset.manifest.fields:
        return []
    train, test = (_some_rows(dataset.ctr(split)) for split in ("train", "test"))
    return [_figures(dataset, spec, train, test) for spec in dataset.manifest.fields]


def leak_warnings(fields: list[FieldFigures]) -> list[str]:
    """A line for each field that orders the labels of the training rows nearly perfectly."""
    return [
        f"warning: {field.name} alone orders the labels of the training rows with AUC {field.auc:.3f}: a value that is "
        "known only after the click is a leak, and a model that reads it fails when it is served"
        for field in fields
        if field.auc is not None and field.auc > LEAK
    ]


def _some_rows(rows: CtrSplit) -> CtrSplit:
    return rows if len(rows) <= ROWS else rows.take(np.linspace(0, len(rows) - 1, ROWS, dtype=np.int64))


def _figures(dataset: Dataset, spec: FieldSpec, train: CtrSplit, test: CtrSplit) -> FieldFigures:
    values, of_test = (_values(dataset, spec, rows) for rows in (train, test))
    unseen = None if not spec.has_values else float((of_test == UNSEEN).any(axis=1).mean())
    return FieldFigures(
        name=spec.name, scope=spec.scope, kind=spec.kind, values=spec.size - 2 if spec.size else None,
        width=spec.width, hashed=spec.hashed, missing=float(_is_missing(spec, values).mean()), unseen=unseen,
        auc=_auc_alone(spec, values, train),
    )  # fmt: skip


def _values(dataset: Dataset, spec: FieldSpec, rows: CtrSplit) -> NDArray[Any]:
    """A field's value of each of R rows: [R, width]."""
    column = dataset.item_field(spec)[rows.candidates] if spec.scope == "item" else rows.extras[spec.entry]
    return np.asarray(column).reshape(len(rows), -1)


def _is_missing(spec: FieldSpec, values: NDArray[Any]) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = np.isnan(values[:, 0]) if spec.is_number else values[:, 0] == MISSING
    return missing


def _auc_alone(spec: FieldSpec, values: NDArray[Any], rows: CtrSplit) -> float | None:
    """The AUC of the field alone, 0.5 or more; None where the rows have one label.

    A number orders rows by its size, in either direction, or by whether it is there. A category does by the mean label
    that it has among the other half of the users, so that a value of a single user says nothing.
    """
    labels = np.asarray(rows.labels)
    if spec.is_number:
        missing = _is_missing(spec, values)
        numbers = np.where(missing, np.nanmin(values[:, 0], initial=0.0) - 1, values[:, 0])
        areas = [auc(labels, scores) for scores in (numbers, missing.astype(float))]
        alone = max(max(area, 1 - area) for area in areas)
    else:
        alone = auc(labels, _rates(spec, values, rows))
        alone = max(alone, 1 - alone)
    return None if np.isnan(alone) else alone


def _rates(spec: FieldSpec, values: NDArray[np.int32], rows: CtrSplit) -> NDArray[np.float64]:
    """The mean label of each row's categories among the users of the other half, float64[R]."""
    labels = np.asarray(rows.labels, float)
    users = np.unique(rows.users, return_inverse=True)[1]
    half = (
        users if users.any() else np.arange(len(rows))
    ) % 2  # of rows, where there are no users to tell apart
    there = (values != MISSING) | (np.arange(spec.width) == 0)  # a row without any has the category MISSING
    rates = np.empty(values.shape)
    for number in (0, 1):
        other_half = there & (half != number)[:, None]
        codes, rows_of_codes = values[other_half], np.nonzero(other_half)[0]
        liked = np.bincount(codes, labels[rows_of_codes], minlength=spec.size) + labels.mean()
        rates[half == number] = (liked / (np.bincount(codes, minlength=spec.size) + 1))[
            values[half == number]
        ]
    means: NDArray[np.float64] = (rates * there).sum(axis=1) / there.sum(axis=1)
    return means
