"""Parity: how far the answers of an exported graph are from those of the torch reference, on test rows."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rbserve.core.requests import row_request, slate_request
from rbserve.core.tasks import TASKS
from rbserve.core.types import Items, Ranker, Scorer, Scores
from rbserve.core.variants import HALF_REFERENCE, REFERENCE
from rbserve.data.artifact import Artifact, Parity
from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.data.golden import GoldenAnswer
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.fields import with_fields
from rbserve.runtimes.memory import shortage
from rbserve.runtimes.onnx import exported_ranker, exported_scorer
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.stats.listwise import ndcg_at_k, ranks_in_lists
from rbserve.stats.pairwise import auc, log_odds

ROWS = 1_000
GENERATED_ROWS = 200  # a generated list costs a hundred times as much as a scored row
LANGUAGE_ROWS = 200
CHECKS = 4  # requests whose answers are saved with a variant
RANDOM_ROWS = 4  # enough to see that the graph computes the model; random weights have no accuracy
SEED = 2024
PROBABILITY_TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-4  # of logits and log-probabilities, which are sums over more terms
TOP = 10
ORDINARY_AUC = 0.7  # assumed of a model that is at chance on these rows: rounding may cost it more on others


class Comparison(NamedTuple):
    """How far exported graphs are from the reference, and some of their answers to check a copy of them with."""

    parity: Parity
    checks: list[GoldenAnswer]


class Reference(Protocol):
    """The answers of the torch reference on test rows."""

    def compare(self, graphs: list[Path]) -> Comparison:
        """Answers the reference's rows with exported graphs and measures the differences."""
        ...

    def is_equal(self, parity: Parity) -> bool:
        """Whether the differences are no larger than rounding in fp32 explains."""
        ...

    def loss(self, parity: Parity) -> float:
        """The AUC or nDCG@10 that the exported graphs lose against the reference."""
        ...

    def describe(self, parity: Parity) -> str:
        """The differences as the end of a sentence, for an error message."""
        ...


def reference_of(artifact: Artifact, dataset: Dataset) -> Reference:
    """The answers of an artefact's reference variant on test rows, to hold exported graphs against."""
    kind = ListReference if TASKS[artifact.manifest.task].ranks else ScoreReference
    return kind(artifact, dataset)


class ScoreReference:
    """Click probabilities of 1,000 test rows; of 200 by a language model, which reads a prompt for each."""

    def __init__(self, artifact: Artifact, dataset: Dataset) -> None:
        self._artifact = artifact
        rows = LANGUAGE_ROWS if artifact.is_language_model else ROWS
        self._rows = sample(dataset.ctr("test"), RANDOM_ROWS if artifact.is_random else rows, SEED)
        scorer = open_scorer(artifact, reference_variant(artifact))
        self._scores = score_rows(scorer, self._rows.histories, self._rows.candidates, self._rows.extras)

    def compare(self, graphs: list[Path]) -> Comparison:
        """Scores the reference's rows with an exported graph."""
        scorer = with_fields(self._artifact, exported_scorer(self._artifact, graphs))
        scores = score_rows(scorer, self._rows.histories, self._rows.candidates, self._rows.extras)
        labels = np.zeros_like(self._rows.labels) if self._artifact.is_random else self._rows.labels
        slate = self._rows.candidates[:CHECKS]
        checks = [self._check(scorer, row, slate) for row in range(len(slate))]
        return Comparison(compare(self._scores, scores, labels), checks)

    def _check(self, scorer: Scorer, row: int, slate: Items) -> GoldenAnswer:
        history, extras = self._rows.histories[row], self._rows.extras
        if not extras:
            return GoldenAnswer.of(history, slate, scorer.score(slate_request(history, slate)))
        request = row_request(history, slate, extras, row, row + 1)
        return GoldenAnswer.of_request(request, scorer.score(request))

    def is_equal(self, parity: Parity) -> bool:
        """Whether no click probability differs by more than PROBABILITY_TOLERANCE."""
        return parity.max_abs <= PROBABILITY_TOLERANCE

    def loss(self, parity: Parity) -> float:
        """The loss of AUC: measured on the rows or, of few rows, expected of the correlation (`expected_loss`)."""
        if parity.auc_difference is None or len(self._rows) <= LANGUAGE_ROWS:
            return expected_loss(parity.auc_reference, parity.correlation)
        return -parity.auc_difference

    def describe(self, parity: Parity) -> str:
        """The largest difference of two click probabilities."""
        return f"by {parity.max_abs:.2e}, more than {PROBABILITY_TOLERANCE:.0e}"


