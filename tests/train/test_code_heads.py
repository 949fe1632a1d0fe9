"""Training of heads for the codes of the next item: its losses, what it learns, and that it resumes exactly."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from rbserve.core.errors import Interrupted
from rbserve.core.options import with_options
from rbserve.core.tasks import SEQREC
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import WEIGHTS
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.models.code_scores import code_scores
from rbserve.models.zoo import find_model
from rbserve.runs.baselines import baselines
from rbserve.runtimes.evaluate import rank_rows
from rbserve.runtimes.opening import open_ranker
from rbserve.stats.listwise import ndcg_at_k, ranks_in_lists
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings
from rbserve.train.tasks.code_heads import code_heads_loss

LEVELS, CODES, ITEMS, POSITIONS, DIM = 3, 5, 40, 7, 16


@pytest.fixture
def heads() -> nn.Linear:
    torch.manual_seed(0)
    linear = nn.Linear(DIM, LEVELS * CODES)
    nn.init.normal_(linear.bias)
    return linear


@pytest.fixture
def codes() -> torch.Tensor:
    drawn = np.random.default_rng(0).integers(CODES, size=(ITEMS, LEVELS))
    return torch.from_numpy((drawn + CODES * np.arange(LEVELS)).T)


def by_scores(
    hidden: torch.Tensor, heads: nn.Linear, codes: torch.Tensor, items: torch.Tensor, against: str
) -> torch.Tensor:
    """The definition by the scores that rank: as they are, or made probabilities of the catalogue's items."""
    scores = code_scores(heads(hidden), codes)
    if against == "items":
        scores = scores.log_softmax(-1)
    return -scores[torch.arange(POSITIONS), items].sum()


@pytest.mark.parametrize("against", ["items", "codes"])
def test_a_loss_and_its_gradients_are_those_of_the_scores_that_rank(
    against: Literal["items", "codes"], heads: nn.Linear, codes: torch.Tensor
) -> None:
    torch.manual_seed(1)
    hidden, items = torch.randn(POSITIONS, DIM, requires_grad=True), torch.randint(ITEMS, (POSITIONS,))
    gradients = []
    for loss in (code_heads_loss, by_scores):
        value = loss(hidden, heads, codes, items, against)
        gradients.append([value.detach(), *torch.autograd.grad(value, (hidden, heads.weight, heads.bias))])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def shop(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A copy: identifiers are kept with the data set, and other modules expect theirs alone."""
    return open_dataset(shutil.copytree(planted.path, tmp_path_factory.mktemp("codes") / "planted"))


def row(**options: str) -> ModelSpec:
    """A small row that predicts all codes at once."""
    spec = find_model("sid-sasrec-3l-parallel")
    small = {"layers": "1", "dim": "16", "heads": "2", "levels": "3", "codes": "8"} | options
    return dataclasses.replace(spec, config=with_options(spec.config, small))


@pytest.mark.parametrize("against", ["items", "codes"])
def test_it_learns_what_follows(against: str, shop: Dataset, tmp_path: Path) -> None:
    settings = Settings(batch=32, micro_batch=32, lr=1e-2, epochs=8)
    artifact = train(row(loss=against), shop, tmp_path / against, settings)
    test = shop.seqrec("test")
    ranks = ranks_in_lists(rank_rows(open_ranker(artifact, "torch-fp32"), test.histories, 10), test.targets)
    assert ndcg_at_k(ranks, 10) > 2 * baselines(shop, SEQREC.name).figures["popularity"]["ndcg@10"]


def test_a_training_that_was_stopped_resumes_to_the_same_bytes(shop: Dataset, tmp_path: Path) -> None:
    spec, settings = row(), Settings(batch=64, micro_batch=32, lr=5e-3, epochs=2)
    whole = train(spec, shop, tmp_path / "whole", settings)
    steps = 0

    def stop(done: int, total: int, line: str) -> None:
        nonlocal steps
        steps += "epoch" in line
        if steps == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(spec, shop, tmp_path / "cut", settings, progress=stop)
    again = train(spec, shop, tmp_path / "cut", settings, resume=True)
    assert (again.path / WEIGHTS).read_bytes() == (whole.path / WEIGHTS).read_bytes()
