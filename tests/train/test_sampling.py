"""The protocol's promises: disjoint users, caps, determinism, and histories that know nothing of the future."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbserve.core.errors import DataError
from rbserve.train.sampling import Interactions, Protocol, ctr_splits, seqrec_splits

EVENT = st.tuples(st.integers(0, 11), st.integers(0, 30), st.integers(0, 1), st.integers(0, 15))


@st.composite
def interactions(draw: st.DrawFn) -> Interactions:
    """Events of up to 12 users in which every user meets an item once, with many equal times."""
    events = draw(st.lists(EVENT, min_size=40, max_size=200, unique_by=lambda event: event[:2]))
    return _interactions(events)


def _interactions(events: list[tuple[int, int, int, int]]) -> Interactions:
    users, items, labels, times = np.array(events).T
    return Interactions(
        users.astype(np.int32), items.astype(np.int32), labels.astype(np.int8), times.astype(np.int64)
    )


def _splits_or_none(events: Interactions, protocol: Protocol):  # type: ignore[no-untyped-def]
    try:
        return ctr_splits(events, protocol, Counter())
    except DataError:
        return None  # too few users for three splits


RELAXED = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@RELAXED
@given(interactions(), st.integers(1, 6))
def test_every_row_is_what_a_plain_reading_of_the_protocol_gives(events: Interactions, cap: int) -> None:
    protocol = Protocol(history=4, rows_per_label=cap)
    splits = _splits_or_none(events, protocol)
    if splits is None:
        return
    everything = list(zip(events.users, events.items, events.labels, events.times, strict=True))
    seen: list[tuple[int, int]] = []
    for split in splits.values():
        for row in range(len(split)):
            user, item = split.users[row], split.candidates[row]
            ((_, _, label, time),) = [event for event in everything if event[:2] == (user, item)]
            liked = sorted((t, i) for u, i, y, t in everything if u == user and y == 1 and t < time)
            assert split.labels[row] == label
            assert split.histories[row].tolist() == [i for _, i in liked][-4:]
            assert item not in split.histories[row]
            seen.append((int(user), int(item)))
    assert len(seen) == len(set(seen))


@RELAXED
@given(interactions(), st.integers(1, 6))
def test_users_are_disjoint_have_both_labels_and_keep_to_the_cap(events: Interactions, cap: int) -> None:
    splits = _splits_or_none(events, Protocol(rows_per_label=cap))
    if splits is None:
        return
    users = [set(split.users.tolist()) for split in splits.values()]
    assert sum(map(len, users)) == len(set().union(*users))
    for split in splits.values():
        for user in set(split.users.tolist()):
            labels = split.labels[split.users == user]
            assert 1 <= labels.sum() <= cap
            assert 1 <= (1 - labels).sum() <= cap


@RELAXED
@given(interactions(), st.randoms(use_true_random=False))
def test_the_order_of_the_raw_rows_does_not_matter(events: Interactions, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(events)))
    random.shuffle(order)
    one = _splits_or_none(events, Protocol())
    other = _splits_or_none(events.take(np.array(order)), Protocol())
    assert (one is None) == (other is None)
    for name in one or {}:
        for field in ("users", "candidates", "labels"):
            np.testing.assert_array_equal(getattr(one[name], field), getattr(other[name], field))
        np.testing.assert_array_equal(one[name].histories.values, other[name].histories.values)


@RELAXED
@given(interactions())
def test_every_event_is_kept_or_counted_as_dropped(events: Interactions) -> None:
    dropped: Counter[str] = Counter()
    try:
        splits = ctr_splits(events, Protocol(rows_per_label=2), dropped)
    except DataError:
        return
    assert sum(len(split) for split in splits.values()) + sum(dropped.values()) == len(events)


@RELAXED
@given(interactions())
def test_sequences_end_in_the_last_liked_item_and_hold_what_came_before(events: Interactions) -> None:
    try:
        splits = seqrec_splits(events, Protocol(history=5), Counter())
    except DataError:
        return
    for split in splits.values():
        for row in range(len(split)):
            liked = events.take((events.users == split.users[row]) & (events.labels == 1))
            order = np.lexsort((liked.items, liked.times))
            sequence = liked.items[order].tolist()
            assert split.targets[row] == sequence[-1]
            assert split.histories[row].tolist() == sequence[-5:-1]
    users = [user for split in splits.values() for user in split.users.tolist()]
    assert len(users) == len(set(users))


def test_a_large_data_set_is_cut_to_the_sizes_asked_for() -> None:
    events = _interactions([(user, item, item % 2, item) for user in range(300) for item in range(10)])
    dropped: Counter[str] = Counter()
    protocol = Protocol(ctr_test_rows=200, ctr_finetune_rows=1_000, rows_per_label=5)
    splits = ctr_splits(events, protocol, dropped)
    assert len(splits["test"]) == 200
    assert len(splits["train"]) + len(splits["valid"]) == 1_000
    assert len(splits["valid"]) == 100
    assert dropped["ctr: beyond the sizes asked for"] == 3_000 - 1_200


def test_another_seed_gives_another_split() -> None:
    events = _interactions([(user, item, item % 2, item) for user in range(60) for item in range(6)])
    one = ctr_splits(events, Protocol(seed=1), Counter())
    other = ctr_splits(events, Protocol(seed=2), Counter())
    assert set(one["test"].users.tolist()) != set(other["test"].users.tolist())


def test_data_without_dislikes_is_refused_with_a_hint() -> None:
    with pytest.raises(DataError, match="no user has both"):
        ctr_splits(_interactions([(user, 0, 1, 0) for user in range(5)]), Protocol(), Counter())
