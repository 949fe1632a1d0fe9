"""The planted data set has the structure that tests rely on."""

from __future__ import annotations

import numpy as np
from conformance import CEILING_AUC

from rbserve.core.tasks import CTR
from rbserve.data.dataset import Dataset
from rbserve.runs.baselines import baselines
from rbserve.stats.pairwise import auc

TOPICS = 4


def test_whoever_knows_the_taste_reaches_the_ceiling(planted: Dataset) -> None:
    test = planted.ctr("test")
    scores = np.empty(len(test))
    for row in range(len(test)):
        votes = np.bincount(test.histories[row] % TOPICS, minlength=TOPICS)
        scores[row] = votes[test.candidates[row] % TOPICS] == votes.max()
    assert abs(auc(test.labels, scores) - CEILING_AUC) < 0.05


def test_whoever_knows_no_taste_stays_at_chance(planted: Dataset) -> None:
    for values in baselines(planted, CTR.name).figures.values():
        assert abs(values["auc"] - 0.5) < 0.06


def test_titles_are_made_of_the_topics_words(planted: Dataset) -> None:
    for item, text in enumerate(planted.items.texts):
        assert all(word.startswith(f"topic{item % TOPICS}word") for word in text.split())
