"""Baselines that take a model: their answers to all test rows of a data set, for profiles to hold models against.

Counts of likes need no model; `runs/baselines.py` has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rbserve.core.errors import ArtifactError
from rbserve.core.tasks import TASKS
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset, SeqSplit
from rbserve.home.paths import artifact_path, runs_path

if TYPE_CHECKING:
    from rbserve.runs.measurement import Measurement
    from rbserve.runs.popularity import Answers

PAIR_BASELINES: dict[str, Callable[[Dataset], Answers]] = {}
"""Baselines of click prediction by name: a function of a data set gives the score float64[R] of each test row."""


def further_baselines(artifact: Artifact, data: Dataset | None, exclude_seen: bool) -> dict[str, Answers]:
    """The answers of each baseline of the artefact's task to all test rows, by its name; none without a data set.

    Of rankings, a model of `MODEL_BASELINES` that was profiled or trained on the data set is a baseline; it is not
    trained for the purpose. An artefact of random weights is judged by no baseline.
    """
    if data is None or artifact.is_random:
        return {}
    if not TASKS[artifact.manifest.task].ranks:
        return {name: scores(data) for name, scores in PAIR_BASELINES.items()}
    from rbserve.runs.baselines import MODEL_BASELINES

    ranks = {name: _ranks(name, data, exclude_seen) for name in MODEL_BASELINES if name != artifact.name}
    return {name: answers for name, answers in ranks.items() if answers is not None}


def _ranks(name: str, data: Dataset, exclude_seen: bool) -> Answers | None:
    """The rank float64[R] that a model gives to the target of each test row, 0 for none; None where it is not there.

    The newest run of all test rows has them, else the artefact is asked.
    """
    try:
        artifact = open_artifact(artifact_path(name, data.name))
    except ArtifactError:
        artifact = None
    if artifact and artifact.manifest.dataset.fingerprint == data.fingerprint and not artifact.is_random:
        run = _run_of(artifact, data, exclude_seen)
        if run is None:
            return _ranked_now(artifact, data.seqrec("test"), exclude_seen)
        return np.array(next(iter(run.predictions.ranks.values())), np.float64)
    return None


def _run_of(artifact: Artifact, data: Dataset, exclude_seen: bool) -> Measurement | None:
    """The newest profile of exactly this artefact on all test rows."""
    from rbserve.profilers.choose.choice import runs_of
    from rbserve.runs.run_file import read_measurement

    for file in runs_of(artifact, runs_path()):
        run = read_measurement(file)
        whole = len(run.predictions.users) == len(data.seqrec("test"))
        if run.plan.exclude_seen == exclude_seen and whole and run.predictions.ranks:
            return run
    return None


def _ranked_now(artifact: Artifact, test: SeqSplit, exclude_seen: bool) -> Answers:
    from rbserve.runs.measurement import DEPTH
    from rbserve.runtimes.evaluate import rank_rows
    from rbserve.runtimes.opening import open_ranker
    from rbserve.stats.listwise import ranks_in_lists

    ranker = open_ranker(artifact, artifact.variants[0])
    lists = rank_rows(ranker, test.histories, DEPTH, exclude_seen=exclude_seen)
    return ranks_in_lists(lists, test.targets).astype(np.float64)
