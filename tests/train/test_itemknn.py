"""itemknn: its neighbours are those of ten lines of Python; options that are not set are chosen on validation."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from small_dataset import build

from rbserve.core.errors import UsageError
from rbserve.core.options import with_options
from rbserve.core.types import no_progress
from rbserve.data.artifact import Artifact
from rbserve.data.columns import Ragged
from rbserve.data.dataset import Dataset, ItemTable, SeqSplit
from rbserve.exporters.export import export
from rbserve.models.itemknn import PRIOR
from rbserve.models.zoo import find_model
from rbserve.pipeline.catalogue import add_items
from rbserve.pipeline.home import Home
from rbserve.runtimes.evaluate import rank_rows, recommend
from rbserve.runtimes.opening import open_ranker
from rbserve.runtimes.torch import load_model
from rbserve.stats.listwise import ndcg_at_k, ranks_in_lists
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import Interactions
from rbserve.train.protocol.tally import Tally
from rbserve.train.tasks import pairs
from rbserve.train.tasks.itemknn import GRID, choose
from rbserve.train.tasks.neighbours import heaviest, heaviest_with_texts, pair_weights
from rbserve.train.tasks.pairs import PairTable
from rbserve.train.tasks.warm_start import require_continuable

N_ITEMS, DECAY, RECENCY, FRESHNESS = 30, 0.8, 0.7, 0.5
SET = {"decay": DECAY, "recency": RECENCY, "freshness": FRESHNESS}


def random_sequences(rows: int, seed: int = 3) -> SeqSplit:
    """Histories of 0 to 9 of 30 items, some of which nobody has, and targets."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 10, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = (rng.random(int(offsets[-1]) + rows) ** 2 * (N_ITEMS - 3)).astype(np.int32)
    histories = Ragged(items[: offsets[-1]], offsets.astype(np.int64))
    return SeqSplit(np.arange(rows, dtype=np.int32), items[offsets[-1] :], histories)


def counted(split: SeqSplit, folder: Path, freshness: float = FRESHNESS, width: int = N_ITEMS) -> np.ndarray:
    """The neighbours' weights as a matrix float32[n, n]."""
    with PairTable(folder, [0.5, DECAY]) as table:
        counts = table.count(split, N_ITEMS, 19, no_progress)
        rows = heaviest(table.pieces(), pair_weights(counts, 1, freshness), N_ITEMS, width)
    dense = np.zeros((N_ITEMS, N_ITEMS), np.float32)
    np.add.at(dense, (np.arange(N_ITEMS)[:, None], rows.items), rows.weights)
    return dense


def by_dictionaries(split: SeqSplit, freshness: float = FRESHNESS, last: int = 19) -> np.ndarray:
    """The oracle: pair by pair."""
    weights, times, targets = defaultdict(float), Counter(), Counter(split.targets.tolist())
    for history, target in zip(
        map(split.histories.__getitem__, range(len(split))), split.targets, strict=True
    ):
        sequence = [*history.tolist()[-last:], int(target)]
        times.update(sequence)
        for early, item in enumerate(sequence):
            for late in range(early + 1, len(sequence)):
                weights[item, sequence[late]] += DECAY ** (late - early - 1)
    dense = np.zeros((N_ITEMS, N_ITEMS))
    for (item, later), weight in weights.items():
        fresh = ((targets[later] + 0.5) / (times[later] + 3)) ** freshness
        dense[item, later] = weight / times[item] ** 0.5 * fresh
    return dense


