"""The graph that ranks by sums of code scores, against plain NumPy: any number of items, and ties by number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import drawn_parallel

from rbserve.exporters.sequential import write_graphs
from rbserve.models.sasrec import ParallelSasRec
from rbserve.runtimes.onnx import OnnxItemScores
from rbserve.runtimes.session import open_session

LEVELS, CODES, ITEMS, USERS = 3, 6, 50, 3
SIZE: Any = {"layers": 2, "dim": 16, "heads": 4, "levels": LEVELS, "codes": CODES}


@pytest.fixture
def model() -> ParallelSasRec:
    return drawn_parallel(ITEMS, **SIZE)


@torch.inference_mode()
def sums(model: ParallelSasRec, histories: Any, tokens: Any) -> Any:
    """Scores float64[B, n] by the definition, from the model's hidden states."""
    hidden = model(torch.from_numpy(histories), torch.from_numpy(tokens))[:, -1].double().numpy()
    heads = model.heads.double()
    logits = hidden @ heads.weight.numpy().T + heads.bias.numpy()
    by_level = logits.reshape(len(histories), LEVELS, CODES)
    by_level = by_level - np.log(np.exp(by_level).sum(-1, keepdims=True))
    model.float()
    return by_level.reshape(len(histories), -1)[:, tokens].sum(1)


def test_the_graph_ranks_by_sums_of_code_scores_and_ties_by_number(
    model: ParallelSasRec, tmp_path: Path
) -> None:
    (path,) = write_graphs(model, tmp_path, {})
    rng = np.random.default_rng(1)
    codes = rng.integers(CODES, size=(ITEMS, LEVELS))
    for items in (ITEMS, 2 * ITEMS):
        table = np.concatenate([codes, codes])[:items]  # the second half ties with the first
        tokens = np.ascontiguousarray((table + CODES * np.arange(LEVELS)).T, np.int32)
        rank = OnnxItemScores(open_session(path, 1), tokens)
        for length in (0, 1, 7):
            histories = rng.integers(items, size=(USERS, length)).astype(np.int32)
            expected = sums(model, histories, tokens)
            ranked, scores = rank(histories, items + 5)
            assert ranked.shape == scores.shape == (USERS, items)
            np.testing.assert_allclose(scores, np.take_along_axis(expected, ranked, 1), atol=1e-4)
            assert (np.diff(scores) <= 0).all()
            tied = np.diff(scores) == 0
            assert (np.diff(ranked)[tied] > 0).all()
            assert tied.sum() >= USERS * (items - ITEMS), "each item of the second half ties with its like"
