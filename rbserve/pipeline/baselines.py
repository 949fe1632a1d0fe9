"""Baselines that take a model: their answers to all test rows of a data set, for profiles to hold models against.

Counts of likes need no model; `runs/baselines.py` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rbserve.core.errors import ArtifactError
from rbserve.core.options import with_options
from rbserve.core.tasks import TASKS
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset, SeqSplit
from rbserve.home.paths import artifact_path, runs_path
from rbserve.models.zoo import find_model
from rbserve.progress import progress_bar

if TYPE_CHECKING:
    from rbserve.runs.measurement import Measurement
    from rbserve.runs.popularity import Answers

FOLDER = "baselines/gbdt"
"""Where the trees of a data set stand, in its directory."""
FEWEST_ROWS = 10_000
"""Training rows below which no trees are fitted: counts of fewer say little."""


def further_baselines(artifact: Artifact, data: Dataset | None, exclude_seen: bool) -> dict[str, Answers]:
    """The answers of each baseline of the artefact's task to all test rows, by its name; none without a data set.

    Of rankings, a model of `MODEL_BASELINES` that was profiled or trained on the data set is a baseline; it is not
    trained for the purpose. An artefact of random weights is judged by no baseline.
    """
    if data is None or artifact.is_random:
        return {}
    if not TASKS[artifact.manifest.task].ranks:
        scores = {name: baseline(data) for name, baseline in PAIR_BASELINES.items()}
        return {name: answers for name, answers in scores.items() if answers is not None}
    from rbserve.runs.baselines import MODEL_BASELINES

    ranks = {name: _ranks(name, data, exclude_seen) for name in MODEL_BASELINES if name != artifact.name}
    return {name: answers for name, answers in ranks.items() if answers is not None}


def trees_on_counts(data: Dataset) -> Answers | None:
    """The scores float64[R] of the test rows by LightGBM's trees on counts alone, no similarity of texts among them.

    The trees are fitted where they are missing, and stay beside the data set. None of a data set with few training
    rows, of one without users, and where the packages for training are not installed.
    """
    from rbserve.features.counted import COUNTS, TIMES

    if len(data.ctr("train")) < FEWEST_ROWS or not len(data.ctr("train").histories.values):
        return None
    names = COUNTS + (TIMES if data.by_time else ())
    artifact = _trees_beside(data) or _fit_trees(data, names)
    if artifact is None:
        return None
    from rbserve.runtimes.evaluate import score_rows
    from rbserve.runtimes.opening import open_scorer

    test = data.ctr("test")
    scorer = open_scorer(artifact, artifact.variants[0])
    return score_rows(scorer, test.histories, test.candidates, test.extras).astype(np.float64)


PAIR_BASELINES: dict[str, Callable[[Dataset], Answers | None]] = {"gbdt on counts": trees_on_counts}
"""Baselines of click prediction by name: a function of a data set gives the score float64[R] of each test row."""


def _trees_beside(data: Dataset) -> Artifact | None:
    try:
        artifact = open_artifact(data.path / FOLDER)
    except ArtifactError:
        return None
    return artifact if artifact.manifest.dataset.fingerprint == data.fingerprint else None


def _fit_trees(data: Dataset, names: Sequence[str]) -> Artifact | None:
    try:
        from rbserve.train.fit import train
    except ImportError:
        return None
    from rbserve.core.settings import Settings

    spec = find_model("gbdt")
    spec = replace(spec, config=with_options(spec.config, {"fields": ",".join(names)}))
    with progress_bar(f"baseline of {data.name}") as progress:
        return train(spec, data, data.path / FOLDER, Settings(**spec.training), progress=progress)


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
