"""How candidates that each need the whole prompt are laid out: like lengths together, each score where it belongs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rbserve.core.requests import slate_request
from rbserve.core.types import Scores
from rbserve.data.columns import Ragged
from rbserve.models.prompts import Packed, Pieces, Prompts
from rbserve.runtimes import language
from rbserve.runtimes.language import LanguageScorer

LENGTHS = np.array([1, 30, 2, 29, 3, 28, 4, 27])


class FirstToken:
    """Says of each row the first token of its candidate, and notes how many tokens the calls had."""

    takes_parts = False

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, packed: Packed, past: Any | None, cached: bool) -> tuple[Scores, Any]:  # noqa: ARG002
        self.shapes.append(packed.tokens.shape)
        return packed.tokens[:, 1:2].astype(np.float32), None

    def head_of(self, cache: Any, length: int) -> Any:  # noqa: ARG002
        return cache

    def joined(self, cache: Any, more: Any) -> Any:  # noqa: ARG002
        return cache


@pytest.fixture
def prompts() -> Prompts:
    """Item i has LENGTHS[i] tokens, all of them i; a prompt is one token and an item."""
    pieces = Pieces(
        schema=1, start=[9], numbers=[], candidate=[], answer=[], max_tokens=64, read_from_end=0, shared=False,
        causal=False, yes=1, vocabulary=10,
    )  # fmt: skip
    items: NDArray[np.int32] = np.repeat(np.arange(len(LENGTHS)), LENGTHS).astype(np.int32)
    return Prompts(pieces, Ragged(items, np.concatenate(([0], np.cumsum(LENGTHS)))))


def test_rows_of_like_length_are_read_together(prompts: Prompts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "ROWS_TOKENS", 4 * 31)
    call = FirstToken()
    scores = LanguageScorer(call, prompts).score(
        slate_request(np.empty(0, np.int32), np.arange(8, dtype=np.int32))
    )
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.arange(8))), rtol=1e-6)
    assert sum(rows * length for rows, length in call.shapes) <= 4 * 5 + 4 * 31
    assert len(call.shapes) == 2


def test_an_empty_slate_asks_nothing(prompts: Prompts) -> None:
    call = FirstToken()
    assert LanguageScorer(call, prompts).score(
        slate_request(np.empty(0, np.int32), np.empty(0, np.int32))
    ).shape == (0,)
    assert call.shapes == []
