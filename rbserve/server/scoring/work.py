"""What a model does for one request: scores a slate (`Scoring`), or ranks its catalogue (`Ranking`).

A query goes in: a history with its candidates (`SlateQuery`), or a history and how many items to rank (`Top`). Scores,
or items and scores, come out. Nothing here waits, counts or knows of other requests.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from rbserve.core.fields import Layout
from rbserve.core.requests import slate_request
from rbserve.core.tasks import CTR, SEQREC, Task
from rbserve.core.types import Items, Observe, Ranker, Scorer, Scores, StagedScorer, no_observer
from rbserve.data.dataset import ItemTable
from rbserve.data.golden import Checks, ranked_otherwise, scored_otherwise
from rbserve.runtimes.evaluate import ApproximateRanker, recommend, without_seen
from rbserve.runtimes.histories import RememberingScorer
from rbserve.runtimes.language import PrefixCache
from rbserve.runtimes.texts import Mixed, TextScorer
from rbserve.server.api.options import Limits
from rbserve.server.scoring.request_fields import NO_ENTRIES, Entries, RequestFields

Query = TypeVar("Query")
Answer_co = TypeVar("Answer_co", covariant=True)

ItemList: TypeAlias = "Items | Mixed"
"""Rows of the item table, int32[K], or rows and texts of items that are not in it."""


class Work(Protocol[Query, Answer_co]):
    """What a model does for one request. Raises ValueError for a result that is no answer, such as a score of NaN."""

    @property
    def task(self) -> Task: ...

    @property
    def items(self) -> ItemTable:
        """The items that the model knows."""
        ...

    @property
    def prefix_cache(self) -> PrefixCache | None:
        """The cache of users' prompts, of a language model that has one."""
        ...

    def __call__(self, query: Query, observe: Observe = no_observer, /) -> Answer_co:
        """The answer to a query; calls `observe(stage)` after each stage of a model that has stages."""
        ...

    def batch_key(self, query: Query, /) -> Hashable:
        """Queries of one key can be answered by one call; None: the query takes a call of its own."""
        ...

    def answer_batch(self, queries: Sequence[Query], /) -> Sequence[Answer_co]:
        """The answers to queries of one batch key: those that each would get alone."""
        ...

    def size(self, query: Query, /) -> int:
        """Candidates, or items of the list: what the time of an answer grows with."""
        ...

    def example(self, size: int, length: int) -> Query:
        """Some query of that size for a history of `length` items, for the warm-up."""
        ...

    def largest(self, limits: Limits) -> int:
        """The size of the largest query that is answered."""
        ...

    def self_check(self, checks: Checks, /) -> str | None:
        """How the model's answers differ from those it gave when it was exported; None where they do not."""
        ...


@runtime_checkable
class TextWork(Protocol):
    """What a model does for a request of texts, where it reads any."""

    @property
    def no_texts(self) -> str | None:
        """Why the model reads no texts; None where it does."""
        ...

    def text_query(self, queries: Sequence[str], documents: Sequence[str], /) -> Any:
        """The model's query for documents and the texts of a query, oldest first; UsageError for too many of these."""
        ...


class SlateQuery(NamedTuple):
    """A query for the scores of N candidates for the user of a history of T items.

    `entries` are the fields of the user, of the context and of new items, and the time, of a model that reads them.
    """

    history: ItemList
    candidates: ItemList
    entries: Entries = NO_ENTRIES

    @property
    def has_texts(self) -> bool:
        """Whether it has texts of items that are not in the item table."""
        return isinstance(self.history, list) or isinstance(self.candidates, list)


