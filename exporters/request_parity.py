"""Parity of an adopted model: how far an exported graph's scores are from its reference's, on requests of its table."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from rbserve.core.errors import UsageError
from rbserve.core.types import Scorer, Scores
from rbserve.data.artifact import Artifact, Parity
from rbserve.data.golden import GoldenAnswer
from rbserve.data.request_set import RequestSet
from rbserve.exporters.parity import (
    CHECKS,
    LANGUAGE_ROWS,
    ROWS,
    SCORE_TOLERANCE,
    SEED,
    TOP,
    Comparison,
    expected_loss,
    reference_variant,
)
from rbserve.runtimes.onnx import exported_scorer
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.request_scores import score_request
from rbserve.stats.graded import graded_mean, ndcg_values
from rbserve.stats.pairwise import auc

CHECKED_CANDIDATES = 4  # of each request that is saved with a variant


class RequestReference:
    """The reference's scores of whole requests, drawn by SEED until they have ROWS candidates."""

    def __init__(self, artifact: Artifact, requests: RequestSet) -> None:
        self._artifact, self._set = artifact, requests
        self._numbers = draw_requests(requests, ROWS, np.random.default_rng(SEED))
        self._scores = self._scored(open_scorer(artifact, reference_variant(artifact)))

    def compare(self, graphs: list[Path]) -> Comparison:
        """Scores the reference's requests with an exported graph; AUC and correlation are over all of them together.

        Of graded labels nDCG@10 takes the place of AUC.
        """
        scorer = exported_scorer(self._artifact, graphs)
        reference, scores = np.concatenate(self._scores), np.concatenate(self._scored(scorer))
        difference = np.abs(scores.astype(np.float64) - reference)
        before, after = (self._accuracy(each) for each in (reference, scores))
        graded = self._set.manifest.labels == "graded"
        parity = Parity(
            rows=len(scores),
            max_abs=float(difference.max()),
            mean_abs=float(difference.mean()),
            auc_reference=None if graded else before,
            auc=None if graded else after,
            auc_difference=None if graded or before is None or after is None else after - before,
            k=TOP if graded else None,
            ndcg_reference=before if graded else None,
            ndcg=after if graded else None,
            correlation=_correlation(reference, scores),
        )
        return Comparison(parity, [self._check(scorer, number) for number in self._numbers[:CHECKS]])

    def _scored(self, scorer: Scorer) -> list[Scores]:
        return [
            score_request(scorer, self._artifact.signature, self._set, number) for number in self._numbers
        ]

    def _accuracy(self, scores: Scores) -> float | None:
        """AUC, or nDCG@10 of graded labels; None without labels, and where no request has those of both kinds."""
        if self._set.labels is None:
            return None
        bounds = [self._set.offsets[number : number + 2].tolist() for number in self._numbers]
        labels = np.concatenate([self._set.labels[begin:end] for begin, end in bounds])
        if self._set.manifest.labels == "graded":
            lists = np.repeat(np.arange(len(bounds)), [end - begin for begin, end in bounds])
            value = graded_mean(partial(ndcg_values, k=TOP), labels, scores, lists)
        else:
            value = auc(labels, scores)
        return None if np.isnan(value) else value

    def _check(self, scorer: Scorer, number: int) -> GoldenAnswer:
        begin, end = self._set.offsets[number : number + 2].tolist()
        rows = np.arange(begin, min(end, begin + CHECKED_CANDIDATES))
        request = self._set.request_of(self._artifact.signature, rows, number)
        return GoldenAnswer.of_request(request, scorer.score(request))

    def is_equal(self, parity: Parity) -> bool:
        """Whether no score differs by more than SCORE_TOLERANCE, relative to the largest one above 1."""
        return parity.max_abs <= self._tolerance

    @property
    def _tolerance(self) -> float:
        largest = max((float(np.abs(scores).max()) for scores in self._scores), default=1.0)
        return SCORE_TOLERANCE * max(1.0, largest)

    def loss(self, parity: Parity) -> float:
        """The loss of AUC or nDCG@10: measured or, of few candidates or without labels, expected of the correlation."""
        if parity.ndcg is not None and parity.rows > LANGUAGE_ROWS:
            return (parity.ndcg_reference or 0.0) - parity.ndcg
        if parity.auc_difference is None or parity.rows <= LANGUAGE_ROWS:
            return expected_loss(parity.auc_reference, parity.correlation)
        return -parity.auc_difference

    def describe(self, parity: Parity) -> str:
        """The largest difference of two scores."""
        return f"by {parity.max_abs:.2e}, more than {self._tolerance:.0e}"


def check_same_requests(artifact: Artifact, requests: RequestSet) -> None:
    """UsageError where an artefact was adopted with other requests: its columns may be others too."""
    adopted = artifact.manifest.adopted
    if adopted is None or adopted.requests.fingerprint != requests.fingerprint:
        raise UsageError(
            f"{artifact.name} was not adopted with the requests {requests.name} of today ({requests.fingerprint[:12]})",
            "adopt it again with them",
        )


def draw_requests(requests: RequestSet, candidates: int, rng: np.random.Generator) -> list[int]:
    """Numbers of requests, drawn until they have so many candidates, in the order of the table."""
    drawn: list[int] = []
    sizes = np.diff(requests.offsets)
    for number in rng.permutation(len(requests)):
        if candidates <= 0:
            break
        drawn.append(int(number))
        candidates -= int(sizes[number])
    return sorted(drawn)


def _correlation(reference: Scores, scores: Scores) -> float | None:
    """Pearson's correlation of two score vectors; None where one of them is constant."""
    if len(scores) < 2 or reference.std() == 0 or scores.std() == 0:
        return None
    return float(np.corrcoef(reference.astype(np.float64), scores.astype(np.float64))[0, 1])
