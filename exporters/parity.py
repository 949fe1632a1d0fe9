"""How far an exported variant is from the torch reference, on real rows through the same call."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rbserve.core.tasks import TASKS
from rbserve.core.types import Items, Ranker, Scores
from rbserve.core.variants import HALF_REFERENCE, REFERENCE
from rbserve.data.artifact import Artifact, Parity
from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.data.golden import Check
from rbserve.runtimes.memory import shortage
from rbserve.runtimes.opening import (
    exported_ranker,
    exported_scorer,
    open_ranker,
    open_scorer,
    score_rows,
)
from rbserve.stats.metrics import auc, log_odds, ndcg_at_k, ranks_in_lists

ROWS = 1_000
GENERATED_ROWS = 200  # a generated list costs a hundred times a scored row
LANGUAGE_ROWS = 200
CHECKS = 4  # requests that are kept with a variant
RANDOM_ROWS = 4  # that the graph computes the model is all there is to see
SEED = 2024
PROBABILITY_TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-4  # of logits and log-probabilities, which are sums over more terms
TOP = 10
ORDINARY_AUC = 0.7  # what is asked of a model that is at chance here: that it could tell as much elsewhere


class Compared(NamedTuple):
    """How exported graphs score beside the reference, and some of what they answered."""

    parity: Parity
    checks: list[Check]


class Reference(Protocol):
    """What the torch reference says of some rows."""

    def compare(self, graphs: list[Path]) -> Compared:
        """The same rows by exported graphs."""
        ...

    def is_equal(self, parity: Parity) -> bool:
        """Whether the differences are those of rounding."""
        ...

    def loss(self, parity: Parity) -> float:
        """What of AUC or nDCG@10 the exported graphs cost."""
        ...

    def describe(self, parity: Parity) -> str:
        """The differences in words."""
        ...


def reference_of(artifact: Artifact, dataset: Dataset) -> Reference:
    """The answers of an artefact's reference variant on test rows, to hold exported graphs against."""
    kind = ListReference if TASKS[artifact.manifest.task].ranks else ScoreReference
    return kind(artifact, dataset)


class ScoreReference:
    """Click probabilities of 1,000 test rows, or of 200 where a language model reads a prompt for each."""

    def __init__(self, artifact: Artifact, dataset: Dataset) -> None:
        self._artifact = artifact
        rows = LANGUAGE_ROWS if artifact.is_language_model else ROWS
        self._rows = sample(dataset.ctr("test"), RANDOM_ROWS if artifact.is_random else rows, SEED)
        scorer = open_scorer(artifact, reference_variant(artifact))
        self._scores = score_rows(scorer, self._rows.histories, self._rows.candidates)

    def compare(self, graphs: list[Path]) -> Compared:
        """The same rows by an exported graph."""
        scorer = exported_scorer(self._artifact, graphs)
        scores = score_rows(scorer, self._rows.histories, self._rows.candidates)
        labels = np.zeros_like(self._rows.labels) if self._artifact.is_random else self._rows.labels
        slate = self._rows.candidates[:CHECKS]
        histories = [self._rows.histories[row] for row in range(len(slate))]
        checks = [Check.of(history, slate, scorer.score(history, slate)) for history in histories]
        return Compared(compare(self._scores, scores, labels), checks)

    def is_equal(self, parity: Parity) -> bool:
        """Whether no probability differs by more than 1e-5."""
        return parity.max_abs <= PROBABILITY_TOLERANCE

    def loss(self, parity: Parity) -> float:
        """Of AUC, on the rows; where they are few, as much as their correlation lets expect (`expected_loss`)."""
        if parity.auc_difference is None or len(self._rows) <= LANGUAGE_ROWS:
            return expected_loss(parity.auc_reference, parity.correlation)
        return -parity.auc_difference

    def describe(self, parity: Parity) -> str:
        """The largest difference."""
        return f"by {parity.max_abs:.2e}, more than {PROBABILITY_TOLERANCE:.0e}"


