"""What a distilled student keeps of its teacher's accuracy, and how much faster it is, where both were profiled."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rbserve.core.distillation import Distillation
from rbserve.profilers.compare.paper import printed_rows
from rbserve.profilers.compare.points import Point, TeacherComparison
from rbserve.profilers.compare.uncertainty import Draws, Evidence, interval_of
from rbserve.runs.plan import in_order
from rbserve.stats.intervals import Interval
from rbserve.stats.metrics import METRICS

PAPER_STUDENT, PAPER_TEACHER = "dnn-emb", "text-mistral-7b"  # the pair that the paper's claim is about


def with_lessons(points: Sequence[Point], metric: str, evidence: Evidence) -> list[Point]:
    """The points of a section; each distilled model's has a lesson, which compares it with its teacher's."""
    return [
        msgspec.structs.replace(point, lesson=_lesson(point, points, metric, evidence)) for point in points
    ]


def _lesson(
    student: Point, points: Sequence[Point], metric: str, evidence: Evidence
) -> TeacherComparison | None:
    """A point beside its teacher's among the points of its section; None where its model was not distilled."""
    record = student.run.distilled
    if record is None:
        return None
    teachers = [point for point in points if point.slate == student.slate and _taught(point, record)]
    if not teachers:
        return TeacherComparison(record.teacher, absent=_why_no_teacher(student, points, record))
    teacher = min(teachers, key=lambda point: (point.variant != record.variant, point.p50_ms))
    lesson = TeacherComparison(
        teacher=record.teacher,
        variant=teacher.variant,
        speedup=teacher.p50_ms / student.p50_ms,
        speedup_ci95=_ratio(
            evidence.latency(teacher.run, teacher.variant, teacher.slate),
            evidence.latency(student.run, student.variant, student.slate),
        ),
    )
    mine, theirs = student.value(metric), teacher.value(metric)
    if mine is None or theirs is None:
        return msgspec.structs.replace(lesson, absent="an accuracy was not measured")
    if student.run.predictions.rows_key != teacher.run.predictions.rows_key:
        reason = "the two were judged on other test rows: profile both with the same --test-users"
        return msgspec.structs.replace(lesson, absent=reason)
    if theirs <= METRICS[teacher.run.task][metric].chance:
        reason = "the teacher's accuracy is that of chance, and no share of it tells"
        return msgspec.structs.replace(lesson, absent=reason)
    return msgspec.structs.replace(
        lesson,
        kept=mine / theirs,
        kept_ci95=_ratio(
            evidence.accuracy(student.run, student.variant, metric),
            evidence.accuracy(teacher.run, teacher.variant, metric),
        ),
    )


def _taught(point: Point, record: Distillation) -> bool:
    """Whether a point is of the teacher, with the weights that taught; old runs do not say their weights."""
    return point.run.model == record.teacher and point.run.model_digest in ("", record.teacher_digest)


def _why_no_teacher(student: Point, points: Sequence[Point], record: Distillation) -> str:
    """Why no comparable point is the teacher's: it has no run, or of other weights, or at other slates."""
    if all(point.run.model != record.teacher for point in points):
        return f"no run of {record.teacher} is comparable: same machine, libraries, threads, scope and data"
    slates = in_order(point.slate for point in points if _taught(point, record))
    if not slates:
        return f"the comparable runs of {record.teacher} are of other weights than those that taught"
    return f"{record.teacher} was measured at slate {', '.join(map(str, slates))}, not at {student.slate}"


def paper_claim() -> str:
    """A sentence with the paper's own comparison of such a pair, from its printed figures."""
    rows = {row.model: row for row in printed_rows()}
    student, teacher = rows[PAPER_STUDENT], rows[PAPER_TEACHER]
    share = student.figures["overall"] / teacher.figures["overall"]
    assert student.latency_ms is not None
    assert teacher.latency_ms is not None
    times = round(teacher.latency_ms / student.latency_ms, -2)
    return (
        f"The paper: {share:.0%} of the accuracy, {times:,.0f} times faster ({student.paper_name} beside "
        f"{teacher.paper_name}, mean AUC of five data sets; its student was not distilled, other data, other machine)."
    )


def _ratio(above: Draws | None, below: Draws | None) -> Interval | None:
    """The 95% interval of a ratio, from draws of both; None where one has no draws."""
    return None if above is None or below is None else interval_of(above / below)
