"""From events to a sealed data set: what is on disk keeps the protocol, whatever the pieces and their order."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_dataset import build

from rbserve.core import files
from rbserve.core.errors import DataError, UsageError
from rbserve.data.dataset import NEVER, SPLITS, Dataset, ItemTable, open_dataset
from rbserve.train.protocol import event_store, sampling
from rbserve.train.protocol.negatives import ItemPool, Pairs, draw_negatives
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import GIVEN, Interactions
from rbserve.train.protocol.splitting import EventsInMemory, Texts, write_splits
from rbserve.train.protocol.tally import Tally

USERS, ITEMS = 40, 30
KINDS: dict[str, dict[str, Any]] = {
    "every event": {},
    "every event, given history": {"given_history": True},
    "held out, own dislikes": {"held_out": 2},
    "held out, random negatives": {"held_out": 2, "negatives": 3},
}
SIZES = {"ctr_test_rows": 30, "ctr_finetune_rows": 90, "seqrec_test_rows": 6, "seqrec_finetune_rows": 20}
OF_SPLITS = (*((task, split) for task in ("ctr", "seqrec") for split in SPLITS),)


@pytest.fixture(scope="module", autouse=True)
def _no_flush() -> Iterator[None]:
    """Hundreds of small data sets need not outlive a loss of power."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(files, "_flush", lambda _: None)
        yield


@st.composite
def protocols(draw: st.DrawFn) -> Protocol:
    """Any kind of click prediction, sizes that are reached and sizes that are not."""
    return Protocol(
        **KINDS[draw(st.sampled_from(list(KINDS)))],
        **(SIZES if draw(st.booleans()) else {}),
        seed=draw(st.integers(0, 5)),
        history=draw(st.integers(1, 5)),
        min_history=draw(st.integers(0, 1)),
        rows_per_label=draw(st.integers(1, 4)),
    )


RAW = st.builds(
    lambda seed, users: _raw(seed, users), st.integers(0, 1_000), st.sampled_from([USERS, 2 * USERS])
)
SOME = settings(max_examples=15)


def _raw(seed: int, users: int = USERS) -> Interactions:
    """Twelve events a user on average, in any order; few times and items, so that many are equal."""
    random = np.random.default_rng(seed)
    size = 12 * users
    labels = random.choice([0, 1, GIVEN], size, p=[0.4, 0.45, 0.15])
    return Interactions(
        random.integers(users, size=size).astype(np.int32),
        random.integers(ITEMS, size=size).astype(np.int32),
        labels.astype(np.int8),
        random.integers(8, size=size),
    )


def _table(items: int = ITEMS) -> ItemTable:
    return ItemTable(
        [f"raw{item}" for item in range(items)], [f"word{item % 7} title" for item in range(items)]
    )


