"""The training of rankings with vectors of texts: which items are predicted, and what they are held against."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from small_backbone import make_backbone

from rbserve.core.options import with_options
from rbserve.core.types import no_progress
from rbserve.data.dataset import Dataset
from rbserve.models.configs import SasRecTextConfig
from rbserve.models.sasrec import TextSasRec
from rbserve.models.zoo import find_model
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Checkpoint, Settings, fit
from rbserve.train.tasks import itemknn
from rbserve.train.tasks.seq import with_targets
from rbserve.train.tasks.seq_text import FRESHNESS, NEIGHBOUR_WEIGHTS, PROJECTION_RATE, TextItemTask, make
from rbserve.train.tasks.softmax import weighted_softmax_loss

SMALL = {"layers": "1", "dim": "16", "heads": "2", "dropout": "0"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_backbone("sentence-bert", tmp_path_factory.mktemp("encoder") / "bert"))


def made(planted: Dataset, encoder: str, **options: str) -> tuple[TextSasRec, TextItemTask]:
    spec = find_model("sasrec-2l-emb")
    config = with_options(spec.config, SMALL | {"encoder": encoder} | options)
    torch.manual_seed(0)
    model, task = make(dataclasses.replace(spec, config=config), planted, no_progress)
    torch.nn.init.normal_(model.item_embedding.own.weight, std=0.5)
    return model.eval(), task


def by_hand(model: TextSasRec, planted: Dataset, rows: list[int], decay: float) -> float:
    """The loss over the whole catalogue of trained items, position by position."""
    table = model.item_embedding.all_vectors()
    sequences = with_targets(planted.seqrec("train"), model.config.max_history)
    trained = torch.from_numpy(np.unique(sequences.values).astype(np.int64))
    total = 0.0
    for row in rows:
        items = torch.from_numpy(sequences[row].astype(np.int64))
        hidden = model(table[items[:-1]][None])[0]
        for place, state in enumerate(hidden):
            logits = table @ state + model.item_bias
            later = items[place : place + 6] if decay else items[place : place + 1]
            weights = decay ** torch.arange(len(later))
            losses = logits[trained].logsumexp(0) - logits[later]
            total += float((weights / weights.sum() * losses).sum())
    return total


@torch.no_grad()
@pytest.mark.parametrize("decay", ["0", "0.8"])
def test_a_position_predicts_the_items_that_follow_by_weights_that_decay(
    planted: Dataset, encoder: str, decay: str
) -> None:
    model, task = made(planted, encoder, decay=decay, negatives="0")
    rows = [0, 3, 5, 17]
    loss = float(task.loss(model, np.array(rows)))
    assert loss == pytest.approx(by_hand(model, planted, rows, float(decay)), rel=1e-5)


@torch.no_grad()
def test_the_last_targets_alone_can_be_predicted(planted: Dataset, encoder: str) -> None:
    model, task = made(planted, encoder, negatives="0")
    _, last = made(planted, encoder, negatives="0", targets="last")
    rows = np.arange(8)
    assert 0 < float(last.loss(model, rows)) < float(task.loss(model, rows))


def test_the_items_of_a_pool_stand_for_all_trained_items(planted: Dataset, encoder: str) -> None:
    """Horvitz-Thompson: weighted by one over its probability, a pool has the size of the catalogue on average."""
    _, task = made(planted, encoder, negatives="10")
    values = planted.seqrec("train").histories.values
    rng, trained, sizes = np.random.default_rng(0), int((task.counts > 0).sum()), []
    for _ in range(300):
        present = rng.choice(np.repeat(np.arange(len(task.counts)), task.counts), 10).astype(values.dtype)
        pool, log_odds = task._pool(present, torch.device("cpu"))
        assert set(present.tolist()) <= set(pool.tolist())
        assert len(pool) < trained
        sizes.append(float(log_odds.exp().sum()))
    assert np.mean(sizes) == pytest.approx(trained, rel=0.03)
    everything, even = made(planted, encoder, negatives="0")[1]._pool(present, torch.device("cpu"))
    assert len(everything) == trained
    assert not even.any()


def test_an_item_stands_for_as_many_as_its_log_odds_say_except_where_it_is_the_target() -> None:
    torch.manual_seed(0)
    hidden, items, bias = torch.randn(1, 4), torch.randn(3, 4), torch.randn(3)
    targets, weights, log_odds = (
        torch.tensor([[1, 0]]),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([2.0, 9.0, 0.5]),
    )
    scores = (hidden @ items.T + bias)[0]
    expected = torch.logsumexp(scores + torch.tensor([2.0, 0.0, 0.5]), 0) - scores[1]
    torch.testing.assert_close(
        weighted_softmax_loss(hidden, items, bias, targets, weights, log_odds), expected
    )


@torch.no_grad()
def test_freshness_is_chosen_on_validation_unless_it_is_set(planted: Dataset, encoder: str) -> None:
    model, task = made(planted, encoder)
    best = task.validate(model)
    values = {}
    for freshness in FRESHNESS:
        fixed, other = made(planted, encoder, freshness=str(freshness))
        values[freshness] = other.validate(fixed)
        assert float(fixed.freshness) == freshness
    assert best == max(values.values())
    assert float(model.freshness) == max(values, key=lambda value: values[value])


def test_the_projection_of_texts_learns_slower_than_what_reads_its_vectors(
    planted: Dataset, encoder: str, tmp_path: Path
) -> None:
    """At the whole rate its outputs outgrew the other layers, and some trainings learnt nothing more."""
    model, task = made(planted, encoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = Settings(batch=64, micro_batch=64, lr=1e-3, epochs=1, epoch_rows=64)
    fit(model, task, settings, Checkpoint(tmp_path / "checkpoint", {}))
    moved = {
        name: float((value.detach() - before[name]).abs().max())
        for name, value in model.named_parameters()
        if name in ("item_embedding.projection.weight", "transformer.start")
    }
    assert moved["transformer.start"] == pytest.approx(1e-3, rel=1e-2)  # Adam's first update
    assert moved["item_embedding.projection.weight"] == pytest.approx(PROJECTION_RATE * 1e-3, rel=1e-2)


@torch.no_grad()
def test_neighbours_add_their_share_with_the_weight_that_is_best_on_validation(
    planted: Dataset, encoder: str
) -> None:
    """Beside the network alone, and with every other weight set: none is better."""
    model, task = made(planted, encoder, neighbours="8")
    best = task.validate(model)
    assert model.neighbours is not None
    values = {}
    for weight in NEIGHBOUR_WEIGHTS:
        fixed, other = made(planted, encoder, neighbours="8", neighbour_weight=str(weight))
        values[weight] = other.validate(fixed)
    assert best == max(values.values()) > values[0.0]
    assert float(model.neighbours.weight) == max(values, key=lambda value: values[value])

    history = torch.tensor([[3, 1, 2]])
    alone, _ = made(planted, encoder, freshness=str(float(model.freshness)))
    counted = model.neighbours.items(history)
    expected = alone.folded().scores(history) + model.neighbours.weight * torch.log(
        counted / counted.sum() + 1e-5
    )
    torch.testing.assert_close(model.folded().scores(history), expected)


@torch.no_grad()
def test_neighbours_of_a_ranking_are_those_of_itemknn(planted: Dataset, encoder: str, tmp_path: Path) -> None:
    model, _ = made(planted, encoder, neighbours="8", neighbour_text="0")
    spec = find_model("itemknn")
    alone, task = itemknn.make(
        dataclasses.replace(spec, config=with_options(spec.config, {"neighbours": "8"})), planted, no_progress
    )
    task.fit_whole(alone, tmp_path / "itemknn", no_progress)
    assert model.neighbours is not None
    for name, tensor in model.neighbours.items.state_dict().items():
        torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=0, atol=0)


def test_what_was_chosen_is_in_the_manifest_and_unseen_items_keep_the_vector_of_their_text(
    planted: Dataset, encoder: str, tmp_path: Path
) -> None:
    spec = find_model("hstu")
    spec = dataclasses.replace(spec, config=with_options(spec.config, SMALL | {"encoder": encoder}))
    trained = train(spec, planted, tmp_path / "hstu", Settings(batch=64, micro_batch=64, lr=5e-3, epochs=2))
    assert trained.manifest.chosen["freshness"] in FRESHNESS
    from rbserve.runtimes.torch import load_model

    model = load_model(trained)
    assert float(model.freshness) == trained.manifest.chosen["freshness"]
    _, task = made(planted, encoder)
    unseen = torch.from_numpy(task.counts == 0)
    assert not model.item_embedding.own.weight[unseen].any()
    assert (model.item_bias[unseen] == model.new_item[0]).all()
    assert (model.item_life[unseen] == model.new_item[1]).all()
    assert cast(SasRecTextConfig, model.config).negatives == 1024