class ListReference:
    """The ten best items for the histories of 1,000 test users; of 200 where a model generates its lists."""

    def __init__(self, artifact: Artifact, dataset: Dataset) -> None:
        self._artifact = artifact
        split = dataset.seqrec("test")
        rows = GENERATED_ROWS if "decoding" in artifact.manifest.config else ROWS
        self._rows = split.take(_chosen(len(split), RANDOM_ROWS if artifact.is_random else rows, SEED))
        self._lists = _lists(open_ranker(artifact, reference_variant(artifact)), self._rows.histories)

    def compare(self, graphs: list[Path]) -> Comparison:
        """Ranks the catalogue for the reference's histories with exported graphs."""
        return self.compare_ranker(exported_ranker(self._artifact, graphs))

    def compare_ranker(self, ranker: Ranker, approximate: bool = False) -> Comparison:
        """Ranks the catalogue for the reference's histories; of an `approximate` ranker the recall is counted too."""
        reference, exported = self._lists, _lists(ranker, self._rows.histories)
        differences = _score_differences(reference, exported)
        ndcg: list[float | None] = [None, None]  # random lists are neither good nor bad
        if not self._artifact.is_random:
            ndcg = [
                ndcg_at_k(ranks_in_lists(items, self._rows.targets), TOP)
                for items, _ in (reference, exported)
            ]
        parity = Parity(
            rows=len(self._rows), max_abs=float(differences.max(initial=0.0)),
            mean_abs=float(differences.mean()) if len(differences) else 0.0,
            auc_reference=None, auc=None, auc_difference=None, k=TOP,
            same_top=float(np.mean(_same_up_to_ties(reference, exported))), ndcg_reference=ndcg[0], ndcg=ndcg[1],
            recall=_recall(reference, exported) if approximate else None,
        )  # fmt: skip
        checks = [self._check(row, *exported) for row in range(min(CHECKS, len(self._rows)))]
        return Comparison(parity, checks)

    def _check(self, row: int, items: Items, scores: Scores) -> GoldenAnswer:
        listed = items[row] >= 0
        return GoldenAnswer.of(self._rows.histories[row], items[row, listed], scores[row, listed])

    def is_equal(self, parity: Parity) -> bool:
        """Whether all lists have the same items and no score differs by more than SCORE_TOLERANCE."""
        return parity.same_top == 1.0 and parity.max_abs <= SCORE_TOLERANCE

    def loss(self, parity: Parity) -> float:
        """The loss of nDCG@10 on the rows; 0 for random weights."""
        return (parity.ndcg_reference or 0.0) - (parity.ndcg or 0.0)

    def describe(self, parity: Parity) -> str:
        """The share of lists that are the same, and the largest difference of two scores."""
        return (
            f"{parity.same_top:.1%} of the lists are the same, "
            f"scores differ by up to {parity.max_abs:.2e} ({SCORE_TOLERANCE:.0e} is allowed)"
        )


def reference_variant(artifact: Artifact) -> str:
    """torch-fp32; torch-bf16 for a language model that does not fit into memory in fp32.

    Of a model that was made elsewhere it is that which it came as.
    """
    if artifact.is_adopted or artifact.kind == "trees":
        return artifact.variants[0]
    if artifact.is_language_model and shortage(artifact, REFERENCE):
        return HALF_REFERENCE
    return REFERENCE


