"""What a worker reads of the file that the harness wrote: the requests to time and the rows to judge.

`Inputs` has an implementation for each kind of test rows (`test_rows.py`). Both give exercises of a slate and the
report on the rows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.types import Items, Ranker, Scorer, Scores, StagedRanker
from rbserve.data.artifact import Artifact
from rbserve.data.columns import Ragged
from rbserve.data.dataset import Extras, ItemTable
from rbserve.data.request_set import open_request_set
from rbserve.profilers.timing.calls import Exercise, adopted, adopted_end_to_end, list_wise, pair_wise
from rbserve.profilers.timing.requests import EXTRA
from rbserve.runs.measurement import DEPTH
from rbserve.runs.plan import END_TO_END, TABLE, Slate
from rbserve.runs.roofline import Cost
from rbserve.runs.samples import Samples
from rbserve.runtimes.endpoint_scorer import EndpointScorer, UnclearAnswersError
from rbserve.runtimes.evaluate import ApproximateRanker, rank_rows, recall_at, score_rows
from rbserve.runtimes.request_scores import score_request
from rbserve.stats.listwise import ranks_in_lists

RECALL_ROWS = 500
"""Test rows whose lists are compared with exact ones: each of these is a scan of the catalogue."""
RECALL_LENGTHS = (10, 100)
Model = Scorer | Ranker
Arrays = Mapping[str, NDArray[Any]]


class Report(msgspec.Struct, frozen=True):
    """What one process measured, or the error that kept it from measuring.

    Of the test rows, a scorer has `scores`, a ranker the targets' `ranks`, a generative one its `illegal_share`, one
    with an index its `exact_recall` by the length of the list; judging them took `accuracy_s` seconds. Of an endpoint's
    answers, `hard` had no log-probabilities and `unclear` were neither yes nor no; after too many of these judging was
    `stopped`, for this reason.
    """

    samples: list[Samples] = []
    costs: list[Cost] = []
    scores: list[float] = []
    ranks: list[int] = []
    illegal_share: float | None = None
    exact_recall: dict[int, float] = {}
    accuracy_s: float = 0.0
    hard: int = 0
    unclear: int = 0
    stopped: str | None = None
    error: str | None = None
    hint: str | None = None


class Inputs(Protocol):
    """The requests of every slate, and the test rows."""

    def prepare(self, scope: str) -> int:
        """Loads what calls of a scope need beside the model; nanoseconds."""
        ...

    def exercise(self, model: Model, slate: Slate, scope: str) -> Exercise:
        """The calls of a slate's requests in a scope."""
        ...

    def lengths(self, slate: Slate) -> list[int]:
        """The length of the history, or of the longest input of the whole request, of each of a slate's requests."""
        ...

    def sizes(self, slate: Slate) -> list[int]:
        """The candidates of each request of the slate `table`; empty of another, where all requests have `slate`."""
        ...

    def judge(self, model: Model) -> Report:
        """The answers to the test rows."""
        ...


def open_inputs(path: str, artifact: Artifact, exclude_seen: bool = False) -> Inputs:
    """The inputs in an .npz file that the test rows of an artefact wrote."""
    with np.load(path) as file:
        arrays = dict(file)
    if artifact.is_adopted:
        return RequestInputs(arrays, artifact)
    return DatasetInputs(arrays, artifact, exclude_seen)


