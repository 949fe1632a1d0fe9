"""What the driven architectures rely on, and what they make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from small_backbone import make_backbone
from transformers import AutoModel

from rbserve.data.columns import Ragged
from rbserve.models.drivers import ARCHITECTURES, Architecture, most_tokens, read_config
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


def _write(folder: Path, **fields: Any) -> Path:
    shape = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
             "intermediate_size": 64, "num_key_value_heads": 4, "max_position_embeddings": 64}  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape | fields))
    return folder


ROPES = {
    "llama": ({"rope_theta": 1e6}, {"rope_theta": 1e6, "rope_type": "default"}),
    "phi": ({"partial_rotary_factor": 0.25}, {"partial_rotary_factor": 0.25, "rope_theta": 1e4}),
    "qwen2": (
        {"rope_theta": 1e5, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope_theta": 1e5, "rope_type": "linear", "factor": 4.0},
    ),
}


@pytest.mark.parametrize("name", ROPES)
def test_rotary_positions_are_read_as_either_version_of_transformers_writes_them(
    name: str, tmp_path: Path
) -> None:
    """Version 5 keeps in one field what version 4 has in three; a field that is passed over would change scores."""

    def answers(config: Any) -> torch.Tensor:
        torch.manual_seed(0)
        base = AutoModel.from_config(config).eval()
        with torch.no_grad():
            for parameter in base.parameters():
                parameter.mul_(4)
            found: torch.Tensor = base(input_ids=torch.arange(30)[None]).last_hidden_state
        return found

    of_4, of_5 = ROPES[name]
    four = answers(read_config(_write(tmp_path / "4", model_type=name, **of_4)))
    five = answers(read_config(_write(tmp_path / "5", model_type=name, rope_parameters=of_5)))
    usual = answers(read_config(_write(tmp_path / "usual", model_type=name)))
    torch.testing.assert_close(five, four, rtol=0, atol=0)
    assert (four - usual).abs().max() > 1e-3, "positions matter to this model"


@pytest.mark.parametrize("written", [{"tie_word_embeddings": False},
                                     {"tie_word_embeddings": True, "scale_decoder_outputs": False}])  # fmt: skip
def test_a_t5_with_a_head_of_its_own_does_not_scale_what_it_multiplies(
    written: dict[str, bool], tmp_path: Path
) -> None:
    """Flan-T5's config, as version 4 and version 5 of transformers write it."""
    folder = make_backbone("t5", tmp_path / "t5")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.randn_like(weights["shared.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("scale_decoder_outputs", None)
    (folder / "config.json").write_text(json.dumps(config | written))
    head = load(folder, answers=[5, 6, 7]).head.weight
    torch.testing.assert_close(head.detach(), weights["lm_head.weight"][[5, 6, 7]], rtol=0, atol=0)


def test_every_architecture_is_a_line_of_the_table() -> None:
    assert sorted(ARCHITECTURES) == list(ARCHITECTURES), "the message that lists them is read by people"
    assert {one.reads for one in ARCHITECTURES.values()} == {"decoder", "encoder", "encoder-decoder"}
    assert all(isinstance(one, Architecture) for one in ARCHITECTURES.values())
