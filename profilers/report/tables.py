"""A report's tables, table.md, table.csv and paper.csv, and what the page shares with them: columns, notes, numbers."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from rbserve.core.tasks import HEADLINES, TASKS
from rbserve.core.variants import REFERENCE
from rbserve.profilers.compare import overall
from rbserve.profilers.compare.answers import Answer
from rbserve.profilers.compare.paper import paper_title
from rbserve.profilers.compare.pareto import Point, Section
from rbserve.profilers.compare.students import Lesson, paper_claim
from rbserve.profilers.compare.uncertainty import RESAMPLES, Front
from rbserve.profilers.compare.wording import (
    DASH,
    accuracy_text,
    interval_text,
    number_text,
    p50_text,
    share_text,
    significant,
)
from rbserve.profilers.report.paper_tables import Cell, Ours, PaperTable, Row
from rbserve.runs.changes import options_text
from rbserve.runs.measurement import STAGES_OFF
from rbserve.stats.metrics import CTR_METRICS, SEQREC_METRICS, metric_title


class Chapter(NamedTuple):
    """A section and what the report says of it in words."""

    section: Section
    answers: list[Answer]
    absent: list[str]
    method: list[str]


class Book(NamedTuple):
    """All that a report shows."""

    chapters: list[Chapter]
    overalls: list[overall.Overall]
    printed: list[PaperTable]
    created: str


class Column(NamedTuple):
    """A column of the tables people read; `value` is what it sorts by."""

    title: str
    text: Callable[[Point], str]
    value: Callable[[Point], float | str | None]


def markdown(book: Book) -> str:
    """table.md: for each section its answers, its table, and how and what not; then across data sets, and the paper."""
    lines = ["# Accuracy against latency", ""]
    for chapter in book.chapters:
        section = chapter.section
        lines += [f"## {_md(section_title(section))}", ""]
        for answer in chapter.answers:
            lines += [f"**{_md(answer.question)}: {_md(answer.marked_label)}**, {_md(answer.figures)}.", ""]
            lines += [*(f"- {_md(note)}" for note in answer.notes), ""]
        table = columns(section)
        lines += [_md_row([column.title for column in table]), _md_row(["---"] * len(table))]
        lines += [_md_row([column.text(point) for column in table]) for point in section.points]
        lines += ["", *(f"⚠ {_md(warning)}  " for warning in warning_lines(section)), ""]
        lines += [f"- {_md(text)}" for text in footnotes(section)]
        lines += ["", "How it was measured:", "", *(f"- {_md(line)}" for line in chapter.method), ""]
        lines += ["Not measured:", "", *(f"- {_md(line)}" for line in chapter.absent), ""]
        lines += ["```sh", *(source.command.replace("`", "") for source in section.sources), "```", ""]
    for across in book.overalls:
        lines += [
            f"## {_md(overall_title(across))}",
            "",
            _md_row(OVERALL_HEADS),
            _md_row(["---"] * len(OVERALL_HEADS)),
        ]
        lines += [_md_row(overall_cells(point)) for point in across.points]
        lines += [
            "",
            *(
                f"- {_md(note)}"
                for note in [
                    *overall.notes(across),
                    front_text(across.front, metric_title(across.metric, across.task)),
                ]
            ),
        ]
        lines += [""]
    for part in book.printed:
        heads = paper_columns(part)
        lines += [f"## {paper_table_title(part)}", "", _md_row(heads), _md_row(["---"] * len(heads))]
        lines += [_md_row(_paper_cells(row)) for row in part.rows]
        lines += ["", *(f"- {_md(note)}" for note in part.notes), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def csv_text(parts: Sequence[Section]) -> str:
    """table.csv: one row per point, every figure in a column of its own; what is not known is empty."""
    return _csv([_flat(section, point) for section in parts for point in section.points])


def paper_csv(printed: Sequence[PaperTable]) -> str:
    """paper.csv: one row per cell of the paper's tables."""
    return _csv(
        [_flat_cell(table, row, cell) for table in printed for row in table.rows for cell in row.cells]
    )


