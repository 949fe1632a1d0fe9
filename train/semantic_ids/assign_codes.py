"""Distinct paths: every item its own L codes, close to the ones its latent asks for.

Items whose nearest codes are the same at all L levels collide: as identifiers they would be one item. TIGER appends
a further code; here the path keeps its L codes, so that L x K codes are all there are (section 4.3). The rule, level
by level from the first: **an item takes the nearest code that has room**. A code of level l has room for K^(L-l)
items behind each prefix: as many as there are paths through it.

- Where more items ask for a code than it has room for, those at the largest distance are handed over in the
  order of their numbers, each to the next-nearest code with room.
- At the last level a code has room for one. The items behind a prefix with a collision then share out its K codes
  one to one, at the least total squared distance (the linear assignment problem).

Whoever has no company keeps the nearest path. Ties go by item number.
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
    """int32[n, L]: the nearest codes of latents [n, d] in codebooks [L, K, d], whoever else has them."""
    return _paths(latents, codebooks, distinct=False)


def distinct_paths(latents: Vectors, codebooks: Vectors) -> Paths:
    """int32[n, L]: a path for each of latents [n, d], no two the same; see above for the rule.

    DataError when codebooks [L, K, d] have fewer than n paths.
    """
    levels, codes, _ = codebooks.shape
    check_room(len(latents), levels, codes)
    return _paths(latents, codebooks, distinct=True)


def free_paths(latents: Vectors, codebooks: Vectors, taken: Paths) -> Paths:
    """int32[K, L]: a path for each of latents [K, d] that neither `taken` int32[n, L] nor an earlier one has.

    At each level an item takes the nearest code behind which a path is left. DataError when there are too few paths.
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
    """DataError when there are fewer paths than items."""
    if codes**levels < items:
        raise DataError(
            f"{levels} levels of {codes} codes are {codes**levels:,} paths, too few for {items:,} items",
            "take more --levels or more --codes",
        )


def shared_paths(paths: Paths) -> int:
    """How many of n items have a path [n, L] that another one has too."""
    _, counts = np.unique(prefixes(paths)[:, -1], return_counts=True)
    return int(counts[counts > 1].sum())


def prefixes(paths: Paths) -> NDArray[np.int64]:
    """int64[n, L]: for each length a number of the prefix, the same for the same prefix, from 0."""
    numbers = np.empty(paths.shape, np.int64)
    group = np.zeros(len(paths), np.int64)
    for level, codes in enumerate(paths.T):
        numbers[:, level] = group = _extended(group, codes)
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
            for members in _crowded(group, chosen, room):
                chosen[members] = _shared_out(residual[members], book, chosen[members], room)
        paths[:, level] = chosen
        residual -= book[chosen]
        group = _extended(group, chosen)
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


def _extended(group: NDArray[np.int64], codes: NDArray[np.integer]) -> NDArray[np.int64]:
    """The number of each prefix that is one code longer; below n, so that it never overflows."""
    most = int(codes.max(initial=0)) + 1
    return np.unique(group * most + codes, return_inverse=True)[1]


def _crowded(group: NDArray[np.int64], chosen: NDArray[np.int64], room: int) -> Iterator[NDArray[np.int64]]:
    """The items of each prefix behind which some code is asked for by more items than it has room for."""
    longer = _extended(group, chosen)
    too_many = np.bincount(longer)[longer] > room
    order = np.argsort(group, kind="stable")
    crowded = np.unique(group[too_many])
    starts = np.searchsorted(group[order], crowded, "left")
    ends = np.searchsorted(group[order], crowded, "right")
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield order[start:end]


def _shared_out(residual: Vectors, book: Vectors, chosen: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """Codes for the items behind one prefix, int64[m], at most `room` items a code."""
    if room > 1:
        return _handed_over(residual, book, chosen, room)
    from scipy.optimize import linear_sum_assignment

    codes: NDArray[np.int64] = linear_sum_assignment(_distances(residual, book))[1]
    return codes


def _handed_over(residual: Vectors, book: Vectors, chosen: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """`chosen`, but with those at the largest distance of an overfull code moved to the next-nearest with room."""
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
