"""Prompts as token ids: RecBench's wording, put together from pieces that are tokenised once.

A prompt is what is the same for all candidates of a user (the prefix: instruction, history, and the words that announce
a candidate), then what is not (a suffix: the candidate's text and the question). An item's text is tokenised when the
model is packaged, so that a prompt at run time is a few array copies; no tokeniser is needed to serve. NumPy alone, but
for texts that were not there then: `ItemTokenizer` takes the `tokenizers` library.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.manifest import read_manifest
from rbserve.core.types import Items
from rbserve.data.artifact import PromptFit
from rbserve.data.columns import Ragged, RaggedWriter, open_ragged

SCHEMA = 1
FOLDER = "prompt"
MANIFEST = "prompt.json"
ITEM_TOKENS = "items"
FILES = (MANIFEST, *(f"{ITEM_TOKENS}.{part}.npy" for part in ("values", "offsets")))

# The wording of RecBench's public code, spaces included.
INSTRUCTION = (
    'You are a recommender. Please response "YES" or "NO" to represent '
    "whether this user is interested in this item. "
)
HISTORY = "User behavior sequence: "
CANDIDATE = "\nCandidate item:"
ANSWER = "\nAnswer (Yes/No): "
NEXT_ITEM = "\nNext item:"

# Another wording, whose question is asked before the candidate.
QUESTION_FIRST = "\nAnswer Yes or No: is this user interested in the candidate item?" + CANDIDATE
CLOSING = "\n"
"""What ends a candidate in the other wording; its last token is read."""
ITEMS_A_PROMPT = 5  # an item takes at most this part of the prompt

Tokens = NDArray[np.int64]


def numbered(place: int) -> str:
    """What stands before a history's item, counted from 1; the item's text follows after a space."""
    return f"\n({place})"


class Pieces(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fixed parts of every prompt, as token ids, and how they are read.

    The answer is read at the token that `read_from_end` others follow. `shared`: no token of the prefix attends to the
    suffix, so that one prefix serves all candidates. `causal`: no token attends to a later one of its own part. The
    first `yes` answers of the model's head are the ways to say yes, the others those to say no. New tokens are
    numbered from `vocabulary`. `parted`: the answer is read of the means of prefix and suffix, which are told apart by
    the place that is read: no token of the prefix attends to that one.

    `meet`: in so many layers prefix and suffix attend only to themselves. A suffix then is a text of its own: it begins
    with `opening`, and its positions begin at 0 whatever the prefix is. `pooled`: these are all layers, behind which
    each part is one state, the mean of its tokens'.
    """

    schema: int
    start: list[int]
    numbers: list[list[int]]
    candidate: list[int]
    answer: list[int]
    max_tokens: int
    read_from_end: int
    shared: bool
    causal: bool
    yes: int
    vocabulary: int
    parted: bool = False
    meet: int = 0
    opening: list[int] = []
    pooled: bool = False


