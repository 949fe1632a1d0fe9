"""The split by time against a plain reading of its text: periods, rows, histories, sizes, what is left out."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_dataset import build
from test_splitting import SIZES, Cut, _raw, _table

from rbserve.core import files
from rbserve.core.errors import DataError
from rbserve.data.dataset import SPLITS, Dataset
from rbserve.data.integrity import inspect
from rbserve.train.protocol import event_store, sampling
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import GIVEN, Interactions
from rbserve.train.protocol.splitting import EventsInMemory, write_splits
from rbserve.train.protocol.tally import Tally

KINDS: dict[str, dict[str, Any]] = {
    "every event": {},
    "every event, given history": {"given_history": True},
    "held out, own dislikes": {"held_out": 2},
    "held out, random negatives": {"held_out": 2, "negatives": 3},
    "held out, popular negatives": {"held_out": 2, "negatives": 3, "negatives_by": "popularity"},
}
PROTOCOLS = st.builds(
    lambda kind, sizes, seed, history, most: Protocol(
        split="time", seed=seed, history=history, rows_per_label=most, **KINDS[kind], **sizes
    ),
    st.sampled_from(list(KINDS)),
    st.sampled_from([{}, SIZES]),
    st.integers(0, 5),
    st.integers(1, 5),
    st.integers(1, 4),
)
RAW = st.builds(
    lambda seed, times: _spread(seed, times), st.integers(0, 1_000), st.sampled_from([12, 60, 5_000])
)
FEW = settings(max_examples=25)


class Row(NamedTuple):
    user: int
    item: int
    label: int
    time: int
    history: tuple[int, ...]


@pytest.fixture(scope="module", autouse=True)
def _no_flush() -> Iterator[None]:
    """Hundreds of small data sets need not outlive a loss of power."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(files, "_flush", lambda _: None)
        yield


def _spread(seed: int, times: int) -> Interactions:
    """Events at so many different times: few of them make many rows enter a period at once."""
    raw = _raw(seed, 60)
    return replace(raw, times=np.random.default_rng(seed).integers(times, size=len(raw)))


def _made(raw: Interactions, protocol: Protocol, folder: str, tally: Tally | None = None) -> Dataset | None:
    """The data set, or None where three periods cannot be made."""
    with suppress(DataError):
        return build(Path(folder) / "made", "made", raw, _table(), protocol, tally)
    assert not list(Path(folder).iterdir())
    return None


def _rows_of(dataset: Dataset, task: str, split: Any) -> list[Row]:
    rows = dataset.rows(task, split)
    labels = rows.labels.tolist() if task == "ctr" else [1] * len(rows)  # type: ignore[union-attr]
    times = dataset.column(f"{task}/{split}", "time").tolist()
    histories = [tuple(rows.histories[row].tolist()) for row in range(len(rows))]
    columns = (rows.users.tolist(), rows.items.tolist(), labels, times, histories)
    return [Row(*values) for values in zip(*columns, strict=True)]


def _plain_rows(
    events: Sequence[Row], protocol: Protocol, task: str, begin: float, end: float
) -> dict[int, list[Row]]:
    """The rows with begin <= time < end of each user, by the words of the protocol; sampled items are -1."""
    made = {}
    for user in {event.user for event in events}:
        own = [event for event in events if event.user == user]
        plain = (
            _plain_sequence if task == "seqrec" else _plain_held_out if protocol.held_out else _plain_events
        )
        if rows := plain(own, protocol, begin, end):
            made[user] = rows
    return made


def _liked_before(own: Sequence[Row], time: int) -> list[int]:
    return [event.item for event in own if event.label and event.time < time]


def _plain_sequence(own: Sequence[Row], protocol: Protocol, begin: float, end: float) -> list[Row]:
    likes = [event for event in own if event.label and event.time < end]
    if not likes or likes[-1].time < begin:
        return []
    history = _liked_before(own, likes[-1].time)
    kept = history[max(0, len(history) - (protocol.history - 1)) :]
    return [likes[-1]._replace(label=1, history=tuple(kept))] if history else []


def _plain_events(own: Sequence[Row], protocol: Protocol, begin: float, end: float) -> list[Row]:
    rows = [
        event._replace(history=tuple(_liked_before(own, event.time)[-protocol.history :]))
        for event in own
        if event.label != GIVEN and begin <= event.time < end
    ]
    return _of_both_labels(rows, protocol)


def _plain_held_out(own: Sequence[Row], protocol: Protocol, begin: float, end: float) -> list[Row]:
    likes = [event for event in own if event.label and event.time < end][-protocol.held_out :]
    if len(likes) < protocol.held_out or likes[0].time < begin:
        return []
    history = tuple(_liked_before(own, likes[0].time)[-protocol.history :])
    if not history:
        return []
    newest = max(event.time for event in own if event.label and event.time < likes[0].time)
    dislikes = [event for event in own if event.label == 0 and max(newest + 1, begin) <= event.time < end]
    if protocol.negatives:
        dislikes = [likes[-1]._replace(item=-1, label=0)] * protocol.negatives
    rows = [*(like._replace(label=1) for like in likes), *dislikes]
    return _of_both_labels([row._replace(history=history) for row in rows], protocol)


def _of_both_labels(rows: list[Row], protocol: Protocol) -> list[Row]:
    parts = [[row for row in rows if row.label == label][-protocol.most_rows(label) :] for label in (0, 1)]
    return parts[0] + parts[1] if all(parts) else []


