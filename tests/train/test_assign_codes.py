"""Every item a path of its own: the rule against brute force, and its promises for any vectors."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.core.errors import DataError
from rbserve.train.semantic_ids.assign_codes import distinct_paths, nearest_paths, prefixes, shared_paths


def _drawn(seed: int, items: int, levels: int, codes: int, kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents of which at most `kinds` are different, and codebooks that get finer."""
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(kinds, 3))[rng.integers(kinds, size=items)]
    books = rng.normal(size=(levels, codes, 3)) / 2.0 ** np.arange(levels)[:, None, None]
    return latents.astype(np.float32), books.astype(np.float32)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 5), st.data())
def test_paths_are_distinct_for_any_vectors_however_alike(
    seed: int, levels: int, codes: int, data: st.DataObject
) -> None:
    items = data.draw(st.integers(1, min(codes**levels, 200)))
    kinds = data.draw(st.integers(1, items))
    latents, books = _drawn(seed, items, levels, codes, kinds)
    paths = distinct_paths(latents, books)
    assert paths.shape == (items, levels)
    assert paths.min() >= 0
    assert paths.max() < codes
    assert len(np.unique(paths, axis=0)) == items
    assert np.array_equal(paths, distinct_paths(latents, books))


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_an_item_whose_nearest_prefix_is_not_crowded_keeps_its_nearest_path(seed: int, kinds: int) -> None:
    latents, books = _drawn(seed, 60, 3, 8, kinds)
    nearest, distinct = nearest_paths(latents, books), distinct_paths(latents, books)
    group = prefixes(nearest)[:, 1]
    whole = prefixes(nearest)[:, 2]
    crowded = {group[item] for item in range(60) if (whole == whole[item]).sum() > 1}
    too_many = np.bincount(group).max() > 8
    for item in range(60):
        if group[item] not in crowded and not too_many:
            assert np.array_equal(nearest[item], distinct[item])


def test_nearest_paths_are_those_of_a_plain_loop() -> None:
    latents, books = _drawn(1, 40, 4, 6, 40)
    for latent, path in zip(latents.astype(float), nearest_paths(latents, books), strict=True):
        for book, code in zip(books.astype(float), path, strict=True):
            assert code == np.argmin([((latent - entry) ** 2).sum() for entry in book])
            latent = latent - book[code]


def test_the_last_level_is_shared_out_at_the_least_total_distance() -> None:
    latents, books = _drawn(7, 4, 1, 5, 4)
    latents = latents * np.float32(0.01)  # all near one code
    costs = ((latents[:, None].astype(float) - books[0]) ** 2).sum(axis=2)
    least = min(costs[range(4), codes].sum() for codes in permutations(range(5), 4))
    assert shared_paths(nearest_paths(latents, books)) > 1
    assert costs[range(4), distinct_paths(latents, books)[:, 0]].sum() == pytest.approx(least)


def test_the_farthest_of_too_many_go_to_the_next_nearest_code_with_room() -> None:
    books = np.array([[[0.0], [10.0], [30.0]], [[0.0], [1.0], [2.0]]], np.float32)
    latents = np.array([[3], [0], [4], [1], [2], [10], [10], [10]], np.float32)  # five near 0, and 10 is full
    paths = distinct_paths(latents, books)
    # The code at 0 has room for three: 0, 1, 2 stay; 3 and 4 find the code at 10 full and go to 30.
    assert paths[:, 0].tolist() == [2, 0, 2, 0, 0, 1, 1, 1]
    assert sorted(paths[[1, 3, 4], 1].tolist()) == [0, 1, 2]
    assert paths[[1, 3, 4], 1].tolist() == [0, 1, 2]


def test_as_many_equal_items_as_there_are_paths_take_them_all_and_one_more_is_an_error() -> None:
    books = np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)
    paths = distinct_paths(np.zeros((64, 2), np.float32), books)
    assert len(np.unique(paths, axis=0)) == 64
    with pytest.raises(DataError, match="3 levels of 4 codes are 64 paths, too few for 65 items") as caught:
        distinct_paths(np.zeros((65, 2), np.float32), books)
    assert caught.value.hint is not None
    assert "--levels" in caught.value.hint


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 4))
def test_prefixes_have_equal_numbers_where_their_codes_are_equal(seed: int, items: int, levels: int) -> None:
    paths = np.random.default_rng(seed).integers(3, size=(items, levels)).astype(np.int32)
    numbers = prefixes(paths)
    for length in range(1, levels + 1):
        column = numbers[:, length - 1]
        equal = (paths[:, None, :length] == paths[None, :, :length]).all(axis=2)
        assert np.array_equal(column[:, None] == column[None], equal)
        assert set(column) == set(range(len(set(column))))
    rows = [tuple(row) for row in paths.tolist()]
    assert shared_paths(paths) == sum(rows.count(row) > 1 for row in rows)
