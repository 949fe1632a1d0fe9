"""Rerankers of a few hundred weights in the format of transformers, and texts that tokenizers find hard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as tf
from small_backbone import word_pieces

TRICKY_TEXTS = [
    "topic1word2 topic2word3",
    "",
    " \t\n ",
    "🦊🔥 emoji 👩‍👩‍👧",
    "東京の天気は晴れ",
    "naïve café ﬁne Ⅷ",
    "zero\u200bwidth \u202eright-to-left\x00",
    "topic0word1 " * 200,
    "[SEP] [CLS] [PAD]",
    "x" * 300,
]
POSITIONS = 48


WITH_SEGMENTS = ("albert", "bert", "deberta", "deberta-v2", "electra")
USUAL_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": POSITIONS + 2,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "distilbert": {
        "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": POSITIONS + 2,
    },
    "albert": USUAL_SIZES | {"embedding_size": 16},
    "deberta-v2": USUAL_SIZES | {
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "type_vocab_size": 0, "position_biased_input": False,
    },
}  # fmt: skip


def make_reranker(
    folder: Path, labels: int = 1, architecture: str = "bert", head: bool = True, **config: Any
) -> Path:
    """A random model with a word-piece tokenizer: a sequence classifier, or an encoder without a head."""
    torch.manual_seed(5)
    tokenizer = word_pieces(pairs=True)
    sizes = SIZES.get(architecture, USUAL_SIZES)
    options = (
        {"vocab_size": tokenizer.get_vocab_size(), "num_labels": labels, "pad_token_id": 1} | sizes | config
    )
    kind: Any = tf.AutoModelForSequenceClassification if head else tf.AutoModel
    model = kind.from_config(tf.AutoConfig.for_model(architecture, **options))
    with torch.no_grad():  # random weights of the usual size hardly tell texts apart
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    model.save_pretrained(folder)
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "mask", "pad")}
    segments = ["token_type_ids"] if architecture in WITH_SEGMENTS else []
    fast = tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=POSITIONS,
        model_input_names=["input_ids", "attention_mask", *segments], **special,
    )  # fmt: skip
    fast.save_pretrained(folder)
    return folder
