"""SHAPES: the true shapes of the paper's language models, as transformers' config classes take them.

Copied from the `config.json` of each hub id; where a field is not named, the config class's default is what the
model has. With these a model is built at its true size without its weights, to measure how long it takes; that the
parameters come to what is published is tested. RecGPT's own config was not at hand: it is a fine-tuned model of
MPT-7B's architecture, and has that model's shape here.
"""

from __future__ import annotations

from typing import Any

ENCODERS = ("bert", "mpnet")
"""The architectures that read in both directions, of those that read items as tokens."""

_LLAMA_7B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
_LLAMA_8B: dict[str, Any] = {
    **_LLAMA_7B,
    "vocab_size": 128256,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
_LLAMA_3_1_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_OPT: dict[str, Any] = {"model_type": "opt", "vocab_size": 50272, "max_position_embeddings": 2048}
_QWEN_2: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
_QWEN_2_7B: dict[str, Any] = {
    **_QWEN_2,
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
_BERT_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}

SHAPES: dict[str, dict[str, Any]] = {
    "bert-base": {
        **_BERT_BASE,
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
        "vocab_size": 30522,
        "max_position_embeddings": 512,
    },
    "opt-350m": {
        **_OPT,
        "hidden_size": 1024,
        "word_embed_proj_dim": 512,
        "ffn_dim": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "do_layer_norm_before": False,
    },
    "opt-1b": {
        **_OPT,
        "hidden_size": 2048,
        "word_embed_proj_dim": 2048,
        "ffn_dim": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
    },
    "llama-1-7b": _LLAMA_7B,
    "llama-2-7b": {**_LLAMA_7B, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    "llama-3-8b": _LLAMA_8B,
    "llama-3.1-8b": {**_LLAMA_8B, "max_position_embeddings": 131072, "rope_scaling": _LLAMA_3_1_ROPE},
    "mistral-7b": {
        "model_type": "mistral",
        "vocab_size": 32768,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "sliding_window": None,
    },
    "glm-4-9b": {
        "model_type": "glm",
        "vocab_size": 151552,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1.5625e-7,
        "pad_token_id": 151329,
    },
    "qwen-2-0.5b": {
        **_QWEN_2,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "qwen-2-1.5b": {
        **_QWEN_2,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "qwen-2-7b": _QWEN_2_7B,
    "ds-qwen-2-7b": {**_QWEN_2_7B, "max_position_embeddings": 131072, "rope_theta": 10000.0},
    "phi-2-3b": {
        "model_type": "phi",
        "vocab_size": 51200,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "partial_rotary_factor": 0.4,
        "max_position_embeddings": 2048,
    },
    "recgpt-7b": {
        "model_type": "mpt",
        "vocab_size": 50432,
        "d_model": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "expansion_ratio": 4,
        "max_seq_len": 2048,
    },
    "p5-beauty": {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 3072,
        "num_layers": 12,
        "num_decoder_layers": 12,
        "num_heads": 12,
        "decoder_start_token_id": 0,
    },
    "mpnet-base": {
        **_BERT_BASE,
        "model_type": "mpnet",
        "vocab_size": 30527,
        "max_position_embeddings": 514,
        "relative_attention_num_buckets": 32,
    },
}
