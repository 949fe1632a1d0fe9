"""Bi-encoders of sentence-transformers: what their files say of pooling, similarity and length, of every version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from numpy.typing import NDArray
from small_reranker import TRICKY_TEXTS, make_reranker
from test_adopt_reranker import adopt, opened, request_of

from rbserve.core.errors import UsageError
from rbserve.exporters.adopt.sentence_encoder import read_comparison, read_length

QUERY = "topic1word3"
OLD_POOLING = {
    f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
}


def write(folder: Path, name: str, content: Any) -> None:
    """Writes a JSON file below a folder, or a text as it is."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def modules(*names: str, package: str = "sentence_transformers.models.") -> list[dict[str, Any]]:
    """The content of modules.json."""
    return [
        {"idx": place, "name": str(place), "path": f"{place}_{name}" if place else "", "type": package + name}
        for place, name in enumerate(names)
    ]


def vectors(source: Path, texts: list[str], first_token: bool) -> NDArray[np.float32]:
    """What transformers makes of texts, one by one, so that there is no padding; of any length."""
    model, tokenizer = tf.AutoModel.from_pretrained(source).eval(), tf.AutoTokenizer.from_pretrained(source)
    rows = []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, truncation=True, return_tensors="pt")).last_hidden_state[0]
        rows.append(states[0] if first_token else states.mean(0))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("similarity", [None, "cosine", "dot"])
@pytest.mark.parametrize(
    ("pooling", "first_token"),
    [
        (OLD_POOLING | {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 32}, False),
        (OLD_POOLING | {"pooling_mode_cls_token": True}, True),
        (OLD_POOLING, False),
        ({"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}, False),
        ({"embedding_dimension": 32, "pooling_mode": ["cls"]}, True),
    ],
)
def test_a_bi_encoder_compares_the_vectors_that_its_files_ask_for(
    tmp_path: Path, pooling: dict[str, Any], first_token: bool, similarity: str | None
) -> None:
    source = make_reranker(tmp_path / "model", head=False)
    write(source, "modules.json", modules("Transformer", "Pooling"))
    write(source, "1_Pooling/config.json", pooling)
    write(source, "config_sentence_transformers.json", {"similarity_fn_name": similarity, "prompts": {}})
    scores = opened(adopt(source, tmp_path / "out")).score(request_of(QUERY, TRICKY_TEXTS))
    query, *documents = vectors(source, [QUERY, *TRICKY_TEXTS], first_token)
    products = np.stack(documents) @ query
    lengths = np.linalg.norm(documents, axis=1) * np.linalg.norm(query)
    expected = products if similarity == "dot" else products / lengths
    assert np.abs(scores - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())
    assert np.ptp(expected) > 1e-3


def test_a_module_that_normalizes_makes_the_product_a_cosine(tmp_path: Path) -> None:
    write(tmp_path, "config_sentence_transformers.json", {"similarity_fn_name": "dot"})
    assert not read_comparison(tmp_path).normalized
    write(tmp_path, "modules.json", modules("Transformer", "Pooling", "Normalize"))
    assert read_comparison(tmp_path).normalized


def test_prompts_are_told_and_a_shorter_length_is_kept(tmp_path: Path) -> None:
    source = make_reranker(tmp_path / "model", head=False)
    write(source, "modules.json", modules("Transformer", "Pooling"))
    write(source, "config_sentence_transformers.json", {"prompts": {"query": "query: ", "document": ""}})
    write(source, "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": False})
    guessed = adopt(source, tmp_path / "out").guessed
    assert "Its prompts are not put before texts: query." in guessed
    assert "Texts are cut after 9 tokens." in guessed


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools by max; mean and cls are known"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "pools by mean, max"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pools by lasttoken"),
        ("1_Pooling/config.json", {"pooling_mode": []}, "pools by nothing"),
        ("1_Pooling/config.json", [1, 2], "config.json cannot be read: Expected `object`, got `array`"),
        ("1_Pooling/config.json", "", "config.json cannot be read"),
        ("2_Dense/config.json", {"in_features": 32}, "has a dense layer behind its pooling"),
        ("modules.json", modules("Transformer", "Pooling", "Dense"), "has the module Dense, which is not exported"),
        ("modules.json", modules("Transformer", "LSTM"), "has the module LSTM, which is not exported"),
        ("modules.json", modules("Encoder", package="mine."), "has the module mine.Encoder: code of the model's own"),
        ("modules.json", "{", "modules.json cannot be read"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "euclidean"}, "compares vectors by euclidean"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "Expected `object | null`, got `array`"),
    ],
)  # fmt: skip
def test_files_that_ask_for_what_is_not_exported_are_refused(
    tmp_path: Path, file: str, content: Any, message: str
) -> None:
    write(tmp_path, file, content)
    with pytest.raises(UsageError) as refusal:
        read_comparison(tmp_path)
    assert message in refusal.value.message
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize("length", ["long", 0, -5, 1.5])
def test_a_length_that_is_no_number_of_tokens_is_refused(tmp_path: Path, length: Any) -> None:
    write(tmp_path, "sentence_bert_config.json", {"max_seq_length": length})
    with pytest.raises(UsageError, match=r"sentence_bert_config.json cannot be read: .*max_seq_length"):
        read_length(tmp_path)
