"""Random negatives: items that a user never touched, drawn with equal chances or in proportion to the items' likes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.types import Items
from rbserve.train.protocol.sampling import SAMPLED, CtrRows, has_both_labels, pair_hash


@dataclass(frozen=True)
class ItemPool:
    """P items, rising, that negatives are drawn from; `weights` int64[P], all above 0, or None for equal chances."""

    items: Items
    weights: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def draw(self, hashes: NDArray[np.uint64]) -> Items:
        """An item for each of H hashes, which stand for random numbers: int32[H]."""
        chances = len(self.items) if self.weights is None else int(self._reached[-1])
        places = (hashes % np.uint64(chances)).astype(np.int64)
        if self.weights is not None:
            places = np.searchsorted(self._reached, places, side="right").astype(np.int64)
        drawn: Items = self.items[places]
        return drawn

    @cached_property
    def _reached(self) -> NDArray[np.int64]:
        """The likes of each item and of those before it."""
        assert self.weights is not None
        reached: NDArray[np.int64] = np.cumsum(self.weights)
        return reached

    def first_drawn(self, places: NDArray[np.int64], hashes: NDArray[np.uint64], most: int) -> Items:
        """At most `most` of the items at `places`, in the order of a draw without replacement (Efraimidis 2006)."""
        keys = hashes if self.weights is None else -np.log((hashes + 0.5) * 2.0**-64) / self.weights[places]
        return self.items[places[np.argsort(keys, kind="stable")[:most]]]


def uniform_pool(seen: NDArray[np.bool_], likes: NDArray[np.int64]) -> ItemPool:
    """All items that somebody met, with equal chances."""
    del likes
    return ItemPool(np.flatnonzero(seen).astype(np.int32))


def popularity_pool(seen: NDArray[np.bool_], likes: NDArray[np.int64]) -> ItemPool:
    """All items that somebody likes, with chances in proportion to their likes."""
    del seen
    liked = np.flatnonzero(likes)
    return ItemPool(liked.astype(np.int32), likes[liked])


POOLS: dict[str, Callable[[NDArray[np.bool_], NDArray[np.int64]], ItemPool]] = {
    "uniform": uniform_pool,
    "popularity": popularity_pool,
}
"""The pool by `negatives_by`, made of which items anybody met and of each item's likes."""


class Pairs(NamedTuple):
    """P users, each with an item that is no negative of theirs: int32[P] both."""

    users: NDArray[np.int32]
    items: Items

    def add(self, rows: CtrRows) -> Pairs:
        """The pairs and those of the rows with their candidates."""
        return Pairs(np.concatenate((self.users, rows.users)), np.concatenate((self.items, rows.candidates)))


def draw_negatives(rows: CtrRows, touched: Pairs, pool: ItemPool, seed: int) -> CtrRows:
    """The rows with each SAMPLED candidate replaced by an item of `pool` that its user never touched.

    Without repeats for a user, a function of (seed, user, pool) alone. `touched` are all clean events of these users. A
    user who has touched nearly all of the pool gets as many items as are left. Rows without an item are left out, and
    so are all rows of a user who gets none, since they have one label only.
    """
    slots = np.flatnonzero(rows.candidates == SAMPLED)
    candidates = rows.candidates.copy()
    span = max(int(pool.items.max(initial=0)), int(touched.items.max(initial=0))) + 1
    taken = np.sort(touched.users.astype(np.int64) * span + touched.items)
    most = int(np.bincount(np.unique(rows.users[slots], return_inverse=True)[1]).max(initial=0))
    for attempt in range(64 + 2 * most):
        if not len(slots) or not len(pool):
            break
        open_users, first_slot = np.unique(rows.users[slots], return_index=True)
        drawn = pool.draw(pair_hash(seed + 1, open_users, np.full(len(open_users), attempt)))
        pairs = open_users.astype(np.int64) * span + drawn
        fresh = taken[np.minimum(np.searchsorted(taken, pairs), len(taken) - 1)] != pairs
        candidates[slots[first_slot[fresh]]] = drawn[fresh]
        taken = np.sort(np.concatenate((taken, pairs[fresh])))
        slots = np.delete(slots, first_slot[fresh])
    for user in np.unique(rows.users[slots]):  # few, if any: they have touched most of the pool
        own = slots[rows.users[slots] == user]
        begin, end = np.searchsorted(taken, (int(user) * span, (int(user) + 1) * span))
        left = np.flatnonzero(~np.isin(pool.items, taken[begin:end] - int(user) * span))
        hashes = pair_hash(seed + 2, np.full(len(left), user), pool.items[left])
        drawn = pool.first_drawn(left, hashes, len(own))
        candidates[own[: len(drawn)]] = drawn
    filled = replace(rows, candidates=candidates).take(candidates != SAMPLED)
    return filled.take(has_both_labels(filled))
