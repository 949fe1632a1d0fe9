"""Distillation: a small pair-wise row learns the click probabilities of a slow teacher (Hinton et al. 2015).

The loss is binary cross-entropy against soft labels: of a labelled row alpha of the teacher's probability and the rest
of the label, of a pair without a label the teacher's probability. It is made of nothing but training users.

A teacher's probabilities rank, and need not be calibrated: those of a language model asked as it is may all lie near 1,
and would then contradict the labels that they are mixed with. So its log-odds are first scaled and shifted to fit the
labels of the training rows (Platt 1999): two numbers, which leave its ranking as it is. The scale is a temperature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbserve.core.distillation import Distillation, check_teacher
from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.settings import Teaching
from rbserve.core.types import Progress, Scores, no_progress
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset, check_same_data
from rbserve.machine.environment import allowed_cores
from rbserve.stats.pairwise import auc, log_odds
from rbserve.train.distill.teacher import (
    Questions,
    ask,
    fastest_variant,
    questions,
    scores_name,
    what_it_takes,
)
from rbserve.train.tasks.ctr import SoftRows

CERTAIN = 1e-6  # no probability is taken to be nearer to 0 or 1
STEPS = 50
Labels = NDArray[np.int8]


@dataclass(frozen=True)
class Lesson:
    """What a student learns, and what is to be remembered of it."""

    rows: SoftRows
    record: Distillation


def prepare_lesson(
    teacher: Artifact,
    student: str,
    dataset: Dataset,
    teaching: Teaching,
    seed: int,
    folder: Path,
    variant: str | None = None,
    progress: Progress = no_progress,
    say: Callable[[str], None] = lambda _: None,
) -> Lesson:
    """Asks the teacher, whose scores are kept below `folder`, and makes soft labels of what it says.

    Raises UsageError for a teacher of other data, a variant that it lacks, and one that has nothing to teach.
    """
    manifest = teacher.manifest
    check_teacher(teacher.name, manifest.task, manifest.config_kind, teacher.is_random)
    check_same_data(teacher.name, manifest.dataset.fingerprint, dataset)
    variant = variant or fastest_variant(teacher)
    if variant not in teacher.can_open:
        raise unknown_name(f"variant of {teacher.name}", variant, teacher.can_open)
    train = dataset.ctr("train")
    asked = questions(train, teaching.pairs, seed, teaching.teacher_users)
    kept = folder / scores_name(teacher, variant, dataset, teaching.pairs, seed)
    say(what_it_takes(teacher, variant, asked, kept))
    scores = ask(teacher, variant, asked, kept, len(allowed_cores()) or 1, progress)
    answered = _answered(asked, scores)
    labels = train.labels[answered.rows]
    reached = auc(labels, answered.labelled)
    slope, intercept = calibrate(log_odds(answered.labelled, CERTAIN), labels)
    if not (reached > 0.5 and slope > 0):
        raise UsageError(
            f"{teacher.name} has nothing to teach: it orders the labelled rows of its training users no better than "
            f"chance (AUC {reached:.3f})",
            "train the teacher longer, or choose another",
        )
    say(
        f"{teacher.name}: AUC {reached:.4f} on these labelled rows; "
        f"its log-odds x become {slope:.3g} x {intercept:+.3g}"
    )
    record = Distillation(
        student=student,
        teacher=teacher.name,
        teacher_digest=teacher.model_digest,
        variant=variant,
        labelled=len(answered.rows),
        unlabelled=len(answered.candidates),
        slope=slope,
        intercept=intercept,
        teacher_auc=reached,
        pairs=teaching.pairs,
        alpha=teaching.alpha,
        teacher_users=teaching.teacher_users,
    )
    return Lesson(_soft_rows(asked, answered, record), record)


@dataclass(frozen=True)
class _Answered:
    """A teacher's scores apart: of the training `rows`, and of `candidates` with the history of their `owners`."""

    rows: NDArray[np.int64]
    labelled: Scores
    owners: NDArray[np.int64]
    candidates: NDArray[np.int32]
    unlabelled: Scores


def _answered(asked: Questions, scores: Scores) -> _Answered:
    known, others = asked.ends - asked.begins, asked.unlabelled.lengths
    starts = np.cumsum(asked.sizes) - asked.sizes
    within = np.arange(known.sum()) - np.repeat(np.cumsum(known) - known, known)
    is_known = np.zeros(len(scores), bool)
    is_known[np.repeat(starts, known) + within] = True
    return _Answered(
        rows=np.repeat(asked.begins, known) + within,
        labelled=scores[is_known],
        owners=np.repeat(asked.begins, others),
        candidates=asked.unlabelled.values,
        unlabelled=scores[~is_known],
    )


def _soft_rows(asked: Questions, answered: _Answered, record: Distillation) -> SoftRows:
    """All training rows, then the pairs without a label. Rows that the teacher did not score have their labels."""

    def taught(scores: Scores) -> NDArray[np.float64]:
        return _probability(record.slope * log_odds(scores, CERTAIN) + record.intercept)

    train = asked.train
    labels = np.asarray(train.labels, np.float64)
    mixed = record.alpha * taught(answered.labelled) + (1 - record.alpha) * labels[answered.rows]
    labels[answered.rows] = mixed
    return SoftRows(
        train,
        np.concatenate((np.arange(len(train)), answered.owners)),
        np.concatenate((train.candidates, answered.candidates)),
        np.concatenate((labels, taught(answered.unlabelled))).astype(np.float32),
    )


def calibrate(odds: NDArray[np.float64], labels: Labels) -> tuple[float, float]:
    """Slope and intercept with which log-odds float64[R] are most likely to have given the labels.

    Newton's method on Platt's targets, which are a little inside of 0 and 1: finite also where the classes are apart.
    """
    positive = labels > 0
    hits, misses = np.count_nonzero(positive), np.count_nonzero(~positive)
    wanted = np.where(positive, (hits + 1) / (hits + 2), 1 / (misses + 2))
    design = np.column_stack([odds, np.ones(len(odds))])
    found = np.array([0.0, np.log((hits + 1) / (misses + 1))])
    loss = _cross_entropy(design @ found, wanted)
    for _ in range(STEPS):
        chances = _probability(design @ found)
        slope = design.T @ (wanted - chances)
        curve = design.T @ (design * (chances * (1 - chances))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        while (new := _cross_entropy(design @ (found + step), wanted)) > loss and np.abs(
            step
        ).max() > CERTAIN:
            step /= 2
        if new >= loss:
            break
        found, loss = found + step, new
    return float(found[0]), float(found[1])


def _cross_entropy(odds: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    return float(np.sum(np.logaddexp(0, odds) - wanted * odds))


def _probability(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -odds))
