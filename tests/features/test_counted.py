"""Counted features: held against dictionaries, independent of the rest of a slate, made of training rows alone."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.core.files import digest
from rbserve.core.types import Vectors
from rbserve.data.columns import open_column
from rbserve.data.dataset import SPLITS, Dataset, open_dataset
from rbserve.features.counted import CountedTables, counted_names
from rbserve.stats.pairwise import auc
from rbserve.train.counting import PARTS, Counted, counted_features, row_features
from rbserve.train.tasks.pairs import PairTable

ITEMS = 7
rng = np.random.default_rng(3)
lists = st.lists(st.integers(0, ITEMS + 1), max_size=12).map(lambda values: np.array(values, np.int32))


def tables(texts: bool = True) -> CountedTables:
    """Some tables of seven items."""
    return CountedTables(files_of_tables(texts))


def files_of_tables(texts: bool = True) -> dict[str, np.ndarray]:
    """Tables of seven items by name."""
    keys = np.flatnonzero(rng.random(ITEMS * ITEMS) < 0.5)
    files = {
        "likes": rng.integers(0, 9, ITEMS), "shows": rng.integers(9, 20, ITEMS),
        "in_histories": rng.integers(0, 5, ITEMS), "pairs.keys": keys,
        "pairs.together": rng.integers(1, 9, len(keys)), "pairs.liked": rng.integers(0, 9, len(keys)),
    }  # fmt: skip
    if texts:
        vectors = rng.standard_normal((ITEMS, 48)).astype(np.float32)
        files["vectors"] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).ravel()
    return files


@pytest.fixture(scope="module")
def counted(planted: Dataset) -> Counted:
    return counted_features(planted, None)


@given(lists, lists)
def test_a_candidates_features_do_not_depend_on_the_rest_of_its_slate(
    history: np.ndarray, candidates: np.ndarray
) -> None:
    known = tables()
    together = known.features(history, candidates)
    alone = [known.features(history, candidates[row : row + 1]) for row in range(len(candidates))]
    assert together.shape == (len(candidates), len(known.names))
    for row, features in enumerate(alone):
        np.testing.assert_array_equal(together[row], features[0])


@given(lists, lists, st.permutations(counted_names(times=False, texts=True)), st.integers(1, 5))
def test_features_that_are_chosen_are_those_among_all_in_the_order_chosen(
    history: np.ndarray, candidates: np.ndarray, names: list[str], count: int
) -> None:
    files = files_of_tables()
    everything, chosen = CountedTables(files), CountedTables(files, chosen=names[:count])
    columns = [everything.names.index(name) for name in names[:count]]
    np.testing.assert_array_equal(
        chosen.features(history, candidates), everything.features(history, candidates)[:, columns]
    )


def test_test_rows_are_counted_as_dictionaries_count_them(planted: Dataset, counted: Counted) -> None:
    train, test = planted.ctr("train"), planted.ctr("test")
    seen: dict[int, set[int]] = {}
    liked: dict[int, set[int]] = {}
    for row, user in enumerate(train.users.tolist()):
        seen.setdefault(user, set()).update(train.histories[row].tolist())
        if train.labels[row]:
            liked.setdefault(user, set()).add(int(train.candidates[row]))
    shows, likes = (
        Counter(items.tolist()) for items in (train.candidates, train.candidates[train.labels == 1])
    )
    in_histories = Counter(item for items in seen.values() for item in items)
    names = counted.manifest.names
    for row in range(0, len(test), 97):
        history, item = test.histories[row].tolist(), int(test.candidates[row])
        together = [sum({past, item} <= items for items in seen.values()) for past in history]
        liking = [
            sum(past in items and item in liked.get(user, ()) for user, items in seen.items())
            for past in history
        ]
        shares = [
            users / np.sqrt(in_histories[past] + 1) for users, past in zip(liking, history, strict=True)
        ]
        expected = {
            "likes": likes[item], "shows": shows[item], "like_rate": (likes[item] + 1) / (shows[item] + 2),
            "in_histories": in_histories[item], "history_length": len(history),
            "history_popularity": np.mean([np.log1p(in_histories[past]) for past in history] or [0.0]),
            "together_sum": sum(together), "together_max": max(together, default=0),
            "together_normalised": sum(
                both / np.sqrt((in_histories[past] + 1) * (in_histories[item] + 1))
                for both, past in zip(together, history, strict=True)
            ),
            "liked_together": sum(liking),
            "liked_normalised": sum(shares),
            "liked_recent": sum(share * 0.7**back for back, share in enumerate(reversed(shares))),
        }  # fmt: skip
        made = dict(zip(names, counted.features("test")[row].tolist(), strict=True))
        assert made == pytest.approx(expected, rel=1e-6)


def test_a_training_row_is_counted_by_other_users_alone(planted: Dataset, counted: Counted) -> None:
    train = planted.ctr("train")
    likes = counted.features("train")[:, counted.manifest.names.index("likes")]
    for part in range(PARTS):
        own = train.users % PARTS == part
        others = np.bincount(train.candidates[~own], train.labels[~own], len(planted.items))
        np.testing.assert_array_equal(likes[own], others[train.candidates[own]])


def test_what_a_request_is_counted_as_is_what_the_test_row_was_to_the_bit(
    planted: Dataset, counted: Counted
) -> None:
    test = planted.ctr("test")
    for row in range(0, len(test), 31):
        alone = counted.tables.features(test.histories[row], test.candidates[row : row + 1])
        np.testing.assert_array_equal(alone[0], counted.features("test")[row])
    np.testing.assert_array_equal(row_features(counted.tables, test), counted.features("test"))


def changed(dataset: Dataset, folder: Path, split: str, order: np.ndarray) -> Dataset:
    """A copy of a data set with the labels of a split in another order."""
    shutil.copytree(dataset.path, folder, ignore=shutil.ignore_patterns("counted"))
    name = f"ctr/{split}/label.npy"
    column = open_column(folder / name, writable=True)
    column[:] = column[order]
    column.flush()  # type: ignore[attr-defined]
    manifest = msgspec.structs.replace(
        dataset.manifest, files=dataset.manifest.files | {name: digest(folder / name)}
    )
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return open_dataset(folder)


def test_labels_of_test_rows_change_no_feature(planted: Dataset, counted: Counted, tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(planted.ctr("test")))
    shuffled = changed(planted, tmp_path / "data", "test", order)
    assert (shuffled.ctr("test").labels != planted.ctr("test").labels).any()
    again = counted_features(shuffled, None)
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(again.features(split), counted.features(split))


def test_labels_that_mean_nothing_cannot_be_learnt_from_training_rows(
    planted: Dataset, tmp_path: Path
) -> None:
    order = np.random.default_rng(2).permutation(len(planted.ctr("train")))
    shuffled = changed(planted, tmp_path / "data", "train", order)
    made, labels = counted_features(shuffled, None), shuffled.ctr("train").labels
    features: Vectors = np.nan_to_num(made.features("train"))
    half = np.arange(len(labels)) % 2 == 0
    scores = _trees(features[half], labels[half], features[~half])
    assert abs(auc(labels[~half], scores) - 0.5) < 0.03


def _trees(features: Vectors, labels: np.ndarray, others: Vectors) -> np.ndarray:
    """The scores of `others` by trees that were fitted to `features` and `labels`."""
    lightgbm = pytest.importorskip("lightgbm")
    settings = {"objective": "binary", "num_threads": 1, "verbose": -1, "min_data_in_leaf": 20}
    return lightgbm.train(settings, lightgbm.Dataset(features, labels), 60).predict(others)


def test_the_path_of_a_data_set_may_have_quotes_and_spaces(
    planted: Dataset, counted: Counted, tmp_path: Path
) -> None:
    quoted = tmp_path / 'it\'s a "home"; --' / "data's"
    shutil.copytree(planted.path, quoted, ignore=shutil.ignore_patterns("counted"))
    again = counted_features(open_dataset(quoted), None)
    for split in SPLITS:
        np.testing.assert_array_equal(again.features(split), counted.features(split))
    sequences = planted.seqrec("train")
    with PairTable(quoted, [0.5]) as table, PairTable(tmp_path, [0.5]) as plain:
        for one in (table, plain):
            one.count(sequences, len(planted.items), 5, lambda *_: None)
        pairs, expected = (np.concatenate([piece.sums for piece in one.pieces()]) for one in (table, plain))
    np.testing.assert_array_equal(pairs, expected)


def test_features_are_made_once_and_a_damaged_file_is_named(planted: Dataset, counted: Counted) -> None:
    before = (counted.path / "manifest.json").stat().st_mtime_ns
    again = counted_features(planted, None)
    assert (again.path / "manifest.json").stat().st_mtime_ns == before
    assert not (planted.path / "counting").exists()
