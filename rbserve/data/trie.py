"""The tree of all semantic identifiers: which code may follow which, and which item a whole path names.

An item's semantic identifier is a path of L codes (RecBench, section 3.2). The nodes of the tree are numbered
breadth first, children in the order of their codes, so that the children of a node are consecutive and the
whole tree is three arrays without pointers: the row pointers of a CSR matrix whose column array is 0, 1, 2, …

Nodes of one level are in the lexicographic order of their paths; the leaves are the last nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.types import Items

Nodes = NDArray[np.int32]
Codes = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Trie:
    """Paths of `levels` codes; node 0 is the root, every leaf is `levels` below it."""

    first_child: NDArray[np.int32]
    """int32[nodes + 1]: the children of node i are nodes first_child[i] to first_child[i + 1] - 1."""
    code: Codes
    """int32[nodes]: the code that leads to the node from its parent; -1 for the root."""
    item: Items
    """int32[nodes]: the item of a leaf; -1 for any other node."""
    leaves: NDArray[np.int32]
    """int32[nodes]: how many leaves, that is items, are at or below the node."""
    levels: int

    def __len__(self) -> int:
        """The number of nodes, the root included."""
        return len(self.code)

    def child(self, nodes: NDArray[np.integer], codes: NDArray[np.integer]) -> Nodes:
        """The child of each node under each code, int32 of their common shape; -1 where there is none.

        Node -1 has no children, so that a walk may go on from where it left the tree.
        """
        wanted = _edge(nodes, codes)
        places = np.searchsorted(self._edges, wanted)
        known = self._edges[np.minimum(places, len(self._edges) - 1)] == wanted
        return np.where(known, places + 1, -1).astype(np.int32)

    def find(self, paths: NDArray[np.integer]) -> Items:
        """The item of each path [..., levels] as int32[...]; -1 for a path that is no item's."""
        nodes: Nodes = np.zeros(paths.shape[:-1], np.int32)
        for level in range(self.levels):
            nodes = self.child(nodes, paths[..., level])
        return np.where(nodes >= 0, self.item[nodes], np.int32(-1))

    @cached_property
    def top_code(self) -> int:
        """The largest code of any path."""
        return int(self.code.max())

    @cached_property
    def _edges(self) -> NDArray[np.int64]:
        """int64[nodes - 1]: (parent, code) of every node but the root as one number, ascending."""
        parents = np.repeat(np.arange(len(self)), np.diff(self.first_child))
        return _edge(parents, self.code[1:])


def build_trie(codes: NDArray[np.integer], items: Items | None = None) -> Trie:
    """The trie of codes int32[n, L], row i being the path of item i, or of items[i]. Time O(n L log n), for a
    million a second.

    Raises DataError without paths, for a negative code, and for two items of one path.
    """
    if codes.ndim != 2 or not codes.size:
        raise DataError(
            f"codes of shape {codes.shape} are no paths", "give a row of at least one code per item"
        )
    if codes.min() < 0:
        item = int((codes < 0).any(axis=1).argmax())
        raise DataError(f"item {item} has a negative code: {codes[item].tolist()}", "number codes from 0")
    order = np.lexsort(codes.T[::-1])
    paths = codes[order]
    opens = _opens_node(paths)
    if not opens[-1].all():
        raise _duplicate(paths, order, opens[-1])
    return _linked(paths, order if items is None else items[order], opens)


def _opens_node(paths: NDArray[np.integer]) -> NDArray[np.bool_]:
    """bool[L, n]: whether a sorted path is the first of its node at level l, or repeats the path above it."""
    opens = np.ones((paths.shape[1], len(paths)), dtype=bool)
    np.not_equal(paths[1:].T, paths[:-1].T, out=opens[:, 1:])
    return np.logical_or.accumulate(opens, axis=0)


def _linked(paths: NDArray[np.integer], items: NDArray[Any], opens: NDArray[np.bool_]) -> Trie:
    """The trie of sorted distinct paths [n, L] of items [n]."""
    n, levels = paths.shape
    sizes = np.array([1, *opens.sum(axis=1)])
    level_start = np.cumsum(sizes) - sizes
    starts = [np.zeros(1, np.int64), *(np.flatnonzero(row) for row in opens)]  # first path of each node
    number_at = [np.cumsum(row) - 1 for row in opens]  # each path's node, counted within its level
    below = [
        start + number[row] for start, number, row in zip(level_start[1:], number_at, starts, strict=False)
    ]
    codes = [np.array([-1]), *(paths[start, level] for level, start in enumerate(starts[1:]))]
    leaves = [np.diff(start, append=n) for start in starts]
    nodes = int(sizes.sum())
    item = np.full(nodes, -1, np.int32)
    item[-n:] = items
    return Trie(
        first_child=np.concatenate([*below, np.full(n + 1, nodes)]).astype(np.int32),
        code=np.concatenate(codes).astype(np.int32),
        item=item,
        leaves=np.concatenate(leaves).astype(np.int32),
        levels=levels,
    )


def _edge(parents: NDArray[np.integer], codes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Parent and code as one number that orders like the pair; no other pair of int32 shares it."""
    edge: NDArray[np.int64] = parents.astype(np.int64) * 2**32 + codes
    return edge


def _duplicate(paths: NDArray[np.integer], items: NDArray[Any], distinct: NDArray[np.bool_]) -> DataError:
    second = int(np.flatnonzero(~distinct)[0])
    pair = sorted(items[second - 1 : second + 1].tolist())
    return DataError(
        f"items {pair[0]} and {pair[1]} have one path, {paths[second].tolist()}; {(~distinct).sum()} such items",
        "tell colliding items apart with a further code",
    )
