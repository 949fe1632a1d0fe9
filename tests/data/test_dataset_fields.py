"""The fields of a data set on disk: written, read back row by row, and part of the fingerprint."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.fields import FIRST, FieldSpec
from rbserve.data.columns import Ragged
from rbserve.data.dataset import SPLITS, CtrSplit, Dataset, open_dataset
from rbserve.data.dataset_writer import DatasetWriter

PRICE = FieldSpec("price", "item", "number")
TAGS = FieldSpec("tags", "item", "multi", size=FIRST + 2, width=2)
COUNTRY = FieldSpec("country", "user", "category", size=FIRST + 2)
HOUR = FieldSpec("hour", "context", "number")
SPECS = [PRICE, TAGS, COUNTRY, HOUR]
NO_ITEMS = np.empty(0, np.int32)


def write(
    folder: Path, specs: list[FieldSpec], hour: float = 4.0, tags: tuple[str, ...] = ("a", "b")
) -> Dataset:
    """A data set of two users, 3 and 7, with three rows in each split, and three items."""
    writer = DatasetWriter(folder)
    users, items = np.array([3, 7, 7], np.int32), np.array([0, 1, 2], np.int32)
    for split in SPLITS:
        rows = CtrSplit(users, items, np.array([1, 0, 1], np.int8), Ragged(NO_ITEMS, np.zeros(4, np.int64)))
        writer.add_ctr(split, rows, np.arange(3), np.zeros(3, np.int64))
    writer.close()
    writer.add_items([(["x", "y", "z"], ["text"] * 3)])
    writer.add_users(np.array([3, 7], np.int32), [["u3", "u7"]])
    writer.add_tokens([], np.empty(0, np.int64), Ragged(NO_ITEMS, np.zeros(4, np.int64)), 64)
    columns: dict[str, NDArray[Any]] = {
        "price": np.array([1, np.nan, 3]), "tags": np.array([[2, 3], [0, 0], [3, 0]]), "country": np.array([2, 3]),
        "hour": np.array([hour, 5, np.nan]),
    }  # fmt: skip
    values = {"tags": tags, "country": ("DE", "FR")}
    for spec in specs:
        writer.add_field(spec, values.get(spec.name, ()))
        for split in SPLITS if spec.scope == "context" else (None,):
            with closing(writer.field_writer(spec, split)) as column:
                column.append(columns[spec.name])
    writer.seal(name="d", source="made", seed=0, options={}, counts={}, dropped={}, repaired={})
    return open_dataset(folder)


def test_fields_read_back_by_item_and_by_row(tmp_path: Path) -> None:
    dataset = write(tmp_path, SPECS)
    assert dataset.manifest.fields == SPECS
    np.testing.assert_array_equal(dataset.item_field(PRICE), np.array([1, np.nan, 3], np.float32))
    assert dataset.item_field(TAGS).tolist() == [[2, 3], [0, 0], [3, 0]]
    assert (dataset.field_values(TAGS), dataset.field_values(PRICE)) == (["a", "b"], [])
    extras = dataset.ctr("test").extras
    assert set(extras) == {"user.country", "context.hour"}
    assert extras["user.country"].tolist() == [2, 3, 3]  # of users 3, 7, 7
    np.testing.assert_array_equal(extras["context.hour"], np.array([4, 5, np.nan], np.float32))


def test_each_value_vocabulary_and_kind_of_a_field_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    made = {
        "same": write(tmp_path / "a", SPECS), "again": write(tmp_path / "b", SPECS),
        "value": write(tmp_path / "c", SPECS, hour=4.5), "vocabulary": write(tmp_path / "d", SPECS, tags=("a", "c")),
        "fewer": write(tmp_path / "e", SPECS[:2]), "none": write(tmp_path / "f", []),
        "kind": write(tmp_path / "g", [FieldSpec("price", "item", "number", width=2), *SPECS[1:]]),
    }  # fmt: skip
    fingerprints = {name: dataset.fingerprint for name, dataset in made.items()}
    assert fingerprints.pop("again") == fingerprints["same"]
    assert len({*fingerprints.values()}) == len(fingerprints)
    assert b"fields" not in (tmp_path / "f" / "manifest.json").read_bytes()
