"""Tokens of texts are those that the tokenizers library makes, whatever is cut, padded or added."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_reranker import TRICKY_TEXTS, make_reranker
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from rbserve.core.errors import ArtifactError
from rbserve.exporters.adopt.reranker import write_tokenizer
from rbserve.runtimes.reranker import open_tokenizer
from rbserve.runtimes.text_tokens import INPUT_IDS, MASK, TOKEN_TYPES, TextTokenizer, kept_lengths

LIMIT = 24


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer as an artefact has it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(AutoTokenizer.from_pretrained(make_reranker(folder)), folder / "written.json", LIMIT)
    return folder / "written.json"


def texts(rng: np.random.Generator, count: int) -> list[str]:
    """Texts of 0 to 60 words, and those that tokenizers find hard."""
    lengths = rng.integers(0, 60, count)
    drawn = [
        " ".join(f"topic{rng.integers(4)}word{rng.integers(10)}" for _ in range(length)) for length in lengths
    ]
    return [*drawn, *TRICKY_TEXTS]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("added", ["two kinds", "four", "none"])
def test_pairs_and_single_texts_have_the_tokens_of_the_library(file: Path, side: str, added: str) -> None:
    def opened() -> Tokenizer:
        tokenizer = open_tokenizer(file)
        if added != "two kinds":  # as BERT has them; RoBERTa puts two between the texts, and has no types
            marks = ("[SEP]", tokenizer.token_to_id("[SEP]")), ("[CLS]", tokenizer.token_to_id("[CLS]"))
            tokenizer.post_processor = processors.Sequence(
                [processors.RobertaProcessing(*marks)] * (added == "four")
            )
        padding = {key: value for key, value in tokenizer.padding.items() if key in ("pad_id", "pad_token")}
        tokenizer.enable_padding(direction=side, pad_type_id=0, **padding)
        tokenizer.enable_truncation(LIMIT, strategy="longest_first", direction=side)
        return tokenizer

    documents = texts(np.random.default_rng(3), 40)
    queries = texts(np.random.default_rng(4), 40)
    library, ours = opened(), TextTokenizer(opened())
    for groups in ([*zip(queries, documents, strict=True)], [(text,) for text in documents]):
        expected = library.encode_batch([group if len(group) == 2 else group[0] for group in groups])
        tensors = ours.padded(ours.encode(groups))
        assert tensors[INPUT_IDS].tolist() == [encoding.ids for encoding in expected]
        assert tensors[MASK].tolist() == [encoding.attention_mask for encoding in expected]
        assert tensors[TOKEN_TYPES].tolist() == [encoding.type_ids for encoding in expected]
        assert any(encoding.overflowing for encoding in expected), "nothing was cut"


def test_a_query_is_encoded_once_for_all_documents(file: Path) -> None:
    class Counting:
        """A tokenizer that counts how many texts it encodes."""

        def __init__(self, tokenizer: Tokenizer) -> None:
            self._tokenizer, self.encoded = tokenizer, 0

        def __getattr__(self, name: str) -> object:
            return getattr(self._tokenizer, name)

        def encode(self, *texts: str, **options: bool) -> object:
            self.encoded += 1
            return self._tokenizer.encode(*texts, **options)

    counting = Counting(open_tokenizer(file))
    tokenizer = TextTokenizer(counting)  # type: ignore[arg-type]
    before = counting.encoded
    tokenizer.encode([("topic1word1", f"topic2word{number}") for number in range(9)])
    assert counting.encoded - before == 10


@pytest.mark.parametrize(
    ("lengths", "most", "kept"),
    [
        ([3, 4], 7, [3, 4]),
        ([3, 9], 8, [3, 5]),
        ([9, 3], 8, [5, 3]),
        ([9, 9], 7, [3, 4]),
        ([9, 8], 7, [4, 3]),
        ([0, 9], 7, [0, 7]),
        ([9], 7, [7]),
        ([2], 7, [2]),
    ],
)
def test_the_longer_text_is_cut_first(lengths: list[int], most: int, kept: list[int]) -> None:
    assert kept_lengths(lengths, most) == kept


def test_a_tokenizer_whose_padding_is_no_token_is_refused(file: Path) -> None:
    tokenizer = open_tokenizer(file)
    tokenizer.enable_padding(pad_token="two words")
    with pytest.raises(ArtifactError, match="pads with 'two words', which is no token"):
        TextTokenizer(tokenizer)
