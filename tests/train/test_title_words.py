"""Texts as word indices: what a token is, which words count, and vocabulary files good and bad."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbserve.core.errors import DataError, UsageError
from rbserve.models import words as item_words
from rbserve.models.words import tokenize
from rbserve.train.protocol import title_words
from rbserve.train.protocol.title_words import ItemTokens, Vocabulary, read_vocabulary, tokenize_items

GLOVE = "the 0.1 -0.2 3e-5\ncat 1 2 3\n. -1 -2 -3\n"
THREE = ["A cat sat", "the cat, the cat", "dog"]


def _mask(*in_training: int) -> np.ndarray:
    return np.array(in_training, dtype=np.bool_)


def _sentences(tokens: ItemTokens) -> list[list[str]]:
    words = tokens.vocabulary.words
    return [
        [words[position] for position in tokens.values[start:end]] for start, end in pairwise(tokens.offsets)
    ]


def _words(folder: Path, content: str | bytes, name: str = "words.txt") -> list[str]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_vocabulary(path).words)


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("I don't", ["i", "do", "n't"]),
        ("DON'T, Don'T", ["do", "n't", ",", "do", "n't"]),
        ("the cat's", ["the", "cat", "'s"]),
        ("cannot", ["can", "not"]),
        ("Wait... what?!", ["wait", "...", "what", "?", "!"]),
        ("1,000 for $5.99", ["1,000", "for", "$", "5.99"]),
        ("(one) [two]", ["(", "one", ")", "[", "two", "]"]),
        ('a "quoted" word', ["a", "``", "quoted", "''", "word"]),
        ("# funny #funny-dog", ["#", "funny", "#", "funny-dog"]),
        ("Café 漢字 😂", ["café", "漢字", "😂"]),
        ("“Ünder”", ["“", "ünder", "”"]),
        ("one\ttwo\r\nthree", ["one", "two", "three"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_words_are_lower_case_and_split_as_nltk_does(sentence: str, words: list[str]) -> None:
    assert tokenize(sentence) == words


def test_only_a_period_at_the_end_is_a_token() -> None:
    assert tokenize("I saw New York. Then I left.") == ["i", "saw", "new", "york.", "then", "i", "left", "."]


@given(st.text())
def test_any_text_gives_the_words_of_nltk_on_one_line(sentence: str) -> None:
    from nltk.tokenize import word_tokenize

    assert tokenize(sentence) == word_tokenize(sentence.lower(), preserve_line=True)


@given(st.lists(st.sampled_from(["a", "not", "can", "cannot", "gimme", "gon", "na", "gonna", "got", "wanna", "tis",
                                 "lemme", "more", "n", "d", "ye", "7", "", " ", "x9"]), max_size=6))  # fmt: skip
def test_plain_words_are_split_as_nltk_splits_them(words: list[str]) -> None:
    from nltk.tokenize import word_tokenize

    sentence = " ".join(words)
    assert tokenize(sentence) == word_tokenize(sentence, preserve_line=True)


def test_importing_the_module_does_not_import_nltk() -> None:
    check = "import sys, rbserve.train.protocol.title_words; sys.exit('nltk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_a_missing_nltk_is_a_missing_module(monkeypatch: pytest.MonkeyPatch) -> None:
    item_words._word_tokenizer.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    with pytest.raises(ModuleNotFoundError, match="nltk"):
        tokenize_items(["a, b"], _mask(1))


def test_the_vocabulary_holds_the_words_of_enough_training_items_most_frequent_first() -> None:
    texts = ["b a z", "b a", "b z only", "b b b", "only a"]
    tokens = tokenize_items(texts, _mask(1, 1, 1, 1, 0))
    assert tokens.vocabulary.words == ("b", "a", "z")  # "only" is in one training item
    assert tokens.counts.tolist() == [4, 2, 2]
    assert _sentences(tokens) == [["b", "a", "z"], ["b", "a"], ["b", "z"], ["b", "b", "b"], ["a"]]
    assert tokens.covered == 11 / 13


def test_a_word_said_twice_by_one_item_counts_once() -> None:
    assert tokenize_items(THREE, _mask(0, 1, 1)).vocabulary.words == ()
    assert tokenize_items(THREE, _mask(1, 1, 1)).vocabulary.words == ("cat",)


def test_the_given_vocabulary_keeps_its_order_and_needs_no_training_item() -> None:
    tokens = tokenize_items(THREE, _mask(1, 0, 0), Vocabulary(["dog", "absent", "the", "cat"]))
    assert tokens.vocabulary.words == ("dog", "the", "cat")  # what no item says has no use
    assert tokens.counts.tolist() == [0, 0, 1]
    assert _sentences(tokens) == [["cat"], ["the", "cat", "the", "cat"], ["dog"]]


def test_the_cut_comes_after_unknown_words_are_dropped() -> None:
    tokens = tokenize_items(["x y a z b c"], _mask(0), Vocabulary(["a", "b", "c"]), max_words=2)
    assert _sentences(tokens) == [["a", "b"]]
    assert tokens.covered == 0.5  # of all tokens, cut or not


def test_items_without_a_known_word_are_kept_empty_and_counted() -> None:
    tokens = tokenize_items(["", "cat", "?"], _mask(1, 1, 1), Vocabulary(["cat"]))
    assert tokens.offsets.tolist() == [0, 0, 1, 1]
    assert tokens.without_words == 2


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_no_token_at_all_is_legal(texts: list[str]) -> None:
    tokens = tokenize_items(texts, np.ones(len(texts), np.bool_))
    assert tokens.offsets.tolist() == [0] * (len(texts) + 1)
    assert (len(tokens.vocabulary), tokens.covered, tokens.without_words) == (0, 0.0, len(texts))
    assert (tokens.values.dtype, tokens.offsets.dtype, tokens.counts.dtype) == (np.int32, np.int64, np.int64)


@pytest.mark.parametrize("option", ["min_count", "max_words"])
def test_a_number_below_one_is_refused_by_name(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} must be at least 1, not 0"):
        tokenize_items(THREE, _mask(1, 1, 1), **{option: 0})


@pytest.mark.parametrize("texts", [["a"], ["a", "b", "c"]])
def test_as_many_texts_as_items_are_needed(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        tokenize_items(texts, _mask(1, 1))


def test_a_stream_of_texts_reports_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(title_words, "_TEXTS_A_REPORT", 2)
    reports: list[tuple[int, int, str]] = []
    tokens = tokenize_items(iter(THREE), _mask(1, 1, 1), progress=lambda *report: reports.append(report))
    assert len(tokens.offsets) == 4
    assert reports == [(2, 3, "texts tokenised, 5 words"), (3, 3, "texts tokenised, 6 words")]


def _naive(
    texts: list[str], mask: list[bool], given_words: list[str] | None, min_count: int, max_words: int
) -> tuple[list[str], list[int], list[list[str]], float]:
    said = [tokenize(sentence) for sentence in texts]
    counts: Counter[str] = Counter()
    for words, in_training in zip(said, mask, strict=True):
        counts.update(set(words) if in_training else ())
    if given_words is None:
        vocabulary = sorted((w for w in counts if counts[w] >= min_count), key=lambda w: (-counts[w], w))
    else:
        vocabulary = [word for word in given_words if any(word in words for words in said)]
    known = [[word for word in words if word in vocabulary] for words in said]
    covered = sum(map(len, known)) / max(sum(map(len, said)), 1)
    return vocabulary, [counts[w] for w in vocabulary], [words[:max_words] for words in known], covered


ITEMS = st.lists(st.tuples(st.text("abcd '.#é漢", max_size=24), st.booleans()), max_size=9)
WORDS = st.none() | st.lists(st.sampled_from(["a", "b", "ab", "cd", "é", "'", "#", "no"]), unique=True)


@given(ITEMS, WORDS, st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))
def test_tokens_are_those_of_the_plain_algorithm(
    items: list[tuple[str, bool]], given_words: list[str] | None, min_count: int, max_words: int, block: int
) -> None:
    texts, mask = [sentence for sentence, _ in items], [in_training for _, in_training in items]
    vocabulary = None if given_words is None else Vocabulary(given_words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(title_words, "_ITEMS_A_BLOCK", block)
        tokens = tokenize_items(texts, np.array(mask, np.bool_), vocabulary, min_count, max_words)
    words, counts, sentences, covered = _naive(texts, mask, given_words, min_count, max_words)
    assert list(tokens.vocabulary.words) == words
    assert tokens.counts.tolist() == counts
    assert _sentences(tokens) == sentences
    assert tokens.covered == covered
    assert tokens.without_words == sentences.count([])
    assert (tokens.values.dtype, tokens.offsets.dtype) == (np.int32, np.int64)


def test_the_result_does_not_depend_on_the_order_of_hashes() -> None:
    run = (
        "import numpy as np; from rbserve.train.protocol.title_words import tokenize_items;"
        f"t = tokenize_items({THREE!r}, np.ones(3, bool), min_count=1);"
        "print(t.vocabulary.words, t.counts, t.values, t.offsets)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", run],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_an_index_gives_back_each_words_position() -> None:
    vocabulary = Vocabulary(("b", "a"))
    assert len(vocabulary) == 2
    assert vocabulary.index == {"b": 0, "a": 1}


@pytest.mark.parametrize(
    "content",
    [
        GLOVE,
        "3 3\n" + GLOVE,
        "\ufeff" + GLOVE.replace("\n", "\r\n"),
        "\n\n" + GLOVE.replace("\n", "\n\n") + "cat 9 9 9\nThe 1 1 1",
        GLOVE.replace("\n", " \n"),
        GLOVE.replace(" ", "\t"),
        GLOVE.replace(" ", "  "),
        GLOVE.encode() + b"caf\xe9 1 2 3\n",
        GLOVE + "torn 1 2",
        GLOVE + "1 2 3",
        "the\ncat\n.\n",
        "\ufeffThe\r\n\r\ncat\r\n.\r\nCAT",
        "the 900\ncat 20\n. 1\n",
        gzip.compress(GLOVE.encode(), mtime=0),
    ],
)
def test_vocabulary_files_of_every_shape_give_their_words_in_order(
    tmp_path: Path, content: str | bytes
) -> None:
    assert _words(tmp_path, content) == ["the", "cat", "."]


def test_words_may_hold_spaces_numbers_and_any_unicode(tmp_path: Path) -> None:
    lines = ["42 1 2", ". . . 1 2", "at 5 1 2", "née 1 2", "a\u00a0b\u0085c 1 2", "nan 1 nan"]
    assert _words(tmp_path, "\n".join(lines)) == ["42", ". . .", "at 5", "née", "a\u00a0b\u0085c", "nan"]


def test_one_line_is_enough_even_below_a_header(tmp_path: Path) -> None:
    assert _words(tmp_path, "cat 0.5 0.25") == ["cat"]
    assert _words(tmp_path, "1 2\ncat 0.5 0.25\n") == ["cat"]
    assert _words(tmp_path, "cat") == ["cat"]


def test_one_damaged_line_does_not_change_how_the_others_are_read(tmp_path: Path) -> None:
    assert _words(tmp_path, "the 1\n" + GLOVE) == ["the", "cat", "."]
    assert _words(tmp_path, GLOVE * 40 + "<html>\n" + "dog 1 2 3\n") == ["the", "cat", ".", "dog"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no word"),
        (b"\xef\xbb\xbf \r\n\n", "holds no word"),
        (b"\xff\n\xfe\n", "holds no word"),
        (gzip.compress(b"", mtime=0), "holds no word"),
        (b"PK\x03\x04\x14\x00\x00", "is not text"),
        ("the\ncat".encode("utf-16"), "is not text"),
        (b"x" * (1 << 20), "has a line of more than"),
        (gzip.compress(GLOVE.encode(), mtime=0)[:-12], "cannot be read"),
        (b"\x1f\x8b and no more", "cannot be read"),
    ],
)
def test_files_that_are_no_vocabulary_say_so_and_what_to_give(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _words(tmp_path, content)
    assert "one word a line" in str(caught.value.hint)


def test_a_missing_file_and_a_directory_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no vocabulary file at"):
        read_vocabulary(tmp_path / "absent.txt")
    with pytest.raises(UsageError, match="is a directory"):
        read_vocabulary(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be read"):
        read_vocabulary(tmp_path / "file" / "below")


PIECES = st.sampled_from(
    [b"the", b" 0.5", b" ", b"\n", b"\r\n", b"\t", b"\0", b"\xff", b"\xc2\xa0", b"\xef\xbb\xbf", b"nan", b"-"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES).map(b"".join) | st.binary(max_size=200), st.integers(0, 80), st.integers(0, 255))
def test_any_file_gives_distinct_words_or_an_error_of_ours(
    tmp_path: Path, content: bytes, damaged: int, byte: int
) -> None:
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[2 + damaged % (len(packed) - 2)] = byte
    for variant in (content, bytes(packed), bytes(packed[: damaged + 2])):
        with suppress(DataError):
            words = _words(tmp_path, variant)
            assert words
            assert len(set(words)) == len(words)
