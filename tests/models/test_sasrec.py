"""The sequential models: causal, cached steps that equal whole passes, and Hugging Face's GPT-2 as an oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rbserve.models.configs import HstuConfig, SasRecConfig, SasRecTextConfig, SidSasRecConfig
from rbserve.models.items import OwnAndTextItems
from rbserve.models.sasrec import SasRec, SidSasRec, TextSasRec, build, rebuild

ITEMS = 50
SIZE: Any = {"layers": 2, "dim": 16, "heads": 4, "max_history": 9}
CODES: Any = {"levels": 3, "codes": 8}


@pytest.fixture
def sasrec() -> SasRec:
    return _spread(build(SasRecConfig(**SIZE), ITEMS))


@pytest.fixture
def sid_sasrec() -> SidSasRec:
    return _spread(build(SidSasRecConfig(**SIZE, **CODES), ITEMS))


@pytest.fixture(params=[SasRecTextConfig, HstuConfig])
def with_texts(request: pytest.FixtureRequest) -> TextSasRec:
    torch.manual_seed(1)
    items = OwnAndTextItems(3 + torch.randn(ITEMS, 7), SIZE["dim"])
    model = _spread(build(request.param(**SIZE), items))
    model.item_life.normal_()
    model.freshness.fill_(0.5)
    return model  # type: ignore[no-any-return]


def _spread(model: Any) -> Any:
    """Eval mode, weights far from the small start."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.inference_mode()
def test_no_position_sees_a_later_item(sasrec: SasRec) -> None:
    history = torch.randint(ITEMS, (3, 8))
    before = sasrec(history)
    for changed in range(8):
        other = history.clone()
        other[:, changed] = (other[:, changed] + 1) % ITEMS
        after = sasrec(other)
        torch.testing.assert_close(after[:, : changed + 1], before[:, : changed + 1])
        assert not torch.allclose(after[:, changed + 1 :], before[:, changed + 1 :])


@torch.inference_mode()
def test_what_serving_computes_is_the_last_position_of_what_training_does(sasrec: SasRec) -> None:
    history = torch.randint(ITEMS, (3, 6))
    expected = sasrec(history)[:, -1] @ sasrec.items.T
    torch.testing.assert_close(sasrec.scores(history), expected)
    items, scores = sasrec.top_k(history, 5)
    torch.testing.assert_close(scores, expected.gather(1, items))
    assert torch.equal(items, expected.argsort(descending=True)[:, :5])


@torch.inference_mode()
@pytest.mark.parametrize("prompt", [0, 1, 6])
def test_cached_steps_equal_whole_passes(sid_sasrec: SidSasRec, prompt: int) -> None:
    users, beams, vocabulary = 2, 3, CODES["levels"] * CODES["codes"]
    tokens = torch.randint(vocabulary, (users, prompt))
    more = torch.randint(vocabulary, (users, beams, 3))
    logits, prefix = sid_sasrec.prefill(tokens)
    torch.testing.assert_close(logits, sid_sasrec(tokens)[:, -1])
    layers, two, _, heads, _, width = prefix.shape
    suffix = prefix.new_empty((layers, two, users, beams, heads, 0, width))
    for step in range(3):
        logits, suffix = sid_sasrec.step(more[:, :, step], prefix, suffix)
        whole = torch.cat((tokens.repeat_interleave(beams, 0), more[:, :, : step + 1].flatten(0, 1)), 1)
        torch.testing.assert_close(logits.flatten(0, 1), sid_sasrec(whole)[:, -1], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_the_blocks_are_those_of_gpt2(sasrec: SasRec) -> None:
    """Hugging Face's GPT-2 with our weights and our embeddings as its input gives the same hidden states."""
    from transformers import GPT2Config, GPT2Model

    transformer = sasrec.transformer
    oracle = GPT2Model(
        GPT2Config(
            vocab_size=1,
            n_positions=16,
            n_embd=16,
            n_layer=2,
            n_head=4,
            activation_function="gelu",
            attn_pdrop=0,
            resid_pdrop=0,
            embd_pdrop=0,
        )
    ).eval()
    oracle.wpe.weight.zero_()  # the positions are in our embeddings already
    for ours, theirs in zip(transformer.blocks, oracle.h, strict=True):
        pairs = [
            (ours.attention_norm, theirs.ln_1), (ours.query_key_value, theirs.attn.c_attn),
            (ours.attended, theirs.attn.c_proj), (ours.mlp_norm, theirs.ln_2),
            (ours.up, theirs.mlp.c_fc), (ours.down, theirs.mlp.c_proj),
        ]  # fmt: skip
        for mine, other in pairs:
            other.weight.copy_(mine.weight.T if isinstance(mine, torch.nn.Linear) else mine.weight)
            other.bias.copy_(mine.bias)
    oracle.ln_f.load_state_dict(transformer.norm.state_dict())
    history = torch.randint(ITEMS, (3, 7))
    expected = oracle(inputs_embeds=transformer._embed(sasrec.items[history])).last_hidden_state
    torch.testing.assert_close(sasrec(history), expected, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_model_is_rebuilt_from_its_state_alone(sasrec: SasRec, sid_sasrec: SidSasRec) -> None:
    history = torch.randint(ITEMS, (2, 4))
    assert torch.equal(rebuild(sasrec.config, sasrec.state_dict()).eval()(history), sasrec(history))
    tokens = torch.randint(24, (2, 6))
    again = rebuild(sid_sasrec.config, sid_sasrec.state_dict()).eval()
    assert torch.equal(again(tokens), sid_sasrec(tokens))


@torch.inference_mode()
def test_a_score_with_texts_is_that_of_the_items_parts(with_texts: TextSasRec) -> None:
    items, history = with_texts.item_embedding, torch.randint(ITEMS, (3, 6))
    vectors = items.own.weight + items.projection(items.vectors)
    hidden = with_texts(vectors[history])[:, -1]
    expected = hidden @ vectors.T + with_texts.item_bias + 0.5 * with_texts.item_life
    folded = with_texts.folded()
    torch.testing.assert_close(folded.scores(history), expected)
    assert folded.folded() is folded
    again = rebuild(with_texts.config, with_texts.state_dict()).eval()
    assert isinstance(again, TextSasRec)
    assert torch.equal(again.folded().scores(history), folded.scores(history))


@torch.inference_mode()
def test_hidden_states_with_texts_are_those_of_the_folded_model(with_texts: TextSasRec) -> None:
    history = torch.randint(ITEMS, (2, 5))
    states = with_texts(with_texts.item_embedding(history))
    folded = with_texts.folded()
    torch.testing.assert_close(folded(history), states)
    torch.testing.assert_close(folded.transformer.last(history), states[:, -1])
