"""What table.md and the page share: a report's chapters, the titles of its tables, their footnotes and cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rbserve.core.tasks import TASKS
from rbserve.core.variants import REFERENCE
from rbserve.profilers.compare import overall
from rbserve.profilers.compare.answers import ServeAnswer
from rbserve.profilers.compare.figures import FIGURES
from rbserve.profilers.compare.front import Front
from rbserve.profilers.compare.judgings import JudgingTable
from rbserve.profilers.compare.machines import MachineTable
from rbserve.profilers.compare.paper import paper_title
from rbserve.profilers.compare.points import Point
from rbserve.profilers.compare.sections import Section
from rbserve.profilers.compare.students import paper_claim
from rbserve.profilers.compare.wording import (
    DASH,
    interval_text,
    number_text,
    share_text,
    significant,
    sizes_text,
)
from rbserve.profilers.report.paper_tables import Ours, PaperCell, PaperTable, PaperTableRow
from rbserve.runs.changes import options_text
from rbserve.runs.plan import TABLE
from rbserve.runs.summary import STAGES_OFF
from rbserve.stats.metrics import metric_title


class Chapter(NamedTuple):
    """A section and what the report says of it in words."""

    section: Section
    answers: list[ServeAnswer]
    absent: list[str]
    method: list[str]


class Book(NamedTuple):
    """All that a report shows."""

    chapters: list[Chapter]
    overalls: list[overall.Overall]
    printed: list[PaperTable]
    created: str
    judgings: Sequence[JudgingTable] = ()
    machines: Sequence[MachineTable] = ()


OVERALL_HEADS = ["model", "variant", "front", "P(front)", "p50 ms [95%]", "accuracy [95%]", "group"]


def overall_title(table: overall.Overall) -> str:
    """What a table across data sets is about."""
    threads = f"{table.threads} thread{'s' * (table.threads > 1)}"
    return (
        f"Overall · {table.task} · {table.slate_name} {table.slate} · {', '.join(table.datasets)} · {table.cpu} · "
        f"{threads} · scope {table.scope}{' · seen items left out' * table.exclude_seen}"
    )


def overall_cells(point: overall.OverallPoint) -> list[str]:
    """A row of it, under OVERALL_HEADS."""
    return [
        point.name + " ⚠" * point.warned,
        point.variant,
        "yes" if point.on_front else "no",
        share_text(point.front_probability),
        significant(point.p50_ms) + interval_text(point.p50_ci95_ms, significant),
        f"{point.accuracy:.4f}" + interval_text(point.accuracy_ci95, "{:.4f}".format),
        point.group,
    ]


def front_text(front: Front, metric_label: str) -> str:
    """The front as one number: "hypervolume 1.456 [1.432, 1.482]", and what that is."""
    if front.hypervolume is None:
        return "Hypervolume of the front: none, no accuracy was measured."
    return (
        f"Hypervolume of the front: {volume_text(front)}, {metric_label} above {front.reference_accuracy:g} times "
        f"decades of p50 below {front.reference_ms:,.0f} ms; more is better."
    )


def volume_text(front: Front) -> str:
    """Its hypervolume with its interval."""
    if front.hypervolume is None:
        return DASH
    return f"{front.hypervolume:.3f}" + interval_text(front.ci95, "{:.3f}".format)


def paper_columns(table: PaperTable) -> list[str]:
    """The heads of one of the paper's tables."""
    latencies = [f"ms at {table.call}: {REFERENCE} → fastest", "paper's ms"]
    return ["model", "group", "paper's name", *table.datasets, *latencies]


def paper_table_title(table: PaperTable) -> str:
    """What one of the paper's tables shows, in a line."""
    return f"{table.title}, {table.metric}: ours (the paper's)"


def ours_text(cell: PaperCell) -> str:
    """Our figure and in what it is not the row's, or why there is none."""
    return marked_text(cell.ours) if cell.ours else f"absent: {cell.absent}"


def marked_text(ours: Ours) -> str:
    """An accuracy with its marks: "0.7566, changed: vectors=tuned"."""
    return ", ".join([f"{ours.accuracy:.4f}", *ours.marks])


def printed_text(cell: PaperCell) -> str:
    """The paper's figure, and ours less it: "paper 0.7421, +0.0465"; nothing where it prints none."""
    if cell.paper is None:
        return ""
    return f"paper {cell.paper:.4f}" + ("" if cell.difference is None else f", {cell.difference:+.4f}")


