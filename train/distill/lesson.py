"""Distillation: a small pair-wise row learns the click probabilities of a slow teacher (Hinton et al. 2015).

The loss is binary cross-entropy against soft labels: of a labelled row, alpha times the teacher's probability plus
1 - alpha times the label; of an unlabelled pair, the teacher's probability. Only training users are scored.

A teacher's probabilities rank well but need not be calibrated: those of a zero-shot language model may all lie near 1,
and would contradict the labels that they are mixed with. So its log-odds are first scaled and shifted to fit the
labels of the training rows (Platt 1999), which leaves its ranking as it is. The scale is a temperature.
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
    Slates,
    count_pairs,
    describe_work,
    draw_slates,
    fastest_variant,
    score_slates,
    scores_name,
    unscored,
)
from rbserve.train.tasks.ctr import SoftRows

CERTAIN = 1e-6  # probabilities are clipped to [CERTAIN, 1 - CERTAIN]
STEPS = 50
Labels = NDArray[np.int8]


@dataclass(frozen=True)
class TrainingLesson:
    """The rows with soft labels that a student learns, and the record of them for its manifest."""

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
) -> TrainingLesson:
    """Lets the teacher score training users, saves the scores below `folder`, and makes soft labels of them.

    Raises UsageError for a teacher of other data, for a variant that it does not have, and for a teacher that is no
    better than chance on the labelled rows.
    """
    manifest = teacher.manifest
    check_teacher(teacher.name, manifest.task, manifest.config_kind, teacher.is_random)
    check_same_data(teacher.name, manifest.dataset.fingerprint, dataset)
    variant = variant or fastest_variant(teacher)
    if variant not in teacher.can_open:
        raise unknown_name(f"variant of {teacher.name}", variant, teacher.can_open)
    train = dataset.ctr("train")
    slates = draw_slates(train, teaching.pairs, seed, teaching.teacher_users)
    files = folder / scores_name(teacher, variant, dataset, teaching.pairs, seed)
    say(describe_work(teacher, variant, slates, files))
    if teacher.layout.counted and unscored(slates, files):
        slates = count_pairs(teacher, dataset, slates, progress)
    scores = score_slates(teacher, variant, slates, files, len(allowed_cores()) or 1, progress)
    parts = _split_scores(slates, scores)
    labels = train.labels[parts.rows]
    teacher_auc = auc(labels, parts.labelled)
    slope, intercept = calibrate(log_odds(parts.labelled, CERTAIN), labels)
    if not (teacher_auc > 0.5 and slope > 0):
        raise UsageError(
            f"{teacher.name} has nothing to teach: it orders the labelled rows of its training users no better than "
            f"chance (AUC {teacher_auc:.3f})",
            "train the teacher longer, or choose another",
        )
    say(
        f"{teacher.name}: AUC {teacher_auc:.4f} on these labelled rows; "
        f"its log-odds x become {slope:.3g} x {intercept:+.3g}"
    )
    record = Distillation(
        student=student,
        teacher=teacher.name,
        teacher_digest=teacher.model_digest,
        variant=variant,
        labelled=len(parts.rows),
        unlabelled=len(parts.candidates),
        slope=slope,
        intercept=intercept,
        teacher_auc=teacher_auc,
        pairs=teaching.pairs,
        alpha=teaching.alpha,
        teacher_users=teaching.teacher_users,
    )
    return TrainingLesson(_soft_rows(slates, parts, record), record)


@dataclass(frozen=True)
class _ScoreParts:
    """A teacher's scores of the training `rows`, and of `candidates` with the history of the rows `owners`."""

    rows: NDArray[np.int64]
    labelled: Scores
    owners: NDArray[np.int64]
    candidates: NDArray[np.int32]
    unlabelled: Scores


def _split_scores(slates: Slates, scores: Scores) -> _ScoreParts:
    """The scores of slates, those of labelled candidates apart from those of the others."""
    labelled, unlabelled = slates.ends - slates.begins, slates.unlabelled.lengths
    starts = np.cumsum(slates.sizes) - slates.sizes
    within = np.arange(labelled.sum()) - np.repeat(np.cumsum(labelled) - labelled, labelled)
    is_labelled = np.zeros(len(scores), bool)
    is_labelled[np.repeat(starts, labelled) + within] = True
    return _ScoreParts(
        rows=np.repeat(slates.begins, labelled) + within,
        labelled=scores[is_labelled],
        owners=np.repeat(slates.begins, unlabelled),
        candidates=slates.unlabelled.values,
        unlabelled=scores[~is_labelled],
    )


def _soft_rows(slates: Slates, parts: _ScoreParts, record: Distillation) -> SoftRows:
    """All training rows, then the unlabelled pairs. Rows that the teacher did not score keep their labels."""

    def calibrated(scores: Scores) -> NDArray[np.float64]:
        return _probability(record.slope * log_odds(scores, CERTAIN) + record.intercept)

    train = slates.train
    labels = np.asarray(train.labels, np.float64)
    mixed = record.alpha * calibrated(parts.labelled) + (1 - record.alpha) * labels[parts.rows]
    labels[parts.rows] = mixed
    return SoftRows(
        train,
        np.concatenate((np.arange(len(train)), parts.owners)),
        np.concatenate((train.candidates, parts.candidates)),
        np.concatenate((labels, calibrated(parts.unlabelled))).astype(np.float32),
    )


def calibrate(odds: NDArray[np.float64], labels: Labels) -> tuple[float, float]:
    """Slope and intercept of log-odds float64[R] that fit the labels best, by maximum likelihood.

    Newton's method on Platt's targets, which lie a little inside of 0 and 1: finite also for separable classes.
    """
    positive = labels > 0
    hits, misses = np.count_nonzero(positive), np.count_nonzero(~positive)
    wanted = np.where(positive, (hits + 1) / (hits + 2), 1 / (misses + 2))
    design = np.column_stack([odds, np.ones(len(odds))])
    solution = np.array([0.0, np.log((hits + 1) / (misses + 1))])
    loss = _cross_entropy(design @ solution, wanted)
    for _ in range(STEPS):
        chances = _probability(design @ solution)
        slope = design.T @ (wanted - chances)
        curve = design.T @ (design * (chances * (1 - chances))[:, None]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        new = _cross_entropy(design @ (solution + step), wanted)
        while new > loss and np.abs(step).max() > CERTAIN:
            step /= 2
            new = _cross_entropy(design @ (solution + step), wanted)
        if new >= loss:
            break
        solution, loss = solution + step, new
    return float(solution[0]), float(solution[1])


def _cross_entropy(odds: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    return float(np.sum(np.logaddexp(0, odds) - wanted * odds))


def _probability(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -odds))
