"""Conditional beam search beside the paper's way of doing it, and its own cost without a model: `make bench`.

Compare within a group, not absolute times. In the test suite these run once each, as smoke tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from reference_beam import reference_search
from small_transformer import Reencoding, Transformer

from rbserve.data.trie import build_trie
from rbserve.models.beam import search

LEVELS, CODES, WIDTH, ITEMS = 4, 256, 20, 20_000
VOCABULARY = LEVELS * CODES


@pytest.fixture(scope="module")
def paths() -> NDArray[np.int32]:
    """Codes that are as good as random, which is what makes most of a path's last codes certain."""
    rng = np.random.default_rng(0)
    return np.unique(rng.integers(CODES, size=(ITEMS, LEVELS), dtype=np.int32), axis=0)


class Scripted:
    """Logits drawn beforehand, so that only the search takes time. The cache is the number of steps."""

    def __init__(self, users: int) -> None:
        rng = np.random.default_rng(0)
        shapes = [(users, VOCABULARY)] + (LEVELS - 1) * [(users, WIDTH, VOCABULARY)]
        self.logits = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def prefill(self, prompts: Any) -> tuple[Any, int]:
        del prompts
        return self.logits[0], 0

    def step(self, tokens: Any, parents: Any, steps: int) -> tuple[Any, int]:
        del parents
        return self.logits[steps + 1][:, : tokens.shape[1]], steps + 1


@pytest.mark.parametrize("decoding", ["cbs", "free"])
@pytest.mark.parametrize("users", [1, 32])
def test_the_search_alone(
    benchmark: BenchmarkFixture, paths: NDArray[np.int32], users: int, decoding: str
) -> None:
    benchmark.group = f"beam search without a model, {users} users, {LEVELS} x {CODES} codes, width {WIDTH}"
    trie, prompts, stepper = build_trie(paths), np.zeros((users, 1), np.int32), Scripted(users)
    benchmark(search, stepper, prompts, trie, CODES, WIDTH, constrained=decoding == "cbs")


@torch.inference_mode()
@pytest.mark.parametrize("way", ["rbserve", "recbench"])
def test_search_with_a_model(benchmark: BenchmarkFixture, paths: NDArray[np.int32], way: str) -> None:
    """Both encode every beam's whole sequence; rbserve's search stops asking once the codes left are certain."""
    benchmark.group = f"conditional beam search, 3-layer transformer re-encoding 40 tokens, width {WIDTH}"
    torch.manual_seed(0)
    model = Transformer(VOCABULARY, dim=64, layers=3).eval()
    prompt = np.random.default_rng(1).integers(VOCABULARY, size=(1, 40), dtype=np.int32)
    if way == "rbserve":
        benchmark(search, Reencoding(model), prompt, build_trie(paths), CODES, WIDTH, constrained=True)
    else:
        benchmark(reference_search, model, torch.from_numpy(prompt[0]).long(), paths.tolist(), WIDTH)


def test_building_a_trie(benchmark: BenchmarkFixture, paths: NDArray[np.int32]) -> None:
    benchmark.group = f"trie of {ITEMS} items"
    benchmark(build_trie, paths)