Lists = tuple[Items, Scores]


def compare(reference: Scores, scores: Scores, labels: NDArray[np.int8]) -> Parity:
    """The differences of two score vectors float32[R] of the same rows; with AUC where both labels occur."""
    difference = np.abs(scores.astype(np.float64) - reference.astype(np.float64))
    before, after = auc(labels, reference), auc(labels, scores)
    known = not np.isnan(before)
    return Parity(
        rows=len(labels),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        auc_reference=before if known else None,
        auc=after if known else None,
        auc_difference=after - before if known else None,
        correlation=_correlation(reference, scores),
    )


def _correlation(reference: Scores, scores: Scores) -> float | None:
    """Pearson's correlation of the log-odds of two score vectors; None where one of them is constant."""
    odds = log_odds(np.stack((reference, scores)))
    if odds.shape[1] < 2 or (odds.std(axis=1) == 0).any():
        return None
    return float(np.corrcoef(odds[0], odds[1])[0, 1])


def expected_loss(auc_reference: float | None, correlation: float | None) -> float:
    """The loss of AUC by the binormal model, if the errors of the scores are independent of the labels.

    A correlation r with the reference scales the distance between the classes by r: AUC = Phi(r Phi^-1(AUC)). On 200
    rows its standard error is a tenth of that of the difference of two AUCs.
    """
    normal = NormalDist()
    before = min(max(auc_reference or 0.0, ORDINARY_AUC), 0.999)
    return before - normal.cdf((correlation or 0.0) * normal.inv_cdf(before))


def sample(split: CtrSplit, rows: int, seed: int) -> CtrSplit:
    """At most `rows` rows of a split, drawn by `seed`, in the order of the split."""
    return split if len(split) <= rows else split.take(_chosen(len(split), rows, seed))


def _chosen(total: int, rows: int, seed: int) -> NDArray[np.int64]:
    if total <= rows:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, rows, replace=False))


def _lists(ranker: Ranker, histories: Ragged) -> Lists:
    """Items int32[R, TOP] and scores of R histories, a call each as in serving; item -1 where a list is shorter."""
    items = np.full((len(histories), TOP), -1, np.int32)
    scores = np.full((len(histories), TOP), -np.inf, np.float32)
    for row in range(len(histories)):
        best, values = ranker.top_k(histories[row], TOP)
        items[row, : len(best)], scores[row, : len(best)] = best, values
    return items, scores


def _score_differences(before: Lists, after: Lists) -> NDArray[np.float64]:
    """The absolute differences of the scores of every item that both lists of a row have."""
    (items, scores), (other_items, other_scores) = before, after
    same = (items[:, :, None] == other_items[:, None, :]) & (items >= 0)[:, :, None]
    row, place, other_place = np.nonzero(same)
    return np.abs(scores[row, place].astype(np.float64) - other_scores[row, other_place])


def _recall(reference: Lists, exported: Lists) -> float:
    """The mean share of the reference's items that the exported lists have as well."""
    there = (reference[0][:, :, None] == exported[0][:, None, :]).any(axis=2)
    listed = reference[0] >= 0
    return float(there[listed].mean()) if listed.any() else 1.0


def _same_up_to_ties(before: Lists, after: Lists) -> NDArray[np.bool_]:
    """For each row whether its lists agree: at each place the same item, or two items with the same score."""
    (items, scores), (other_items, other_scores) = before, after
    with np.errstate(invalid="ignore"):  # minus infinity less itself, where no list has an item
        tied = np.abs(scores - other_scores) <= SCORE_TOLERANCE
    both_listed = (items >= 0) & (other_items >= 0)
    agree: NDArray[np.bool_] = ((items == other_items) | (tied & both_listed)).all(axis=1)
    return agree
