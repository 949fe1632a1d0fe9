"""The heaviest neighbours of every item: rows of one length, cut from the pairs that were counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rbserve.core.types import Items, Scores, Vectors
from rbserve.train.tasks.pairs import Occurrences, PairPiece

DENSE = 1 << 25  # numbers of a dense block, at most
PairWeights = Callable[[PairPiece], Scores]


class Neighbours(NamedTuple):
    """Of n items the K heaviest neighbours int32[n, K] and their weights float32[n, K], heaviest first.

    A row with fewer ends in item 0 with weight 0.
    """

    items: Items
    weights: Scores

    @classmethod
    def none(cls, n_items: int, width: int) -> Neighbours:
        """Rows without a neighbour."""
        return cls(np.zeros((n_items, width), np.int32), np.zeros((n_items, width), np.float32))


def pair_weights(counts: Occurrences, place: int, freshness: float) -> PairWeights:
    """The weight of a pair from the sums at `place`: divided by the root of the earlier item's occurrences, times
    the later item's share of occurrences as a target, smoothed, to the power of `freshness`."""
    degree = np.sqrt(np.maximum(counts.all, 1))
    fresh = ((counts.targets + 0.5) / (counts.all + 3)) ** freshness

    def weigh(piece: PairPiece) -> Scores:
        weights = piece.sums[:, place] / degree[piece.earlier] * fresh[piece.later]
        return weights.astype(np.float32)

    return weigh


def heaviest(pieces: Iterable[PairPiece], weigh: PairWeights, n_items: int, width: int) -> Neighbours:
    """The `width` heaviest neighbours of each of n items; of equal weights the item with the lower number."""
    neighbours = Neighbours.none(n_items, width)
    for piece in pieces:
        weights = weigh(piece)
        order = np.lexsort((-weights, piece.earlier))
        ranks = np.arange(len(order)) - np.searchsorted(piece.earlier, piece.earlier)
        first = ranks < width
        places = piece.earlier[first], ranks[first]
        neighbours.items[places] = piece.later[order][first]
        neighbours.weights[places] = weights[order][first]
    return neighbours


def heaviest_with_texts(
    pieces: Iterable[PairPiece], weigh: PairWeights, vectors: Vectors, text: float, width: int
) -> Neighbours:
    """The `width` heaviest neighbours of each of n items by weight and text.

    The weight of a pair is that of its occurrences, if it has some, plus `text` times the cosine of the items' vectors
    float32[n, d]. Every item is compared with every other: n^2 d products.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    neighbours = Neighbours.none(len(vectors), width)
    for begin, end, piece in _blocks(pieces, len(vectors), max(1, DENSE // len(vectors))):
        dense = text * (unit[begin:end] @ unit.T)
        dense[np.arange(end - begin), np.arange(begin, end)] = 0.0  # the similarity of an item with itself
        if len(piece.earlier):
            dense[piece.earlier - begin, piece.later] += weigh(piece)
        weights, items = torch.from_numpy(dense).topk(width)
        neighbours.items[begin:end], neighbours.weights[begin:end] = items.numpy(), weights.numpy()
    return neighbours


def _blocks(pieces: Iterable[PairPiece], n_items: int, most: int) -> Iterator[tuple[int, int, PairPiece]]:
    """All items in blocks of at most `most`: the first item, the one behind the last, the pairs of the block."""
    begin, nothing = 0, PairPiece(np.empty(0, np.int32), np.empty(0, np.int32), np.empty((0, 0)))
    for piece in pieces:
        last = int(piece.earlier[-1]) + 1
        for end in [*range(begin + most, last, most), last]:
            low, high = np.searchsorted(piece.earlier, (begin, end))
            yield begin, end, PairPiece(piece.earlier[low:high], piece.later[low:high], piece.sums[low:high])
            begin = end
    for end in [*range(begin + most, n_items, most), n_items]:
        if begin < end:
            yield begin, end, nothing
        begin = end


def popularity_order(counts: Occurrences) -> NDArray[np.float32]:
    """A number above 0 and up to 1 for each item, float32[n]: the more often a target, then an item, the larger."""
    order = np.lexsort((counts.all, counts.targets))
    places = np.empty(len(order), np.float32)
    places[order] = np.arange(1, len(order) + 1) / len(order)
    return places
