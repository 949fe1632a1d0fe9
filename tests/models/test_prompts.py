"""Prompts: which items of a history they have room for."""

from __future__ import annotations

import numpy as np

from rbserve.core.types import Items
from rbserve.data.columns import Ragged
from rbserve.models import prompts
from rbserve.models.prompts import Pieces, Prompts

PLACES = 20


def ragged(rows: list[Items]) -> Ragged:
    offsets = np.cumsum([0, *map(len, rows)])
    return Ragged(np.concatenate([*rows, np.empty(0, np.int32)]).astype(np.int32), offsets)


def made(max_tokens: int, items: int = 50, longest: int = 12) -> Prompts:
    """Prompts of items of 1 to `longest` tokens, with numbers of 2 or 3 tokens before them."""
    rng = np.random.default_rng(4)
    pieces = Pieces(
        schema=prompts.SCHEMA, start=[1, 2, 3], numbers=[[7] * (2 + (place > 9)) for place in range(PLACES)],
        candidate=[4], answer=[5, 6], max_tokens=max_tokens, read_from_end=0, shared=True, causal=True, yes=1,
        vocabulary=100,
    )  # fmt: skip
    lengths = rng.permutation(np.arange(items) % longest + 1)
    return Prompts(pieces, ragged([np.full(length, 9, np.int32) for length in lengths]))


def histories(rows: int, items: int = 50, longest: int = 30) -> Ragged:
    rng = np.random.default_rng(8)
    return ragged([rng.integers(items, size=rng.integers(longest)) for _ in range(rows)])


def test_what_prompts_lose_is_counted_as_they_are_put_together() -> None:
    """Beside prompts made one by one; some histories are longer than the numbered places, some are empty."""
    some = histories(300)
    assert some.lengths.min() == 0
    for max_tokens in (40, 90, 150, 10_000):
        one = made(max_tokens)
        kept = np.array([one.kept(some[row]) for row in range(len(some))])
        found = one.fit(some, PLACES)
        assert (found.prompts, found.cut) == (300, int((kept < some.lengths).sum()))
        assert (found.items, found.lost) == (len(some.values), int((some.lengths - kept).sum()))
        assert (found.max_tokens, found.max_items) == (max_tokens, PLACES)
    assert found.lost == np.maximum(some.lengths - PLACES, 0).sum() > 0, "all that fits are 20 items"


def test_a_row_that_reads_fewer_items_loses_more() -> None:
    some = histories(100)
    assert made(10_000).fit(some, 5).lost == np.maximum(some.lengths - 5, 0).sum()


def test_pieces_of_the_rows_add_up() -> None:
    some, one = histories(100), made(90)
    whole = one.fit(some, PLACES)
    assert one.fit(some, PLACES, rows_at_once=7) == whole
    assert one.fit(some.take(np.empty(0, np.int64)), PLACES).prompts == 0


def test_nothing_lost_is_nothing_to_say() -> None:
    assert made(10_000).fit(histories(10, longest=5), PLACES).said("test") is None
    said = made(40).fit(histories(3_000), PLACES).said("test")
    assert said is not None
    assert " of 3,000 test prompts lose their oldest items: " in said
    assert said.endswith("%) do not fit into max_tokens=40 and 20 places")


def test_sizes_are_those_of_the_tokens() -> None:
    prompts, rng = made(max_tokens=60), np.random.default_rng(5)
    for _ in range(20):
        history = rng.integers(50, size=rng.integers(0, 25), dtype=np.int32)
        candidates = rng.integers(50, size=rng.integers(0, 9), dtype=np.int32)
        suffixes = sum(len(prompts.suffix(one)) for one in candidates.tolist())
        assert prompts.sizes(history, candidates) == (len(prompts.prefix(history)), suffixes)
