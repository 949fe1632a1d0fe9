"""Language models of every supported architecture, small enough to train inside a test, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.processors import TemplateProcessing

from rbserve.models.prompts import ANSWER, CANDIDATE, HISTORY, INSTRUCTION, numbered

TEXTS = [INSTRUCTION, HISTORY, CANDIDATE, ANSWER, *(numbered(place) for place in range(1, 21)),
         "Yes No yes no YES NO", *(f"topic{topic}word{word}" for topic in range(4) for word in range(10))]  # fmt: skip
CAUSAL = ("glm", "llama", "mistral", "mpt", "opt", "phi", "qwen2")
MASKED = ("bert", "mpnet")
ARCHITECTURES = (*MASKED, "sentence-bert", "sentence-mpnet", *CAUSAL, "t5")


def make_backbone(name: str, folder: Path) -> Path:
    """A directory in the format of transformers: config, weights and tokeniser."""
    torch.manual_seed(3)
    architecture = name.removeprefix("sentence-")
    encoder = architecture in MASKED
    tokenizer = word_pieces() if encoder else _byte_pairs(ending=name == "t5")
    config = _CONFIGS[architecture](tokenizer.get_vocab_size())
    kind: Any = _KINDS.get(name, tf.AutoModelForCausalLM)
    model = kind.from_config(config)
    with torch.no_grad():  # random weights of the usual size say nothing in two layers; T5's are larger
        for parameter in model.parameters():
            if parameter.dim() > 1 and name != "t5":
                parameter.mul_(4)
    model.save_pretrained(folder)
    special = {
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "pad_token": "[PAD]",
    }
    fast = tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **(special if encoder else {"bos_token": "<s>"})
    )
    fast.save_pretrained(folder)
    return folder


def word_pieces(pairs: bool = False) -> Tokenizer:
    """A tokenizer trained on TEXTS; with `pairs` it reads two texts as one, [CLS] A [SEP] B [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]  # MPNet's padding is 1
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1" if pairs else None,
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _byte_pairs(ending: bool) -> Tokenizer:
    """With a token at the beginning of a text, or at its end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <s>" if ending else "<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _config(cls: type, **more: Any) -> Callable[[int], Any]:
    def make(words: int) -> Any:
        shape = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
        }
        return cls(vocab_size=words, **{**shape, **more})

    return make


_KINDS: dict[str, Any] = {
    "bert": tf.AutoModelForMaskedLM,
    "mpnet": tf.AutoModelForMaskedLM,
    "sentence-bert": tf.AutoModel,
    "sentence-mpnet": tf.AutoModel,
    "t5": tf.AutoModelForSeq2SeqLM,
}
_GROUPED = {"num_key_value_heads": 2, "intermediate_size": 64}
_CONFIGS: dict[str, Callable[[int], Any]] = {
    "bert": _config(tf.BertConfig, intermediate_size=64),
    "glm": _config(tf.GlmConfig, **_GROUPED, head_dim=8, pad_token_id=0),
    "llama": _config(tf.LlamaConfig, **_GROUPED),
    "mistral": _config(tf.MistralConfig, **_GROUPED, head_dim=8),
    "mpnet": _config(tf.MPNetConfig, intermediate_size=64),
    "mpt": lambda words: tf.MptConfig(
        vocab_size=words, d_model=48, n_layers=2, n_heads=6, max_seq_len=256, attn_config={"clip_qkv": 0.5}
    ),
    "opt": _config(tf.OPTConfig, ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False),
    "phi": _config(tf.PhiConfig, intermediate_size=64),
    "qwen2": _config(tf.Qwen2Config, **_GROUPED),
    "t5": lambda words: tf.T5Config(
        vocab_size=words,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        n_positions=256,
        decoder_start_token_id=0,
    ),
}
