"""The protocol against a plain reading of its text: rows, histories, sequences, random negatives, splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rbserve.core.errors import DataError
from rbserve.data.dataset import NEVER, SPLITS
from rbserve.train.protocol import sampling
from rbserve.train.protocol.negatives import ItemPool, Pairs, draw_negatives, popularity_pool
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import GIVEN, SAMPLED, Interactions
from rbserve.train.protocol.user_split import choose_users

REPEATED = "repeated item of a user"
KINDS: dict[str, dict[str, Any]] = {
    "every event": {},
    "every event, given history": {"given_history": True},
    "held out, own dislikes": {"held_out": 2},
    "held out, random negatives": {"held_out": 2, "negatives": 3},
    "held out, given history asked for in vain": {"held_out": 1, "given_history": True},
}


class Event(NamedTuple):
    user: int
    item: int
    label: int
    time: int


class Row(NamedTuple):
    user: int
    candidate: int
    label: int
    time: int
    history: tuple[int, ...]
    newest: int


EVENTS = st.lists(
    st.builds(Event, st.integers(0, 4), st.integers(0, 9), st.sampled_from([0, 0, 1, 1, 1, GIVEN]), st.integers(0, 6)),
    max_size=70,
)  # fmt: skip
PROTOCOLS = st.sampled_from(list(KINDS)).flatmap(
    lambda kind: st.builds(
        Protocol, seed=st.integers(0, 3), history=st.integers(1, 4), min_history=st.integers(0, 2),
        rows_per_label=st.integers(1, 4), **{name: st.just(value) for name, value in KINDS[kind].items()}
    )
)  # fmt: skip
MANY = settings(max_examples=200)


# ---- A plain reading


def _clean(events: Sequence[Event], seed: int) -> list[Event]:
    """By user and time, ties by hash and label; the first event of a user with an item counts."""
    met: dict[tuple[int, int], Event] = {}
    for event in sorted(events, key=lambda event: (event.user, event.time, _hash(seed, event), event.label)):
        met.setdefault((event.user, event.item), event)
    return list(met.values())


def _hash(seed: int, event: Event) -> int:
    return int(sampling.pair_hash(seed, np.array([event.user]), np.array([event.item]))[0])


def _rows(events: Sequence[Event], protocol: Protocol) -> list[Row]:
    """All click-prediction rows of clean events."""
    rows = []
    for user in sorted({event.user for event in events}):
        own = [event for event in events if event.user == user]
        made = _held_out(own, protocol) if protocol.held_out else _every_event(own, protocol)
        if {row.label for row in made} == {0, 1}:
            for label in (0, 1):
                rows += [row for row in made if row.label == label][-protocol.most_rows(label) :]
    return rows


def _every_event(own: list[Event], protocol: Protocol) -> list[Row]:
    shows = (GIVEN,) if protocol.given_history else (1, GIVEN)
    rows = []
    for event in own:
        before = [other for other in own if other.label in shows and other.time < event.time]
        before = before[-protocol.history :]
        if event.label != GIVEN and len(before) >= protocol.min_history:
            rows.append(_row(event, event.label, before))
    return rows


def _held_out(own: list[Event], protocol: Protocol) -> list[Row]:
    liked = [event for event in own if event.label in (1, GIVEN)]
    if len(liked) <= protocol.held_out:
        return []
    held = liked[-protocol.held_out :]
    before = [event for event in liked if event.time < held[0].time][-protocol.history :]
    if len(before) < max(protocol.min_history, 1):
        return []
    rows = [_row(event, 1, before) for event in held]
    if protocol.negatives:
        drawn = held[-1]._replace(item=SAMPLED)
        return rows + [_row(drawn, 0, before)] * protocol.negatives
    return rows + [
        _row(event, 0, before) for event in own if event.label == 0 and event.time > before[-1].time
    ]


def _row(event: Event, label: int, before: list[Event]) -> Row:
    history = tuple(other.item for other in before)
    newest = before[-1].time if before else NEVER
    return Row(event.user, event.item, label, event.time, history, newest)


def _sequences(events: Sequence[Event], protocol: Protocol) -> list[Row]:
    rows = []
    for user in sorted({event.user for event in events}):
        liked = [event for event in events if event.user == user and event.label in (1, GIVEN)]
        if len(liked) > 1:
            before = liked[:-1][
                max(0, len(liked) - protocol.history) :
            ]  # the target is one of the last `history`
            rows.append(_row(liked[-1], 1, before))
    return rows


# ---- From and to arrays


def _interactions(events: Sequence[tuple[int, int, int, int]]) -> Interactions:
    users, items, labels, times = np.array(events, np.int64).reshape(-1, 4).T
    return Interactions(users.astype(np.int32), items.astype(np.int32), labels.astype(np.int8), times)


def _events(events: Interactions) -> list[Event]:
    columns = (events.users, events.items, events.labels, events.times)
    return [Event(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


def _clean_arrays(events: Sequence[tuple[int, int, int, int]], seed: int = 2024) -> Interactions:
    return sampling.clean(_interactions(events), seed, Counter())


def _as_rows(rows: sampling.CtrRows) -> list[Row]:
    split = rows.split()
    columns = (split.users, split.candidates, split.labels, rows.times, rows.newest)
    return [
        Row(user, candidate, label, time, tuple(split.histories[row].tolist()), newest)
        for row, (user, candidate, label, time, newest) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        )
    ]


def _ctr_rows(events: Sequence[Event], protocol: Protocol, dropped: Counter[str] | None = None) -> list[Row]:
    counted = Counter() if dropped is None else dropped
    cleaned = sampling.clean(_interactions(events), protocol.seed, counted)
    return _as_rows(sampling.ctr_rows(cleaned, protocol, counted))


# ---- Rows


@MANY
@given(EVENTS, st.integers(0, 3))
def test_clean_events_are_in_order_and_a_user_meets_an_item_once(events: list[Event], seed: int) -> None:
    dropped: Counter[str] = Counter()
    cleaned = sampling.clean(_interactions(events), seed, dropped)
    assert _events(cleaned) == _clean(events, seed)
    assert len(cleaned) + dropped[REPEATED] == len(events)


def test_of_a_dislike_and_a_like_at_the_same_time_the_dislike_counts() -> None:
    for labels in ([1, 0, GIVEN], [GIVEN, 1, 0], [0, GIVEN, 1]):
        assert _events(_clean_arrays([(0, 3, label, 7) for label in labels])) == [(0, 3, 0, 7)]
    assert _events(_clean_arrays([(0, 3, 0, 7), (0, 3, 1, 6)])) == [(0, 3, 1, 6)]


@MANY
@given(EVENTS, PROTOCOLS)
def test_every_row_is_what_a_plain_reading_of_the_protocol_gives(
    events: list[Event], protocol: Protocol
) -> None:
    assert sorted(_ctr_rows(events, protocol)) == sorted(_rows(_clean(events, protocol.seed), protocol))


@MANY
@given(EVENTS, PROTOCOLS)
def test_rows_keep_the_promises_of_the_protocol(events: list[Event], protocol: Protocol) -> None:
    rows = _ctr_rows(events, protocol)
    assert [row.user for row in rows] == sorted(row.user for row in rows)
    for user in {row.user for row in rows}:
        labels = Counter(row.label for row in rows if row.user == user)
        assert set(labels) == {0, 1}
        assert all(count <= protocol.most_rows(label) for label, count in labels.items())
    for row in rows:
        assert row.candidate not in row.history
        assert row.newest < row.time
        assert (row.newest == NEVER) == (not row.history)
        assert protocol.min_history <= len(row.history) <= protocol.history
    drawn = [(row.user, row.candidate) for row in rows if row.candidate != SAMPLED]
    assert len(drawn) == len(set(drawn))


@MANY
@given(EVENTS, PROTOCOLS, st.booleans())
def test_when_every_event_is_a_row_each_is_kept_or_counted_as_dropped(
    events: list[Event], protocol: Protocol, only_given: bool
) -> None:
    protocol = replace(protocol, held_out=0, negatives=0, given_history=only_given)
    dropped: Counter[str] = Counter()
    rows = _ctr_rows(events, protocol, dropped)
    given_only = sum(event.label == GIVEN for event in _clean(events, protocol.seed))
    assert len(rows) + dropped.total() + given_only == len(events)
    assert all(reason == REPEATED or reason.startswith("ctr: ") for reason in dropped)


@MANY
@given(EVENTS, PROTOCOLS)
def test_users_and_dislikes_that_give_no_held_out_rows_are_counted(
    events: list[Event], protocol: Protocol
) -> None:
    protocol = replace(protocol, held_out=protocol.held_out or 1)
    dropped: Counter[str] = Counter()
    rows = _ctr_rows(events, protocol, dropped)
    cleaned = _clean(events, protocol.seed)
    made = [row for user in range(5) for row in _held_out([e for e in cleaned if e.user == user], protocol)]
    likes = Counter(event.user for event in cleaned if event.label != 0)
    too_few = sum(count <= protocol.held_out for count in likes.values())
    assert dropped["ctr: user with too few liked items"] == too_few
    with_history = len({row.user for row in made})
    assert dropped["ctr: user whose history is too short"] == len(likes) - too_few - with_history
    of_rows = (
        dropped["ctr: user with rows of one label only"] + dropped["ctr: over the user's rows per label"]
    )
    assert len(rows) + of_rows == len(made)


@MANY
@given(EVENTS, PROTOCOLS)
def test_sequences_end_in_the_last_liked_item_and_hold_what_came_before(
    events: list[Event], protocol: Protocol
) -> None:
    cleaned = _clean(events, protocol.seed)
    dropped: Counter[str] = Counter()
    split, times, newest = sampling.sequences(_interactions(cleaned), protocol, dropped)
    rows = [
        Row(user, target, 1, time, tuple(split.histories[row].tolist()), last)
        for row, (user, target, time, last) in enumerate(
            zip(*(column.tolist() for column in (split.users, split.targets, times, newest)), strict=True)
        )
    ]
    assert rows == _sequences(cleaned, protocol)
    for row in rows:
        assert row.candidate not in row.history
        assert row.newest <= row.time
        assert len(row.history) < protocol.history
    likers = {event.user for event in cleaned if event.label != 0}
    assert dropped["seqrec: fewer than two liked items"] == len(likers) - len(rows)


@MANY
@given(EVENTS, PROTOCOLS, st.randoms(use_true_random=False))
def test_the_order_of_the_raw_rows_does_not_matter(
    events: list[Event], protocol: Protocol, random: Any
) -> None:
    shuffled = events.copy()
    random.shuffle(shuffled)
    assert _events(_clean_arrays(events, protocol.seed)) == _events(_clean_arrays(shuffled, protocol.seed))
    assert _ctr_rows(events, protocol) == _ctr_rows(shuffled, protocol)


@MANY
@given(EVENTS, PROTOCOLS, st.integers(0, 4))
def test_a_users_rows_are_the_same_without_the_other_users(
    events: list[Event], protocol: Protocol, user: int
) -> None:
    alone = [event for event in events if event.user == user]
    assert _ctr_rows(alone, protocol) == [row for row in _ctr_rows(events, protocol) if row.user == user]


def test_which_of_simultaneous_likes_comes_last_depends_on_neither_number_nor_row() -> None:
    likes = [(user, item, 1, 0) for user in range(2_000) for item in range(4)]
    split, _, _ = sampling.sequences(_clean_arrays(likes), Protocol(), Counter())
    share = np.bincount(split.targets) / len(split)
    assert np.abs(share - 0.25).max() < 0.05
    other, _, _ = sampling.sequences(_clean_arrays(likes, seed=7), Protocol(), Counter())
    assert 0.6 < (split.targets != other.targets).mean() < 0.9


def test_labels_cannot_be_told_from_the_order_of_simultaneous_events() -> None:
    shown = [(user, item, int(item < 5), 0) for user in range(2_000) for item in range(10)]
    rows = sampling.ctr_rows(_clean_arrays(shown), Protocol(rows_per_label=10), Counter())
    first = rows.labels.reshape(2_000, 10)[:, 0]
    assert abs(first.mean() - 0.5) < 0.05


# ---- Random negatives


def _drawn(
    touched: Sequence[Sequence[int]], pool: Sequence[int], negatives: int, seed: int = 2024
) -> list[list[int]]:
    """The negatives of each user, who liked the touched items one after the other."""
    events = [(user, item, 1, time) for user, items in enumerate(touched) for time, item in enumerate(items)]
    return _drawn_of(_clean_arrays(events, seed), pool, negatives, seed, len(touched))


def _drawn_of(
    events: Interactions, pool: Sequence[int], negatives: int, seed: int, users: int
) -> list[list[int]]:
    protocol = Protocol(seed=seed, held_out=1, negatives=negatives, rows_per_label=max(negatives, 1))
    rows = sampling.ctr_rows(events, protocol, Counter())
    assert (rows.candidates == SAMPLED).sum() == (rows.labels == 0).sum()
    drawn = draw_negatives(rows, Pairs(events.users, events.items), ItemPool(np.array(pool, np.int32)), seed)
    assert (drawn.candidates != SAMPLED).all()
    kept = drawn.take(drawn.labels == 1)
    np.testing.assert_array_equal(kept.candidates, rows.candidates[rows.labels == 1])
    return [drawn.candidates[(drawn.users == user) & (drawn.labels == 0)].tolist() for user in range(users)]


@settings(max_examples=200)
@given(st.data())
def test_negatives_are_distinct_untouched_items_of_the_pool(data: st.DataObject) -> None:
    pool = data.draw(st.lists(st.integers(0, 40), min_size=4, max_size=14, unique=True).map(sorted))
    some = st.lists(st.sampled_from(pool), min_size=2, max_size=len(pool) - 1, unique=True)
    touched = data.draw(st.lists(some, min_size=1, max_size=5))
    negatives = data.draw(st.integers(1, 20))
    drawn = _drawn(touched, pool, negatives, data.draw(st.integers(0, 5)))
    for items, own in zip(touched, drawn, strict=True):
        assert set(own) <= set(pool) - set(items)
        assert len(own) == len(set(own)) == min(negatives, len(pool) - len(items))


@pytest.mark.parametrize("touched", [2, 46])
def test_negatives_are_uniform_over_what_is_untouched(touched: int) -> None:
    pool = [3 * item for item in range(50)]  # numbers between them were met by nobody
    drawn = np.array(_drawn([pool[:touched]] * 3_000, pool, 3))
    left = pool[touched:]
    expected = 3_000 * 3 / len(left)
    for column in (drawn, drawn[:, :1], drawn[:, 2:]):  # all, those drawn first, those drawn last
        counts = np.bincount(column.ravel(), minlength=151)[left]
        assert counts.sum() == column.size
        expected = column.size / len(left)
        freedom = len(left) - 1
        assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


def test_negatives_are_a_function_of_seed_and_user() -> None:
    pool = list(range(40))
    random = np.random.default_rng(0)
    events = [
        (user, item, 1, time)
        for user in range(50)
        for time, item in enumerate(random.choice(40, 3 + user % 36, replace=False).tolist())
    ]
    everyone = _drawn_of(_clean_arrays(events), pool, 5, 2024, 50)
    assert everyone == _drawn_of(_clean_arrays(events[::-1]), pool, 5, 2024, 50)
    assert everyone != _drawn_of(_clean_arrays(events), pool, 5, 2025, 50)
    for kept in ([7], [3, 35, 36], list(range(1, 50, 2))):
        some = _drawn_of(_clean_arrays([event for event in events if event[0] in kept]), pool, 5, 2024, 50)
        assert [some[user] for user in kept] == [everyone[user] for user in kept]
    assert everyone[0] != everyone[1]


def test_users_with_equal_tastes_get_different_negatives() -> None:
    drawn = _drawn([[0, 1]] * 200, list(range(1_000)), 2)
    assert len({tuple(own) for own in drawn}) == 200


def test_ninety_nine_negatives_are_distinct_and_whoever_has_fewer_left_gets_these() -> None:
    pool = list(range(150))
    drawn = _drawn([pool[:10], pool[:51], pool[:52], pool[:100]], pool, 99)
    assert [len(set(own)) for own in drawn] == [len(own) for own in drawn] == [99, 99, 98, 50]
    assert sorted(drawn[3]) == pool[100:]


def test_who_has_touched_all_but_one_item_gets_that_one_and_who_has_touched_all_gives_no_row() -> None:
    events = _clean_arrays([(user, item, 1, item) for user in range(2) for item in range(9 + user)])
    protocol = Protocol(held_out=1, negatives=2)
    rows = sampling.ctr_rows(events, protocol, Counter())
    drawn = draw_negatives(
        rows, Pairs(events.users, events.items), ItemPool(np.arange(10, dtype=np.int32)), protocol.seed
    )
    assert [(row.user, row.candidate, row.label) for row in _as_rows(drawn)] == [(0, 8, 1), (0, 9, 0)]


def _popular(likes: Sequence[int], touched: Sequence[Sequence[int]], negatives: int) -> list[list[int]]:
    """The negatives of each user, drawn in proportion to the items' likes."""
    events = _clean_arrays(
        [(user, item, 1, time) for user, items in enumerate(touched) for time, item in enumerate(items)]
    )
    protocol = Protocol(held_out=1, negatives=negatives)
    rows = sampling.ctr_rows(events, protocol, Counter())
    pool = popularity_pool(np.ones(len(likes), bool), np.array(likes))
    drawn = draw_negatives(rows, Pairs(events.users, events.items), pool, protocol.seed)
    return [
        drawn.candidates[(drawn.users == user) & (drawn.labels == 0)].tolist() for user in range(len(touched))
    ]


