"""Item texts as word indices, for the models whose item vector is the mean of its title's word embeddings.

The paper (section 4.1): "we utilize the nltk package to tokenize the text data and subsequently retain only
those tokens present in the GloVe vocabulary". The vocabulary is a GloVe file's when one is given, and is
learned from the training items' texts when not.

Every text is tokenised once: its tokens become provisional word numbers (4 bytes each, nothing else is kept
of a text), and NumPy turns these into the vocabulary's once all words have been counted.
"""

from __future__ import annotations

import gzip
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import DataError, UsageError
from rbserve.core.types import Progress, no_progress
from rbserve.models.words import MAX_WORDS, tokenize

_TEXTS_A_REPORT = 1_000
_ITEMS_A_BLOCK = 65_536
_LINES_OF_SAMPLE = 100
_LONGEST_LINE = 1 << 20
_HINT = "give a GloVe text file (a word and its numbers a line) or one word a line, plain or .gz"


@dataclass(frozen=True)
class Vocabulary:
    """V distinct lower-case words; a word's position is its row of the embedding table."""

    words: Sequence[str]

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> position."""
        return {word: position for position, word in enumerate(self.words)}


@dataclass(frozen=True)
class CountedTokens:
    """All tokens of N texts before a vocabulary is chosen, as numbers of the W distinct `words`.

    `items` int64[W] counts the training items that hold a word, `values` int32 and `offsets` int64[N + 1]
    are the texts: text n is values[offsets[n]:offsets[n + 1]]. Words stand in order of first occurrence.
    """

    words: Sequence[str]
    items: NDArray[np.int64]
    values: NDArray[np.int32]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class ItemTokens:
    """N items as positions in a vocabulary of V words: item n is values[offsets[n]:offsets[n + 1]].

    `counts` int64[V] is the number of training items that hold a word, `covered` the share of all tokens
    that the vocabulary knows (before the cut; 0 when there is no token), `without_words` the number of
    items left with no token.
    """

    vocabulary: Vocabulary
    counts: NDArray[np.int64]
    values: NDArray[np.int32]
    offsets: NDArray[np.int64]
    covered: float
    without_words: int


def tokenize_items(
    texts: Iterable[str],
    in_training: NDArray[np.bool_],
    vocabulary: Vocabulary | None = None,
    min_count: int = 2,
    max_words: int = MAX_WORDS,
    progress: Progress = no_progress,
) -> ItemTokens:
    """The first `max_words` known tokens of each of N texts.

    Without a `vocabulary` it is learned from the texts of the items in training, in_training bool[N];
    `min_count` says in how many of them a word must occur, and matters only then. UsageError for a number
    below 1, ValueError when there are not N texts, ModuleNotFoundError when nltk is needed and not installed.
    """
    for name, value in (("min_count", min_count), ("max_words", max_words)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    tokens = count_words(texts, in_training, progress)
    if vocabulary is None:
        vocabulary = learn_vocabulary(tokens, min_count)
    return encode(tokens, vocabulary, max_words)


def count_words(
    texts: Iterable[str], in_training: NDArray[np.bool_], progress: Progress = no_progress
) -> CountedTokens:
    """Tokenises N texts, once, and counts in how many of those in training, bool[N], each word occurs.

    ValueError when there are not N texts.
    """
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a new word gets the next number
    items: Counter[int] = Counter()
    values, offsets = array("i"), array("q", [0])
    total = len(in_training)
    for done, (text, counts) in enumerate(zip(texts, in_training.tolist(), strict=True), start=1):
        row = [numbers[word] for word in tokenize(text)]
        values.extend(row)
        offsets.append(len(values))
        if counts:
            items.update(set(row))
        if done % _TEXTS_A_REPORT == 0 or done == total:
            progress(done, total, f"texts tokenised, {len(numbers):,} words")
    by_number = np.fromiter((items[number] for number in range(len(numbers))), np.int64, len(numbers))
    return CountedTokens(list(numbers), by_number, np.asarray(values), np.asarray(offsets))


def learn_vocabulary(tokens: CountedTokens, min_count: int) -> Vocabulary:
    """The words of at least `min_count` training items, those of most items first, then alphabetically."""
    often = [
        (-items, word)
        for items, word in zip(tokens.items.tolist(), tokens.words, strict=True)
        if items >= min_count
    ]
    return Vocabulary(tuple(word for _, word in sorted(often)))


def encode(tokens: CountedTokens, vocabulary: Vocabulary, max_words: int) -> ItemTokens:
    """The first `max_words` known tokens of each text; unknown tokens are dropped before the cut.

    Words of the vocabulary that no text holds are left out of the result's: their embeddings would never
    be read. The others keep their order.
    """
    known = sorted(
        (position, number)
        for number, word in enumerate(tokens.words)
        if (position := vocabulary.index.get(word)) is not None
    )
    numbers = np.array([number for _, number in known], np.int64)
    renumber = np.full(len(tokens.words), -1, np.int32)
    renumber[numbers] = np.arange(len(known))
    values, lengths, known_tokens = _known_and_cut(tokens, renumber, max_words)
    return ItemTokens(
        vocabulary=Vocabulary(tuple(tokens.words[number] for _, number in known)),
        counts=tokens.items[numbers],
        values=values,
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        covered=known_tokens / max(len(tokens.values), 1),
        without_words=int((lengths == 0).sum()),
    )


def _known_and_cut(
    tokens: CountedTokens, renumber: NDArray[np.int32], max_words: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """The known tokens int32 after the cut, their number by text int64[N], and the number of known tokens before it.

    Works on a block of texts at a time: the ranks take several times the memory of the tokens.
    """
    texts = len(tokens.offsets) - 1
    values_of_blocks: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
    lengths = np.empty(texts, np.int64)
    known_tokens = 0
    for start in range(0, texts, _ITEMS_A_BLOCK):
        ends = tokens.offsets[start : start + _ITEMS_A_BLOCK + 1]
        values = renumber[tokens.values[ends[0] : ends[-1]]]
        known = values >= 0
        before = np.concatenate(([0], np.cumsum(known)))  # known tokens of the block before each token
        at_ends = before[ends - ends[0]]
        rank = before[:-1] - np.repeat(at_ends[:-1], np.diff(ends))
        values_of_blocks.append(values[known & (rank < max_words)])
        lengths[start : start + len(ends) - 1] = np.minimum(np.diff(at_ends), max_words)
        known_tokens += int(at_ends[-1])
    return np.concatenate(values_of_blocks), lengths, known_tokens


def read_vocabulary(path: Path) -> Vocabulary:
    """The words of a GloVe text file (`word v1 ... vD` a line) or of a list with one word a line, lower-cased.

    Plain or gzip, in the file's order, the first of equal words only. Reads line by line and keeps the words
    alone. A line with too few numbers (a word2vec header, a torn line) or that is not UTF-8 is left out.
    UsageError for a path that is no file, DataError for a file that is unreadable, binary or without a word.
    """
    try:
        with (
            path.open("rb") as raw,
            gzip.open(raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw as file,
        ):
            words = dict.fromkeys(_words(_lines(file, path), path))
    except FileNotFoundError:
        raise UsageError(f"no vocabulary file at {path}", _HINT) from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, not a vocabulary file", _HINT) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"vocabulary file {path} cannot be read: {error}", _HINT) from None
    if not words:
        raise DataError(f"vocabulary file {path} holds no word", _HINT)
    return Vocabulary(tuple(words))


def _lines(file: BufferedReader | gzip.GzipFile, path: Path) -> Iterator[bytes]:
    """Lines that are not blank, without their ends; DataError for one of an absurd length."""
    start = b"\xef\xbb\xbf"  # a byte order mark
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise DataError(f"vocabulary file {path} has a line of more than {_LONGEST_LINE} bytes", _HINT)
        if stripped := line.removeprefix(start).strip():
            yield stripped
        start = b""


def _words(lines: Iterator[bytes], path: Path) -> Iterator[str]:
    """The word of each line: what stands before its numbers, which may itself hold spaces or numbers."""
    sample = list(islice(lines, _LINES_OF_SAMPLE))
    if any(b"\0" in line for line in sample):
        raise DataError(f"vocabulary file {path} is not text", f"unpack an archive first; {_HINT}")
    numbers = _numbers_a_line(sample)
    for line in chain(sample, lines):
        if numbers == 0:
            word = line
        elif line.count(b" ") == numbers:  # nearly always, and much faster than splitting
            word = line.partition(b" ")[0]
        else:
            word, *rest = line.rsplit(None, numbers)
            if len(rest) < numbers:
                continue
        try:
            yield word.decode().lower()
        except UnicodeDecodeError:
            continue


def _numbers_a_line(sample: Sequence[bytes]) -> int:
    """How many numbers follow the word on most lines; the larger count if two are as frequent."""
    frequent = Counter(_trailing_numbers(line.split()[1:]) for line in sample)
    return max(frequent, key=lambda numbers: (frequent[numbers], numbers), default=0)


def _trailing_numbers(fields: Sequence[bytes]) -> int:
    for count, field in enumerate(reversed(fields)):
        try:
            float(field)
        except ValueError:
            return count
    return len(fields)
