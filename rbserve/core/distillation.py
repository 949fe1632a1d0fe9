"""Teachers and students: who can be one, how much is taught, and what manifests and runs keep of it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from rbserve.core.errors import UsageError
from rbserve.core.types import ModelSpec

PAIRS, ALPHA, ALL_USERS = 20, 0.5, 0  # what a student is taught unless it is told otherwise
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
    pairs: int = PAIRS
    alpha: float = ALPHA
    teacher_users: int = ALL_USERS

    @property
    def changed(self) -> dict[str, str]:
        """The options that are not the usual ones, as the command line takes them."""
        usual = {"pairs": PAIRS, "alpha": ALPHA, "teacher_users": ALL_USERS}
        return {
            name.replace("_", "-"): f"{value:g}"
            for name, default in usual.items()
            if (value := getattr(self, name)) != default
        }

    @property
    def said(self) -> str:
        """One line of what was taught."""
        return (
            f"taught by {self.teacher} {self.variant} (alpha {self.alpha:g}) on {self.labelled:,} labelled rows and "
            f"{self.unlabelled:,} pairs without a label"
        )


def student_name(student: str, teacher: str) -> str:
    """What the artefact of a row taught by a teacher is called."""
    return f"{student}{FROM}{teacher}"


@dataclass(frozen=True)
class Teaching:
    """How much a student is taught: unlabelled `pairs` a user, the share `alpha` of the teacher in a labelled row.

    `teacher_users` bounds how many training users it scores, 0 is all; the rows of the others keep their labels.
    """

    pairs: int = PAIRS
    alpha: float = ALPHA
    teacher_users: int = ALL_USERS

    def __post_init__(self) -> None:
        for name, usual in (("pairs", f"usual: {PAIRS}"), ("teacher_users", "0 is all of them")):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be at least 0, not {getattr(self, name)}", usual)
        if not 0 <= self.alpha <= 1:
            raise UsageError(
                f"alpha must be between 0 and 1, not {self.alpha}", "1 learns from the teacher alone"
            )
        if not self.alpha and not self.pairs:
            raise UsageError(
                "with no pairs and alpha 0 the teacher teaches nothing", "--pairs 20, or --alpha 0.5"
            )


def check_teacher(name: str, task: str, kind: str, random: bool = False) -> None:
    """UsageError, with the reason, for what cannot teach: `kind` is that of its config."""
    if task != "ctr":
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
    """UsageError, with the reason, for a row that is no student: groups A, B and C are."""
    if spec.group in "ABC":
        return
    reason = (
        "it ranks the catalogue, and learns no click probability of a pair"
        if spec.task != "ctr"
        else "it is a language model, which is what a student is to be faster than"
    )
    raise UsageError(
        f"{spec.name} cannot be a student: {reason}", "a row of groups A, B or C, such as gdcn-emb"
    )
