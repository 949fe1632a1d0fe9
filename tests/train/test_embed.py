"""Texts through a frozen language model: the same as one by one in transformers, kept, and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rbserve.core.errors import AssetError, UsageError
from rbserve.models.rqvae_config import Pooling
from rbserve.train.encoders import backbone, embed
from rbserve.train.encoders.backbone import locate
from rbserve.train.encoders.embed import embed_texts

TEXTS = ["red shoe", "blue", "", "a long red red blue shoe a a", "red shoe", "unheard"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "shoe", "a", "long"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights, as a directory."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder") / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBSERVE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_batch_gives_what_transformers_gives_text_by_text(encoder: Path, pooling: Pooling) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)  # type: ignore[no-untyped-call]
    model = AutoModel.from_pretrained(encoder).eval()
    expected = []
    with torch.inference_mode():
        for text in TEXTS:
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            expected.append((hidden.mean(0) if pooling == "mean" else hidden[-1]).numpy())
    np.testing.assert_allclose(embed_texts(TEXTS, str(encoder), pooling), np.stack(expected), atol=1e-5)


def test_equal_texts_have_equal_vectors_in_the_order_asked_for(encoder: Path) -> None:
    vectors = embed_texts(TEXTS, str(encoder))
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[0], vectors[4])
    np.testing.assert_allclose(embed_texts(TEXTS[::-1], str(encoder)), vectors[::-1], atol=1e-6)


def test_what_was_done_is_kept_and_a_stopped_run_goes_on(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "CHUNK", 2)
    whole = embed_texts(TEXTS, str(encoder))
    calls = _counting(monkeypatch)
    np.testing.assert_array_equal(embed_texts(TEXTS, str(encoder)), whole)
    assert calls == [], "all of it was kept"
    kept = sorted(embed.cache().rglob("*.npy"))
    kept[0].unlink()
    kept[1].write_bytes(b"cut short")
    np.testing.assert_array_equal(embed_texts(TEXTS, str(encoder)), whole)
    assert len(calls) == 2, "only what was not there is computed"


KILLED = """
import os, signal, sys
from rbserve.train.encoders import embed
embed.PIECE, embed.SAVE_S = 2, 0.0
encode, calls = embed.TextEncoder.encode, []
def dying(self, texts):
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(texts)
    return encode(self, texts)
embed.TextEncoder.encode = dying
embed.embed_texts(sys.argv[2:], sys.argv[1])
"""


def test_a_killed_process_leaves_its_vectors_and_the_next_one_goes_on(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = [f"red {'blue ' * number}" for number in range(13)]
    done = subprocess.run([sys.executable, "-c", KILLED, str(encoder), *texts], env=os.environ.copy())
    assert done.returncode == -signal.SIGKILL
    monkeypatch.setattr(embed, "PIECE", 2)
    calls = _counting(monkeypatch)
    resumed = embed_texts(texts, str(encoder))
    assert sum(calls) == 13 - 6, "three pieces of two were kept"
    assert [file.suffixes for file in embed.cache().rglob("*.npy")] == [[".npy"]]
    monkeypatch.setenv("RBSERVE_CACHE", str(tmp_path / "other"))
    np.testing.assert_array_equal(resumed, embed_texts(texts, str(encoder)))


def test_an_unfinished_chunk_of_pieces_of_another_size_is_made_anew(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"red {'blue ' * number}" for number in range(5)]
    whole = embed_texts(texts, str(encoder))
    (file,) = embed.cache().rglob("*.npy")
    file.unlink()
    np.save(file.with_suffix(".part.npy"), np.zeros((3, 16), np.float32))
    np.testing.assert_array_equal(embed_texts(texts, str(encoder)), whole)


def test_progress_counts_texts_within_a_chunk(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "PIECE", 2)
    told: list[tuple[int, int]] = []
    embed_texts(
        [f"red {'blue ' * n}" for n in range(5)], str(encoder), progress=lambda *of: told.append(of[:2])
    )
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5), (5, 5)]


def test_other_weights_are_another_encoder(encoder: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import BertModel

    other = Path(shutil.copytree(encoder, tmp_path / "other"))
    model = BertModel.from_pretrained(other)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight += 1
    model.save_pretrained(other)
    assert not np.allclose(embed_texts(TEXTS, str(encoder)), embed_texts(TEXTS, str(other)))


def test_what_cannot_be_is_one_clear_error(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown pooling"):
        embed_texts(TEXTS, str(encoder), "max")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_tokens"):
        embed_texts(TEXTS, str(encoder), max_tokens=0)
    with pytest.raises(AssetError, match=r"no config\.json"):
        embed_texts(TEXTS, str(tmp_path))
    with pytest.raises(UsageError, match="API without weights"):
        embed_texts(TEXTS, "gpt-3.5")
    with pytest.raises(AssetError, match="p5-beauty takes the OpenP5 checkpoint"):
        locate("p5-beauty")  # not plain t5-base under its name


def test_a_name_with_weights_on_the_hub_is_fetched_by_its_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def from_hub(hub_id: str) -> Path:
        asked.append(hub_id)
        return tmp_path

    monkeypatch.setattr(backbone, "_from_hub", from_hub)
    assert locate("bert-base") == locate("owner/own") == tmp_path
    assert asked == ["bert-base-uncased", "owner/own"]


def _counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    encode = embed.TextEncoder.encode

    def counted(self: Any, texts: Any) -> Any:
        calls.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(embed.TextEncoder, "encode", counted)
    return calls
