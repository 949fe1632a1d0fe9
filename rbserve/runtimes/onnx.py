"""The runtime onnx: exported graphs in onnxruntime, on the processor. No torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rbserve.core.fields import Layout
from rbserve.core.requests import CANDIDATES, HISTORY, NO_TENSORS, Request, slate_request
from rbserve.core.tasks import TASKS
from rbserve.core.types import Items, Ranker, Scorer, Scores, Vectors
from rbserve.core.variants import Variant
from rbserve.data.artifact import Artifact
from rbserve.models.part_packing import PackedParts
from rbserve.models.prompts import Packed
from rbserve.runtimes.adopted import AdoptedScorer
from rbserve.runtimes.assembly import Parts, history_scorer, language_scorer, ranker_of
from rbserve.runtimes.histories import ReadHistory
from rbserve.runtimes.meeting import PackedStates
from rbserve.runtimes.ranking import Cache, Logits
from rbserve.runtimes.reranker import open_reranker
from rbserve.runtimes.session import Session, open_session
from rbserve.runtimes.trees import MATRIX, tree_scorer

ITEM_TABLE = "model.item_embedding.weight"
"""The graph's input, with a default, that has the vectors of all items: of models whose items are made of content."""
PAST, USER = "past", "user"
"""The inputs, with the state of an empty history as their default, of a graph that reads items as tokens."""
PAST_PLACES = 4
"""The axis of PAST whose size is the number of tokens that were read."""
SCORES, READ_PAST, READ_USER = "scores", "read_past", "read_user"
"""The outputs of such a graph."""
ITEM_CODES = "item_codes"
"""The graph's input that has the code tokens int32[L, n] of all items: of models that predict all codes at once."""
HINT = "pip install --force-reinstall onnxruntime"

Opening = Callable[[Path], Session]
"""How a graph becomes a session."""


def unavailable(artifact: Artifact, variant: Variant) -> str | None:  # noqa: ARG001
    """Nothing: onnxruntime is a dependency, and its graphs run on every processor."""
    return None


def open(artifact: Artifact, variant: Variant, threads: int, user_cache: int) -> Scorer | Ranker:
    """The scorer or ranker over the graphs of a variant."""
    return over_graphs(artifact, variant, opening_of(artifact, threads), user_cache)


def over_graphs(artifact: Artifact, variant: Variant, opening: Opening, user_cache: int) -> Scorer | Ranker:
    """The scorer or ranker over the graphs of a variant, its files verified, in the sessions that `opening` opens."""
    graphs = graphs_of(artifact, variant)
    if TASKS[artifact.manifest.task].ranks:
        return exported_ranker(artifact, graphs, opening)
    return exported_scorer(artifact, graphs, opening, user_cache)


def graphs_of(artifact: Artifact, variant: Variant) -> list[Path]:
    """The graphs of a variant, in the order in which they run, after verifying all its files."""
    record = artifact.exported(variant.name)
    assert record is not None
    files = {name: artifact.file(name) for name in record.files}
    return [files[name] for name in record.graphs]


def opening_of(artifact: Artifact, threads: int = 1) -> Opening:
    """How onnxruntime opens an artefact's graphs: with exact products in 8 bits where these use all of their bits."""
    return partial(open_session, threads=threads, eight_bits=artifact.is_language_model)


def exported_ranker(artifact: Artifact, graphs: Sequence[Path], opening: Opening | None = None) -> Ranker:
    """The ranker of a list-wise artefact over its exported graphs, in the order in which they run."""
    sessions = map(opening or opening_of(artifact), graphs)
    return ranker_of(
        artifact,
        Parts(
            lambda codes: OnnxItemScores(next(sessions), codes),
            lambda: OnnxStepper(*sessions),
            lambda codes: OnnxBestItems(next(sessions), codes),
            lambda: OnnxLanguageCall(*sessions),
        ),
    )


def exported_scorer(
    artifact: Artifact, graphs: Sequence[Path], opening: Opening | None = None, user_cache: int = 0
) -> Scorer:
    """The scorer of a pair-wise artefact over its exported graph; over two, where candidates meet the history late."""
    session, *later = map(opening or opening_of(artifact), graphs)
    if artifact.manifest.adopted:
        return GRAPH_SCORERS.get(artifact.manifest.adopted.format, _graph_scorer)(artifact, session)
    if artifact.is_language_model:
        call = OnnxMeetingCall(session, *later) if later else OnnxLanguageCall(session)
        return language_scorer(artifact, call, user_cache)
    if artifact.kind == "trees":
        return tree_scorer(artifact, lambda matrix: session.run(None, {MATRIX: matrix})[0])
    if artifact.kind == "item-language":
        return history_scorer(artifact, OnnxHistoryCall(session, artifact.layout), user_cache)
    return OnnxScorer(session, artifact.layout)


def _graph_scorer(artifact: Artifact, session: Session) -> Scorer:
    """The scorer of an adopted model whose graph takes the tensors of its signature."""
    signature = artifact.signature
    names = [output.name for output in signature.outputs]
    return AdoptedScorer(partial(session.run, names), signature)


GRAPH_SCORERS: Mapping[str, Callable[[Artifact, Session], Scorer]] = {"transformers": open_reranker}
"""What scores with the graph of an adopted model, by the format of models whose graphs take something else."""