@pytest.mark.parametrize("freshness", [0.0, 0.5])
@pytest.mark.parametrize(("rows_read", "piece"), [(1 << 16, 1 << 20), (7, 10)])
def test_neighbours_are_those_of_a_dictionary_of_pairs_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freshness: float, rows_read: int, piece: int
) -> None:
    monkeypatch.setattr(pairs, "ROWS", rows_read)
    monkeypatch.setattr(pairs, "PIECE", piece)
    monkeypatch.setattr(pairs, "MEMORY_A_PAIR", pairs.MEMORY // (100 * piece))
    split = random_sequences(400)
    np.testing.assert_allclose(
        counted(split, tmp_path, freshness), by_dictionaries(split, freshness), rtol=1e-5
    )


def test_the_heaviest_neighbours_are_kept(tmp_path: Path) -> None:
    split = random_sequences(400)
    whole, cut = by_dictionaries(split), counted(split, tmp_path, width=4)
    assert ((cut > 0).sum(axis=1) <= 4).all()
    for item in range(N_ITEMS):
        heavy = np.sort(whole[item])[::-1][:4]
        np.testing.assert_allclose(np.sort(cut[item])[::-1][:4], heavy, rtol=1e-5)


def test_the_order_of_the_sequences_changes_no_byte(tmp_path: Path) -> None:
    split = random_sequences(400)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    turned = counted(split.take(np.arange(400)[::-1]), tmp_path / "a")
    assert turned.tobytes() == counted(split, tmp_path / "b").tobytes()


def test_texts_add_their_similarity_to_every_pair_but_an_item_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = random_sequences(400)
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 8)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, 0.0)
    monkeypatch.setattr("rbserve.train.tasks.neighbours.DENSE", 4 * N_ITEMS)
    with PairTable(tmp_path, [DECAY]) as table:
        counts = table.count(split, N_ITEMS, 19, no_progress)
        rows = heaviest_with_texts(table.pieces(), pair_weights(counts, 0, FRESHNESS), vectors, 0.1, N_ITEMS)
    dense = np.zeros((N_ITEMS, N_ITEMS))
    np.put_along_axis(dense, rows.items, rows.weights, axis=1)
    np.testing.assert_allclose(dense, by_dictionaries(split) + 0.1 * cosines, atol=1e-5)


# ---- The row ----


def made(dataset: Dataset, path: Path, **options: str) -> Artifact:
    """The row with options, trained."""
    spec = find_model("itemknn")
    spec = dataclasses.replace(spec, config=with_options(spec.config, options))
    return train(spec, dataset, path / "itemknn", Settings())


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users walk along a circle of 40 items, one step or, one time in ten, a step anywhere."""
    rng = np.random.default_rng(5)
    users, steps, n_items = 400, 12, 40
    walks = rng.integers(0, n_items, (users, 1)) + np.cumsum(
        np.where(rng.random((users, steps)) < 0.9, 1, rng.integers(0, n_items, (users, steps))), axis=1
    )
    events = Interactions(
        np.repeat(np.arange(users, dtype=np.int32), steps), (walks % n_items).astype(np.int32).ravel(),
        np.ones(users * steps, np.int8), np.tile(np.arange(steps, dtype=np.int64), users),
    )  # fmt: skip
    table = ItemTable([f"i{item}" for item in range(n_items)], [""] * n_items)
    path = tmp_path_factory.mktemp("chains") / "chains"
    return build(path, "synthetic", events, table, Protocol(held_out=2, negatives=2), Tally())


@pytest.fixture(scope="module")
def walked(chains: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The row, made of the chains with chosen options, exported in fp32."""
    return export(made(chains, tmp_path_factory.mktemp("walked")), chains, ["fp32"])


def test_it_finds_the_next_item_of_a_chain(walked: Artifact, chains: Dataset) -> None:
    test = chains.seqrec("test")
    ranked = rank_rows(open_ranker(walked, "onnx-fp32"), test.histories, 10)
    assert ndcg_at_k(ranks_in_lists(ranked, test.targets), 10) > 0.85, "the other tenth cannot be known"


def test_scores_are_sums_over_the_history_of_weight_times_recency(chains: Dataset, tmp_path: Path) -> None:
    artifact = made(chains, tmp_path, neighbours="40", **{name: str(value) for name, value in SET.items()})
    model, history = load_model(artifact), [3, 9, 3, 17]
    scores = model(torch.tensor([history]))[0].numpy()
    expected = np.zeros(40)
    for back, item in enumerate(reversed(history)):
        near, weights = model.neighbours[item].numpy(), model.weights[item].numpy()
        np.add.at(expected, near, RECENCY**back * weights)
    np.testing.assert_allclose(scores, expected, atol=2 * PRIOR)
    assert artifact.manifest.chosen == {}, "all options were set"