class Prompts:
    """Makes the prompts of a data set's items, of at most `max_tokens` tokens."""

    def __init__(self, pieces: Pieces, items: Ragged) -> None:
        """`items` are the token ids of every item. UsageError when there is no room for the longest of them."""
        self.pieces, self.items = pieces, items
        self._start, self._candidate, self._opening, self._answer = (
            np.array(part, np.int64)
            for part in (pieces.start, pieces.candidate, pieces.opening, pieces.answer)
        )
        self._numbers = [np.array(number, np.int64) for number in pieces.numbers]
        self._longest = int(items.lengths.max(initial=0))
        if self._room() <= 0:
            needed = pieces.max_tokens - self._room()
            raise UsageError(
                f"max_tokens={pieces.max_tokens} leaves no room for a history: the rest of a prompt takes {needed}"
            )

    def _room(self, candidate: int = 0) -> int:
        """Tokens left for a history before a candidate of so many, or of as many as the longest item has."""
        fixed = sum(map(len, (self._start, self._candidate, self._opening, self._answer)))
        return self.pieces.max_tokens - fixed - max(candidate, self._longest)

    def kept(self, history: Items, candidate: int = 0) -> int:
        """How many of a history's newest items the prompt has room for, whatever item the candidate is.

        A `candidate` that is no item of the table and has more tokens than any leaves less room.
        """
        newest = history[-len(self._numbers) :]
        return self._kept(self.items.offsets[newest + 1] - self.items.offsets[newest], candidate)

    def _kept(self, lengths: NDArray[np.int64], candidate: int) -> int:
        """How many of the newest items fit that have so many tokens, oldest first; at most as many as have numbers."""
        newest = lengths[::-1]
        numbers = np.array([len(number) for number in self._numbers[: len(newest)]], np.int64)
        # With n items kept, the numbers 1 to n stand before them.
        needed = np.cumsum(newest) + np.cumsum(numbers)
        return int(np.count_nonzero(needed <= self._room(candidate)))

    def fit(self, histories: Ragged, max_items: int, rows_at_once: int = 100_000) -> PromptFit:
        """What prompts with the `max_items` newest items of each of R histories have room for, and what they lose."""
        fitting = [
            self._kept_each(histories.take(np.arange(begin, min(begin + rows_at_once, len(histories)))))
            for begin in range(0, len(histories), rows_at_once)
        ]
        lengths = histories.lengths
        lost = lengths - np.minimum(np.concatenate([np.zeros(0, np.int64), *fitting]), max_items)
        return PromptFit(
            prompts=len(histories),
            cut=int(np.count_nonzero(lost)),
            items=int(lengths.sum()),
            lost=int(lost.sum()),
            max_tokens=self.pieces.max_tokens,
            max_items=min(max_items, len(self._numbers)),
        )

    def _kept_each(self, histories: Ragged) -> NDArray[np.int64]:
        """`kept` of each of R histories, int64[R]."""
        lengths, ends = histories.lengths, np.repeat(histories.offsets[1:], histories.lengths)
        tokens = np.concatenate(([0], np.cumsum(self.items.lengths[histories.values])))
        numbers = np.cumsum([0, *map(len, self._numbers)])
        newer = ends - np.arange(len(ends))  # items from here to the newest, this one included
        needed = tokens[ends] - tokens[:-1] + numbers[np.minimum(newer, len(self._numbers))]
        fits = (needed <= self._room()) & (newer <= len(self._numbers))
        row_of = np.repeat(np.arange(len(histories)), lengths)
        return np.bincount(row_of[fits], minlength=len(histories))

    def prefix(self, history: Items, candidate: int = 0) -> Tokens:
        """Instruction, the newest items of history int32[T], oldest first, and what announces a candidate: int64[P].

        See `kept`.
        """
        newest = history[len(history) - self.kept(history, candidate) :]
        return self._prefix([self.items[item] for item in newest])

    def prefix_of(self, history: Sequence[NDArray[Any]], candidate: int = 0) -> Tokens:
        """`prefix` of items of these tokens, [I] each, which need not be in the table."""
        newest = history[-len(self._numbers) :]
        lengths = np.array([len(item) for item in newest], np.int64)
        return self._prefix(newest[len(newest) - self._kept(lengths, candidate) :])

    def _prefix(self, items: Sequence[NDArray[Any]]) -> Tokens:
        parts: list[NDArray[Any]] = [self._start]
        for number, item in zip(self._numbers, items, strict=False):
            parts += [number, item]
        return np.concatenate([*parts, self._candidate]).astype(np.int64)

    def suffix(self, candidate: int) -> Tokens:
        """Candidate and question: int64[S]."""
        return self.suffix_of(self.items[candidate])

    def suffix_of(self, item: NDArray[Any]) -> Tokens:
        """The suffix of an item of these tokens, [I], which need not be in the table."""
        return np.concatenate((self._opening, item, self._answer)).astype(np.int64)

    def suffix_of_candidate(self, candidate: int | NDArray[Any]) -> Tokens:
        """The suffix of a row of the item table, or of an item of these tokens, [I]."""
        return self.suffix(candidate) if isinstance(candidate, int) else self.suffix_of(candidate)

    def state_rows(self, item: int) -> slice:
        """Which rows of the table of item states are those of an item of the table."""
        return slice(self.state_count(item), self.state_count(item + 1))

    def state_count(self, items: int) -> int:
        """The rows that the first `items` items have in the table of item states: one for each token of a suffix."""
        if self.pieces.pooled:
            return items
        return int(self.items.offsets[items]) + items * (len(self._opening) + len(self._answer))

    def sizes(self, history: Items, candidates: Items) -> tuple[int, int]:
        """Tokens of the prefix of history int32[T], and of all suffixes of candidates int32[N] together."""
        own = self.items.offsets[candidates + 1] - self.items.offsets[candidates]
        fixed = len(self._opening) + len(self._answer)
        return len(self.prefix(history)), int(own.sum()) + fixed * len(candidates)

    def questions(self, histories: Items) -> Tokens:
        """History and question of B users, int32[B, T], whose items all have the same number of tokens: int64[B, P]."""
        return np.stack([np.concatenate((self.prefix(history), self._answer)) for history in histories])

    def save(self, folder: Path) -> None:
        """Writes FILES."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).write_bytes(msgspec.json.encode(self.pieces))
        writer = RaggedWriter(folder, ITEM_TOKENS)
        writer.append(self.items)
        writer.close()


def open_prompts(folder: Path) -> Prompts:
    """The prompts of an artefact; ArtifactError when their files are absent or damaged."""
    pieces = read_manifest(
        folder / MANIFEST,
        Pieces,
        SCHEMA,
        "a description of prompts",
        "rbserve train makes it anew",
        ArtifactError,
    )
    return Prompts(pieces, open_ragged(folder, ITEM_TOKENS))


def item_limit(max_tokens: int) -> int:
    """How many tokens of an item's text are read, where items are texts."""
    return max_tokens // ITEMS_A_PROMPT


