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

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

QUERY, DOCUMENT = "query", "document"
SCORES, VECTORS = "scores", "vectors"
"""The output of a cross-encoder's graph, a score for each pair; of a bi-encoder's, a vector for each text."""
MOST_TOKENS = 256
"""Tokens of a call at most, padding included; a longer text has a call of its own."""
INPUT_IDS, MASK, TOKEN_TYPES = "input_ids", "attention_mask", "token_type_ids"
FEATURES = {INPUT_IDS: "ids", MASK: "attention_mask", TOKEN_TYPES: "type_ids"}
"""The inputs of a graph, and the attribute of an encoding that has them."""
PADDING = ("direction", "pad_id", "pad_type_id", "pad_token")
"""What a tokenizer says of its padding beside the length."""

Texts = Sequence[tuple[str, str | None]]
"""Pairs of a query and a document, or texts and None."""


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
        self._session, self._tokenizer, self._most_tokens = session, tokenizer, most_tokens
        self._features = {value.name: FEATURES[value.name] for value in session.get_inputs()}
        assert tokenizer.padding is not None, "its export says how a tokenizer pads"
        self._padding = {name: tokenizer.padding[name] for name in PADDING}
        tokenizer.no_padding()  # the texts of a call are padded to its longest one

    def read(self, texts: Texts, observe: Observe) -> NDArray[np.float32]:
        """The graph's output float32[K, ...] for K texts, in their order; observes tokens and forward."""
        encodings = [self._tokenizer.encode(*pair) for pair in texts]
        observe("tokens")
        order = sorted(range(len(encodings)), key=lambda place: len(encodings[place]))
        calls = calls_of([encodings[place] for place in order], self._most_tokens)
        outputs = np.concatenate([self._call(call) for call in calls])
        observe("forward")
        return outputs[np.argsort(order)]

    def _call(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """The output for texts of which the last one is the longest."""
        for encoding in encodings:
            encoding.pad(len(encodings[-1]), **self._padding)
        arrays = {
            name: np.array([getattr(encoding, feature) for encoding in encodings], np.int64)
            for name, feature in self._features.items()
        }
        output: NDArray[np.float32] = self._session.run(None, arrays)[0]
        return output


def calls_of(encodings: Sequence[Encoding], most_tokens: int) -> Iterator[Sequence[Encoding]]:
    """Texts, the shortest first, in calls of at most `most_tokens` tokens with their padding; a longer text alone."""
    begin = 0
    for place in range(1, len(encodings) + 1):
        if place == len(encodings) or (place + 1 - begin) * len(encodings[place]) > most_tokens:
            yield encodings[begin:place]
            begin = place


class CrossEncoder:
    """Scores each document with the query in one text: probabilities of relevance."""

    def __init__(self, graph: TokenGraph) -> None:
        self._graph = graph

    def score(self, request: Request) -> Scores:
        """Scores float32[N] of the documents [N] for the query [] of a request."""
        return self.score_staged(request, no_observer)

    def score_staged(self, request: Request, observe: Observe) -> Scores:
        """As `score`; calls observe(name) at the end of each stage: tokens, forward."""
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
        """As `score`; calls observe(name) at the end of each stage: tokens, forward."""
        query, documents = texts_of(request)
        vectors = self._graph.read([(text, None) for text in (query, *documents)], observe)
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
