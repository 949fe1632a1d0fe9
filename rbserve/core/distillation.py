"""Distillation: which rows can be teachers and students, and what manifests and runs record of a distillation."""

from __future__ import annotations

import dataclasses

import msgspec

from rbserve.core.errors import UsageError
from rbserve.core.settings import Teaching
from rbserve.core.tasks import TASKS
from rbserve.core.types import ModelSpec

FROM = "-from-"  # between a student's row and its teacher in an artefact's name: gdcn-emb-from-text-minilm-l6


class Distillation(msgspec.Struct, frozen=True):
    """How a teacher's scores came into a student's weights.

    `teacher_digest` is its artefact's `model_digest`, `variant` the one that scored. It scored `labelled` training rows
    and `unlabelled` pairs, at most `pairs` a user, of all training users or `teacher_users` of them. A labelled row's
    target is `alpha` of the teacher's probability and the rest of the label. That probability is of log-odds `slope`
    times the teacher's plus `intercept`. `teacher_auc` is of the labelled rows, which are training rows: no measure of
    the teacher, only of whether it has something to teach.
    """

    student: str
    teacher: str
    teacher_digest: str
    variant: str
    labelled: int
    unlabelled: int
    slope: float
    intercept: float
    teacher_auc: float
    pairs: int = Teaching.pairs
    alpha: float = Teaching.alpha
    teacher_users: int = Teaching.teacher_users

    @property
    def changed(self) -> dict[str, str]:
        """The options of `Teaching` that differ from their defaults, as the command line takes them."""
        return {
            name.replace("_", "-"): f"{value:g}"
            for name, default in dataclasses.asdict(Teaching()).items()
            if (value := getattr(self, name)) != default
        }

    @property
    def said(self) -> str:
        """The distillation in one line, for tables and reports."""
        return (
            f"taught by {self.teacher} {self.variant} (alpha {self.alpha:g}) on {self.labelled:,} labelled rows and "
            f"{self.unlabelled:,} pairs without a label"
        )


def student_name(student: str, teacher: str) -> str:
    """The name of a student's artefact: gdcn-emb-from-text-minilm-l6."""
    return f"{student}{FROM}{teacher}"


def check_teacher(name: str, task: str, kind: str, random: bool = False) -> None:
    """UsageError, with the reason, for what cannot teach: `kind` is that of its config."""
    if TASKS[task].ranks:
        raise UsageError(
            f"{name} cannot teach: it names the next item, and gives no click probability of a pair",
            "a teacher scores candidates: a row of groups A to F",
        )
    if kind == "endpoint":
        raise UsageError(
            f"{name} cannot teach: an endpoint is paid for every pair, and distilling asks for many",
            "a teacher that runs here, such as text-minilm-l6",
        )
    if random:
        raise UsageError(f"{name} cannot teach: its weights are random", "train it without --weights random")


def check_student(spec: ModelSpec) -> None:
    """UsageError, with the reason, for a row that is no student.

    Groups A, B and C are, and the networks beyond the paper.
    """
    if TASKS[spec.task].ranks:
        reason = "it ranks the catalogue, and learns no click probability of a pair"
    elif spec.item_form == "features":
        reason = "its trees learn labels, and no probabilities"
    elif spec.group in "ABCX":
        return
    else:
        reason = "it is a language model, which is what a student is to be faster than"
    raise UsageError(
        f"{spec.name} cannot be a student: {reason}",
        "a row of groups A, B or C, such as gdcn-emb, or bst-emb",
    )