class ListReference:
    """The ten best items for test histories: of 1,000 users, or of 200 where lists are generated."""

    def __init__(self, artifact: Artifact, dataset: Dataset) -> None:
        self._artifact = artifact
        split = dataset.seqrec("test")
        rows = GENERATED_ROWS if "levels" in artifact.manifest.config else ROWS
        self._rows = split.take(_chosen(len(split), RANDOM_ROWS if artifact.is_random else rows, SEED))
        self._lists = _lists(open_ranker(artifact, reference_variant(artifact)), self._rows.histories)

    def compare(self, graphs: list[Path]) -> Compared:
        """The same histories by exported graphs."""
        mine, theirs = self._lists, _lists(exported_ranker(self._artifact, graphs), self._rows.histories)
        differences = _score_differences(mine, theirs)
        ndcg: list[float | None] = [None, None]  # random lists are neither good nor bad
        if not self._artifact.is_random:
            ndcg = [ndcg_at_k(ranks_in_lists(items, self._rows.targets), TOP) for items, _ in (mine, theirs)]
        parity = Parity(
            rows=len(self._rows), max_abs=float(differences.max(initial=0.0)),
            mean_abs=float(differences.mean()) if len(differences) else 0.0,
            auc_reference=None, auc=None, auc_difference=None, k=TOP,
            same_top=float(np.mean(_same_up_to_ties(mine, theirs))), ndcg_reference=ndcg[0], ndcg=ndcg[1],
        )  # fmt: skip
        return Compared(parity, [self._check(row, *theirs) for row in range(min(CHECKS, len(self._rows)))])

    def _check(self, row: int, items: Items, scores: Scores) -> Check:
        there = items[row] >= 0
        return Check.of(self._rows.histories[row], items[row, there], scores[row, there])

    def is_equal(self, parity: Parity) -> bool:
        """Whether all lists have the same items, and scores that differ by no more than rounding."""
        return parity.same_top == 1.0 and parity.max_abs <= SCORE_TOLERANCE

    def loss(self, parity: Parity) -> float:
        """Of nDCG@10, on the rows; 0 for random weights."""
        return (parity.ndcg_reference or 0.0) - (parity.ndcg or 0.0)

    def describe(self, parity: Parity) -> str:
        """Lists and scores."""
        return (
            f"{parity.same_top:.1%} of the lists are the same, "
            f"scores differ by up to {parity.max_abs:.2e} ({SCORE_TOLERANCE:.0e} is allowed)"
        )


def reference_variant(artifact: Artifact) -> str:
    """torch-fp32, or, of a language model that memory does not hold in fp32, torch-bf16."""
    if artifact.is_language_model and shortage(artifact, REFERENCE):
        return HALF_REFERENCE
    return REFERENCE


Lists = tuple[Items, Scores]


def compare(reference: Scores, scores: Scores, labels: NDArray[np.int8]) -> Parity:
    """Differences of two score vectors float32[R] of the same rows, and what they do to AUC, if both labels occur."""
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
    """Pearson's, of log-odds; None where there is no spread."""
    odds = log_odds(np.stack((reference, scores)))
    if odds.shape[1] < 2 or (odds.std(axis=1) == 0).any():
        return None
    return float(np.corrcoef(odds[0], odds[1])[0, 1])


def expected_loss(auc_reference: float | None, correlation: float | None) -> float:
    """The AUC that scores lose whose errors are independent of the labels, by the binormal model.

    A correlation r with the reference scales the distance between the classes by r: AUC = Phi(r Phi^-1(AUC)). Over
    200 rows this is known to a tenth of what the difference of two AUCs is.
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
    """Items int32[R, TOP] and scores of R histories, one call each, as it is served; -1 where there is none."""
    items = np.full((len(histories), TOP), -1, np.int32)
    scores = np.full((len(histories), TOP), -np.inf, np.float32)
    for row in range(len(histories)):
        best, values = ranker.top_k(histories[row], TOP)
        items[row, : len(best)], scores[row, : len(best)] = best, values
    return items, scores


def _score_differences(one: Lists, other: Lists) -> NDArray[np.float64]:
    """|difference| of the scores of every item that both lists of a row have."""
    same = (one[0][:, :, None] == other[0][:, None, :]) & (one[0] >= 0)[:, :, None]
    row, mine, theirs = np.nonzero(same)
    return np.abs(one[1][row, mine].astype(np.float64) - other[1][row, theirs])


def _same_up_to_ties(one: Lists, other: Lists) -> NDArray[np.bool_]:
    """For each row whether the lists agree; where items differ, both must score what stands at that place."""
    same_items = one[0] == other[0]
    with np.errstate(invalid="ignore"):  # minus infinity less itself, where no list has an item
        tied = np.abs(one[1] - other[1]) <= SCORE_TOLERANCE
    both_known = (one[0] >= 0) & (other[0] >= 0)
    agree: NDArray[np.bool_] = (same_items | (tied & both_known)).all(axis=1)
    return agree