def test_popular_negatives_are_drawn_in_proportion_to_likes() -> None:
    likes = [5, 7, 0, *range(1, 21)]  # nobody likes item 2
    drawn = [own[0] for own in _popular(likes, [[0, 1]] * 4_000, 1)]
    expected = 4_000 * np.array(likes[3:]) / sum(likes[3:])
    counts = np.bincount(drawn, minlength=len(likes))
    assert counts[:3].tolist() == [0, 0, 0]
    assert ((counts[3:] - expected) ** 2 / expected).sum() < 19 + 5 * np.sqrt(38)


def test_popular_negatives_of_a_user_are_a_draw_without_replacement_also_where_one_item_has_nearly_all_likes() -> (
    None
):
    likes = [3, 3, 10**12, 1, 2, 3]  # after item 2 a draw is refused until the pool is gone through
    drawn = _popular(likes, [[0, 1]] * 3_000, 2)
    assert all(own[0] == 2 for own in drawn)
    counts = np.bincount([own[1] for own in drawn], minlength=6)
    expected = 3_000 * np.array([1, 2, 3]) / 6
    assert ((counts[3:] - expected) ** 2 / expected).sum() < 2 + 5 * np.sqrt(4)


def test_where_nobody_likes_anything_no_negative_is_drawn_and_no_row_left() -> None:
    assert _popular([0] * 9, [[0, 1]] * 3, 2) == [[], [], []]