def speed_text(row: PaperTableRow) -> str:
    """The reference's latency and the fastest variant's: "0.811 → 0.143 onnx-int8 (ml-100k)"."""
    speed = row.speed
    if speed is None:
        return DASH
    slower = speed.reference_ms is not None and speed.fastest != REFERENCE
    scope = "" if speed.scope == "forward" else f", {speed.scope}"
    scope += f", changed: {options_text(speed.changed)}" if speed.changed else ""
    start = f"{number_text(speed.reference_ms)} → " if slower else ""
    return f"{start}{significant(speed.fastest_ms)} {speed.fastest} ({speed.dataset}{scope})"


def marked_name(point: Point) -> str:
    """The point's model; ⚠: it has warnings or its accuracy may not be compared, ▼: a baseline is no worse."""
    return point.name + " ⚠" * bool(point.warnings or point.aside) + " ▼" * bool(point.below)


def section_title(section: Section) -> str:
    """What a section is about, in a line."""
    threads = f"{section.threads} thread{'s' if section.threads > 1 else ''}"
    seen = " · seen items left out" if section.exclude_seen else ""
    machine = section.environment.cpu
    if section.environment.kind:
        machine = f"{section.environment.kind} ({machine})"
    return f"{section.dataset} · {section.task} · {machine} · {threads} · scope {section.scope}{seen}"


def footnotes(section: Section) -> list[str]:
    """Sentences below a section's tables: what limits them, its baselines, what the figures mean, the paper's."""
    lines = [*section.notes, *_baseline_lines(section)]
    known = [figure for figure in FIGURES if any(figure.get(point) is not None for point in section.points)]
    texts = [figure.note for figure in known if figure.note]
    lines += [text.format(size=section.slate_name, metric=section.metric_label) for text in texts]
    lines += [
        f"{section.slate_name} {front.slate}: {front_text(front, section.metric_label)}"
        for front in section.fronts
        if front.hypervolume is not None
    ]
    lines += _table_lines(section)
    if TASKS[section.task].ranks:
        lines.append("k: the number of items asked for.")
    lines += [*_lesson_lines(section), *_stages_lines(section)]
    lines.append(f"{DASH}: no figure, for the reason under “Not measured”.")
    return [*lines, f"{paper_title(section.paper_column)}.", *section.paper_cautions]


def _table_lines(section: Section) -> Iterator[str]:
    """What the slate `table` is, with the distribution of its sizes; nothing where no model was timed at it."""
    sizes = {point.result.slate_sizes for point in section.points} - {None}
    for text in sorted(sizes_text(size) for size in sizes if size):
        yield f"{section.slate_name} {TABLE}: the requests of the model's own table as they come, {text}."


def _lesson_lines(section: Section) -> Iterator[str]:
    """Why a student has no share of its teacher's accuracy, and the paper's claim; nothing without students."""
    lessons = [(point.name, point.lesson) for point in section.points if point.lesson]
    for line in sorted({f"{name}: {lesson.absent}" for name, lesson in lessons if lesson.absent}):
        yield f"Beside its teacher, {line}."
    if lessons:
        yield paper_claim()


def _stages_lines(section: Section) -> Iterator[str]:
    """The points whose calls took another time when their stages were observed."""
    changed = [
        f"{point.label}, {section.slate_name} {point.slate}, took {point.result.stages_check:.0%} of its time"
        for point in section.points
        if point.result.stages_check is not None and abs(point.result.stages_check - 1) > STAGES_OFF
    ]
    if changed:
        yield f"Stages are told of calls that observing changed: {'; '.join(changed)}."


def _baseline_lines(section: Section) -> list[str]:
    """What each baseline reaches, and which likes popularity counts."""
    lines = []
    for name, figures in sorted(section.baselines.items()):
        values = ", ".join(f"{metric_title(key, section.task)} {value:.4f}" for key, value in figures.items())
        lines.append(f"Baseline {section.baseline_title(name)}: {values}.")
    if section.baseline_forms:
        lines.append(
            "popularity, item_mean: how often the training users like an item, of all its likes or as a share of its "
            "shows. (last likes) are those that training rows ask about, (all likes) those in their histories as well; "
            "a window ends before the test row's time. A profile takes the form that is strongest on validation."
        )
    return lines


def warning_lines(section: Section) -> list[str]:
    """Each variant's warnings once, whatever its slates."""
    return list(
        dict.fromkeys(
            f"{point.label}: {text}"
            for point in section.points
            for text in [*point.warnings, *([point.aside] if point.aside else [])]
        )
    )
