"""Scores of items by the codes of all levels at once: sums of log-probabilities, in plain NumPy."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from equations import softmax
from small import drawn_parallel

from rbserve.models.code_scores import code_scores
from rbserve.models.sasrec import ParallelSasRec, rebuild

LEVELS, CODES, USERS, ITEMS = 3, 5, 4, 40
SIZE: Any = {"layers": 2, "dim": 16, "heads": 4, "max_history": 9, "levels": LEVELS, "codes": CODES}


def tokens_of(codes: Any) -> torch.Tensor:
    """The tokens int32[L, n] of codes [n, L]: code c of level l is token l * K + c."""
    by_item = torch.tensor(codes, dtype=torch.int32) + CODES * torch.arange(LEVELS, dtype=torch.int32)
    return by_item.T.contiguous()


def oracle(logits: torch.Tensor, tokens: torch.Tensor) -> Any:
    """The definition, one user, item and level at a time."""
    scores = np.zeros((len(logits), tokens.size(1)))
    for user, by_level in enumerate(logits.double().numpy().reshape(-1, LEVELS, CODES)):
        for item, path in enumerate(tokens.T.tolist()):
            for level, token in enumerate(path):
                scores[user, item] += np.log(softmax(by_level[level])[token - level * CODES])
    return scores


@pytest.fixture
def tokens() -> torch.Tensor:
    return tokens_of(np.random.default_rng(0).integers(CODES, size=(ITEMS, LEVELS)))


@pytest.fixture
def model() -> ParallelSasRec:
    return drawn_parallel(ITEMS, **SIZE)


def test_a_score_is_the_sum_of_the_log_probabilities_of_an_items_codes(tokens: torch.Tensor) -> None:
    torch.manual_seed(1)
    logits = 3 * torch.randn(USERS, LEVELS * CODES)
    np.testing.assert_allclose(code_scores(logits, tokens).numpy(), oracle(logits, tokens), atol=1e-5)


def test_the_probabilities_of_all_paths_sum_to_one() -> None:
    paths = tokens_of(list(product(range(CODES), repeat=LEVELS)))
    scores = code_scores(torch.randn(USERS, LEVELS * CODES), paths)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(USERS))


@torch.inference_mode()
def test_an_item_is_read_as_one_token_the_sum_of_its_codes(
    model: ParallelSasRec, tokens: torch.Tensor
) -> None:
    history = torch.randint(ITEMS, (USERS, 6))
    table = model.transformer.token_embedding.weight.numpy()
    vectors = np.array([[table[tokens[:, item]].sum(0) for item in row] for row in history.tolist()])
    hidden = model.transformer.read(torch.from_numpy(vectors))
    torch.testing.assert_close(model(history, tokens), hidden)
    assert hidden.shape == (USERS, 7, SIZE["dim"]), "a position for each item and one for the start"
    logits = model.heads(hidden[:, -1])
    np.testing.assert_allclose(model.scores(history, tokens).numpy(), oracle(logits, tokens), atol=1e-4)
    items, best = model.top_k(history, 7, tokens)
    expected = np.sort(oracle(logits, tokens), axis=1)[:, ::-1][:, :7]
    np.testing.assert_allclose(best.numpy(), expected, atol=1e-4)
    assert items.shape == best.shape == (USERS, 7)


@torch.inference_mode()
def test_a_model_is_rebuilt_from_its_state_and_knows_no_number_of_items(
    model: ParallelSasRec, tokens: torch.Tensor
) -> None:
    history = torch.randint(ITEMS, (USERS, 4))
    again = rebuild(model.config, model.state_dict()).eval()
    assert isinstance(again, ParallelSasRec)
    more = torch.cat((tokens, tokens[:, :3]), dim=1)
    scores = again.scores(history, more)
    torch.testing.assert_close(scores[:, :ITEMS], model.scores(history, tokens))
    torch.testing.assert_close(scores[:, ITEMS:], scores[:, :3])
