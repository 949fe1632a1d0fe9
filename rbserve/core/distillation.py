"""Distillation: which rows can be teachers and students, and what manifests and runs record of a distillation."""

from __future__ import annotations

import dataclasses
import re

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
    the teacher, only of whether it has something to teach; None with `layers`.

    With `layers`, the student is the teacher with that many of its layers, those that `keep` says. It learnt from the
    teacher's answers as they are, and from its hidden states, whose distance has weight `hidden`; `labelled` are the
    training rows that epochs drew from.
    """

    student: str
    teacher: str
    teacher_digest: str
    variant: str
    labelled: int
    unlabelled: int
    slope: float
    intercept: float
    teacher_auc: float | None
    pairs: int = Teaching.pairs
    alpha: float = Teaching.alpha
    teacher_users: int = Teaching.teacher_users
    layers: int = Teaching.layers
    keep: str = Teaching.keep
    hidden: float = Teaching.hidden

    @property
    def changed(self) -> dict[str, str]:
        """The options of `Teaching` that differ from their defaults, as the command line takes them."""
        unused = SCORE_OPTIONS if self.layers else LAYER_OPTIONS
        return {
            name.replace("_", "-"): value if isinstance(value, str) else f"{value:g}"
            for name, default in dataclasses.asdict(Teaching()).items()
            if name not in unused and (value := getattr(self, name)) != default
        }

    @property
    def said(self) -> str:
        """The distillation in one line, for tables and reports."""
        if self.layers:
            return (
                f"{self.layers} layers of {self.teacher} ({self.keep}), taught by its hidden states and answers "
                f"(alpha {self.alpha:g}, hidden {self.hidden:g})"
            )
        return (
            f"taught by {self.teacher} {self.variant} (alpha {self.alpha:g}) on {self.labelled:,} labelled rows and "
            f"{self.unlabelled:,} pairs without a label"
        )


SCORE_OPTIONS = frozenset({"pairs", "teacher_users"})
"""Options of `Teaching` that are for a student of another architecture than its teacher's."""
LAYER_OPTIONS = frozenset({"layers", "keep", "hidden"})
"""Options of `Teaching` that are for a student with some of its teacher's layers."""


def student_name(student: str, teacher: str, layers: int = 0) -> str:
    """The name of a student's artefact: gdcn-emb-from-text-minilm-l6; with `layers`: p5-opt-3l-from-p5-opt."""
    return f"{student}{f'-{layers}l' if layers else ''}{FROM}{teacher}"


def split_layers(student: str) -> tuple[str, int]:
    """The row and the number of layers in a student's name: p5-opt and 3 of p5-opt-3l; 0 if it names no number."""
    cut = re.fullmatch(r"(.+)-([1-9]\d*)l", student)
    return (cut[1], int(cut[2])) if cut else (student, 0)


def check_layer_teacher(name: str, kind: str, reads_prompts: bool, random: bool = False) -> None:
    """UsageError, with the reason, for a model that --layers cannot make a student of; `kind` is that of its config."""
    if not reads_prompts or kind == "endpoint":
        reason = "it is no language model with layers of its own"
    elif kind == "zeroshot":
        reason = "it is not fine-tuned, and so has learnt nothing of the data"
    elif kind == "seq-sid-parallel":
        reason = "its answers are scores of codes, which it does not learn from"
    elif random:
        reason = "its weights are random"
    else:
        return
    raise UsageError(
        f"--layers makes a student of a fine-tuned language model, not of {name}: {reason}",
        "a teacher such as text-minilm-l6; or --student ROW without --layers",
    )


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
