"""Item tables as memory-mapped columns: the same answers as Python's own table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from entry_point import rbserve
from small import train_small

from rbserve.core.errors import ArtifactError
from rbserve.data import mapped_items
from rbserve.data.artifact import open_artifact
from rbserve.data.dataset import Dataset, ItemTable
from rbserve.data.mapped_items import (
    MEMBERS,
    MappedItemTable,
    item_members,
    open_mapped_items,
    write_mapped_items,
)
from rbserve.pipeline.catalogue import retire_items


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of any size are mapped."""
    monkeypatch.setattr(mapped_items, "MANY", 1)


def written(folder: Path, items: ItemTable) -> MappedItemTable:
    write_mapped_items(folder, items)
    return open_mapped_items(folder)


def test_ids_and_texts_are_those_of_the_table(tmp_path: Path) -> None:
    ids = [*(f"item-{row * 7919 % 10_007}" for row in range(5000)), "é", "商品", "a b", "7"]
    items = ItemTable(ids, [f"text {item}" if len(item) > 6 else "" for item in ids], frozenset({3, 11}))
    mapped = written(tmp_path, items)
    assert (len(mapped), mapped.retired) == (len(items), items.retired)
    assert [*mapped.ids] == ids
    assert [*mapped.texts] == [*items.texts]
    assert mapped.ids[-2:] == ["a b", "7"]
    assert [mapped.index[item] for item in ids] == [*range(len(ids))]
    assert mapped.names(np.array([5002, 0], np.int32)) == ["a b", ids[0]]
    with pytest.raises(IndexError):
        mapped.ids[len(ids)]


def test_unknown_ids_and_numbers_are_found_as_in_any_table(tmp_path: Path) -> None:
    items = ItemTable(["1", "2", "x"], ["", "", ""])
    mapped = written(tmp_path, items)
    for table in (items, mapped):
        assert table.lookup(["x", 2]).tolist() == [2, 1]
        assert table.find("nobody") is None
        with pytest.raises(KeyError) as raised:
            table.lookup(["1", "nobody", 3])
        assert raised.value.args[0] == ["nobody", 3]


def test_small_tables_and_ids_of_old_are_not_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert item_members(ItemTable(["1"], [""])) == []
    monkeypatch.setattr(mapped_items, "MANY", 1)
    assert item_members(ItemTable(["1"], [""])) == MEMBERS
    assert item_members(ItemTable(["1.0"], [""])) == []  # version 0.1 wrote it so; now it is "1"


@pytest.mark.usefixtures("mapped")
def test_an_artefact_of_many_items_is_read_from_its_columns(planted: Dataset, tmp_path: Path) -> None:
    artifact = train_small("dnn", planted, tmp_path / "dnn", epochs=1)
    assert isinstance(artifact.items, MappedItemTable)
    assert [*artifact.items.ids] == [*planted.items.ids]
    (artifact.path / "items.parquet").write_bytes(b"is not read")
    assert len(open_artifact(artifact.path).items) == len(planted.items)
    (artifact.path / MEMBERS[0]).write_bytes(b"spoilt")
    with pytest.raises(ArtifactError, match=rf"is damaged: .*{MEMBERS[0]} has 6 bytes"):
        _ = open_artifact(artifact.path).items


@pytest.mark.usefixtures("mapped")
def test_retired_items_are_in_the_columns_too(planted: Dataset, tmp_path: Path) -> None:
    artifact = train_small("dnn", planted, tmp_path / "dnn", epochs=1)
    retire_items(artifact, artifact.items.ids[2:4])
    assert open_artifact(artifact.path).items.retired == {2, 3}


def test_an_export_maps_the_table_and_is_the_same_model(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = train_small("dnn", planted, tmp_path / "artifacts/planted/dnn", epochs=1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/planted").symlink_to(planted.path)
    monkeypatch.setattr(mapped_items, "MANY", 1)
    rbserve("export", "--model", str(before.path), "--precision", "fp32", home=tmp_path)
    after = open_artifact(before.path)
    assert isinstance(after.items, MappedItemTable)
    assert after.model_digest == before.model_digest
    assert not [*tmp_path.glob("artifacts/planted/dnn/items/items")]