def _plain_period(
    events: Sequence[Row], protocol: Protocol, task: str, end: float, wanted: int
) -> tuple[int, dict[int, list[Row]], dict[int, list[Row]]]:
    """The latest begin with at least so many rows, the rows from there, and those that begin a moment later has."""
    moments = sorted({event.time for event in events if event.time < end}, reverse=True)
    for begin in moments:
        rows = _plain_rows(events, protocol, task, begin, end)
        if sum(map(len, rows.values())) >= wanted:
            return begin, rows, _plain_rows(events, protocol, task, begin + 1, end)
    raise AssertionError("there are fewer rows")


def _events_of(raw: Interactions, seed: int) -> list[Row]:
    clean = sampling.clean(raw, seed, Counter())
    columns = (clean.users, clean.items, clean.labels, clean.times)
    return [Row(*values, ()) for values in zip(*(column.tolist() for column in columns), strict=True)]


def _sizes(protocol: Protocol, task: str) -> tuple[int, int]:
    if task == "ctr":
        return protocol.ctr_test_rows, protocol.ctr_finetune_rows
    return protocol.seqrec_test_rows, protocol.seqrec_finetune_rows


@FEW
@given(RAW, PROTOCOLS)
def test_each_period_is_the_shortest_with_its_rows_and_holds_what_a_plain_reading_gives(
    raw: Interactions, protocol: Protocol
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = _made(raw, protocol, folder)
        if dataset is None:
            return
        events = _events_of(raw, protocol.seed)
        for task in ("ctr", "seqrec"):
            test, finetune = _sizes(protocol, task)
            end = float("inf")
            for split in reversed(SPLITS):
                usable = sum(map(len, _plain_rows(events, protocol, task, 0, end).values()))
                wanted = {
                    "test": test if usable >= test + finetune else round(usable * test / (test + finetune)),
                    "valid": round(min(finetune, usable) * protocol.valid_users),
                    "train": min(finetune - round(finetune * protocol.valid_users), usable),
                }[split]
                begin, rows, later = _plain_period(events, protocol, task, end, wanted)
                made = _rows_of(dataset, task, split)
                own = {user: [row for row in made if row.user == user] for user in {row.user for row in made}}
                left_out = set(rows) - set(own)
                assert dataset.manifest.counts["moments"][task][split] == begin
                assert len(made) >= wanted
                assert len(made) - max(map(len, own.values())) < wanted  # no user too many
                assert all(
                    rows[user] != later.get(user, []) for user in left_out
                )  # they enter at the first moment
                for user, found in own.items():
                    drawn = [
                        row._replace(item=-1) if protocol.negatives and not row.label else row
                        for row in found
                    ]
                    assert sorted(drawn) == sorted(rows[user])
                end = begin


@FEW
@given(RAW, PROTOCOLS)
def test_what_is_on_disk_passes_every_check_and_negatives_are_never_touched(
    raw: Interactions, protocol: Protocol
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = _made(raw, protocol, folder)
        if dataset is None:
            return
        report = inspect(dataset)
        assert report.ok, report.checks
        assert dataset.manifest.options["split"] == "time"
        touched = {(event.user, event.item) for event in _events_of(raw, protocol.seed)}
        for split in SPLITS if protocol.negatives else ():
            rows = _rows_of(dataset, "ctr", split)
            assert not touched & {(row.user, row.item) for row in rows if not row.label}


@FEW
@given(RAW, PROTOCOLS)
def test_every_event_is_a_row_or_counted_as_left_out(raw: Interactions, protocol: Protocol) -> None:
    with tempfile.TemporaryDirectory() as folder:
        every_event = replace(protocol, held_out=0, negatives=0, negatives_by="uniform")
        dataset = _made(raw, every_event, folder)
        if dataset is None:
            return
        counts, dropped = dataset.manifest.counts, dataset.manifest.dropped
        rows = sum(counts["ctr"][split]["rows"] for split in SPLITS)
        left_out = sum(count for reason, count in dropped.items() if reason.startswith("ctr: "))
        repeats = dropped.get("repeated item of a user", 0)
        assert rows + left_out + repeats + counts["source"]["given"] == len(raw)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_pieces_nor_the_order_of_rows_matter_but_the_seed_breaks_ties(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = _spread(2, 60)
    protocol = Protocol(split="time", history=4, rows_per_label=3, **KINDS[kind], **SIZES)
    whole = write_splits(tmp_path / "made", "made", EventsInMemory(raw, _table()), protocol, Tally())
    shuffled = raw.take(np.random.default_rng(1).permutation(len(raw)))
    for size, piece in ((1, 5), (7, 40), (1_000, 1)):
        monkeypatch.setattr(event_store, "PIECE", piece)
        cut = Cut(EventsInMemory(shuffled, _table()), size)
        other = write_splits(tmp_path / "made", "made", cut, protocol, Tally())
        assert other.fingerprint == whole.fingerprint
        assert (other.manifest.counts, other.manifest.dropped) == (
            whole.manifest.counts,
            whole.manifest.dropped,
        )
    seeds = [
        write_splits(tmp_path / "seed", "made", EventsInMemory(_spread(2, 12), _table()),
                     replace(protocol, seed=seed), Tally()).fingerprint
        for seed in range(3)
    ]  # fmt: skip
    assert len(set(seeds)) == 3


def test_one_time_for_all_events_is_refused_with_a_hint(tmp_path: Path) -> None:
    raw = replace(_raw(1), times=np.zeros(480, np.int64))
    with pytest.raises(DataError, match="too few different times") as error:
        build(tmp_path / "made", "made", raw, _table(), Protocol(split="time"))
    assert "--split users" in (error.value.hint or "")
    assert list(tmp_path.iterdir()) == []