@contextmanager
def _built(raw: Interactions, protocol: Protocol, tally: Tally | None = None) -> Iterator[Dataset | None]:
    """The data set in a folder of its own, or None when there are too few users for three splits."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = None
        with suppress(DataError):
            dataset = build(Path(folder) / "made", "made", raw, _table(), protocol, tally)
        assert dataset or not list(Path(folder).iterdir())
        yield dataset


def _fingerprint(raw: Interactions, protocol: Protocol) -> str | None:
    with _built(raw, protocol) as dataset:
        return dataset.fingerprint if dataset else None


def _fields(dataset: Dataset, task: str, split: str) -> list[tuple[Any, ...]]:
    """All rows of a split: user, item, label, time, newest, history."""
    folder = f"{task}/{split}"
    rows = dataset.ctr(split) if task == "ctr" else dataset.seqrec(split)  # type: ignore[arg-type]
    labels = rows.labels.tolist() if task == "ctr" else [1] * len(rows)
    items = rows.candidates if task == "ctr" else rows.targets
    times, newest = dataset.column(folder, "time"), dataset.column(folder, "newest")
    histories = [tuple(rows.histories[row].tolist()) for row in range(len(rows))]
    columns = (rows.users.tolist(), items.tolist(), labels, times.tolist(), newest.tolist(), histories)
    return list(zip(*columns, strict=True))


# ---- What is on disk


@SOME
@given(RAW, protocols())
def test_the_splits_hold_all_rows_of_their_users_and_nobody_elses(
    raw: Interactions, protocol: Protocol
) -> None:
    with _built(raw, protocol) as dataset:
        if dataset is None:
            return
        events = sampling.clean(raw, protocol.seed, Counter())
        rows = sampling.ctr_rows(events, protocol, Counter())
        pool = ItemPool(np.unique(raw.items))
        rows = draw_negatives(rows, Pairs(events.users, events.items), pool, protocol.seed)
        ctr = rows.split()
        ordered, times, newest = sampling.sequences(events, protocol, Counter())
        expected = {
            "ctr": [ctr.users, ctr.candidates, ctr.labels, rows.times, rows.newest],
            "seqrec": [ordered.users, ordered.targets, np.ones(len(ordered), int), times, newest],
        }
        histories = {"ctr": ctr.histories, "seqrec": ordered.histories}
        for task, split in OF_SPLITS:
            found = _fields(dataset, task, split)
            own = np.isin(expected[task][0], [row[0] for row in found])
            columns = [column[own].tolist() for column in expected[task]]
            columns.append([tuple(histories[task][row].tolist()) for row in np.flatnonzero(own)])
            assert found == list(zip(*columns, strict=True))


@SOME
@given(RAW, protocols())
def test_what_is_on_disk_keeps_the_promises_of_the_protocol(raw: Interactions, protocol: Protocol) -> None:
    with _built(raw, protocol) as dataset:
        if dataset is None:
            return
        for task in ("ctr", "seqrec"):
            parts = {split: _fields(dataset, task, split) for split in SPLITS}
            users = [{row[0] for row in rows} for rows in parts.values()]
            assert all(users)
            assert sum(map(len, users)) == len(set().union(*users))
            for rows in parts.values():
                labels = Counter((user, label) for user, _, label, *_ in rows)
                for (_, label), count in labels.items():
                    assert count <= (protocol.most_rows(label) if task == "ctr" else 1)
                for user, item, _, time, newest, history in rows:
                    assert task == "seqrec" or {(user, 0), (user, 1)} <= set(labels)
                    assert item not in history
                    assert len(history) <= protocol.history
                    assert newest < time or (task == "seqrec" and newest == time)
                    assert (newest == NEVER) == (not history)
        assert np.unique(pq.read_table(dataset.path / "users.parquet")["user"]).tolist() == sorted(
            {row[0] for task, split in OF_SPLITS for row in _fields(dataset, task, split)}
        )


@SOME
@given(RAW, protocols())
def test_the_counts_of_the_manifest_are_those_of_the_columns(raw: Interactions, protocol: Protocol) -> None:
    with _built(raw, protocol) as dataset:
        if dataset is None:
            return
        counts = dataset.manifest.counts
        for task, split in OF_SPLITS:
            rows = _fields(dataset, task, split)
            expected = {
                "rows": len(rows),
                "users": len({row[0] for row in rows}),
                "items": len({item for row in rows for item in (row[1], *row[5])}),
            }
            if task == "ctr":
                expected["positives"] = sum(row[2] for row in rows)
            assert counts[task][split] == expected
        events = sampling.clean(raw, protocol.seed, Counter())
        assert counts["source"] == {
            "users": len(set(raw.users.tolist())),
            "items": len(set(raw.items.tolist())),
            "items_with_text": ITEMS,
            "interactions": len(events),
            "positives": int((events.labels == 1).sum()),
            "given": int((events.labels == GIVEN).sum()),
        }
        assert counts["items"] == len(dataset.items) == ITEMS
        assert dataset.manifest.seed == protocol.seed
        assert dataset.manifest.options["history"] == protocol.history


@SOME
@given(RAW, protocols())
def test_every_event_is_kept_or_counted_as_dropped(raw: Interactions, protocol: Protocol) -> None:
    tally = Tally()
    with _built(raw, replace(protocol, held_out=0, negatives=0), tally) as dataset:
        if dataset is None:
            return
        assert dataset.manifest.dropped == {reason: count for reason, count in tally.dropped.items() if count}
        counts = dataset.manifest.counts
        rows = sum(counts["ctr"][split]["rows"] for split in SPLITS)
        left_out = sum(count for reason, count in tally.dropped.items() if reason.startswith("ctr: "))
        repeats = tally.dropped["repeated item of a user"]
        assert rows + left_out + repeats + counts["source"]["given"] == len(raw)


# ---- What does not matter


@SOME
@given(RAW, protocols(), st.integers(0, 1_000))
def test_the_order_of_the_raw_rows_does_not_matter(raw: Interactions, protocol: Protocol, seed: int) -> None:
    doubled = raw.take(
        np.concatenate((np.arange(len(raw)), np.arange(0, len(raw), 5)))
    )  # some twice: exact ties
    shuffled = doubled.take(np.random.default_rng(seed).permutation(len(doubled)))
    assert _fingerprint(raw, protocol) == _fingerprint(doubled, protocol) == _fingerprint(shuffled, protocol)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes_and_another_other_test_users(kind: str, tmp_path: Path) -> None:
    raw = _raw(1, 2 * USERS)
    one, again, other = (
        build(tmp_path / name, "made", raw, _table(), Protocol(seed=seed, **KINDS[kind]))
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    )
    names = sorted(file.relative_to(one.path) for file in one.path.rglob("*.npy"))
    assert len(names) == 3 * 7 + 3 * 6 + 2
    for name in names:
        assert (one.path / name).read_bytes() == (again.path / name).read_bytes()
    assert one.manifest == _manifest_named(again, "one")
    assert one.fingerprint != other.fingerprint
    for task in ("ctr", "seqrec"):
        users = [set(dataset.column(f"{task}/test", "user").tolist()) for dataset in (one, other)]
        assert users[0] != users[1]


@pytest.mark.parametrize(
    ("kind", "fingerprint"),
    [
        ("every event", "7425ecef91bb7e61"),
        ("every event, given history", "0da2f921c93a669c"),
        ("held out, own dislikes", "dc5b85a11bf8767c"),
        ("held out, random negatives", "0db7b4cb9b99482d"),
    ],
)
def test_the_papers_split_has_the_content_that_version_01_gave_it(
    kind: str, fingerprint: str, tmp_path: Path
) -> None:
    protocol = Protocol(**KINDS[kind], **SIZES)
    dataset = build(tmp_path / "made", "made", _raw(1, 2 * USERS), _table(), protocol)
    assert dataset.fingerprint.startswith(fingerprint)


def _manifest_named(dataset: Dataset, name: str) -> Any:
    """The manifest of a data set as if it were called `name`."""
    return msgspec.structs.replace(dataset.manifest, name=name)


@dataclass(frozen=True)
class Cut:
    """The same events `size` user numbers at a time; some pieces may be empty. Texts come `batch` at a time."""

    whole: EventsInMemory
    size: int
    batch: int = 4
    users = property(lambda self: self.whole.users)
    items = property(lambda self: self.whole.items)
    rows = property(lambda self: self.whole.rows)
    fields = property(lambda self: self.whole.fields)

    def pieces(self) -> Iterator[Interactions]:
        events = self.whole.events
        for begin in range(0, self.users, self.size):
            yield events.take((events.users >= begin) & (events.users < begin + self.size))

    def item_texts(self, items: np.ndarray) -> Iterator[tuple[list[str], list[str]]]:
        for begin in range(0, len(items), self.batch):
            yield from self.whole.item_texts(items[begin : begin + self.batch])

    def user_ids(self, users: np.ndarray) -> Iterator[list[str]]:
        for begin in range(0, len(users), self.batch):
            yield from self.whole.user_ids(users[begin : begin + self.batch])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [{}, SIZES], ids=["all", "some"])
def test_how_events_are_cut_into_pieces_does_not_matter(
    kind: str, sizes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = _raw(2, 2 * USERS)
    raw = raw.take((raw.users % 9 != 4) & (raw.users > 2))  # some numbers without events
    whole = EventsInMemory(raw, _table())
    protocol = Protocol(history=4, rows_per_label=3, **KINDS[kind], **sizes)
    tallies = [Tally()]
    one = write_splits(tmp_path / "made", "made", whole, protocol, tallies[0])
    for size, piece in ((1, 5), (2, 40), (7, 5), (7, 1), (1_000, 5)):
        monkeypatch.setattr(event_store, "PIECE", piece)
        tallies.append(Tally())
        other = write_splits(tmp_path / "made", "made", Cut(whole, size), protocol, tallies[-1])
        assert other.fingerprint == one.fingerprint
        assert other.manifest.counts == one.manifest.counts
        assert +tallies[-1].dropped == +tallies[0].dropped
        assert {name: file for name, file in other.manifest.files.items() if name.endswith(".npy")} == {
            name: file for name, file in one.manifest.files.items() if name.endswith(".npy")
        }


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 12), st.integers(0, 2**30 - 1),
)  # fmt: skip
def test_the_second_pass_reads_the_chosen_users_whole_and_in_small_pieces(
    lengths: list[int], piece: int, chosen: int
) -> None:
    users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    items = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    raw = Interactions(users, items, np.ones(len(users), np.int8), items.astype(np.int64))
    wanted = np.array(
        [user for user in range(len(lengths)) if chosen >> user & 1 and lengths[user]], np.int64
    )
    held = EventsInMemory(raw, _table())
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(event_store, "PIECE", piece)
        cut = Cut(held, 3)
        store = event_store.EventStore.write(
            Path(folder) / "events", cut, Protocol().seed, Tally(), lambda _: None, lambda *_: None
        )
        assert np.diff(store.offsets).tolist() == lengths[: held.users]
        pieces = list(store.of_users(wanted)) if len(wanted) else []
        store.remove()
        assert list(Path(folder).iterdir()) == []
    read = [user for part in pieces for user in part.users.tolist()]
    assert read == [user for user in users.tolist() if user in set(wanted.tolist())]
    assert [item for part in pieces for item in part.items.tolist()] == [
        item for user in wanted.tolist() for item in range(lengths[user])
    ]
    for one in pieces:
        last = int(one.users[-1])
        assert len(one) - lengths[last] < piece  # without its last user it is smaller than a piece
    owners = [set(part.users.tolist()) for part in pieces]
    assert sum(map(len, owners)) == len(wanted)


# ---- Random negatives


def _likes(touched: Sequence[Sequence[int]]) -> Interactions:
    rows = [(user, item, time) for user, items in enumerate(touched) for time, item in enumerate(items)]
    users, items, times = np.array(rows).T
    return Interactions(users.astype(np.int32), items.astype(np.int32), np.ones(len(rows), np.int8), times)


def test_negatives_come_from_items_that_someone_met_whatever_the_table_holds(tmp_path: Path) -> None:
    touched = [[2 * (user % 10 + step) for step in range(5)] for user in range(40)]  # even numbers below 28
    protocol = Protocol(held_out=2, negatives=99, rows_per_label=99)
    for catalogue in ("used", "seen", "all"):
        held = EventsInMemory(_likes(touched), _table(60))
        dataset = write_splits(tmp_path / catalogue, "made", held, protocol, Tally(), catalogue=catalogue)  # type: ignore[arg-type]
        for split in SPLITS:
            rows = dataset.ctr(split)
            for user in np.unique(rows.users).tolist():
                own = rows.candidates[(rows.users == user) & (rows.labels == 0)]
                drawn = [int(dataset.items.ids[item].removeprefix("raw")) for item in own]
                assert sorted(drawn) == sorted(set(range(0, 28, 2)) - set(touched[user]))


def test_popular_negatives_of_the_papers_split_are_drawn_by_the_likes_of_all_users(tmp_path: Path) -> None:
    """Ten items have 60 likes each, 200 one each: for a user 7 * 60 of 7 * 60 + 199 likes are of a popular item."""
    touched = [[user % 10, (user + 3) % 10, (user + 6) % 10, 10 + user] for user in range(200)]
    for way, share in (("uniform", 7 / 206), ("popularity", 420 / 619)):
        protocol = Protocol(held_out=2, negatives=2, negatives_by=way)
        dataset = build(tmp_path / way, "made", _likes(touched), _table(210), protocol)
        rows = [dataset.ctr(split) for split in SPLITS]
        drawn = np.concatenate([part.candidates[part.labels == 0] for part in rows])
        assert abs((drawn < 10).mean() - share) < 0.08


def test_given_likes_are_not_counted_for_popular_negatives(tmp_path: Path) -> None:
    """Items 0 to 9 are liked before the observation alone: they are no negatives, which uniform ones may be."""
    likes = _likes(
        [[user % 10, 10 + user % 50, 10 + (user + 9) % 50, 10 + (user + 21) % 50] for user in range(200)]
    )
    raw = replace(likes, labels=np.where(likes.items < 10, GIVEN, 1).astype(np.int8))
    for way, has_given in (("uniform", True), ("popularity", False)):
        protocol = Protocol(held_out=2, negatives=2, negatives_by=way)
        dataset = build(tmp_path / way, "made", raw, _table(60), protocol)
        parts = [dataset.ctr(split) for split in SPLITS]
        drawn = np.concatenate([part.candidates[part.labels == 0] for part in parts])
        assert bool((drawn < 10).any()) == has_given


def test_who_has_touched_every_item_gives_no_row_and_is_counted(tmp_path: Path) -> None:
    everything = list(range(12))
    touched = [everything if user < 20 else everything[: 11 if user < 40 else 8] for user in range(60)]
    tally = Tally()
    protocol = Protocol(held_out=2, negatives=3)
    dataset = build(tmp_path / "made", "made", _likes(touched), _table(12), protocol, tally)
    sizes: Counter[tuple[int, int]] = Counter()
    for split in SPLITS:
        rows = dataset.ctr(split)
        sizes.update(zip(rows.users.tolist(), rows.labels.tolist(), strict=True))
    assert {user for user, _ in sizes} == set(range(20, 60))
    for user in range(20, 60):
        assert sizes[user, 1] == 2
        assert sizes[user, 0] == (1 if user < 40 else 3)
    assert tally.dropped["ctr: no item left to sample"] == 20 * (2 + 3) + 20 * 2
    assert dataset.manifest.dropped["ctr: no item left to sample"] == 140


def test_when_everybody_has_touched_every_item_there_is_no_data_set_and_a_hint(tmp_path: Path) -> None:
    touched = [list(range(6))] * 40
    with pytest.raises(DataError, match=r"ctr: .*every item") as error:
        build(tmp_path / "made", "made", _likes(touched), _table(6), Protocol(held_out=2, negatives=2))
    assert error.value.hint
    assert list(tmp_path.iterdir()) == []


# ---- Item table and texts


@pytest.mark.parametrize("kind", KINDS)
def test_item_numbers_point_to_the_right_ids_and_texts_in_every_catalogue(kind: str, tmp_path: Path) -> None:
    raw = _raw(3, 2 * USERS)
    raw = replace(raw, items=raw.items * 7 + raw.users % 7 + 20)  # most numbers from 20 to 229
    table = _table(250)
    protocol = replace(Protocol(**KINDS[kind], **SIZES), history=2, rows_per_label=1)
    decoded = {}
    for catalogue in ("used", "seen", "all"):
        held = EventsInMemory(raw, table)
        dataset = write_splits(tmp_path / catalogue, "made", held, protocol, Tally(), catalogue=catalogue)  # type: ignore[arg-type]
        ids, texts = list(dataset.items.ids), list(dataset.items.texts)
        assert texts == [table.texts[table.index[item]] for item in ids]
        rising = [table.index[item] for item in ids]
        assert rising == sorted(rising)
        decoded[catalogue] = [
            [(user, ids[item], label, time, newest, [ids[one] for one in history])
             for user, item, label, time, newest, history in _fields(dataset, task, split)]
            for task, split in OF_SPLITS
        ]  # fmt: skip
        used = {item for rows in decoded[catalogue] for row in rows for item in (row[1], *row[5])}
        seen = {f"raw{item}" for item in raw.items.tolist()}
        assert len(used) < len(seen | used) < len(table)
        assert set(ids) == {"used": used, "seen": seen | used, "all": set(table.ids)}[catalogue]
        assert dataset.manifest.counts["items"] == len(ids) == len(dataset.tokens)
        assert dataset.manifest.options["catalogue"] == catalogue
        events = sampling.clean(raw, protocol.seed, Counter())
        pairs = zip(events.users.tolist(), (f"raw{item}" for item in events.items.tolist()), strict=True)
        label_of = dict(zip(pairs, events.labels.tolist(), strict=True))
        for user, item, label, _, _, history in (row for rows in decoded[catalogue] for row in rows):
            drawn = bool(protocol.negatives) and label == 0
            assert label_of.get((user, item)) in ((None,) if drawn else (1, GIVEN) if label else (0,))
            assert all(label_of[user, one] in (1, GIVEN) for one in history)
    assert decoded["used"] == decoded["seen"] == decoded["all"]


def test_words_are_learned_from_the_items_of_the_training_rows(tmp_path: Path) -> None:
    raw = _raw(4)
    items = 7 * ITEMS
    raw = replace(raw, items=raw.items * 7 + raw.users % 7)
    table = ItemTable([str(item) for item in range(items)], [f"own{item} common" for item in range(items)])
    protocol = Protocol(**SIZES, history=1, rows_per_label=1)
    held = EventsInMemory(raw, table)
    dataset = write_splits(
        tmp_path / "made", "made", held, protocol, Tally(), texts=Texts(min_count=1), catalogue="all"
    )
    in_training = {
        item
        for task in ("ctr", "seqrec")
        for row in _fields(dataset, task, "train")
        for item in (row[1], *row[5])
    }
    assert 0 < len(in_training) < items / 2 < len(set(raw.items.tolist()))
    assert set(dataset.words) == {"common"} | {f"own{item}" for item in in_training}
    for item in range(items):
        words = [dataset.words[number] for number in dataset.tokens[item]]
        assert words == ([f"own{item}"] if item in in_training else []) + ["common"]


def test_users_are_written_with_their_raw_ids(tmp_path: Path) -> None:
    raw = _raw(5)
    dataset = write_splits(
        tmp_path / "made", "made", Cut(EventsInMemory(raw, _table()), 7), Protocol(), Tally()
    )
    table = pq.read_table(dataset.path / "users.parquet")
    users = sorted({row[0] for task, split in OF_SPLITS for row in _fields(dataset, task, split)})
    assert table["user"].to_pylist() == users
    assert table["user_id"].to_pylist() == [str(user) for user in users]


# ---- All or nothing


class StoppedError(Exception):
    """What the sources below raise."""


@dataclass(frozen=True)
class Failing(Cut):
    """Events that fail in the middle of what `when` names."""

    when: str = ""
    error: type[BaseException] = StoppedError

    def pieces(self) -> Iterator[Interactions]:
        yield from self._until_half("pieces", list(super().pieces()))

    def item_texts(self, items: np.ndarray) -> Iterator[tuple[list[str], list[str]]]:
        yield from self._until_half("item_texts", list(super().item_texts(items)))

    def user_ids(self, users: np.ndarray) -> Iterator[list[str]]:
        yield from self._until_half("user_ids", list(super().user_ids(users)))

    def _until_half(self, name: str, parts: list[Any]) -> Iterator[Any]:
        for place, part in enumerate(parts):
            if name == self.when and place >= len(parts) // 2:
                raise self.error(name)
            yield part


@pytest.mark.parametrize("error", [StoppedError, KeyboardInterrupt])
@pytest.mark.parametrize("when", ["pieces", "item_texts", "user_ids"])
def test_a_failure_in_the_middle_leaves_nothing(
    when: str, error: type[BaseException], tmp_path: Path
) -> None:
    held = EventsInMemory(_raw(6), _table())
    with pytest.raises(error, match=when):
        write_splits(tmp_path / "made", "made", Failing(held, 7, 4, when, error), Protocol(), Tally())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["pieces", "item_texts", "user_ids", "too few", "progress"])
def test_a_failure_leaves_the_data_set_that_was_there(when: str, tmp_path: Path) -> None:
    held = EventsInMemory(_raw(7), _table())
    old = write_splits(tmp_path / "made", "made", held, Protocol(), Tally())
    before = {file: file.read_bytes() for file in old.path.rglob("*") if file.is_file()}
    protocol = Protocol(seed=1)
    events: event_store.Events = Failing(held, 7, 4, when)
    if when == "too few":
        events = EventsInMemory(held.events.take(held.events.users < 3), _table())

    def progress(done: int, total: int, line: str) -> None:
        if when == "progress" and "chosen users" in line:
            raise StoppedError

    with pytest.raises((StoppedError, DataError, UsageError)):
        write_splits(tmp_path / "made", "made", events, protocol, Tally(), progress=progress)
    assert list(tmp_path.iterdir()) == [old.path]
    assert {file: file.read_bytes() for file in old.path.rglob("*") if file.is_file()} == before
    assert open_dataset(old.path).fingerprint == old.fingerprint


def test_a_new_data_set_takes_the_place_of_the_old_and_nothing_else_is_left(tmp_path: Path) -> None:
    held = EventsInMemory(_raw(8), _table())
    old, new = (
        write_splits(tmp_path / "made", "made", held, Protocol(seed=seed), Tally()) for seed in (1, 2)
    )
    assert list(tmp_path.iterdir()) == [new.path]
    assert open_dataset(new.path).fingerprint == new.fingerprint != old.fingerprint
    found = {file.relative_to(new.path).as_posix() for file in new.path.rglob("*") if file.is_file()}
    assert found == {"manifest.json", *new.manifest.files}
    assert [file.name for file in new.path.iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize("users", [0, 1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_too_few_users_are_a_clear_error_and_leave_nothing(kind: str, users: int, tmp_path: Path) -> None:
    raw = _raw(9)
    with pytest.raises(DataError, match=r"ctr: .* usable users are too few") as error:
        build(tmp_path / "made", "made", raw.take(raw.users < users), _table(), Protocol(**KINDS[kind]))
    assert error.value.hint
    assert list(tmp_path.iterdir()) == []
