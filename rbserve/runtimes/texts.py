"""Scoring with items that a model's table does not have, given by their texts, as candidates or in a history.

A language model takes the tokens of a text. A model of group B or C takes a finished item vector
(`runtimes/item_vectors.py`); its graph looks the vector up in a table that is an input of the call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rbserve.core.types import Items, Observe, Scorer, Scores, Vectors
from rbserve.models.prompts import ItemTokenizer
from rbserve.runtimes.fields import FieldScorer
from rbserve.runtimes.item_vectors import ItemContent
from rbserve.runtimes.language import LanguageScorer

Mixed = list[int | str]
"""Items in order: a number is a row of the item table, a string the text of an item that has no row."""
KEPT_TEXTS = 10_000


class TextScorer(Protocol):
    """Scores users and slates in which items may be given by their texts."""

    def score(self, history: Mixed, candidates: Mixed, observe: Observe) -> Scores:
        """Click probabilities float32[N]. Raises UsageError or ArtifactError where texts cannot be read here."""
        ...


@runtime_checkable
class VectorScorer(Protocol):
    """A scorer of groups B and C: where it `takes_vectors`, it can be given finished vectors instead of rows."""

    takes_vectors: bool

    def score_vectors(self, history: Vectors, candidates: Vectors) -> Scores:
        """Click probabilities float32[N] of items float32[N, d] for the user of items float32[T, d]."""
        ...


class LanguageTexts:
    """Texts for language models (groups D to F): each text is tokenized in the request."""

    def __init__(self, scorer: LanguageScorer, tokenizer: ItemTokenizer) -> None:
        self._scorer, self._tokenizer = scorer, tokenizer

    def score(self, history: Mixed, candidates: Mixed, observe: Observe) -> Scores:
        """Click probabilities float32[N]."""
        return self._scorer.score_tokens(self._tokens(history), self._tokens(candidates), observe)

    def _tokens(self, items: Mixed) -> list[Any]:
        return [
            self._tokenizer.tokens(item) if isinstance(item, str) else self._scorer.tokens(item)
            for item in items
        ]


class VectorTexts:
    """Texts for groups B and C: each text becomes an item vector.

    The item content is opened for the first text. The vectors of the KEPT_TEXTS texts used last stay in memory.
    """

    def __init__(self, scorer: VectorScorer, open_content: Callable[[], ItemContent]) -> None:
        self._scorer, self._open = scorer, open_content
        self._content: ItemContent | None = None
        self._kept: OrderedDict[str, Vectors] = OrderedDict()

    def score(self, history: Mixed, candidates: Mixed, observe: Observe) -> Scores:
        """Click probabilities float32[N]."""
        if self._content is None:
            self._content = self._open()
        items = [*history, *candidates]
        vectors = self._vectors(items, self._content)
        observe("texts")
        scores = self._scorer.score_vectors(vectors[: len(history)], vectors[len(history) :])
        observe("forward")
        return scores

    def _vectors(self, items: Mixed, content: ItemContent) -> Vectors:
        """float32[K, d], in the items' order."""
        texts = list(dict.fromkeys(item for item in items if isinstance(item, str)))
        if new := [text for text in texts if text not in self._kept]:
            self._kept.update(zip(new, content.of_texts(new), strict=True))
        rows = np.array([item for item in items if not isinstance(item, str)], np.int32)
        known = iter(content.of_rows(rows))
        vectors = np.stack([self._kept[item] if isinstance(item, str) else next(known) for item in items])
        for text in texts:
            self._kept.move_to_end(text)
        while len(self._kept) > KEPT_TEXTS:
            self._kept.popitem(last=False)
        return vectors


def mixed(rows: Items, texts: Sequence[str | None]) -> Mixed:
    """Rows and texts as one list of K items; `texts` has a text, or None at the place of the next of the rows."""
    row = iter(rows.tolist())
    return [next(row) if text is None else text for text in texts]


def text_scorer(
    scorer: Scorer, tokenizer: Callable[[], ItemTokenizer], open_content: Callable[[], ItemContent] | None
) -> TextScorer | str:
    """A scorer that takes texts of items, on top of `scorer`; the reason if the model reads no texts.

    `tokenizer` makes the tokenizer of a language model; it raises UsageError for a model that reads no texts.
    `open_content` opens the item content of groups B and C; it is None for every other model.
    """
    from rbserve.core.errors import UsageError

    if isinstance(scorer, LanguageScorer):
        try:
            return LanguageTexts(scorer, tokenizer())
        except UsageError as error:
            return error.message
    if isinstance(scorer, FieldScorer):
        return "it reads fields of items, which a text does not have"
    if open_content is None or not isinstance(scorer, VectorScorer):
        return "it reads no texts of items"
    if not scorer.takes_vectors:
        return "its graph was exported by an earlier version (rbserve export writes it anew)"
    return VectorTexts(scorer, open_content)