def test_popular_negatives_are_a_function_of_seed_and_user() -> None:
    likes = list(range(1, 41))
    touched = [[user % 7, 20 + user % 11, 33] for user in range(60)]
    whole = _popular(likes, touched, 3)
    assert whole == _popular(likes, touched, 3)
    assert whole[:9] == _popular(likes, touched[:9], 3)
    assert all(
        len(set(own)) == 3 and not set(own) & set(items) for own, items in zip(whole, touched, strict=True)
    )


def test_without_slots_to_fill_nothing_is_drawn() -> None:
    nothing = _interactions([])
    for protocol in (Protocol(), Protocol(held_out=2), Protocol(held_out=2, negatives=2)):
        rows = sampling.ctr_rows(nothing, protocol, Counter())
        for pool in ([], [1, 2]):
            assert not len(
                draw_negatives(
                    rows, Pairs(nothing.users, nothing.items), ItemPool(np.array(pool, np.int32)), 1
                )
            )
    assert len(sampling.sequences(nothing, Protocol(), Counter())[0]) == 0


# ---- Users


def _chosen(
    rows_of: Sequence[int], test: int, finetune: int, **options: Any
) -> tuple[dict[str, list[int]], int]:
    """Users of each split, and how many rows were beyond the sizes."""
    dropped: Counter[str] = Counter()
    counts = np.array(rows_of, np.int64)
    numbers = choose_users(counts, test, finetune, Protocol(**options), "ctr", dropped)
    assert len(numbers) == len(counts)
    assert set(numbers.tolist()) <= {-1, 0, 1, 2}
    splits = {name: np.flatnonzero(numbers == SPLITS.index(name)).tolist() for name in SPLITS}
    return splits, dropped["ctr: beyond the sizes asked for"]


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 9), max_size=60), st.integers(1, 80), st.integers(1, 160),
    st.floats(0, 1), st.integers(0, 5),
)  # fmt: skip
def test_whole_users_fill_the_test_set_then_the_finetune_set(
    rows_of: list[int], test: int, finetune: int, share: float, seed: int
) -> None:
    try:
        splits, beyond = _chosen(rows_of, test, finetune, valid_users=share, seed=seed)
    except DataError:
        return  # too few users for three splits
    users = [user for own in splits.values() for user in own]
    assert len(users) == len(set(users))
    assert all(rows_of[user] for user in users)
    sizes = {name: sum(rows_of[user] for user in own) for name, own in splits.items()}
    assert all(sizes.values())
    assert sum(sizes.values()) + beyond == sum(rows_of)
    most = max(rows_of)
    tuned = sizes["train"] + sizes["valid"]
    if sum(rows_of) >= test + finetune:
        assert test <= sizes["test"] < test + most
        assert tuned < finetune + most
        assert tuned >= finetune or beyond == 0  # the last test user may have taken what was wanted here
    else:
        assert beyond == 0
        wanted = round(sum(rows_of) * test / (test + finetune))
        assert wanted <= sizes["test"] < wanted + most
    assert len(splits["valid"]) == round(share * (len(splits["valid"]) + len(splits["train"])))


