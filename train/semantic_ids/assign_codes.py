"""Distinct paths: every item gets its own L codes, close to the codes nearest to its latent vector.

Items with the same nearest codes at all L levels collide: they would share an identifier. TIGER appends a further code;
here a path keeps its L codes, so that there are L x K codes in all (section 4.3). The rule, from the first level on:
**an item takes the nearest code that has room**. A code of level l has room for K^(L-l) items behind each prefix: the
number of paths through it.

- If more items want a code than it has room for, those at the largest distance move, in the order of their numbers,
  to the next-nearest code with room.
- At the last level a code has room for one item. The items behind a prefix with a collision are assigned to its K codes
  one to one, at the least total squared distance (the linear assignment problem).

An item that does not collide keeps the nearest path. Ties are broken by item number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.data.trie import build_trie

Paths = NDArray[np.int32]
Vectors = NDArray[np.floating]
BATCH = 8_192


def nearest_paths(latents: Vectors, codebooks: Vectors) -> Paths:
    """The nearest codes int32[n, L] of latents [n, d] in codebooks [L, K, d]; several items may share a path."""
    return _paths(latents, codebooks, distinct=False)


def distinct_paths(latents: Vectors, codebooks: Vectors) -> Paths:
    """Distinct paths int32[n, L] of latents [n, d] in codebooks [L, K, d], by the rule of this module.

    Raises DataError if there are fewer than n paths.
    """
    levels, codes, _ = codebooks.shape
    check_room(len(latents), levels, codes)
    return _paths(latents, codebooks, distinct=True)


def free_paths(latents: Vectors, codebooks: Vectors, taken: Paths) -> Paths:
    """Distinct paths int32[K, L] of new latents [K, d] that are not among `taken` int32[n, L].

    At each level an item takes the nearest code behind which a path is free. Raises DataError if none is.
    """
    levels, codes, _ = codebooks.shape
    check_room(len(latents) + len(taken), levels, codes)
    trie = build_trie(taken)
    more: Counter[tuple[int, ...]] = Counter()  # paths given here, by each of their prefixes
    paths = np.empty((len(latents), levels), np.int32)
    for row, latent in enumerate(np.array(latents, np.float64)):
        node, residual = np.zeros(1, np.int32), latent
        prefix: tuple[int, ...] = ()
        for level, book in enumerate(codebooks.astype(np.float64)):
            room = codes ** (levels - 1 - level)
            children = trie.child(np.repeat(node, codes), np.arange(codes))
            used = np.where(children >= 0, trie.leaves[children], 0)
            used += np.array([more[*prefix, code] for code in range(codes)])
            nearest = np.where(used < room, ((residual - book) ** 2).sum(axis=1), np.inf)
            code = int(nearest.argmin())
            node, prefix, residual = children[[code]], (*prefix, code), residual - book[code]
            more[prefix] += 1
        paths[row] = prefix
    return paths


def check_room(items: int, levels: int, codes: int) -> None:
    """Raises DataError if there are fewer paths than items."""
    if codes**levels < items:
        raise DataError(
            f"{levels} levels of {codes} codes are {codes**levels:,} paths, too few for {items:,} items",
            "take more --levels or more --codes",
        )


def shared_paths(paths: Paths) -> int:
    """The number of items, by their paths [n, L], that share their path with another item."""
    _, counts = np.unique(prefixes(paths)[:, -1], return_counts=True)
    return int(counts[counts > 1].sum())


def prefixes(paths: Paths) -> NDArray[np.int64]:
    """Numbers int64[n, L] of the prefixes of paths [n, L], by length: equal prefixes have equal numbers, from 0."""
    numbers = np.empty(paths.shape, np.int64)
    group = np.zeros(len(paths), np.int64)
    for level, codes in enumerate(paths.T):
        numbers[:, level] = group = _extend(group, codes)
    return numbers


def _paths(latents: Vectors, codebooks: Vectors, *, distinct: bool) -> Paths:
    levels, codes, _ = codebooks.shape
    residual = np.array(latents, np.float64)
    group = np.zeros(len(latents), np.int64)
    paths = np.empty((len(latents), levels), np.int32)
    for level, book in enumerate(codebooks.astype(np.float64)):
        chosen = _nearest(residual, book)
        if distinct:
            room = codes ** (levels - 1 - level)
            for members in _overfull(group, chosen, room):
                chosen[members] = _assign(residual[members], book, chosen[members], room)
        paths[:, level] = chosen
        residual -= book[chosen]
        group = _extend(group, chosen)
    return paths


def _nearest(residual: Vectors, book: Vectors) -> NDArray[np.int64]:
    chosen = np.empty(len(residual), np.int64)
    for begin in range(0, len(residual), BATCH):
        chosen[begin : begin + BATCH] = _distances(residual[begin : begin + BATCH], book).argmin(axis=1)
    return chosen


def _distances(residual: Vectors, book: Vectors) -> NDArray[np.float64]:
    """Squared distances [B, K], up to rounding; the expanded form needs no [B, K, d]."""
    squares = (residual**2).sum(axis=1)[:, None] + (book**2).sum(axis=1)
    distances: NDArray[np.float64] = squares - 2 * residual @ book.T
    return distances


def _extend(group: NDArray[np.int64], codes: NDArray[np.integer]) -> NDArray[np.int64]:
    """The number of each prefix that is one code longer; below n, so that it never overflows."""
    most = int(codes.max(initial=0)) + 1
    return np.unique(group * most + codes, return_inverse=True)[1]


def _overfull(group: NDArray[np.int64], chosen: NDArray[np.int64], room: int) -> Iterator[NDArray[np.int64]]:
    """The items of each prefix behind which some code is wanted by more items than it has room for."""
    longer = _extend(group, chosen)
    too_many = np.bincount(longer)[longer] > room
    order = np.argsort(group, kind="stable")
    crowded = np.unique(group[too_many])
    starts = np.searchsorted(group[order], crowded, "left")
    ends = np.searchsorted(group[order], crowded, "right")
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield order[start:end]


def _assign(residual: Vectors, book: Vectors, chosen: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """Codes int64[m] for the items behind one prefix, at most `room` items a code."""
    if room > 1:
        return _move_farthest(residual, book, chosen, room)
    from scipy.optimize import linear_sum_assignment

    codes: NDArray[np.int64] = linear_sum_assignment(_distances(residual, book))[1]
    return codes


def _move_farthest(
    residual: Vectors, book: Vectors, chosen: NDArray[np.int64], room: int
) -> NDArray[np.int64]:
    """The chosen codes, after the farthest items of each overfull code moved to the next-nearest code with room."""
    codes = chosen.copy()
    distance = ((residual - book[chosen]) ** 2).sum(axis=1)
    order = np.lexsort((distance, chosen))  # by code, the nearest item first
    rank = np.arange(len(order)) - np.searchsorted(chosen[order], chosen[order], "left")
    moved = np.sort(order[rank >= room])
    free = room - np.minimum(np.bincount(chosen, minlength=len(book)), room)
    for begin in range(0, len(moved), BATCH):
        items = moved[begin : begin + BATCH]
        for item, costs in zip(items, _distances(residual[items], book), strict=True):
            codes[item] = code = np.where(free, costs, np.inf).argmin()
            free[code] -= 1
    return codes