def columns(section: Section) -> list[Column]:
    """The columns of table.md and of the page."""
    return [
        Column("model", lambda p: p.name + (" ⚠" if p.warnings or p.aside else ""), lambda p: p.name),
        Column("variant", lambda p: p.variant, lambda p: p.variant),
        Column(section.slate_name, lambda p: str(p.slate), lambda p: p.slate),
        Column(
            "front", lambda p: {True: "yes", False: "no", None: DASH}[p.on_front], lambda p: bool(p.on_front)
        ),
        Column("P(front)", lambda p: share_text(p.front_probability), lambda p: p.front_probability),
        Column("p50 ms [95%]", p50_text, lambda p: p.p50_ms),
        *_warm_columns(section),
        *(_metric_column(metric, section.task) for metric in TASKS[section.task].table_metrics),
        *_generation_columns(section),
        *_lesson_columns(section),
        *_cost_columns(section),
        Column(f"× {REFERENCE}", lambda p: number_text(p.speedup), lambda p: p.speedup),
        Column("mean ms", lambda p: significant(p.mean_ms), lambda p: p.mean_ms),
        Column("p90 ms", lambda p: number_text(p.p90_ms), lambda p: p.p90_ms),
        Column("p99 ms", lambda p: number_text(p.p99_ms), lambda p: p.p99_ms),
        Column("max ms", lambda p: significant(p.max_ms), lambda p: p.max_ms),
        Column("first call ms", lambda p: significant(p.first_call_ms), lambda p: p.first_call_ms),
        Column("load ms", lambda p: significant(p.load_ms), lambda p: p.load_ms),
        Column("loaded RSS MB", lambda p: number_text(p.loaded_rss_mb), lambda p: p.loaded_rss_mb),
        Column("peak RSS MB", lambda p: significant(p.peak_rss_mb), lambda p: p.peak_rss_mb),
        Column("file MB", lambda p: significant(p.file_mb), lambda p: p.file_mb),
        Column("runs", lambda p: str(p.runs), lambda p: p.runs),
        Column("processes", lambda p: str(p.processes), lambda p: p.processes),
        Column("threads", lambda p: str(p.threads), lambda p: p.threads),
        Column("scope", lambda p: p.scope, lambda p: p.scope),
        Column("group", lambda p: p.group, lambda p: p.group),
        Column("paper accuracy", lambda p: f"{p.paper.accuracy:.4f}" if p.paper else DASH, _paper_accuracy),
        Column("paper ms", lambda p: number_text(_paper_ms(p)), _paper_ms),
        Column("warnings", lambda p: "; ".join(p.warnings), lambda p: "; ".join(p.warnings)),
    ]


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


def ours_text(cell: Cell) -> str:
    """Our figure and in what it is not the row's, or why there is none."""
    return marked_text(cell.ours) if cell.ours else f"absent: {cell.absent}"


def marked_text(ours: Ours) -> str:
    """An accuracy with its marks: "0.7566, changed: vectors=tuned"."""
    return ", ".join([f"{ours.accuracy:.4f}", *ours.marks])


def printed_text(cell: Cell) -> str:
    """The paper's figure, and ours less it: "paper 0.7421, +0.0465"; nothing where it prints none."""
    if cell.paper is None:
        return ""
    return f"paper {cell.paper:.4f}" + ("" if cell.difference is None else f", {cell.difference:+.4f}")


def speed_text(row: Row) -> str:
    """The reference's latency and the fastest variant's: "0.811 → 0.143 onnx-int8 (ml-100k)"."""
    speed = row.speed
    if speed is None:
        return DASH
    slower = speed.reference_ms is not None and speed.fastest != REFERENCE
    scope = "" if speed.scope == "forward" else f", {speed.scope}"
    scope += f", changed: {options_text(speed.changed)}" if speed.changed else ""
    start = f"{number_text(speed.reference_ms)} → " if slower else ""
    return f"{start}{significant(speed.fastest_ms)} {speed.fastest} ({speed.dataset}{scope})"


def section_title(section: Section) -> str:
    """What a section is about, in a line."""
    threads = f"{section.threads} thread{'s' if section.threads > 1 else ''}"
    seen = " · seen items left out" if section.exclude_seen else ""
    machine = section.environment.cpu
    return f"{section.dataset} · {section.task} · {machine} · {threads} · scope {section.scope}{seen}"


def footnotes(section: Section) -> list[str]:
    """What a reader of the table has to know."""
    lines = [*section.notes]
    lines += _baseline_lines(section)
    lines.append(
        f"front: no other point of the {section.slate_name} is as fast and as accurate, and better in one of the two; "
        "accuracies that are printed alike are equal, and of these only the fastest is on the front."
    )
    if any(point.front_probability is not None for point in section.points):
        lines.append(
            f"P(front): share of {RESAMPLES:,} resamples in which the point is on the front. Accuracies redraw test "
            "users; times redraw processes, by Student's t as their intervals do, so few processes make it unsure."
        )
    lines += [
        f"{section.slate_name} {front.slate}: {front_text(front, section.metric_label)}"
        for front in section.fronts
        if front.hypervolume is not None
    ]
    if TASKS[section.task].ranks:
        lines.append("k: the number of items asked for.")
    if any(point.stages for point in section.points):
        lines.append("stages: share of a call's time, from observed calls that are no part of the latencies.")
    if any(point.warm_p50_ms is not None for point in section.points):
        lines.append(
            "warm: the same requests of users whose history the model read at an earlier request and keeps "
            "(rbserve serve --user-cache)."
        )
    if any(point.mflop is not None for point in section.points):
        lines.append(
            "MFLOP, MB: of a call's matrix products, and of all that its operators read and write. % of peak, "
            "% of bandwidth: the part of its time that these would take alone, as fast as this machine does them."
        )
    lines += _lesson_notes(section)
    if _off_stages(section):
        lines.append(f"Stages are told of calls that observing changed: {'; '.join(_off_stages(section))}.")
    lines.append(f"{DASH}: no figure, for the reason under “Not measured”.")
    return [*lines, f"{paper_title(section.paper_column)}.", *section.paper_cautions]


