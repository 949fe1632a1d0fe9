"""The trie against a tree of dicts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.data.trie import Trie, build_trie

Codes = NDArray[np.int32]


@st.composite
def distinct_paths(draw: st.DrawFn) -> Codes:
    levels, codes = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    path = st.tuples(*[st.integers(0, codes - 1)] * levels)
    return np.array(draw(st.lists(path, min_size=1, max_size=30, unique=True)), np.int32)


def tree_of_dicts(paths: Codes) -> dict[int, Any]:
    tree: dict[int, Any] = {}
    for item, path in enumerate(paths.tolist()):
        node = tree
        for code in path[:-1]:
            node = node.setdefault(code, {})
        node[path[-1]] = item
    return tree


def as_dicts(trie: Trie, node: int = 0) -> dict[int, Any] | int:
    """The subtree of a node, read off the arrays alone."""
    begin, end = trie.first_child[node : node + 2].tolist()
    if begin == end:
        return int(trie.item[node])
    return {int(trie.code[child]): as_dicts(trie, child) for child in range(begin, end)}


@given(distinct_paths())
def test_the_trie_is_the_tree_of_dicts(paths: Codes) -> None:
    trie = build_trie(paths)
    assert as_dicts(trie) == tree_of_dicts(paths)
    assert trie.levels == paths.shape[1]
    assert len(trie) == len(trie.code) == len(trie.item) == len(trie.leaves) == len(trie.first_child) - 1


@given(distinct_paths())
def test_children_are_consecutive_in_the_order_of_their_codes(paths: Codes) -> None:
    trie = build_trie(paths)
    assert trie.code[0] == -1
    assert trie.first_child[0] == 1
    assert trie.first_child[-1] == len(trie)
    for begin, end in pairwise(trie.first_child.tolist()):
        assert (np.diff(trie.code[begin:end]) > 0).all()


@given(distinct_paths())
def test_leaves_counts_the_items_below_a_node(paths: Codes) -> None:
    trie = build_trie(paths)

    def count(node: int) -> int:
        children = range(*trie.first_child[node : node + 2].tolist())
        return sum(map(count, children)) if children else 1

    assert trie.leaves.tolist() == [count(node) for node in range(len(trie))]


@given(distinct_paths())
def test_every_item_is_found_by_its_path(paths: Codes) -> None:
    trie = build_trie(paths)
    assert trie.find(paths).tolist() == list(range(len(paths)))
    assert trie.find(paths).dtype == np.int32
    assert trie.top_code == paths.max()


@given(distinct_paths(), st.data())
def test_a_path_that_is_no_item_is_not_found(paths: Codes, data: st.DataObject) -> None:
    trie = build_trie(paths)
    codes = st.integers(-7, 7)  # below and above the codes there are
    wanted = data.draw(st.lists(st.tuples(*[codes] * trie.levels), min_size=1, max_size=20))
    items = {tuple(path): item for item, path in enumerate(paths.tolist())}
    assert trie.find(np.array(wanted)).tolist() == [items.get(path, -1) for path in wanted]


@given(distinct_paths(), st.data())
def test_a_child_is_the_one_between_its_parents_row_pointers(paths: Codes, data: st.DataObject) -> None:
    trie = build_trie(paths)
    node, code = data.draw(st.integers(-1, len(trie) - 1)), data.draw(st.integers(-3, 7))
    children = range(*trie.first_child[node : node + 2].tolist()) if node >= 0 else range(0)
    expected = [child for child in children if trie.code[child] == code] or [-1]
    assert trie.child(np.array([[node]]), np.array([[code]])).tolist() == [expected]


@given(distinct_paths(), st.randoms(use_true_random=False))
def test_the_order_of_items_changes_only_their_numbers(paths: Codes, random: Any) -> None:
    order = np.array(random.sample(range(len(paths)), len(paths)))
    trie, shuffled = build_trie(paths), build_trie(paths[order])
    assert np.array_equal(trie.first_child, shuffled.first_child)
    assert np.array_equal(trie.code, shuffled.code)
    leaves = trie.item >= 0
    assert np.array_equal(trie.item[leaves], order[shuffled.item[leaves]])


def test_two_items_of_one_path_are_an_error_that_names_them() -> None:
    with pytest.raises(DataError, match=r"items 1 and 3 have one path, \[4, 2\]") as caught:
        build_trie(np.array([[4, 1], [4, 2], [0, 2], [4, 2]], np.int32))
    assert caught.value.hint


def test_a_negative_code_is_an_error_that_names_its_item() -> None:
    with pytest.raises(DataError, match=r"item 1 has a negative code: \[3, -1\]"):
        build_trie(np.array([[0, 1], [3, -1]], np.int32))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
def test_no_paths_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="are no paths"):
        build_trie(np.zeros(shape, np.int32))
