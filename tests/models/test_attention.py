"""Models that read a history item by item: its order, its end, and one reading for all of its candidates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from history_equations import HISTORY_CASES
from torch import Tensor, nn

from rbserve.models.attention import Din, HistoryModel, last_items, places_within
from rbserve.models.ctr import build

N_ITEMS = 13
HISTORY, CANDIDATES = [7, 2, 2, 11], [3, 0, 12, 5]


@pytest.fixture(params=HISTORY_CASES)
def model(request: pytest.FixtureRequest) -> HistoryModel:
    """In eval mode and float64, every weight random."""
    config, _ = HISTORY_CASES[request.param]
    made = build(config, N_ITEMS).double().eval()
    assert isinstance(made, HistoryModel)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return made


def scores(model: HistoryModel, history: list[int], candidates: list[int] = CANDIDATES) -> Tensor:
    return model.score(torch.tensor(history, dtype=torch.int32), torch.tensor(candidates, dtype=torch.int32))


def batch(model: HistoryModel, rows: list[tuple[list[int], int]]) -> Tensor:
    values = torch.tensor([item for history, _ in rows for item in history], dtype=torch.int32)
    offsets = torch.tensor(np.cumsum([0, *(len(history) for history, _ in rows)]))
    logits: Tensor = model(values, offsets, torch.tensor([candidate for _, candidate in rows]))
    return logits


@torch.inference_mode()
def test_the_order_of_a_history_matters_except_to_din(model: HistoryModel) -> None:
    difference = (scores(model, HISTORY) - scores(model, HISTORY[::-1])).abs().max()
    assert (difference < 1e-12) == isinstance(model, Din)


@torch.inference_mode()
def test_an_item_that_stands_twice_counts_twice(model: HistoryModel) -> None:
    assert (scores(model, [7, 2, 2, 11]) - scores(model, [7, 2, 11])).abs().max() > 1e-3


@torch.inference_mode()
def test_the_last_items_of_a_long_history_are_read_on_every_path(model: HistoryModel) -> None:
    long = [item % N_ITEMS for item in range(model.max_history + 5)]
    recent = long[-model.max_history :]
    expected = scores(model, recent)
    table = model.item_embedding.all_vectors()
    torch.testing.assert_close(scores(model, long), expected)
    torch.testing.assert_close(model.score_vectors(table[long], table[CANDIDATES]), expected)
    together = batch(
        model, [*((long, item) for item in CANDIDATES), ([], 1), *((recent, item) for item in CANDIDATES)]
    )
    torch.testing.assert_close(torch.sigmoid(together[:4]), expected)
    torch.testing.assert_close(torch.sigmoid(together[5:]), expected)
    assert (scores(model, long) - scores(model, long[-model.max_history + 1 :])).abs().max() > 1e-6


@torch.inference_mode()
def test_candidates_do_not_see_each_other(model: HistoryModel) -> None:
    single = torch.cat([scores(model, HISTORY, [candidate]) for candidate in CANDIDATES])
    torch.testing.assert_close(scores(model, HISTORY), single)
    torch.testing.assert_close(scores(model, HISTORY, CANDIDATES * 9), single.repeat(9))


class Readings:
    """Counts the histories that a model reads."""

    def __init__(self, model: HistoryModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.histories = 0
        self._read = model.read
        monkeypatch.setattr(model, "read", self.read)

    def read(self, history: Tensor, lengths: Tensor | None = None) -> object:
        """Reads as the model does."""
        self.histories += history.size(0)
        return self._read(history, lengths)


def gradients(model: HistoryModel) -> dict[str, Tensor]:
    named = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: gradient.clone() for name, gradient in named.items() if gradient is not None}


def test_rows_of_one_history_are_read_once_with_the_loss_and_gradients_of_rows_apart(
    model: HistoryModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(HISTORY, 3), (HISTORY, 0), ([], 5), ([], 6), ([4], 8), (HISTORY, 1), (list(range(9)), 2)]
    labels = torch.tensor([1.0, 0, 0, 1, 1, 0, 1], dtype=torch.float64)
    loss = nn.BCEWithLogitsLoss(reduction="sum")
    readings = Readings(model, monkeypatch)
    whole = loss(batch(model, rows), labels)
    assert readings.histories == 5
    whole.backward()
    packed = gradients(model)
    model.zero_grad()
    for row, label in zip(rows, labels, strict=True):
        loss(batch(model, [row]), label[None]).backward()
    apart = gradients(model)
    assert packed.keys() == apart.keys()
    for name in packed:
        torch.testing.assert_close(packed[name], apart[name])
    singles = torch.cat([batch(model, [row]) for row in rows])
    torch.testing.assert_close(whole, loss(singles, labels))


def test_the_last_items_stand_at_the_end_of_equal_rows() -> None:
    values, offsets = torch.tensor([5, 6, 7, 8, 9]), torch.tensor([0, 0, 4, 5])
    assert last_items(values, offsets, 3).tolist() == [[-1, -1, -1], [6, 7, 8], [-1, -1, 9]]
    assert last_items(values[:0], torch.tensor([0, 0]), 3).tolist() == [[-1]]


def test_the_rows_of_an_owner_are_numbered() -> None:
    assert places_within(torch.tensor([0, 0, 1, 2, 2, 2])).tolist() == [0, 1, 0, 0, 1, 2]
