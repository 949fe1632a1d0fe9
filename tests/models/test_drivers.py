"""What the driven architectures rely on, and what they make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_backbone import make_backbone

from rbserve.data.columns import Ragged
from rbserve.models.drivers import ARCHITECTURES, Architecture, most_tokens
from rbserve.models.prompts import (
    SCHEMA,
    Packed,
    Pieces,
    Prompts,
    pack,
    pack_answer,
    pack_questions,
    pad,
)
from rbserve.runtimes.language import LanguageStepper
from rbserve.train.tasks.language import load

PREFIX, SUFFIXES = np.arange(5), [np.arange(3), np.arange(4), np.arange(2)]
ORDERS = {"decoder": (True, True), "encoder that is shared": (True, False), "encoder": (False, False)}


def pieces(shared: bool, causal: bool) -> Pieces:
    return Pieces(SCHEMA, [0], [[1]], [2], [3], 64, 0, shared, causal, yes=1, vocabulary=9)


def check_a_token_attends_to_positions_in_order(packed: Packed, before: NDArray[Any]) -> None:
    """0, 1, 2, … up to its own at least; `before` are the positions [B, P] of the cache."""
    positions = np.concatenate((before, packed.positions), axis=1)
    for row, queries in enumerate(packed.mask):
        for query, attended in enumerate(queries):
            found = positions[row, attended]
            np.testing.assert_array_equal(found, np.arange(len(found)))
            assert packed.positions[row, query] in found


@pytest.mark.parametrize("order", ORDERS)
def test_a_token_of_a_packed_prompt_attends_to_positions_in_order(order: str) -> None:
    how = pieces(*ORDERS[order])
    groups = [SUFFIXES] if how.shared else [[suffix] for suffix in SUFFIXES]
    rows = [pack(PREFIX, group, how) for group in [*groups, SUFFIXES[:1]]]
    check_a_token_attends_to_positions_in_order(pad(rows), np.zeros((len(rows), 0), int))
    if how.shared:
        behind = pack(PREFIX, SUFFIXES, how, before=len(PREFIX))
        check_a_token_attends_to_positions_in_order(behind, np.arange(len(PREFIX))[None])
    answered = pack_answer(PREFIX, SUFFIXES[0], how.causal)
    check_a_token_attends_to_positions_in_order(answered, np.zeros((1, 0), int))


def test_a_beam_attends_to_positions_in_order() -> None:
    class Recorder:
        """A language model whose cache is the positions it was given."""

        def __call__(self, packed: Packed, past: Any, cached: bool) -> tuple[NDArray[np.float32], Any]:
            assert cached
            before = np.zeros((len(packed.tokens), 0), int) if past is None else past
            check_a_token_attends_to_positions_in_order(packed, before)
            return np.zeros((*packed.read.shape, 4), np.float32), packed.positions

        def head_of(self, cache: Any, length: int) -> Any:
            return cache[:, :length]

        def joined(self, cache: Any, more: Any) -> Any:
            return np.concatenate((cache, more), axis=1)

    no_items = Ragged(np.zeros(0, np.int32), np.zeros(1, np.int64))
    stepper = LanguageStepper(Recorder(), Prompts(pieces(True, True), no_items))
    _, beams = stepper.prefill(np.zeros((2, 5), np.int64))
    for width, parents in ((3, [0, 0, 0]), (2, [2, 0]), (4, [1, 1, 0, 1])):
        tokens = np.zeros((2, width), np.int32)
        _, beams = stepper.step(tokens, np.tile(np.array(parents, np.int32), (2, 1)), beams)
    assert beams.ancestors.sum(axis=2).tolist() == [[3] * 4] * 2


@pytest.mark.parametrize("name", ["mpnet", "mpt", "t5"])
def test_filling_changes_no_answer(name: str, tmp_path: Path) -> None:
    model = load(make_backbone(name, tmp_path / name), answers=[5, 6, 7])
    long, short = (pack_questions(np.arange(7, 7 + n)[None], name == "mpt") for n in (12, 4))

    def answers(packed: Packed) -> torch.Tensor:
        with torch.inference_mode():
            found, _ = model(**{key: torch.from_numpy(array) for key, array in packed.arrays.items()})
        return found

    together = answers(pad([long, short]))
    torch.testing.assert_close(together, torch.cat((answers(long), answers(short))), rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.01, "the prompts differ, and so do their answers"


@pytest.mark.parametrize(("name", "most"), [("bert", 256), ("mpnet", 254), ("mpt", 256), ("t5", 256)])
def test_a_prompt_is_as_long_as_the_model_reads(name: str, most: int, tmp_path: Path) -> None:
    assert most_tokens(load(make_backbone(name, tmp_path / name), answers=[5]).config) == most


def test_every_architecture_is_a_line_of_the_table() -> None:
    assert sorted(ARCHITECTURES) == list(ARCHITECTURES), "the message that lists them is read by people"
    assert {one.reads for one in ARCHITECTURES.values()} == {"decoder", "encoder", "encoder-decoder"}
    assert all(isinstance(one, Architecture) for one in ARCHITECTURES.values())
