"""What every pair-wise zoo row must do, whatever it is made of. A new row is tested by being in the zoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rbserve.core.requests import slate_request
from rbserve.core.types import Scorer
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.pairwise import auc

CEILING_AUC = 0.9
"""The AUC of the true probabilities of the planted data set (`train/datasets/synthetic.py`)."""


def check_it_learns_the_planted_structure(
    artifact: Artifact, dataset: Dataset, at_least: float = 0.80
) -> None:
    """Well above chance, and not above what can be known."""
    test = dataset.ctr("test")
    scorer = open_scorer(artifact, "torch-fp32")
    reached = auc(test.labels, score_rows(scorer, test.histories, test.candidates))
    assert at_least < reached < CEILING_AUC + 0.03


def check_a_slate_scores_like_its_candidates_one_by_one(
    scorer: Scorer, dataset: Dataset, tolerance: float
) -> None:
    histories = dataset.ctr("test").histories
    for row, size in enumerate((2, 3, 20)):
        candidates = np.random.default_rng(row).permutation(80)[:size].astype(np.int32)
        single = [scorer.score(slate_request(histories[row], candidates[i : i + 1])) for i in range(size)]
        slate = scorer.score(slate_request(histories[row], candidates))
        np.testing.assert_allclose(slate, np.concatenate(single), atol=tolerance, rtol=0)


def check_empty_history_and_empty_slate_are_legal(scorer: Scorer) -> None:
    nothing = np.empty(0, np.int32)
    assert scorer.score(slate_request(nothing, nothing)).shape == (0,)
    newcomer = scorer.score(slate_request(nothing, np.arange(3, dtype=np.int32)))
    assert newcomer.shape == (3,)
    assert newcomer.dtype == np.float32
    assert np.isfinite(newcomer).all()


def check_items_that_training_never_saw_score_alike(
    artifact: Artifact, dataset: Dataset, variants: Sequence[str] = ()
) -> None:
    """Nothing is known of them, so nothing can set them apart."""
    train = dataset.ctr("train")
    seen = np.union1d(train.candidates, train.histories.values)
    unseen = np.setdiff1d(np.arange(len(dataset.items), dtype=np.int32), seen)
    assert len(unseen) >= 2, "the planted data set has items that training does not"
    history = np.array(train.histories[len(train) - 1])
    for variant in variants or artifact.variants:
        scores = open_scorer(artifact, variant).score(slate_request(history, unseen))
        np.testing.assert_allclose(scores, scores[0], atol=1e-6, rtol=0)


def check_new_items_score_by_their_content(artifact: Artifact, dataset: Dataset) -> None:
    """Items of which training knows no event, but what they are made of: other content, another score for some user."""
    unseen = np.array([dataset.items.index["new0"], dataset.items.index["new1"]], np.int32)
    histories = dataset.ctr("train").histories
    for variant in artifact.variants:
        scorer = open_scorer(artifact, variant)
        scores = np.stack(
            [
                scorer.score(slate_request(np.array(histories[len(histories) - row]), unseen))
                for row in (1, 21, 41)
            ]
        )
        assert np.abs(scores[:, 0] - scores[:, 1]).max() > 1e-3


def check_scores_are_probabilities(scorer: Scorer, dataset: Dataset, rows: int | None = None) -> None:
    """Of all test rows, or of the first ones where a row takes milliseconds."""
    test = dataset.ctr("test").take(np.arange(rows or len(dataset.ctr("test"))))
    scores = score_rows(scorer, test.histories, test.candidates)
    assert ((scores >= 0) & (scores <= 1)).all()


def check_variants(artifact: Artifact, dataset: Dataset, tolerance: Mapping[str, float]) -> None:
    """In each variant of `tolerance`: a slate scores like its candidates, within the tolerance; nothing is legal."""
    for variant, most in tolerance.items():
        scorer = open_scorer(artifact, variant)
        check_a_slate_scores_like_its_candidates_one_by_one(scorer, dataset, most)
        check_empty_history_and_empty_slate_are_legal(scorer)
        check_scores_are_probabilities(scorer, dataset)


def check_a_loaded_copy_scores_the_same(artifact: Artifact, dataset: Dataset, copy: Path) -> None:
    """Save and load is exact, also from another place."""
    import shutil

    shutil.copytree(artifact.path, copy)
    test = dataset.ctr("test").take(np.arange(20))
    for variant in artifact.variants:
        one = score_rows(open_scorer(artifact, variant), test.histories, test.candidates)
        other = score_rows(open_scorer(open_artifact(copy), variant), test.histories, test.candidates)
        np.testing.assert_array_equal(one, other)
