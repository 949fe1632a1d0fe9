"""A language model's layers over items as tokens: what is packed, split or remembered scores as it does alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from small_backbone import CAUSAL, MASKED, make_backbone
from torch import Tensor
from transformers import AutoModel

from rbserve.models.configs import ItemLanguageConfig
from rbserve.models.ctr import build
from rbserve.models.depth import shortened
from rbserve.models.drivers import ARCHITECTURES, read_config
from rbserve.models.item_language import ItemLanguage
from rbserve.models.items import VectorItems
from rbserve.models.language_layers import layers_of, without_words
from rbserve.models.lm import as_decoder
from rbserve.models.shapes import ENCODERS
from rbserve.train.encoders.backbone import loading

HISTORIES = [[1, 2, 3], [4, 5], [], [6, 7, 8, 9]]
SLATES = [[10, 11, 12], [13, 14], [15], [16, 17, 18]]
Make = Callable[[str, int], ItemLanguage]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a model with the layers of a small language model and `item_tokens` tokens an item."""
    folders: dict[str, Path] = {}

    def made(architecture: str, item_tokens: int = 1) -> ItemLanguage:
        if architecture not in folders:
            folders[architecture] = make_backbone(
                architecture, tmp_path_factory.mktemp("backbones") / architecture
            )
        folder = folders[architecture]
        torch.manual_seed(0)
        config = ItemLanguageConfig(dim=16, hidden=(8,), layers=2, item_tokens=item_tokens, item_hidden=8)
        with loading(folder):
            layers: Any = AutoModel.from_pretrained(folder, config=as_decoder(read_config(folder)))
        items = VectorItems(torch.randn(30, 12), config.dim, tuned=True, hidden=config.item_hidden)
        model = cast(ItemLanguage, build(config, items, base=without_words(layers)))
        model.layers.scale_tokens(0.5)
        return model.eval()

    return made


def ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def batch_of(model: ItemLanguage) -> Tensor:
    """The click probabilities of all pairs, as one batch of training."""
    rows = [(history, item) for history, slate in zip(HISTORIES, SLATES, strict=True) for item in slate]
    offsets = torch.tensor(np.cumsum([0] + [len(history) for history, _ in rows]))
    values = ints([item for history, _ in rows for item in history])
    return torch.sigmoid(model(values, offsets, ints([item for _, item in rows])))


@pytest.mark.parametrize("item_tokens", [1, 2])
@pytest.mark.parametrize("architecture", [*CAUSAL, *MASKED])
@torch.no_grad()
def test_a_candidate_scores_alike_alone_packed_and_behind_a_known_history(
    make: Make, architecture: str, item_tokens: int
) -> None:
    model, batch, start = make(architecture, item_tokens), None, None
    batch, start = batch_of(model), model.start_state()
    slates, apart, behind, again, grown = [], [], [], [], []
    for history, slate in zip(map(ints, HISTORIES), map(ints, SLATES), strict=True):
        slates.append(model.score(history, slate))
        apart += [model.score(history, item[None]) for item in slate]
        scores, known = model.score_behind(start, history, slate, None)
        behind.append(scores)
        again.append(model.score_behind(known, ints([]), slate, None)[0])
        first = model.score_behind(start, history[:1], slate, None)[1]
        grown.append(model.score_behind(first, history[1:], slate, None)[0])
    assert batch.std() > 1e-3
    for scores in (slates, apart, behind, again):
        torch.testing.assert_close(torch.cat(scores), batch, atol=1e-6, rtol=0)
    difference = (torch.cat(grown) - batch).abs().max()
    if architecture in CAUSAL:
        assert difference < 1e-6, "newer items are read behind the older ones"
    else:
        assert difference > 1e-6, "an encoder reads a history in both directions"


@torch.no_grad()
def test_a_decoder_reads_what_transformers_reads(make: Make) -> None:
    """Of one candidate: [start, history, candidate] by the library's own forward, without a mask of ours."""
    model = make("llama", 2)
    history, candidate = ints(HISTORIES[0]), ints([10])
    items = model.item_embedding(torch.cat([history, candidate]))
    layers = model.layers
    tokens = layers.token(layers.item_norm(items)).reshape(1, -1, layers.width)
    embedded = torch.cat([layers.start[None, None], tokens], dim=1)
    hidden = layers.answer(layers.norm(cast(Any, layers.base)(inputs_embeds=embedded).last_hidden_state))[0]
    user, item, found = hidden[-3], items[-1], hidden[-1]
    expected = model.output(model.deep(user[None], torch.cat([item, found, user * item])[None]))
    torch.testing.assert_close(model.score(history, candidate), torch.sigmoid(expected)[0], atol=1e-6, rtol=0)


def test_only_the_newest_items_are_read(make: Make) -> None:
    model = make("llama")
    model.max_history = 2
    with torch.no_grad():
        torch.testing.assert_close(
            model.score(ints([5, 1, 2]), ints([7])), model.score(ints([9, 1, 2]), ints([7]))
        )


def test_every_weight_learns(make: Make) -> None:
    model = make("llama").train()
    batch_of(model).sum().backward()
    still = [
        name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert not still


def test_a_config_is_cut_to_its_first_layers(tmp_path: Path) -> None:
    folder = make_backbone("qwen2", tmp_path / "qwen2")
    config = shortened(read_config(folder), 1)
    assert len(cast(Any, layers_of(config)).layers) == 1
    assert not any("embed_tokens" in name for name, _ in layers_of(config).named_parameters())
    with pytest.raises(ValueError, match="2 layers"):
        shortened(read_config(folder), 3)


def test_encoders_are_those_that_read_in_both_directions() -> None:
    assert set(ENCODERS) == {name for name, one in ARCHITECTURES.items() if one.reads == "encoder"}
