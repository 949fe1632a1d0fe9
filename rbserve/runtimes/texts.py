"""Scoring with items that a model's table does not have, given by their texts, as candidates or in a history.

A language model takes the tokens of a text. A model of group B or C takes a finished item vector
(`runtimes/item_vectors.py`); its graph looks the vector up in a table that is an input of the call. A model that reads
fields takes those of the item that the request has, and counts it as an item that no training row has.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from rbserve.core.errors import UsageError
from rbserve.core.requests import NO_TENSORS, Request, slate_request
from rbserve.core.types import Items, Observe, Scorer, Scores, Vectors
from rbserve.features.counted import SIMILARITIES
from rbserve.features.maker import NO_ROW
from rbserve.models.prompts import ItemTokenizer
from rbserve.runtimes.fields import FieldScorer
from rbserve.runtimes.item_vectors import ItemContent
from rbserve.runtimes.language import Candidate, LanguageScorer
from rbserve.runtimes.trees import TreeScorer

Mixed = list[int | str]
"""Items in order: a number is a row of the item table, a string the text of an item that has no row."""
KEPT_TEXTS = 10_000


class TextScorer(Protocol):
    """Scores users and slates in which items may be given by their texts."""

    def score(self, history: Mixed, candidates: Mixed, entries: Request, observe: Observe) -> Scores:
        """Click probabilities float32[N]; `entries` is what the request has beside, of a model that reads fields.

        Raises UsageError or ArtifactError where texts cannot be read here.
        """
        ...


@runtime_checkable
class VectorScorer(Protocol):
    """A scorer of groups B and C: where it `takes_vectors`, it can be given finished vectors instead of rows."""

    takes_vectors: bool

    def score_vectors(self, history: Vectors, candidates: Vectors, tensors: Request = NO_TENSORS) -> Scores:
        """Click probabilities float32[N] of items float32[N, d] for the user of items float32[T, d].

        `tensors` are those of the fields, of a model that reads some.
        """
        ...


class LanguageTexts:
    """Texts for language models (groups D to F): each text is tokenized in the request."""

    def __init__(self, scorer: LanguageScorer, tokenizer: ItemTokenizer) -> None:
        self._scorer, self._tokenizer = scorer, tokenizer

    def score(self, history: Mixed, candidates: Mixed, entries: Request, observe: Observe) -> Scores:
        """Click probabilities float32[N]; language models read no entries."""
        del entries
        tokens = [
            self._tokenizer.tokens(item) if isinstance(item, str) else self._scorer.tokens(item)
            for item in history
        ]
        slate: list[Candidate] = [
            self._tokenizer.tokens(item) if isinstance(item, str) else int(item) for item in candidates
        ]
        return self._scorer.score_tokens(tokens, slate, observe)


class VectorTexts:
    """Texts for groups B and C: each text becomes an item vector.

    The item content is opened for the first text. The vectors of the KEPT_TEXTS texts used last stay in memory.
    """

    def __init__(self, scorer: VectorScorer, open_content: Callable[[], ItemContent]) -> None:
        self._scorer, self._open = scorer, open_content
        self._content: ItemContent | None = None
        self._kept: OrderedDict[str, Vectors] = OrderedDict()

    def score(self, history: Mixed, candidates: Mixed, entries: Request, observe: Observe) -> Scores:
        """Click probabilities float32[N]; the entries are the tensors of the fields, of a model that reads some."""
        if self._content is None:
            self._content = self._open()
        items = [*history, *candidates]
        vectors = self._vectors(items, self._content)
        observe("texts")
        scores = self._scorer.score_vectors(vectors[: len(history)], vectors[len(history) :], entries)
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


class TextsWithFields:
    """Texts for models that read fields: tensors are made as of an item without counts; `texts` scores with them.

    Trees have no `texts`: of a new item they read its fields alone.
    """

    def __init__(self, scorer: FieldScorer, texts: VectorTexts | None) -> None:
        self._scorer, self._texts = scorer, texts

    def score(self, history: Mixed, candidates: Mixed, entries: Request, observe: Observe) -> Scores:
        """Click probabilities float32[N]; the entries have fields of the new items too (`features/maker.py`)."""
        rows = slate_request(_table_rows(history), _table_rows(candidates))
        tensors = self._scorer.maker.tensors({**rows, **entries})
        if self._texts is not None:
            return self._texts.score(history, candidates, tensors, observe)
        return self._scorer.scorer.score({**rows, **tensors})


def _table_rows(items: Mixed) -> Items:
    """The rows int32[K] of items; of those that are given by a text NO_ROW."""
    return np.array([NO_ROW if isinstance(item, str) else item for item in items], np.int32)


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
    if isinstance(scorer, LanguageScorer):
        try:
            return LanguageTexts(scorer, tokenizer())
        except UsageError as error:
            return error.message
    if isinstance(scorer, FieldScorer):
        return _field_texts(scorer, open_content)
    return _vector_texts(scorer, open_content)


def _field_texts(
    scorer: FieldScorer, open_content: Callable[[], ItemContent] | None
) -> TextsWithFields | str:
    compared = [spec.name for spec in scorer.layout.counted if spec.name in SIMILARITIES]
    if compared:
        return f"its field {compared[0]} compares texts of the items that it was trained with"
    if isinstance(scorer.scorer, TreeScorer):
        return TextsWithFields(scorer, None)
    texts = _vector_texts(scorer.scorer, open_content)
    return texts if isinstance(texts, str) else TextsWithFields(scorer, texts)


def _vector_texts(scorer: Scorer, open_content: Callable[[], ItemContent] | None) -> VectorTexts | str:
    if open_content is None or not isinstance(scorer, VectorScorer):
        return "it reads no texts of items"
    if not scorer.takes_vectors:
        return "its graph was exported by an earlier version (rbserve export writes it anew)"
    return VectorTexts(scorer, open_content)
