"""The tokens of texts and of pairs of texts: those of the `tokenizers` library, each text encoded once.

A slate has one query, which the library would encode again for each document. And where it cuts a pair it keeps all
that it cuts off, in a piece for each combination of both texts' parts: a query of 1,000 tokens and a document of 250
take 19 times as long, and memory for hundreds of pieces. Here texts are encoded whole and cut by their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

INPUT_IDS, MASK, TOKEN_TYPES = "input_ids", "attention_mask", "token_type_ids"
TENSORS = (INPUT_IDS, MASK, TOKEN_TYPES)
"""What a graph may read of texts."""
LEFT = "left"

Texts = Sequence[tuple[str, ...]]
"""Texts by themselves (text,), or pairs (query, document)."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text or of a pair: their numbers, and which text each belongs to."""

    ids: list[int]
    types: list[int]

    def __len__(self) -> int:
        return len(self.ids)


class Slot(NamedTuple):
    """A token that is added to texts, by its number, or the place of text 0 or 1; and the type of what stands there."""

    text: int | None
    id: int
    type: int


class TextTokenizer:
    """Makes the tokens of texts as a tokenizer does, which says how they are cut and padded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Takes over `tokenizer`, which then neither cuts nor pads; ArtifactError where it has no token for padding."""
        assert tokenizer.padding is not None, "its export says how a tokenizer pads"
        assert tokenizer.truncation is not None, "its export says where a tokenizer cuts"
        self._tokenizer, self._padding, self._cutting = tokenizer, tokenizer.padding, tokenizer.truncation
        tokenizer.no_padding()
        tokenizer.no_truncation()
        text = self._padding["pad_token"]
        if len(tokenizer.encode(text, add_special_tokens=False)) != 1:
            raise ArtifactError(f"the tokenizer pads with {text!r}, which is no token")
        encodings = tokenizer.encode(text), tokenizer.encode(text, text)
        self._slots = [_slots(encoding) for encoding in encodings]

    def encode(self, texts: Texts) -> list[Tokens]:
        """The tokens of K texts or pairs."""
        distinct = dict.fromkeys(text for group in texts for text in group)
        ids = {text: self._tokenizer.encode(text, add_special_tokens=False).ids for text in distinct}
        return [self._joined([ids[text] for text in group]) for group in texts]

    def _joined(self, parts: Sequence[list[int]]) -> Tokens:
        """The tokens of one or two texts with those that are added, as many as are allowed."""
        slots = self._slots[len(parts) - 1]
        added = sum(slot.text is None for slot in slots)
        lengths = kept_lengths([*map(len, parts)], self._cutting["max_length"] - added)
        cut = [self._cut(part, length) for part, length in zip(parts, lengths, strict=True)]
        groups = [[slot.id] if slot.text is None else cut[slot.text] for slot in slots]
        return Tokens(
            [number for group in groups for number in group],
            [slot.type for slot, group in zip(slots, groups, strict=True) for _ in group],
        )

    def _cut(self, ids: list[int], length: int) -> list[int]:
        return ids[len(ids) - length :] if self._cutting["direction"] == LEFT else ids[:length]

    def padded(self, tokens: Sequence[Tokens]) -> Mapping[str, NDArray[np.int64]]:
        """The TENSORS int64[B, L] of B texts; L is the length of the longest."""
        longest = max(map(len, tokens))
        shape = len(tokens), longest
        tensors = {
            INPUT_IDS: np.full(shape, self._padding["pad_id"], np.int64),
            MASK: np.zeros(shape, np.int64),
            TOKEN_TYPES: np.full(shape, self._padding["pad_type_id"], np.int64),
        }
        for row, text in enumerate(tokens):
            begin = longest - len(text) if self._padding["direction"] == LEFT else 0
            for name, values in ((INPUT_IDS, text.ids), (MASK, 1), (TOKEN_TYPES, text.types)):
                tensors[name][row, begin : begin + len(text)] = values
        return tensors


def kept_lengths(lengths: Sequence[int], most: int) -> list[int]:
    """How many tokens of one or two texts are kept where `most` may be: the longer one is cut first, then both."""
    if sum(lengths) <= most or len(lengths) == 1:
        return [min(length, most) for length in lengths]
    first, second = lengths
    shorter = min(first, second, most // 2)
    return [shorter, most - shorter] if first <= second else [most - shorter, shorter]


def _slots(encoding: Encoding) -> list[Slot]:
    """The places of an encoding whose texts have a token each."""
    return [
        Slot(*place) for place in zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
    ]