@dataclass
class Scoring:
    """A pair-wise model: the query is a slate, the answer its scores float32[N].

    `texts` scores slates with texts of new items, where the model reads texts; else it is the reason why not. `fields`
    reads the fields of requests.
    """

    scorer: Scorer
    items: ItemTable
    task: Task = CTR
    texts: TextScorer | str = "it reads no texts of items"
    fields: RequestFields = field(default_factory=lambda: RequestFields(Layout(()), {}))

    def __post_init__(self) -> None:
        self._staged = self.scorer.score_staged if isinstance(self.scorer, StagedScorer) else None
        self.prefix_cache = self.scorer.user_cache if isinstance(self.scorer, RememberingScorer) else None

    def __call__(self, query: SlateQuery, observe: Observe = no_observer) -> Scores:
        history, candidates, entries = query
        if isinstance(history, list) or isinstance(candidates, list):
            assert not isinstance(self.texts, str)
            scores = self.texts.score([*history], [*candidates], entries, observe)
        elif self._staged is not None:
            scores = self._staged({**slate_request(history, candidates), **entries}, observe)
        else:
            scores = self.scorer.score({**slate_request(history, candidates), **entries})
        if scores.shape != (len(candidates),):
            raise ValueError(f"scores of shape {scores.shape} for {len(candidates)} candidates")
        return require_finite(scores)

    def batch_key(self, query: SlateQuery) -> None:
        del query

    def answer_batch(self, queries: Sequence[SlateQuery]) -> list[Scores]:
        return [self(query) for query in queries]

    def size(self, query: SlateQuery) -> int:
        return len(query.candidates)

    def example(self, size: int, length: int) -> SlateQuery:
        return SlateQuery(some_rows(self.items, length), some_rows(self.items, size))

    def largest(self, limits: Limits) -> int:
        return limits.max_candidates

    @property
    def no_texts(self) -> str | None:
        """Why the model reads no texts; None where it does."""
        if self.fields.layout:
            return "it reads fields, which a document does not have"
        return self.texts if isinstance(self.texts, str) else None

    def text_query(self, queries: Sequence[str], documents: Sequence[str]) -> SlateQuery:
        """The query of texts as history and documents as candidates."""
        return SlateQuery([*queries], [*documents])

    def self_check(self, checks: Checks) -> str | None:
        return scored_otherwise(checks, self.scorer.score)


class Top(NamedTuple):
    """A query for the `k` best items of the catalogue for history int32[T], without its items if `exclude_seen`."""

    history: Items
    k: int
    exclude_seen: bool = False


class Ranked(NamedTuple):
    """At most k items int32[k] and their scores float32[k], best first."""

    items: Items
    scores: Scores


@dataclass
class Ranking:
    """A list-wise model: the answer is the k best items. It reads the last `max_history` items of a history, or all."""

    ranker: Ranker
    items: ItemTable
    max_history: int | None = None
    task: Task = SEQREC
    prefix_cache: PrefixCache | None = None

    def __post_init__(self) -> None:
        self._is_approximate = isinstance(self.ranker, ApproximateRanker)

    def __call__(self, query: Top, observe: Observe = no_observer) -> Ranked:
        del observe
        items, scores = recommend(self.ranker, query.history, query.k, query.exclude_seen)
        if items.shape != scores.shape or len(items) > query.k:
            raise ValueError(f"items of shape {items.shape}, scores of shape {scores.shape} for k {query.k}")
        return Ranked(items, require_finite(scores))

    def batch_key(self, query: Top) -> Hashable:
        read = len(self._read(query))
        # An index finds other items for a longer list: lists of one length alone are the same together.
        return (read, _list_length(query)) if self._is_approximate else read

    def answer_batch(self, queries: Sequence[Top]) -> list[Ranked]:
        longest = max(map(_list_length, queries))
        histories = np.stack([self._read(query) for query in queries])
        ranked = zip(*self.ranker.top_k_batch(histories, longest), strict=True)
        return [
            self._own_list(query, items, scores)
            for query, (items, scores) in zip(queries, ranked, strict=True)
        ]

    def _own_list(self, query: Top, items: Items, scores: Scores) -> Ranked:
        """The part of a batch's longer list (-1: no item) that a query would get alone."""
        places = np.flatnonzero(items >= 0)[: _list_length(query)]
        items, scores = items[places], scores[places]
        if query.exclude_seen:
            items, scores = without_seen(query.history, query.k, items, scores)
        return Ranked(items, require_finite(scores))

    def _read(self, query: Top) -> Items:
        """The part of a history that the model reads."""
        return query.history if self.max_history is None else query.history[-self.max_history :]

    def size(self, query: Top) -> int:
        return query.k

    def example(self, size: int, length: int) -> Top:
        return Top(some_rows(self.items, length), size)

    def largest(self, limits: Limits) -> int:
        return limits.max_k

    def self_check(self, checks: Checks) -> str | None:
        return ranked_otherwise(checks, self.ranker.top_k)


def _list_length(query: Top) -> int:
    """How many items to rank so that k are left once those of the history are taken out."""
    return query.k + query.exclude_seen * len(query.history)


def require_finite(scores: Scores) -> Scores:
    """Raises ValueError for what JSON cannot carry: NaN would reach the client as null."""
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    return scores


def some_rows(items: ItemTable, count: int) -> Items:
    """`count` items of the catalogue, int32[count], over and over when it is smaller."""
    assert len(items), "an artefact has items"
    return np.arange(count, dtype=np.int32) % np.int32(len(items))
