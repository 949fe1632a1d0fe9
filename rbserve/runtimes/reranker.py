"""Scoring documents for a query by their texts: tokens by the `tokenizers` library, then an exported graph.

A cross-encoder's graph reads query and document together and gives their score. A bi-encoder's graph gives a vector for
each text, and the score is the product of two vectors. A long slate is read in calls of bounded size, texts of similar
length together: a call computes as many tokens for each text as its longest one has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.requests import SLATE, TEXT, Request, Signature, TensorSpec
from rbserve.core.types import Observe, Scores, StagedScorer, no_observer
from rbserve.data.artifact import Artifact
from rbserve.runtimes.session import Session
from rbserve.runtimes.text_tokens import Texts, TextTokenizer, Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QUERY, DOCUMENT = "query", "document"
SCORES, VECTORS = "scores", "vectors"
"""The output of a cross-encoder's graph, a score for each pair; of a bi-encoder's, a vector for each text."""
MOST_TOKENS = 256
"""Tokens of a call at most, padding included; a longer text has a call of its own."""


RERANK_SIGNATURE = Signature(
    inputs=[TensorSpec(QUERY, TEXT, []), TensorSpec(DOCUMENT, TEXT, [SLATE])],
    outputs=[TensorSpec(SCORES, "float32", [SLATE])],
    score=SCORES,
)
"""What a reranker takes and gives; an adopted one has the columns of its texts as well."""


class TokenGraph:
    """A graph over tokens int64[B, L] of B texts, or of B pairs of texts, that a tokenizer makes."""

    def __init__(self, session: Session, tokenizer: Tokenizer, most_tokens: int = MOST_TOKENS) -> None:
        """`tokenizer` says how texts are cut and padded."""
        self._session, self._most_tokens = session, most_tokens
        self._inputs = [value.name for value in session.get_inputs()]
        self._tokenizer = TextTokenizer(tokenizer)

    def read(self, texts: Texts, observe: Observe) -> NDArray[np.float32]:
        """The graph's output float32[K, ...] for K texts, in their order; observes tokens and forward."""
        tokens = self._tokenizer.encode(texts)
        observe("tokens")
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        calls = calls_of([tokens[place] for place in order], self._most_tokens)
        outputs = np.concatenate([self._call(call) for call in calls])
        observe("forward")
        return outputs[np.argsort(order)]

    def _call(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        tensors = self._tokenizer.padded(tokens)
        output: NDArray[np.float32] = self._session.run(None, {name: tensors[name] for name in self._inputs})[
            0
        ]
        return output


def calls_of(tokens: Sequence[Tokens], most_tokens: int) -> Iterator[Sequence[Tokens]]:
    """Texts, the shortest first, in calls of at most `most_tokens` tokens with their padding; a longer text alone."""
    begin = 0
    for place in range(1, len(tokens) + 1):
        if place == len(tokens) or (place + 1 - begin) * len(tokens[place]) > most_tokens:
            yield tokens[begin:place]
            begin = place


class CrossEncoder:
    """Scores each document with the query in one text: probabilities of relevance."""

    def __init__(self, graph: TokenGraph) -> None:
        self._graph = graph

    def score(self, request: Request) -> Scores:
        """Scores float32[N] of the documents [N] for the query [] of a request."""
        return self.score_staged(request, no_observer)

    def score_staged(self, request: Request, observe: Observe) -> Scores:
        """Scores as `score` does, and calls observe(name) at the end of each stage: tokens, forward."""
        query, documents = texts_of(request)
        if not documents:
            return np.zeros(0, np.float32)
        return self._graph.read([(query, document) for document in documents], observe)


class BiEncoder:
    """Scores each document by the product of its vector and the query's: their cosine where both have length 1."""

    def __init__(self, graph: TokenGraph) -> None:
        self._graph = graph

    def score(self, request: Request) -> Scores:
        """Scores float32[N] of the documents [N] for the query [] of a request."""
        return self.score_staged(request, no_observer)

    def score_staged(self, request: Request, observe: Observe) -> Scores:
        """Scores as `score` does, and calls observe(name) at the end of each stage: tokens, forward."""
        query, documents = texts_of(request)
        vectors = self._graph.read([(text,) for text in (query, *documents)], observe)
        scores: Scores = vectors[1:] @ vectors[0]
        return scores


SCORERS: Mapping[str, Callable[[TokenGraph], StagedScorer]] = {SCORES: CrossEncoder, VECTORS: BiEncoder}
"""What scores with a graph, by the name of its output."""


def open_reranker(artifact: Artifact, session: Session) -> StagedScorer:
    """The scorer of an adopted reranker over a graph of its; its tokenizer is verified.

    Raises ArtifactError for a tokenizer that cannot be read, UsageError without the library.
    """
    assert artifact.manifest.adopted
    (file,) = artifact.manifest.adopted.files
    (output,) = session.get_outputs()
    return SCORERS[output.name](TokenGraph(session, open_tokenizer(artifact.file(file))))


def texts_of(request: Request) -> tuple[str, list[str]]:
    """The query and the N documents of a request."""
    documents: list[str] = request[DOCUMENT].tolist()
    return request[QUERY].item(), documents


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json. Raises ArtifactError for another file, UsageError without the library."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise UsageError("texts need the library tokenizers", "pip install tokenizers") from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  (what the library raises has no class of its own)
        raise ArtifactError(f"{path} is no tokenizer: {error}") from None