def test_a_large_data_set_is_cut_to_the_sizes_asked_for() -> None:
    splits, beyond = _chosen([10] * 300, 200, 1_000)
    assert {name: len(users) for name, users in splits.items()} == {"train": 90, "valid": 10, "test": 20}
    assert beyond == 3_000 - 1_200


def test_a_smaller_data_set_keeps_the_proportions() -> None:
    splits, beyond = _chosen([10] * 60, 20_000, 100_000)
    assert {name: len(users) for name, users in splits.items()} == {"train": 45, "valid": 5, "test": 10}
    assert beyond == 0


def test_another_seed_chooses_other_users() -> None:
    one, other, again = (_chosen([6] * 60, 60, 300, seed=seed)[0] for seed in (1, 2, 1))
    assert set(one["test"]) != set(other["test"])
    assert one == again


@pytest.mark.parametrize("users", range(41))
def test_any_number_of_users_gives_three_splits_or_a_clear_error(users: int) -> None:
    refused: list[DataError] = []
    worked = 0
    for rows in (1, 2, 7):
        for test, finetune in (
            (1, 1),
            (1, 5),
            (5, 1),
            (20_000, 100_000),
            (users * rows, 1),
            (1, users * rows),
        ):
            for share in (0.0, 0.1, 0.5, 0.9, 1.0):
                try:
                    splits, _ = _chosen([rows] * users, test, finetune, valid_users=share)
                except DataError as error:
                    refused.append(error)
                else:
                    assert all(splits.values())
                    worked += 1
    assert refused
    assert {error.message.split(" are ")[0] for error in refused} == {f"ctr: {users} usable users"}
    assert {error.hint for error in refused} == {"give more interactions, or sample negatives: --negatives 2"}
    assert users < 12 or worked


@example(task="ctr", negatives=0)
@given(task=st.sampled_from(["ctr", "seqrec"]), negatives=st.sampled_from([0, 2]))
def test_the_hint_suggests_random_negatives_where_they_would_help(task: str, negatives: int) -> None:
    protocol = Protocol(held_out=2, negatives=negatives)
    with pytest.raises(DataError, match=f"{task}: 0 usable users") as error:
        choose_users(np.zeros(5, np.int64), 1, 1, protocol, task, Counter())
    assert ("--negatives" in (error.value.hint or "")) == (task == "ctr" and not negatives)


def test_data_without_dislikes_gives_no_row() -> None:
    dropped: Counter[str] = Counter()
    assert (
        _ctr_rows([Event(user, item, 1, item) for user in range(5) for item in range(3)], Protocol(), dropped)
        == []
    )
    assert dropped["ctr: user with rows of one label only"] == 15
