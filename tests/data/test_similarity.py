"""Copies of a data set are told from other data sets by small sketches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_dataset import build

from rbserve.data.dataset import Dataset, ItemTable
from rbserve.data.similarity import USERS, data_sketch, is_copy
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import Interactions

N_USERS, N_ITEMS, EACH = 300, 200, 50
TABLE = ItemTable([f"i{item}" for item in range(N_ITEMS)], ["words"] * N_ITEMS)
Change = Callable[[Interactions, np.random.Generator], Interactions]


def likes(seed: int) -> Interactions:
    """What 300 users like, of ids that every seed has."""
    rng = np.random.default_rng(seed)
    items = np.concatenate([rng.choice(N_ITEMS, EACH, replace=False) for _ in range(N_USERS)])
    users = np.repeat(np.arange(N_USERS), EACH)
    labels = np.ones(len(users), np.int8)
    return Interactions(users.astype(np.int32), items.astype(np.int32), labels, np.arange(len(users)))


def reordered(events: Interactions, rng: np.random.Generator) -> Interactions:
    """Each user's likes in another order, as rows without times are when a file is shuffled: other last twenty."""
    return Interactions(events.users, events.items, events.labels, rng.permutation(events.times))


def thinned(events: Interactions, rng: np.random.Generator) -> Interactions:
    """All but a tenth of the rows."""
    return events.take(rng.random(len(events)) > 0.1)


def made(path: Path, events: Interactions, table: ItemTable = TABLE, protocol_seed: int = 2024) -> Dataset:
    return build(path, "synthetic", events, table, Protocol(held_out=2, negatives=2, seed=protocol_seed))


@pytest.mark.parametrize("change", [reordered, thinned])
def test_a_data_set_with_its_rows_in_another_order_or_a_few_less_is_a_copy(
    change: Change, tmp_path: Path
) -> None:
    first = made(tmp_path / "first", likes(1))
    other = made(tmp_path / "other", change(likes(1), np.random.default_rng(5)))
    assert first.fingerprint != other.fingerprint
    assert len(data_sketch(first)) == USERS
    assert is_copy(data_sketch(first), data_sketch(other))


def test_other_numbers_of_the_items_and_other_splits_do_not_hide_a_copy(tmp_path: Path) -> None:
    events, numbers = likes(1), np.random.default_rng(3).permutation(N_ITEMS).astype(np.int32)
    renumbered = Interactions(events.users, numbers[events.items], events.labels, events.times)
    ids = [TABLE.ids[row] for row in np.argsort(numbers)]
    first = made(tmp_path / "first", events)
    other = made(tmp_path / "other", renumbered, ItemTable(ids, TABLE.texts), protocol_seed=7)
    assert first.fingerprint != other.fingerprint
    assert is_copy(data_sketch(first), data_sketch(other))


def test_other_likes_of_the_same_ids_are_no_copy(tmp_path: Path) -> None:
    first, other = made(tmp_path / "first", likes(1)), made(tmp_path / "other", likes(2))
    assert data_sketch(first).keys() == data_sketch(other).keys()
    assert not is_copy(data_sketch(first), data_sketch(other))


def test_sketches_that_share_no_users_or_that_were_not_kept_tell_nothing() -> None:
    assert not is_copy({}, {})
    assert not is_copy({1: 2, 3: 4}, {1: 2, 3: 4})
    same = {user: user for user in range(9)}
    assert is_copy(same, same)
    assert not is_copy(same, {user + 9: user for user in range(9)})
    assert not is_copy(dict.fromkeys(range(9), 1), dict.fromkeys(range(9), 1))  # as strangers would
