"""What an adopted model does for one request: named arrays in, every output of its signature out, scores among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import UsageError, first_line
from rbserve.core.requests import SLATE, TEXT, FeatureSpec, Request, Signature, TensorSpec
from rbserve.core.tasks import Task
from rbserve.core.types import Observe, Scorer, Scores, StagedScorer, no_observer
from rbserve.data.artifact import DatasetReference
from rbserve.data.dataset import ItemTable
from rbserve.data.golden import Checks, scored_otherwise
from rbserve.runtimes.adopted import AdoptedScorer, slate_size
from rbserve.server.api.options import Limits
from rbserve.server.scoring.features import FeatureReader

INVALID = "InvalidArgument"
"""The class of onnxruntime's error for values that a graph cannot take, such as a row that a table does not have."""
EXAMPLE_LENGTH = 8
"""Items of a history in a warm-up request that is made of the signature alone."""


class UnscorableError(Exception):
    """The model has no score for a request: the first line of why."""


class EveryOutput(NamedTuple):
    """A query for all outputs of a model, by their names; a plain request is one for the scores alone."""

    request: Request


AdoptedQuery: TypeAlias = "Request | EveryOutput"
Outputs: TypeAlias = "Mapping[str, NDArray[Any]]"


@dataclass
class AdoptedScoring:
    """A model that was made elsewhere: the query is a request of named arrays, the answer its scores float32[N].

    `features` are the named features by which a client may ask it, `requests` is the request set that it was adopted
    with, `sample` is some request that it can answer, for the warm-up; without one, a request of zeros is made.
    """

    scorer: Scorer
    signature: Signature
    features: Mapping[str, FeatureSpec]
    task: Task
    requests: DatasetReference
    sample: Request | None = None
    prefix_cache: None = None

    def __post_init__(self) -> None:
        self.items = ItemTable([], [])  # its candidates are features, not items of a table
        self.reader = FeatureReader(self.signature, self.features)

    @cached_property
    def outputs(self) -> Sequence[TensorSpec]:
        """The outputs that it gives: all of the signature, or, of a scorer that gives scores alone, these."""
        if isinstance(self.scorer, AdoptedScorer):
            return self.scorer.signature.outputs
        return [output for output in self.signature.outputs if output.name == self.signature.score]

    def __call__(self, query: AdoptedQuery, observe: Observe = no_observer) -> Scores | Outputs:
        try:
            if isinstance(query, EveryOutput):
                return self._every_output(query.request, observe)
            return self._checked(self._score(query, observe), self.size(query))
        except Exception as error:
            if type(error).__name__ != INVALID:
                raise
            raise UnscorableError(first_line(error).rpartition("Status Message: ")[2]) from None

    def _every_output(self, request: Request, observe: Observe) -> Outputs:
        outputs: Sequence[NDArray[Any]]
        if isinstance(self.scorer, AdoptedScorer):
            outputs = self.scorer.outputs(request)
            self._checked(self.scorer.scores_of(outputs), self.size(request))
        else:
            outputs = [self._checked(self._score(request, observe), self.size(request))]
        return {
            spec.name: output if spec.dtype == TEXT else np.asarray(output, spec.dtype)
            for spec, output in zip(self.outputs, outputs, strict=True)
        }

    def _score(self, request: Request, observe: Observe) -> Scores:
        if isinstance(self.scorer, StagedScorer):
            return self.scorer.score_staged(request, observe)
        return self.scorer.score(request)

    def _checked(self, scores: Scores, size: int) -> Scores:
        """Raises ValueError for another number of scores, UnscorableError for one that is not finite."""
        if scores.shape != (size,):
            raise ValueError(f"scores of shape {scores.shape} for {size} candidates")
        if not (finite := np.isfinite(scores)).all():
            place = int(np.argmin(finite))
            raise UnscorableError(f"the score of candidate {place} is {scores[place]}")
        return scores

    def batch_key(self, query: AdoptedQuery) -> None:
        """None: every request takes a call of its own."""
        del query

    def answer_batch(self, queries: Sequence[AdoptedQuery]) -> list[Scores | Outputs]:
        """The answers, one after another."""
        return [self(query) for query in queries]

    def size(self, query: AdoptedQuery) -> int:
        """How many candidates a query has."""
        request = query.request if isinstance(query, EveryOutput) else query
        return slate_size(request, self.signature)

    def example(self, size: int, length: int) -> Request:
        """The candidates of the sample, over and over, until there are `size`."""
        del length  # a model that was made elsewhere need not take an empty history, or one of any length
        return repeated(self._sample, self.signature, size)

    @cached_property
    def _sample(self) -> Request:
        if self.sample is not None:
            return self.sample
        values = self.reader.example(1, EXAMPLE_LENGTH)
        return self.reader.read({name: encode_raw(value) for name, value in values.items()})[0]

    def largest(self, limits: Limits) -> int:
        """The most candidates of a request."""
        return limits.max_candidates

    @property
    def no_texts(self) -> str | None:
        """Why it orders no documents for a query; None where it takes a text of each."""
        return None if self.signature.text_pair else "it takes other features than a query and documents"

    def text_query(self, queries: Sequence[str], documents: Sequence[str]) -> Request:
        """A request of one query text and N documents. Raises UsageError for none or several of the first."""
        if len(queries) != 1:
            raise UsageError(f"it takes one text as the query, and {len(queries)} are sent", "send a string")
        assert self.signature.text_pair
        query, document = self.signature.text_pair
        return {query: np.array(queries[0], object), document: np.array(documents, object)}

    def self_check(self, checks: Checks) -> str | None:
        """How its scores differ from those it gave when it was exported; None where they do not."""
        return scored_otherwise(checks, self.scorer.score)


def encode_raw(value: object) -> msgspec.Raw:
    """A value as undecoded JSON."""
    return msgspec.Raw(msgspec.json.encode(value))


def repeated(request: Request, signature: Signature, size: int) -> Request:
    """A request of `size` candidates: those of another request, over and over."""
    rows = np.arange(size) % slate_size(request, signature)
    return {
        spec.name: request[spec.name].take(rows, axis=spec.dims.index(SLATE))
        if spec.per_candidate
        else request[spec.name]
        for spec in signature.inputs
    }
