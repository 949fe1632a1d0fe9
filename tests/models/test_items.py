"""An item's vector is what its group says, from live content and from the folded table alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rbserve.models.configs import CONFIGS, CtrConfig, EmbeddingItems, HistoryConfig, LayersConfig, TextItems
from rbserve.models.ctr import build, rebuild
from rbserve.models.ctr_base import CtrModel
from rbserve.models.items import ItemEncoder, VectorItems, WordItems

TEXTS = [[0, 1, 2], [], [2, 2, 5], [4], [0, 5]]  # word numbers; the second item has none
VECTORS = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (len(TEXTS), 7)).astype(np.float32))
KINDS = [
    kind
    for kind, cls in CONFIGS.items()
    if issubclass(cls, TextItems | EmbeddingItems) and not issubclass(cls, LayersConfig)
]
HISTORY, CANDIDATES = [0, 2, 3], [4, 1, 2]


def ragged(texts: list[list[int]]) -> tuple[Tensor, Tensor]:
    values = torch.tensor([word for text in texts for word in text], dtype=torch.int32)
    return values, torch.tensor(np.cumsum([0, *map(len, texts)]))


def items_of(config: CtrConfig) -> ItemEncoder:
    if isinstance(config, TextItems):
        return WordItems(*ragged(TEXTS), n_words=6, dim=config.dim)
    assert isinstance(config, EmbeddingItems)
    hidden = config.item_hidden if isinstance(config, HistoryConfig) else 0
    return VectorItems(VECTORS.clone(), config.dim, config.vectors == "tuned", hidden)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> CtrModel:
    torch.manual_seed(0)
    config = CONFIGS[request.param](dim=8, hidden=(16, 8))  # type: ignore[call-arg]
    assert isinstance(config, CtrConfig)
    model = build(config, items_of(config)).eval()
    for parameter in model.parameters():  # far from the small start, so that a difference would show
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@torch.inference_mode()
def test_a_folded_table_scores_like_the_items_content(model: CtrModel) -> None:
    history, candidates = torch.tensor(HISTORY), torch.tensor(CANDIDATES)
    by_content = model.score(history, candidates)
    torch.testing.assert_close(model.folded().score(history, candidates), by_content, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_batch_scores_like_its_rows(model: CtrModel) -> None:
    histories = [HISTORY, [1], [4, 0]]
    values = torch.tensor([item for one in histories for item in one])
    offsets = torch.tensor(np.cumsum([0, *map(len, histories)]))
    together = torch.sigmoid(model(values, offsets, torch.tensor(CANDIDATES)))
    single = [
        model.score(torch.tensor(history), torch.tensor([candidate]))
        for history, candidate in zip(histories, CANDIDATES, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(single), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_model_is_rebuilt_from_its_state_alone(model: CtrModel) -> None:
    again = rebuild(model.config, model.state_dict()).eval()
    history, candidates = torch.tensor(HISTORY), torch.tensor(CANDIDATES)
    assert torch.equal(again.score(history, candidates), model.score(history, candidates))


@torch.inference_mode()
def test_a_text_is_the_mean_of_its_words_and_no_words_are_zero() -> None:
    items = WordItems(*ragged(TEXTS), n_words=6, dim=4)
    vectors = items.all_vectors().numpy()
    words = items.words.weight.detach().numpy()
    for item, text in enumerate(TEXTS):
        expected = words[text].mean(0) if text else np.zeros(4)
        np.testing.assert_allclose(vectors[item], expected, atol=1e-7)


def test_frozen_vectors_stay_and_tuned_ones_are_trained() -> None:
    for tuned in (False, True):
        items = VectorItems(VECTORS.clone(), 4, tuned=tuned)
        before = items.vectors.detach().clone()
        optimizer = torch.optim.SGD(items.parameters(), lr=1.0)
        items(torch.tensor([0, 1])).square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert torch.equal(before, items.vectors) is not tuned


def test_vectors_are_standardised_in_every_dimension() -> None:
    items = VectorItems(VECTORS.clone(), 4, tuned=False)
    torch.testing.assert_close(items.vectors.mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(items.vectors.std(0, correction=0), torch.ones(7), atol=1e-5, rtol=0)
