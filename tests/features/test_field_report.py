"""What is said of fields: shares, and how well each alone orders the labels, held against brute force."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rbserve.core.fields import FIRST, MISSING, UNSEEN, FieldSpec
from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.features.field_report import describe_fields, leak_warnings

rng = np.random.default_rng(5)
ROWS = 400
LABELS = rng.integers(0, 2, ROWS).astype(np.int8)


def dataset(spec: FieldSpec, values: Any, test: Any = None, users: Any = None) -> Dataset:
    """A data set of one context field."""

    def split(name: str) -> CtrSplit:
        column = values if name == "train" or test is None else test
        owners = np.arange(ROWS, dtype=np.int32) if users is None else users
        no_items = np.zeros(ROWS, np.int32)
        return CtrSplit(
            owners, no_items, LABELS, Ragged(no_items[:0], np.zeros(ROWS + 1, np.int64)), {spec.entry: column}
        )

    made = SimpleNamespace(manifest=SimpleNamespace(fields=[spec]), ctr=split)
    return cast(Dataset, made)


def test_shares_of_missing_and_unseen_values_are_those_of_their_splits(tmp_path: Path) -> None:
    spec = FieldSpec("page", "context", "category", size=FIRST + 2)
    train, test = np.full(ROWS, FIRST, np.int32), np.full(ROWS, FIRST, np.int32)
    train[:100], test[:40] = MISSING, UNSEEN
    (field,) = describe_fields(dataset(spec, train, test))
    assert (field.missing, field.unseen, field.values) == (0.25, 0.1, 2)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_number_orders_labels_in_either_direction_and_by_being_there(direction: int) -> None:
    spec = FieldSpec("paid", "context", "number")
    numbers = (direction * (10 * LABELS + rng.random(ROWS))).astype(np.float32)
    (field,) = describe_fields(dataset(spec, numbers))
    assert field.auc == 1.0
    assert "paid alone orders the labels" in leak_warnings([field])[0]
    there = np.where(LABELS == 1, rng.random(ROWS), np.nan).astype(np.float32)
    assert describe_fields(dataset(spec, there))[0].auc == 1.0
    (noise,) = describe_fields(dataset(spec, rng.random(ROWS).astype(np.float32)))
    assert noise.auc is not None
    assert noise.auc < 0.6
    assert leak_warnings([noise]) == []


@pytest.mark.parametrize("one_user", [False, True])
def test_a_category_is_judged_by_other_rows_than_those_that_it_is_learnt_of(one_user: bool) -> None:
    users = np.zeros(ROWS, np.int32) if one_user else None
    spec = FieldSpec("visit", "context", "category", size=FIRST + ROWS)
    (identifier,) = describe_fields(
        dataset(spec, np.arange(FIRST, FIRST + ROWS, dtype=np.int32), users=users)
    )
    assert identifier.auc == pytest.approx(0.5, abs=0.05)
    (copy,) = describe_fields(dataset(spec, FIRST + LABELS.astype(np.int32), users=users))
    assert copy.auc == 1.0


def test_several_categories_count_together() -> None:
    spec = FieldSpec("tags", "context", "multi", size=FIRST + 3, width=2)
    tags = np.stack([FIRST + 2 + 0 * LABELS, np.where(LABELS == 1, FIRST, MISSING)], axis=1).astype(np.int32)
    assert describe_fields(dataset(spec, tags))[0].auc == 1.0


def test_a_number_that_no_row_has_orders_nothing() -> None:
    spec = FieldSpec("price", "context", "number")
    (field,) = describe_fields(dataset(spec, np.full(ROWS, np.nan, np.float32)))
    assert (field.missing, field.auc) == (1.0, 0.5)


def test_a_data_set_without_fields_has_no_figures() -> None:
    assert describe_fields(cast(Dataset, SimpleNamespace(manifest=SimpleNamespace(fields=[])))) == []
