"""A language model whose weights are a GGUF file, as directories in the format of transformers have it."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file
from tokenizers import pre_tokenizers

from rbserve.train.encoders.backbone import _converted, load_tokenizer
from rbserve.train.tasks.language import load

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<unk>", "<s>", "</s>", *ALPHABET, "Ye", "Yes"]
WIDTH, HIDDEN, THETA = 32, 64, 5e4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One block of a llama with its tokeniser, in eight bits."""
    (tmp_path / "little").mkdir()
    writer = gguf.GGUFWriter(tmp_path / "little" / "little.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(THETA)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(["Y e", "Ye s"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(TOKENS), WIDTH), "blk.0.attn_q": (WIDTH, WIDTH), "blk.0.attn_k": (16, WIDTH),
              "blk.0.attn_v": (16, WIDTH), "blk.0.attn_output": (WIDTH, WIDTH), "blk.0.ffn_gate": (HIDDEN, WIDTH),
              "blk.0.ffn_up": (HIDDEN, WIDTH), "blk.0.ffn_down": (WIDTH, HIDDEN)}  # fmt: skip
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, shape in shapes.items():
        packed = gguf.quants.quantize(rng.normal(size=shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "little"


def test_its_weights_are_unpacked_and_its_texts_begin_with_the_beginning(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_CACHE", str(tmp_path / "cache"))
    converted = _converted(folder)
    assert _converted(folder) == converted, "once"

    reader = gguf.GGUFReader(folder / "little.gguf")
    packed = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    weights = load_file(converted / "model.safetensors")["model.embed_tokens.weight"]
    expected = gguf.quants.dequantize(packed.data, packed.tensor_type)
    np.testing.assert_array_equal(weights.numpy(), expected)

    tokenizer = load_tokenizer(converted)
    yes = TOKENS.index("Yes")
    assert tokenizer("Yes")["input_ids"] == [1, yes]
    assert tokenizer("Yes", add_special_tokens=False)["input_ids"] == [yes]
    assert json.loads((converted / "tokenizer_config.json").read_text())["bos_token"] == "<s>"
    np.testing.assert_array_equal(
        load(converted, answers=[yes]).head.weight.detach().numpy(), expected[[yes]]
    )
