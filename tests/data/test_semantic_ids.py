"""Identifiers on disk: what is written is read, what is damaged or of other items is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbserve.core.errors import DataError, UsageError
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.data.semantic_ids import (
    FILES,
    SemanticIds,
    SidReport,
    check_made_with,
    check_same_items,
    copy_semantic_ids,
    find_semantic_ids,
    open_semantic_ids,
    sids_path,
    write_semantic_ids,
)
from rbserve.models.rqvae_config import RqVaeConfig

REPORT = SidReport(levels=[], collision_rate=0.1, moved=3, moved_earlier=0, epochs=2, best_epoch=1)
ITEMS = 82


def _codes(seed: int, levels: int = 3, codes: int = 6) -> np.ndarray:
    """A random path for each of ITEMS items, no two the same."""
    numbers = np.random.default_rng(seed).permutation(codes**levels)[:ITEMS]
    return np.stack(np.unravel_index(numbers, (codes,) * levels), axis=1).astype(np.int32)


def _write(path: Path, dataset: Dataset, seed: int = 0) -> SemanticIds:
    return write_semantic_ids(path, dataset, _codes(seed), {"levels": 3, "codes": 6}, {"seed": seed}, REPORT)


@given(st.integers(0, 10**6))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_again(planted: Dataset, tmp_path: Path, seed: int) -> None:
    items = len(planted.items)
    _write(tmp_path / "s", planted, seed)
    sids = open_semantic_ids(tmp_path / "s")
    assert np.array_equal(sids.codes, _codes(seed))
    assert sids.codes.dtype == np.int32
    assert (len(sids), sids.levels, sids.vocabulary) == (items, 3, 6)
    assert np.array_equal(sids.trie.find(sids.codes), np.arange(items))
    assert sids.manifest.report == REPORT
    assert sids.manifest.fingerprint == planted.fingerprint
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == sorted(FILES)


def test_the_same_identifiers_are_the_same_bytes(planted: Dataset, tmp_path: Path) -> None:
    _write(tmp_path / "one", planted)
    _write(tmp_path / "two", planted)
    assert all(
        (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in FILES
    )


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_refused(planted: Dataset, tmp_path: Path, name: str, damage: str) -> None:
    _write(tmp_path / "s", planted)
    file = tmp_path / "s" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    if damage != "remove":
        file.write_bytes(content if damage == "flip" else content[:-4])
    with pytest.raises(DataError, match="damaged") as caught:
        open_semantic_ids(tmp_path / "s")
    assert caught.value.hint is not None
    assert "--rebuild" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not a manifest"), (b'{"schema": 9}', "has schema 9"), (b'{"schema": 1}', "not a manifest")],
)
def test_a_manifest_that_cannot_be_read_is_refused(
    planted: Dataset, tmp_path: Path, content: bytes, message: str
) -> None:
    _write(tmp_path / "s", planted)
    (tmp_path / "s" / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_semantic_ids(tmp_path / "s")


def test_where_there_are_none_the_error_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no semantic identifiers at") as caught:
        open_semantic_ids(tmp_path / "nowhere")
    assert caught.value.hint == "rbserve sids makes them"


def test_paths_that_are_not_distinct_leave_what_was_there(planted: Dataset, tmp_path: Path) -> None:
    before = _write(tmp_path / "s", planted)
    codes = _codes(1)
    codes[1] = codes[0]
    with pytest.raises(DataError, match="items 0 and 1 have one path"):
        write_semantic_ids(tmp_path / "s", planted, codes, {"codes": 6}, {}, REPORT)
    assert np.array_equal(open_semantic_ids(tmp_path / "s").codes, before.codes)
    with pytest.raises(ValueError, match="81 paths for 82 items"):
        write_semantic_ids(tmp_path / "s", planted, codes[1:], {"codes": 6}, {}, REPORT)


def test_other_items_are_refused_with_both_fingerprints(planted: Dataset, tmp_path: Path) -> None:
    sids = _write(tmp_path / "s", planted)
    check_same_items(sids, planted)
    other = Dataset(planted.path, msgspec.structs.replace(planted.manifest, fingerprint="0123456789abcdef"))
    with pytest.raises(UsageError) as caught:
        check_same_items(sids, other)
    assert planted.fingerprint[:12] in caught.value.message
    assert "0123456789ab" in caught.value.message


def test_adding_identifiers_changes_nothing_of_the_data_set(planted: Dataset, tmp_path: Path) -> None:
    from rbserve.data.integrity import inspect

    shutil.copytree(planted.path, tmp_path / "data")
    dataset = open_dataset(tmp_path / "data")
    manifest = (dataset.path / "manifest.json").read_bytes()
    _write(sids_path(dataset, RqVaeConfig()), dataset)
    two = _write(sids_path(dataset, RqVaeConfig(), 2), dataset, seed=2)
    assert (dataset.path / "manifest.json").read_bytes() == manifest
    assert inspect(open_dataset(dataset.path), None).ok
    assert find_semantic_ids(dataset, RqVaeConfig(), 2) is not None
    assert two.path.parent == dataset.path / "sids"
    assert find_semantic_ids(dataset, RqVaeConfig(), 3) is None


def test_an_artefacts_copy_is_read_like_the_original(planted: Dataset, tmp_path: Path) -> None:
    sids = _write(tmp_path / "s", planted)
    artefact = tmp_path / "artefact"
    artefact.mkdir()
    names = copy_semantic_ids(sids, artefact)
    assert names == [f"sids/{name}" for name in FILES]
    shutil.rmtree(tmp_path / "s")
    copy = open_semantic_ids(artefact / "sids")
    assert np.array_equal(copy.codes, sids.codes)
    assert json.loads((artefact / names[0]).read_text())["fingerprint"] == planted.fingerprint


def test_neighbours_share_exactly_so_many_codes(planted: Dataset, tmp_path: Path) -> None:
    sids = _write(tmp_path / "s", planted)
    for length in range(4):
        expected = [
            other
            for other, path in enumerate(sids.codes.tolist())
            if path[:length] == sids.codes[7, :length].tolist()
            and (length == 3 or path[length] != sids.codes[7, length])
        ]
        assert sids.sharing(7, length).tolist() == expected
    assert sids.sharing(7, 3).tolist() == [7]


def test_other_options_than_those_that_were_used_are_an_error(planted: Dataset, tmp_path: Path) -> None:
    sids = _write(tmp_path / "s", planted)
    check_made_with(sids, {"levels": 3, "seed": 0})
    check_made_with(sids, {})
    with pytest.raises(UsageError, match="made with codes 6, not 7"):
        check_made_with(sids, {"codes": 7})


def test_an_encoders_directory_or_hub_id_is_one_folder(planted: Dataset) -> None:
    for encoder in ("org/model", "/org/model/"):
        path = sids_path(planted, RqVaeConfig(encoder=encoder))
        assert path == planted.path / "sids" / "org--model.mean.4x256.2024"