def _baseline_lines(section: Section) -> list[str]:
    """What each baseline reaches, and which likes popularity counts."""
    lines = []
    for name, figures in sorted(section.baselines.items()):
        values = ", ".join(f"{metric_title(key, section.task)} {value:.4f}" for key, value in figures.items())
        lines.append(f"Baseline {section.baseline_title(name)}, which knows items but no user: {values}.")
    if section.baseline_forms:
        lines.append(
            "popularity: how often the training users like an item; (last likes) of the items that training rows ask "
            "about, (all likes) of their histories as well. A profile takes the form that is stronger on validation."
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


def stages_text(stages: dict[str, float]) -> str:
    """Where the time of a generative model's call goes: "prefill 41%, step 50%, rest 9%"."""
    return ", ".join(f"{stage} {share:.0%}" for stage, share in stages.items() if share >= 0.005)


# ---- Cells ----


def _warm_columns(section: Section) -> list[Column]:
    """What a call takes where the user is remembered; nothing where no model does."""
    if all(point.warm_p50_ms is None for point in section.points):
        return []
    return [Column("warm p50 ms [95%]", _warm, lambda p: p.warm_p50_ms)]


def _warm(point: Point) -> str:
    return number_text(point.warm_p50_ms) + interval_text(point.warm_p50_ci95_ms, significant)


def _generation_columns(section: Section) -> list[Column]:
    """What only models have that generate their items; nothing where there is none."""
    found: list[Column] = []
    if any("illegal_share" in point.accuracy for point in section.points):
        found.append(_metric_column("illegal_share", section.task))
    if any(point.stages for point in section.points):
        found.append(Column("stages", _stages, _stages))
    return found


def _off_stages(section: Section) -> list[str]:
    """Where a call's stages do not add up to its time unobserved."""
    return [
        f"{point.label}, {section.slate_name} {point.slate}, took {point.stages_check:.0%} of its time"
        for point in section.points
        if point.stages_check is not None and abs(point.stages_check - 1) > STAGES_OFF
    ]


def _lesson_columns(section: Section) -> list[Column]:
    """What a student keeps of its teacher; nothing where there is no student."""
    if all(point.lesson is None for point in section.points):
        return []
    return [
        Column("teacher", lambda p: _of_lesson(p, _teacher), lambda p: _of_lesson(p, _teacher)),
        Column(
            f"% of its {section.metric_label} [95%]",
            lambda p: _of_lesson(p, _kept),
            lambda p: p.lesson.kept if p.lesson else None,
        ),
        Column(
            "× teacher [95%]",
            lambda p: _of_lesson(p, _times),
            lambda p: p.lesson.speedup if p.lesson else None,
        ),
    ]


def _of_lesson(point: Point, text: Callable[[Lesson], str]) -> str:
    return text(point.lesson) if point.lesson else DASH


def _teacher(one: Lesson) -> str:
    return f"{one.teacher} {one.variant}" if one.variant else one.teacher


def _kept(one: Lesson) -> str:
    return DASH if one.kept is None else f"{one.kept:.1%}" + interval_text(one.kept_ci95, "{:.1%}".format)


def _times(one: Lesson) -> str:
    return (
        DASH
        if one.speedup is None
        else significant(one.speedup) + interval_text(one.speedup_ci95, significant)
    )


def _lesson_notes(section: Section) -> list[str]:
    """What is said of students, where there are any, beside the paper's claim."""
    taught = [(point.name, point.lesson) for point in section.points if point.lesson]
    if not taught:
        return []
    lacking = {f"{name}: {one.absent}" for name, one in taught if one.absent}
    return [
        f"% of its {section.metric_label}, × teacher: of a student distilled from a teacher's scores, the share of the "
        "teacher's accuracy that it keeps and how many times as fast it is at the same "
        f"{section.slate_name}, by p50. An AUC of 0.5 is chance: half of the accuracy would be nothing.",
        *(f"Beside its teacher, {line}." for line in sorted(lacking)),
        paper_claim(),
    ]


def _cost_columns(section: Section) -> list[Column]:
    """What a call costs; nothing where it was not asked for."""
    if all(point.mflop is None for point in section.points):
        return []
    return [
        Column("MFLOP", lambda p: number_text(p.mflop), lambda p: p.mflop),
        Column("MB", lambda p: number_text(p.moved_mb), lambda p: p.moved_mb),
        Column("% of peak", lambda p: _percent(p.share_of_peak), lambda p: p.share_of_peak),
        Column("% of bandwidth", lambda p: _percent(p.share_of_bandwidth), lambda p: p.share_of_bandwidth),
    ]


def _percent(share: float | None) -> str:
    return DASH if share is None else significant(100 * share, 2)


def _stages(point: Point) -> str:
    return stages_text(point.stages) if point.stages else DASH


def _metric_column(metric: str, task: str) -> Column:
    title = metric_title(metric, task)
    interval = " [95%]" if metric in HEADLINES else ""
    return Column(f"{title}{interval}", lambda p: accuracy_text(p, metric), lambda p: p.value(metric))


def _paper_cells(row: Row) -> list[str]:
    cells = [
        (f"{ours_text(cell)} ({printed})" if (printed := printed_text(cell)) else ours_text(cell))
        + "".join(f"; {marked_text(one)}" for one in cell.also)
        for cell in row.cells
    ]
    return [row.model, row.group, row.paper_name, *cells, speed_text(row), number_text(row.paper_latency_ms)]


def _paper_accuracy(point: Point) -> float | None:
    return point.paper.accuracy if point.paper else None


def _paper_ms(point: Point) -> float | None:
    return point.paper.latency_ms if point.paper else None


def _csv(rows: Sequence[dict[str, str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(section: Section, point: Point) -> dict[str, str]:
    fields: dict[str, Any] = {"dataset": section.dataset, "task": section.task, "section": section.id}
    fields |= msgspec.structs.asdict(point)
    accuracy, paper, stages = fields.pop("accuracy"), fields.pop("paper"), fields.pop("stages")
    if taught := fields.pop("lesson"):
        fields |= {f"lesson_{name}": value for name, value in msgspec.structs.asdict(taught).items()}
    fields |= {_csv_name(key, section.task): value for key, value in accuracy.items() if value is not None}
    fields |= {f"stage_{name}": share for name, share in (stages or {}).items()}
    fields |= {"paper_accuracy": paper and paper.accuracy, "paper_latency_ms": paper and paper.latency_ms}
    fields["warnings"] = "; ".join(fields.pop("warnings"))
    fields["changed"] = options_text(fields.pop("changed"))
    row: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, tuple):
            row |= {f"{name}_low": _cell(value[0]), f"{name}_high": _cell(value[1])}
        else:
            row[name] = _cell(value)
    return row


def _csv_name(key: str, task: str) -> str:
    """An accuracy's column: what ranks a user's candidates never shares one with what ranks the catalogue."""
    shared = key.removesuffix("_ci95") in CTR_METRICS.keys() & SEQREC_METRICS.keys()
    return f"candidates_{key}" if shared and not TASKS[task].ranks else key


def _flat_cell(table: PaperTable, row: Row, cell: Cell) -> dict[str, str]:
    ours, speed = cell.ours, cell.speed
    low, high = (ours and ours.ci95) or (None, None)
    fields: dict[str, object] = {
        "table": table.table,
        "group": row.group,
        "model": row.model,
        "paper_name": row.paper_name,
        "metric": table.metric,
        "dataset": cell.dataset,
        "accuracy": ours and ours.accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "variant": ours and ours.variant,
        "run": ours and ours.run,
        "marks": "; ".join(ours.marks) if ours else None,
        "paper_accuracy": cell.paper,
        "difference": cell.difference,
        "absent": cell.absent,
        "command": cell.command,
        "scope": speed and speed.scope,
        "slate": speed and speed.slate,
        "reference_ms": speed and speed.reference_ms,
        "fastest_ms": speed and speed.fastest_ms,
        "fastest": speed and speed.fastest,
        "latency_run": speed and speed.run,
        "paper_latency_ms": row.paper_latency_ms,
    }
    return {name: _cell(value) for name, value in fields.items()}


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _md(text: str) -> str:
    """Text that Markdown shows as it is."""
    plain = html.escape(text.replace("\n", " "), quote=False)
    return re.sub(r"([\\`*|]|\](?=[(\[]))", r"\\\1", plain)


def _md_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell if cell == '---' else _md(cell) for cell in cells)} |"