def test_without_a_history_items_are_ranked_by_how_often_they_are_targets(
    walked: Artifact, chains: Dataset
) -> None:
    items, scores = open_ranker(walked, "onnx-fp32").top_k(np.empty(0, np.int32), 40)
    targets = np.bincount(chains.seqrec("train").targets, minlength=40)
    assert (np.diff(targets[items]) <= 0).all()
    assert (scores > 0).all()
    assert (scores <= PRIOR).all()


def test_options_that_are_not_set_are_chosen_on_validation_and_recorded(walked: Artifact) -> None:
    record = walked.manifest.training
    assert walked.manifest.chosen.keys() == GRID.keys()
    assert walked.manifest.config["decay"] is None, "a chosen value is no change of the row's config"
    assert (record.epochs, record.best_epoch) == (0, 0)
    assert record.best_metric is not None
    assert record.best_metric > 0.85


def test_each_option_gets_the_value_that_validates_best() -> None:
    best = {"decay": 0.9, "freshness": 0.25, "recency": 0.5}

    def evaluate(options: dict[str, float]) -> float:
        return sum(options[name] == value for name, value in best.items())

    assert choose({}, evaluate, no_progress) == (best, 3)
    assert choose({"recency": 0.33}, evaluate, no_progress) == (best | {"recency": 0.33}, 2)


def test_the_same_data_gives_the_same_bytes(walked: Artifact, chains: Dataset, tmp_path: Path) -> None:
    again = made(chains, tmp_path)
    assert again.manifest.files == {
        name: file for name, file in walked.manifest.files.items() if not name.startswith("onnx/")
    }
    assert not [*tmp_path.glob(".*")], "no temporary file is left beside the artefact"


def test_seen_and_retired_items_are_left_out_of_its_lists(walked: Artifact) -> None:
    ranker = open_ranker(walked, "onnx-fp32")
    history = np.array([4, 5, 6], np.int32)
    items, _ = recommend(ranker, history, 37, exclude_seen=True)
    assert sorted([*items.tolist(), *history.tolist()]) == [*range(40)]


def test_random_rows_of_neighbours_have_its_shape(chains: Dataset, tmp_path: Path) -> None:
    spec = dataclasses.replace(find_model("itemknn"), random=True)
    artifact = train(spec, chains, tmp_path / "itemknn-random", Settings())
    assert artifact.is_random
    model = load_model(artifact)
    assert model.neighbours.shape == model.weights.shape == (40, 40)
    assert len(open_ranker(artifact, "torch-fp32").top_k(np.array([1, 2], np.int32), 10)[0]) == 10


def test_what_counting_cannot_do_is_refused_with_the_reason(
    walked: Artifact, chains: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot be exported in int8: it looks rows up"):
        export(walked, chains, ["int8"])
    with pytest.raises(
        UsageError, match=r"no items can be added to itemknn: .* nobody's neighbour"
    ) as refused:
        add_items(walked, [("new", "a new item")], lambda _: np.empty((0, 0), np.float32))
    assert "--init" not in str(refused.value.hint), "which would refuse it too"
    with pytest.raises(UsageError, match="its neighbours are counted anew"):
        require_continuable(walked)
    with pytest.raises(UsageError, match=r"text=0\.1 compares item texts, and data set chains has none"):
        made(chains, tmp_path, text="0.1")
    with pytest.raises(UsageError, match=r"invalid option: decay='1\.5'"):
        made(chains, tmp_path, decay="1.5")


def test_settings_of_the_training_loop_are_said_not_to_apply(
    planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(tmp_path)
    shutil.copytree(planted.path, tmp_path / "data/planted")
    home.train("itemknn", "planted", settings={"epochs": 3, "seed": 1}, config=SET)
    said = capsys.readouterr().err
    assert "itemknn is counted, without a training loop: epochs do not apply" in said
    assert "counted in" in said
    assert "chosen" not in said
    exported = home.export("itemknn", "planted")
    assert [*exported.manifest.variants] == ["onnx-fp32"], "int8 would change nothing"
    with pytest.raises(UsageError, match="cannot be exported in int8: it looks rows up"):
        home.export("itemknn", "planted", ["int8"])