class OnnxScorer:
    """Scores with an exported graph of a zoo row."""

    def __init__(self, session: Session, layout: Layout) -> None:
        self._session = session
        self._inputs = (HISTORY, CANDIDATES, *layout.tensors)
        self.takes_vectors = any(value.name == ITEM_TABLE for value in session.get_overridable_initializers())

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N]."""
        arrays = request if len(request) == len(self._inputs) else self._taken(request)
        scores: Scores = self._session.run(None, arrays)[0]
        return scores

    def _taken(self, request: Request) -> Request:
        """What the graph takes of a request that has more."""
        return {name: request[name] for name in self._inputs}

    def score_vectors(self, history: Vectors, candidates: Vectors, tensors: Request = NO_TENSORS) -> Scores:
        """Click probabilities float32[N] of items float32[N, d] for the user of items float32[T, d].

        Only where the graph `takes_vectors`. `tensors` are those of the fields, of a model that reads some.
        """
        rows = np.arange(len(history) + len(candidates), dtype=np.int32)
        arrays = {
            **tensors,
            **slate_request(rows[: len(history)], rows[len(history) :]),
            ITEM_TABLE: np.concatenate([history, candidates]),
        }
        scores: Scores = self._session.run(None, arrays)[0]
        return scores


class OnnxHistoryCall(OnnxScorer):
    """Scores with an exported graph that takes, by a default, what was read of a history before."""

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N]."""
        scores: Scores = self._session.run([SCORES], self._taken(request))[0]
        return scores

    def score_behind(self, request: Request, state: ReadHistory | None) -> tuple[Scores, ReadHistory]:
        """Click probabilities float32[N], and the state behind the request's history, which follows that of `state`."""
        arrays = self._taken(request)
        if state is not None:
            arrays = {**arrays, PAST: state.past, USER: state.user}
        scores, past, user = self._session.run([SCORES, READ_PAST, READ_USER], arrays)
        items = len(arrays[HISTORY]) + (state.items if state else 0)
        return scores, ReadHistory(past, user, items)


class OnnxItemScores:
    """SASRec as an exported graph with the top k inside."""

    def __init__(self, session: Session, codes: Items | None = None) -> None:
        """`codes` int32[L, n] are the code tokens of all items, where the graph takes them."""
        self._session, self._codes = session, _codes_input(codes)

    def __call__(self, inputs: Items, k: int) -> tuple[Items, Scores]:
        arrays = {"histories": inputs, **self._codes}
        items, scores = self._session.run(None, {**arrays, "k": np.array([k], np.int64)})
        return items, scores


class OnnxStepper:
    """SID-SASRec as two exported graphs."""

    def __init__(self, prefill: Session, step: Session) -> None:
        self._prefill, self._step = prefill, step

    def prefill(self, prompts: Items) -> tuple[Logits, Cache]:
        """Logits [B, V] after prompts int32[B, T], and their cache."""
        logits, prefix = self._prefill.run(None, {"tokens": prompts})
        layers, two, batch, heads, _, width = prefix.shape
        return logits, (prefix, np.empty((layers, two, batch, 1, heads, 0, width), np.float32))

    def step(self, tokens: Items, parents: Items, cache: Cache) -> tuple[Logits, Cache]:
        """Logits [B, W, V] after tokens int32[B, W] that continue beams `parents`, and the longer cache."""
        prefix, suffix = cache
        own = suffix[:, :, np.arange(len(parents))[:, None], parents]
        logits, suffix = self._step.run(None, {"tokens": tokens, "prefix": prefix, "suffix": own})
        return logits, (prefix, suffix)


class OnnxBestItems:
    """A language model as an exported graph with the top k inside."""

    def __init__(self, session: Session, codes: Items | None = None) -> None:
        """`codes` int32[L, n] are the code tokens of all items, where the graph takes them."""
        self._session, self._codes = session, _codes_input(codes)

    def __call__(self, inputs: Packed, k: int) -> tuple[Items, Scores]:
        arrays = {**inputs.arrays, **self._codes}
        items, scores = self._session.run(None, {**arrays, "k": np.array([k], np.int64)})
        return items, scores


def _codes_input(codes: Items | None) -> dict[str, Items]:
    """The input of a graph that scores items by their codes."""
    return {} if codes is None else {ITEM_CODES: codes}


class OnnxLanguageCall:
    """An exported graph."""

    def __init__(self, session: Session) -> None:
        self._session = session
        shapes = {graph_input.name: graph_input.shape for graph_input in session.get_inputs()}
        self._past: Sequence[Any] | None = shapes.get("past")  # a model that keeps no cache takes none
        self.takes_parts = "place" in shapes  # graphs of earlier versions take a mask

    def __call__(
        self, packed: Packed | PackedParts | PackedStates, past: Any | None, cached: bool
    ) -> tuple[Scores, Any]:
        """Log-odds float32[B, N] and the cache."""
        arrays: dict[str, Any] = packed.arrays
        if self._past is not None:
            layers, two, _, heads, _, width = self._past
            nothing = np.zeros((layers, two, packed.rows, heads, 0, width), np.float32)
            arrays["past"] = nothing if past is None else past
        names = ["answers", "present"] if cached else ["answers"]
        odds, *cache = self._session.run(names, arrays)
        return odds, cache[0] if cached else None

    def head_of(self, cache: Any, length: int) -> Any:
        """The cache of the first `length` tokens."""
        return np.ascontiguousarray(cache[..., :length, :])

    def joined(self, cache: Any, more: Any) -> Any:
        """The cache of tokens, extended by that of those that follow them."""
        return np.concatenate((cache, more), axis=-2)


class OnnxMeetingCall(OnnxLanguageCall):
    """Two exported graphs: the layers before and behind the one where candidates meet the history."""

    def __init__(self, early: Session, late: Session) -> None:
        super().__init__(late)
        self._early = early

    def early(self, packed: Packed) -> Vectors:
        """States float32[B, L, d] behind the layers in which a part of a prompt is alone."""
        arrays = packed.arrays
        del arrays["read"]
        states: Vectors = self._early.run(None, arrays)[0]
        return states