def space_before(first: str) -> str:
    """What an item's text begins with to read as one that follows a word; `first` is the token of "a".

    A tokeniser that marks the beginning of words (▁) puts the space there itself.
    """
    return "" if first.startswith("▁") else " "


class ItemTokenizer:
    """The token ids of an item's text as `Prompts` has them of its items, by the `tokenizers` library alone."""

    def __init__(self, file: Path, limit: int) -> None:
        """`file` is a tokenizer.json, `limit` how many tokens of a text are read (`item_limit`).

        Raises ArtifactError for a file that is no tokeniser, UsageError without the library.
        """
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError:
            raise UsageError("texts of new items need tokenizers", "pip install tokenizers") from None
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001  (what the library raises has no class of its own)
            raise ArtifactError(f"{file} is no tokeniser: {error}") from None
        self._tokenizer.no_truncation()  # a file may ask for either
        self._tokenizer.no_padding()
        self._limit = limit
        self._space = space_before(self._tokenizer.encode("a", add_special_tokens=False).tokens[0])

    def tokens(self, text: str) -> Tokens:
        """int64[I]"""
        tokens = self._tokenizer.encode(self._space + text, add_special_tokens=False).ids
        return np.array(tokens[: self._limit], np.int64)


class Packed:
    """Prompts laid out for one call: B rows of L tokens each, after P tokens that were read before.

    tokens int64[B, L]; positions int64[B, L]; mask bool[B, L, P + L], which earlier and own tokens each token
    attends to; read int64[B, N], where the answers stand.

    What a token attends to stands at positions 0, 1, 2, … in this order: drivers.py tells distances by it.
    """

    def __init__(self, tokens: Tokens, positions: Tokens, mask: NDArray[np.bool_], read: Tokens) -> None:
        self.tokens, self.positions, self.mask, self.read = tokens, positions, mask, read

    @property
    def rows(self) -> int:
        """B"""
        return len(self.tokens)

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """By the names that the model's graph gives them."""
        return {"tokens": self.tokens, "positions": self.positions, "mask": self.mask, "read": self.read}


