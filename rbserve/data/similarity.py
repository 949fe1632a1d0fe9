"""Whether two data sets hold the same likes: copies that were shuffled, renamed, cut or split by another seed.

A sketch has, of the USERS users whose ids hash lowest, the lowest hash among the items that each of them likes
(MinHash: Broder, 1997). For a user whom two sketches share, the two hashes agree with a chance of the Jaccard index
of the user's two sets of items. Of strangers, one user here and another there, they agree by chance alone. Data sets
whose shared users agree far more often than strangers are one. A share of 1 is not needed: a data set holds the last
likes of each user, and in a shuffled file these are others. Ids that were renamed are not recognised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.data.dataset import SPLITS, Dataset

USERS = 256
FEWEST = 5  # shared users; fewer tell nothing
CHANCE = 1.5  # times the root of their number: how many more users than strangers could agree by chance

Sketch = Mapping[int, int]


def data_sketch(dataset: Dataset) -> dict[int, int]:
    """Hash of a user's id -> lowest hash of the ids of the items that the user likes in any split."""
    table = pq.read_table(dataset.file("users.parquet"), use_threads=False)
    hashes = {_hash(user_id): user for user, user_id in zip(*map(_values, table.columns), strict=True)}
    chosen = {hashes[key]: key for key in sorted(hashes)[:USERS]}
    liked: dict[int, set[int]] = {}
    for users, items in _likes(dataset, np.array(sorted(chosen), np.int32)):
        for user, item in zip(users.tolist(), items.tolist(), strict=True):
            liked.setdefault(user, set()).add(item)
    ids = dataset.items.ids
    return {chosen[user]: min(_hash(ids[item]) for item in items) for user, items in liked.items()}


def is_copy(sketch: Sketch, other: Sketch) -> bool:
    """Whether the users that both sketches hold agree on items as strangers would not; False where few are shared."""
    shared = sorted(sketch.keys() & other.keys())
    strangers = [*shared[1:], *shared[:1]]
    agree = sum(sketch[user] == other[user] for user in shared)
    by_chance = sum(sketch[user] == other[stranger] for user, stranger in zip(shared, strangers, strict=True))
    return len(shared) >= FEWEST and agree - by_chance > CHANCE * len(shared) ** 0.5


def _likes(
    dataset: Dataset, users: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """(user, item) of what the given users like: clicked candidates, targets, and what their histories hold."""
    for split in SPLITS:
        pairs, sequences = dataset.ctr(split), dataset.seqrec(split)
        rows = np.flatnonzero(np.isin(pairs.users, users))
        clicked = rows[pairs.labels[rows] == 1]
        yield pairs.users[clicked], pairs.candidates[clicked]
        histories = pairs.histories.take(rows)
        yield np.repeat(pairs.users[rows], histories.lengths), histories.values
        rows = np.flatnonzero(np.isin(sequences.users, users))
        yield sequences.users[rows], sequences.targets[rows]
        histories = sequences.histories.take(rows)
        yield np.repeat(sequences.users[rows], histories.lengths), histories.values


def _values(column: object) -> list[object]:
    values: list[object] = column.to_pylist()  # type: ignore[attr-defined]
    return values


def _hash(text: object) -> int:
    """48 bits of a text's digest: exact in any JSON reader."""
    return int.from_bytes(hashlib.blake2b(str(text).encode(), digest_size=6).digest(), "big")