class DatasetInputs:
    """Histories and items of a prepared data set, for a model over rows of its item table."""

    def __init__(self, arrays: Arrays, artifact: Artifact, exclude_seen: bool) -> None:
        self._arrays, self._artifact, self._exclude_seen = arrays, artifact, exclude_seen

    def prepare(self, scope: str) -> int:
        """Opens the item table, ready to look ids up in, where a scope begins with raw ids; nanoseconds."""
        if scope != END_TO_END:
            return 0
        start = time.perf_counter_ns()
        items = self._artifact.items
        assert len(items.index) == len(items)
        return time.perf_counter_ns() - start

    def exercise(self, model: Model, slate: Slate, scope: str) -> Exercise:
        """Scoring a slate of candidates, or ranking the catalogue."""
        assert slate != TABLE
        items: ItemTable | None = self._artifact.items if scope == END_TO_END else None
        histories = self._requests(slate)
        if isinstance(model, Scorer):
            return pair_wise(
                model, histories, [*self._items(f"slate{slate}")], items, self._request_extras(slate)
            )
        return list_wise(model, histories, slate, self._exclude_seen, items)

    def lengths(self, slate: Slate) -> list[int]:
        """How many items the history of each request has."""
        return [len(history) for history in self._requests(slate)]

    def sizes(self, slate: Slate) -> list[int]:  # noqa: ARG002
        """None: all requests of a slate have as many candidates."""
        return []

    def judge(self, model: Model) -> Report:
        """The scores of the test rows, or the ranks of their targets."""
        return self._scored(model) if isinstance(model, Scorer) else self._ranked(model)

    def _scored(self, model: Scorer) -> Report:
        """The scores; or, where an endpoint's answers are unclear, the reason why there are none."""
        endpoint = model if isinstance(model, EndpointScorer) else None
        try:
            scores = score_rows(model, self._histories("test"), self._items("test"), self._extras("test"))
        except UnclearAnswersError as error:
            return Report(stopped=error.message)
        return Report(
            scores=scores.tolist(),
            hard=endpoint.hard_answers if endpoint else 0,
            unclear=endpoint.unclear if endpoint else 0,
        )

    def _ranked(self, ranker: Ranker) -> Report:
        """The rank of each test row's target in a list of DEPTH items of the whole catalogue."""
        tally = _PathTally(ranker)
        lists = rank_rows(tally, self._histories("test"), DEPTH, exclude_seen=self._exclude_seen)
        ranks = ranks_in_lists(lists, self._items("test"))
        illegal = (
            tally.illegal / tally.paths if isinstance(ranker, StagedRanker) and ranker.generates else None
        )
        recall = self._recall(ranker) if isinstance(ranker, ApproximateRanker) else {}
        return Report(ranks=ranks.tolist(), illegal_share=illegal, exact_recall=recall)

    def _recall(self, ranker: ApproximateRanker) -> dict[int, float]:
        """The shares of the items of exact lists of several lengths that the ranker finds, on the first test rows."""
        histories = self._histories("test")
        histories = histories.take(np.arange(min(len(histories), RECALL_ROWS)))
        return {k: recall_at(ranker, histories, k) for k in RECALL_LENGTHS}

    def _histories(self, name: str) -> Ragged:
        """The histories of the test rows ("test") or of a slate's requests ("slate8")."""
        return Ragged(self._arrays[f"{name}_values"], self._arrays[f"{name}_offsets"])

    def _requests(self, slate: Slate) -> list[Items]:
        histories = self._histories(f"slate{slate}")
        return [histories[row] for row in range(len(histories))]

    def _extras(self, name: str) -> Extras:
        """The fields of the test rows or of a slate's requests, by the name of a request's entry."""
        start = f"{name}{EXTRA}"
        return {
            key.removeprefix(start): column for key, column in self._arrays.items() if key.startswith(start)
        }

    def _request_extras(self, slate: int) -> list[dict[str, NDArray[Any]]]:
        extras = self._extras(f"slate{slate}")
        rows = range(len(self._histories(f"slate{slate}")))
        return [{name: column[row] for name, column in extras.items()} for row in rows]

    def _items(self, name: str) -> Items:
        """Candidates of a slate's requests int32[R, N], or candidates or targets of the test rows int32[R]."""
        items: Items = self._arrays[f"{name}_items"]
        return items


class RequestInputs:
    """Requests of a request set, for an adopted model; the file has row numbers, the columns are memory-mapped."""

    def __init__(self, arrays: Arrays, artifact: Artifact) -> None:
        self._arrays, self._signature = arrays, artifact.signature
        self._set = open_request_set(Path(str(arrays["request_set"])))

    def prepare(self, scope: str) -> int:  # noqa: ARG002
        """Nothing is looked up."""
        return 0

    def exercise(self, model: Model, slate: Slate, scope: str) -> Exercise:
        """Scoring the tensors of requests, or, end to end, the values of their columns."""
        assert isinstance(model, Scorer)
        drawn = self._drawn(slate)
        if scope == END_TO_END:
            values = [
                (self._set.values_of(self._signature, rows, number), len(rows)) for number, rows in drawn
            ]
            return adopted_end_to_end(model, self._signature, values)
        return adopted(model, [self._set.request_of(self._signature, rows, number) for number, rows in drawn])

    def lengths(self, slate: Slate) -> list[int]:
        """The size of the longest input of each whole request; 0 where all inputs are of candidates."""
        specs = [spec for spec in self._signature.inputs if not spec.per_candidate]
        requests = (
            self._set.request_of(self._signature, rows, number) for number, rows in self._drawn(slate)
        )
        return [max((request[spec.name].size for spec in specs), default=0) for request in requests]

    def sizes(self, slate: Slate) -> list[int]:
        """The candidates of each request of the slate `table`."""
        return [len(rows) for _, rows in self._drawn(slate)] if slate == TABLE else []

    def judge(self, model: Model) -> Report:
        """The scores of the rows of all requests, or of those that the harness drew, in the order of the table."""
        assert isinstance(model, Scorer)
        numbers = self._arrays["test"].tolist() if "test" in self._arrays else range(len(self._set))
        scores: list[float] = []
        for number in numbers:
            scores += score_request(model, self._signature, self._set, number).tolist()
        return Report(scores=scores)

    def _drawn(self, slate: Slate) -> list[tuple[int, NDArray[np.int64]]]:
        """The number of each of a slate's requests, and the rows int64[N] of its candidates."""
        numbers: list[int] = self._arrays[f"slate{slate}_requests"].tolist()
        if slate == TABLE:
            return [(number, self._set.rows_of(number)) for number in numbers]
        return [*zip(numbers, self._arrays[f"slate{slate}_rows"], strict=True)]


class _PathTally:
    """A ranker that counts the generated paths, and those that name no item."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        self.top_k = ranker.top_k
        self.paths, self.illegal = 0, 0

    def top_k_batch(self, histories: Items, k: int) -> tuple[Items, Scores]:
        items, scores = self._ranker.top_k_batch(histories, k)
        self.paths += int((scores > -np.inf).sum())
        self.illegal += int(((scores > -np.inf) & (items < 0)).sum())
        return items, scores