def pack(prefix: Tokens, suffixes: Sequence[Tokens], pieces: Pieces, before: int = 0) -> Packed:
    """One user's prefix and suffixes, in one row: B = 1.

    Each suffix attends to the prefix and itself, at the positions it would have alone; where prefix and suffix `meet`
    late, at positions that begin at 0. The first `before` tokens of the prefix were read by an earlier call, and are
    not laid out. A prefix that is not `shared` attends to its one suffix as well.
    """
    parts = [prefix[before:], *suffixes]
    lengths = np.array([len(part) for part in parts])
    mask, read = block_mask(lengths, before, pieces)
    first = 0 if pieces.meet else len(prefix)
    positions = np.concatenate(
        [np.arange(before, len(prefix)), *(np.arange(first, first + length) for length in lengths[1:])]
    )
    return Packed(np.concatenate(parts)[None], positions[None], mask, read)


def block_mask(lengths: NDArray[np.int64], before: int, pieces: Pieces) -> tuple[NDArray[np.bool_], Tokens]:
    """Mask bool[1, L, before + L] and places to read int64[1, N] of a prefix and N suffixes of these lengths, in turn.

    `before` tokens of the prefix are in the cache, and not in its length. See `pack`. Without suffixes one place is
    read all the same: not every runtime reads none.
    """
    begins = np.cumsum(lengths) - lengths
    own, total, suffixes = int(lengths[0]), int(lengths.sum()), len(lengths) - 1
    part_of = np.repeat(np.arange(len(lengths)), lengths)
    mask = part_of[:, None] == part_of[None, :]
    if pieces.causal:
        mask &= np.tri(total, dtype=bool)
    mask[:, :own] |= (part_of > 0)[:, None]
    mask |= not pieces.shared
    read = (begins + lengths)[1:] - 1 - pieces.read_from_end if suffixes else np.array([total - 1])
    if pieces.parted and suffixes:
        mask[:own, read] = False
    mask = np.concatenate((np.ones((total, before), bool), mask), axis=1)
    return mask[None], read[None]


def pack_answer(question: Tokens, answer: Tokens, causal: bool) -> Packed:
    """A question and its answer, in one row: each token of the answer attends to the question and those before it.

    The places to read are those that the answer's tokens follow. Unless `causal`, the question's tokens attend to one
    another, and never to the answer.
    """
    question_length, total = len(question), len(question) + len(answer) - 1
    mask = np.tri(total, dtype=bool)
    if not causal:
        mask[:question_length, :question_length] = True
    tokens = np.concatenate((question, answer[:-1]))
    read = np.arange(question_length - 1, total)
    return Packed(tokens[None], np.arange(total)[None], mask[None], read[None])


def pack_questions(questions: Tokens, causal: bool) -> Packed:
    """Questions int64[B, P] of one length, to be answered after their last token."""
    rows, length = questions.shape
    mask = np.tri(length, dtype=bool) if causal else np.ones((length, length), bool)
    return Packed(
        questions,
        np.tile(np.arange(length), (rows, 1)),
        np.tile(mask, (rows, 1, 1)),
        np.full((rows, 1), length - 1),
    )


def pad(rows: Sequence[Packed]) -> Packed:
    """Rows of one packed user each, nothing read before, side by side; short ones filled up on the right.

    Filling attends to itself alone and nothing to it. A row with fewer answers repeats its last one.
    """
    longest = max(row.tokens.shape[1] for row in rows)
    answers = max(row.read.shape[1] for row in rows)
    tokens = np.zeros((len(rows), longest), np.int64)
    positions = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros((len(rows), longest, longest), bool)
    mask[:, np.arange(longest), np.arange(longest)] = True
    read = np.zeros((len(rows), answers), np.int64)
    for place, row in enumerate(rows):
        length, n = row.tokens.shape[1], row.read.shape[1]
        tokens[place, :length], positions[place, :length] = row.tokens, row.positions
        mask[place, :length, :length] = row.mask
        read[place] = np.pad(row.read[0], (0, answers - n), mode="edge")
    return Packed(tokens, positions, mask, read)
