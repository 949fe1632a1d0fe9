"""What a distilled student keeps of its teacher's accuracy, and how much faster it is, where both were profiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from rbserve.core.distillation import Distillation
from rbserve.profilers.compare.paper import printed_rows
from rbserve.profilers.compare.uncertainty import REFERENCE_ACCURACY, Draws, Evidence, Interval, interval_of
from rbserve.runs.measurement import Measurement

PAPER_STUDENT, PAPER_TEACHER = "dnn-emb", "text-mistral-7b"  # the pair that the paper's claim is of


class Lesson(msgspec.Struct, frozen=True):
    """A point beside its teacher at the same slate.

    `kept` is its share of the teacher's accuracy, with an interval from resamples of the same users; `speedup` how many
    times as fast it is, by p50. `variant` is the teacher's that both are of: the one that taught, where it was timed,
    else the teacher's fastest. What is not known is null, and `absent` says why.
    """

    teacher: str
    variant: str | None = None
    kept: float | None = None
    kept_ci95: Interval | None = None
    speedup: float | None = None
    speedup_ci95: Interval | None = None
    absent: str | None = None


class Seen(msgspec.Struct, frozen=True):
    """What of a point a lesson is made of; `rows` are the test rows that it was judged on."""

    run: str
    variant: str
    slate: int
    p50_ms: float
    accuracy: float | None
    rows: bytes


def lesson(
    student: Seen, all_seen: Sequence[Seen], runs: Mapping[str, Measurement], metric: str, evidence: Evidence
) -> Lesson | None:
    """The lesson of a point among those of a section; None where its model was not distilled."""
    record = runs[student.run].distilled
    if record is None:
        return None
    candidates = [
        one
        for one in all_seen
        if one.slate == student.slate
        and runs[one.run].model == record.teacher
        and runs[one.run].model_digest in ("", record.teacher_digest)
    ]
    if not candidates:
        return Lesson(record.teacher, absent=_why_no_teacher(student, all_seen, runs, record))
    teacher = min(candidates, key=lambda one: (one.variant != record.variant, one.p50_ms))
    mine, theirs = runs[student.run], runs[teacher.run]
    found = Lesson(
        teacher=record.teacher,
        variant=teacher.variant,
        speedup=teacher.p50_ms / student.p50_ms,
        speedup_ci95=_ratio(
            evidence.latency(theirs, teacher.variant, teacher.slate),
            evidence.latency(mine, student.variant, student.slate),
        ),
    )
    if student.accuracy is None or teacher.accuracy is None:
        return msgspec.structs.replace(found, absent="an accuracy was not measured")
    if student.rows != teacher.rows:
        return msgspec.structs.replace(
            found, absent="the two were judged on other test rows: profile both with the same --test-users"
        )
    if teacher.accuracy <= REFERENCE_ACCURACY[metric]:
        return msgspec.structs.replace(
            found, absent="the teacher's accuracy is that of chance, and no share of it tells"
        )
    return msgspec.structs.replace(
        found,
        kept=student.accuracy / teacher.accuracy,
        kept_ci95=_ratio(
            evidence.accuracy(mine, student.variant, metric),
            evidence.accuracy(theirs, teacher.variant, metric),
        ),
    )


def _why_no_teacher(
    student: Seen, all_seen: Sequence[Seen], runs: Mapping[str, Measurement], record: Distillation
) -> str:
    """What there is of a teacher among comparable runs: nothing, other weights, or other slates."""
    teachers = [seen for seen in all_seen if runs[seen.run].model == record.teacher]
    if not teachers:
        return f"no run of {record.teacher} is comparable: same machine, libraries, threads, scope and data"
    taught = [seen.slate for seen in teachers if runs[seen.run].model_digest in ("", record.teacher_digest)]
    if not taught:
        return f"the comparable runs of {record.teacher} are of other weights than those that taught"
    slates = ", ".join(str(slate) for slate in sorted(set(taught)))
    return f"{record.teacher} was measured at slate {slates}, not at {student.slate}"


def paper_claim() -> str:
    """What the paper says of such pairs, from its printed figures."""
    rows = {row.model: row for row in printed_rows()}
    student, teacher = rows[PAPER_STUDENT], rows[PAPER_TEACHER]
    kept = student.figures["overall"] / teacher.figures["overall"]
    assert student.latency_ms is not None
    assert teacher.latency_ms is not None
    times = round(teacher.latency_ms / student.latency_ms, -2)
    return (
        f"The paper: {kept:.0%} of the accuracy, {times:,.0f} times faster ({student.paper_name} beside "
        f"{teacher.paper_name}, mean AUC of five data sets; its student was not distilled, other data, other machine)."
    )


def _ratio(above: Draws | None, below: Draws | None) -> Interval | None:
    """The 95% interval of a ratio, from draws of both."""
    return None if above is None or below is None else interval_of(above / below)
