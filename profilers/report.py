"""Run files -> reports/<name>/: table.md, table.csv, pareto.png, pareto.svg, report.html, report.json.

report.json is what every other file is drawn from, and stable within one `schema`:

- `schema` 1; `created`: when the newest run was made; `sections`: one for each set of comparable runs.
- A section has the fields of `pareto.Section` (data set, task, `metric`, scope, threads, environment,
  `comparability_key`, `slates`, `points`, `baselines`, `paper`, `sources`, `notes`) and, in words,
  `answers` (one a slate: which point to serve, and how sure that is), `absent` (what was not measured, and
  why) and `method`.
- A point has the fields of `pareto.Point`. Times are milliseconds per call; null is "not measured", never 0.

The same runs give the same bytes.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rbserve.core.errors import DataError
from rbserve.core.files import replacing_directory
from rbserve.core.intervals import runs_needed
from rbserve.core.measurement import Measurement, read_measurement
from rbserve.core.metrics import METRICS
from rbserve.profilers.pareto import REFERENCE, TOLERANCE, Point, Section, overlap, sections
from rbserve.profilers.plot import VARIANT_STYLES, draw, paper_title

SCHEMA = 1
DASH = "–"
TABLE_METRICS = {"ctr": ("auc", "gauc", "logloss"), "seqrec": ("ndcg@10", "mrr", "recall@10")}


class Answer(msgspec.Struct, frozen=True):
    """Which point of a slate to serve: its id and label, its figures in a sentence, and how sure that is."""

    slate: int
    question: str
    point: str
    label: str
    figures: str
    notes: list[str]


class Column(NamedTuple):
    """A column of the tables people read; `value` is what it sorts by."""

    title: str
    text: Callable[[Point], str]
    value: Callable[[Point], float | str | None]


def collect(runs: Path) -> list[Measurement]:
    """The newest measurement of every model and data set in runs/*.json.

    Raises DataError for a file that is not a run of this version, and where there is none.
    """
    newest: dict[tuple[str, str], Measurement] = {}
    for path in sorted(runs.glob("*.json")):
        one = read_measurement(path)
        known = newest.get((one.dataset, one.model))
        if known is None or (known.created, known.id) < (one.created, one.id):
            newest[one.dataset, one.model] = one
    if not newest:
        raise DataError(f"no runs in {runs}", "rbserve profile --model gdcn")
    return [newest[key] for key in sorted(newest)]


def render(measurements: Sequence[Measurement], folder: Path) -> Path:
    """Writes the six files of a report into `folder`, whole or not at all; what was there is replaced."""
    if not measurements:
        raise DataError("no runs in the report", "rbserve profile --model gdcn")
    parts = sections(measurements)
    report = document(parts, max(one.created for one in measurements))
    with replacing_directory(folder) as partial:
        draw(parts, partial)
        (partial / "table.md").write_text(_markdown(parts), encoding="utf-8")
        (partial / "table.csv").write_text(_csv(parts), encoding="utf-8")
        (partial / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (partial / "report.html").write_text(_page(parts, report), encoding="utf-8")
    return folder


def document(parts: Sequence[Section], created: str) -> dict[str, Any]:
    """report.json, as the module's docstring describes it."""
    chapters = [
        {
            **msgspec.to_builtins(section),
            "answers": msgspec.to_builtins(answers(section)),
            "absent": list(absent(section)),
            "method": list(method(section)),
            "paper_title": paper_title(section),
        }
        for section in parts
    ]
    return {"schema": SCHEMA, "created": created, "sections": chapters}


# ---- Words ----


def answers(section: Section) -> list[Answer]:
    """The fastest point within TOLERANCE of the best accuracy, for each slate that has any accuracy."""
    return [
        _answer(section, slate, known)
        for slate in section.slates
        if (known := [point for point in section.at(slate) if point.value(section.metric) is not None])
    ]


def _answer(section: Section, slate: int, points: Sequence[Point]) -> Answer:
    metric, name = section.metric, section.metric_label
    best = max(points, key=lambda point: (point.value(metric) or 0.0, -point.p50_ms, point.id))
    enough = (best.value(metric) or 0.0) - TOLERANCE
    near = sorted((p for p in points if (p.value(metric) or 0.0) >= enough), key=lambda p: (p.p50_ms, p.id))
    pick = near[0]
    speed = (
        f", {significant(pick.speedup)}× as fast as its {REFERENCE}"
        if pick.speedup and pick.speedup != 1
        else ""
    )
    return Answer(
        slate=slate,
        question=f"Fastest within {TOLERANCE} {name} of the best at slate {slate}",
        point=pick.id,
        label=pick.label,
        figures=f"{_p50(pick)} ms p50 per call{speed}; {name} {_accuracy(pick, metric)}",
        notes=[*_doubts(section, pick, best, near[1:]), *pick.warnings],
    )


def _doubts(section: Section, pick: Point, best: Point, slower: Sequence[Point]) -> Iterator[str]:
    """What the intervals and the baselines say against a pick."""
    metric, name = section.metric, section.metric_label
    if pick is not best:
        settled = (
            f"the {name} intervals overlap, so these test rows do not settle which is more accurate"
            if overlap(pick.interval(metric), best.interval(metric))
            else f"the {name} intervals do not overlap"
        )
        yield f"The best {name} is that of {best.label}, {_accuracy(best, metric)}: {settled}."
    rivals = [one.label for one in slower if overlap(one.p50_ci95_ms, pick.p50_ci95_ms)]
    if rivals:
        yield f"Its p50 interval overlaps with that of {_listing(rivals)}: which is faster is not settled."
    for baseline, figures in sorted(section.baselines.items()):
        if figures.get(metric, -math.inf) >= (pick.value(metric) or 0.0):
            whom = "any point here" if figures[metric] >= (best.value(metric) or 0.0) else "this pick"
            yield f"The baseline {baseline} reaches {name} {figures[metric]:.4f} without a model, no less than {whom}."


def absent(section: Section) -> Iterator[str]:
    """What was not measured, each with its reason."""
    variants = dict.fromkeys(point.variant for point in section.points)
    for source in section.sources:
        there = {point.variant for point in section.points if point.model == source.model}
        missing = [one for one in variants if one not in there]
        if missing:
            yield f"{source.model} {_listing(missing)}: not in run {source.run}."
    for name, q, field in (("p90", 0.90, "p90_ms"), ("p99", 0.99, "p99_ms")):
        lacking = [
            f"{p.label} slate {p.slate} ({p.runs})" for p in section.points if getattr(p, field) is None
        ]
        if lacking:
            yield f"{name} of {_listing(lacking)}: fewer than the {runs_needed(q)} timed calls that certify it."
    lacking = [one.label for one in section.points if one.value(section.metric) is None]
    if lacking:
        yield f"{section.metric_label} of {_listing(lacking)}: not defined on these test rows, or not measured."
    unprinted = {one.model for one in section.points if one.paper is None or one.paper.latency_ms is None}
    if unprinted:
        yield f"Paper's figures of {_listing(sorted(unprinted))}: the paper prints none, or no latency."
    if section.environment.governor is None:
        yield "CPU frequency governor: this machine does not tell it."
    yield "Energy: rbserve reads no energy counter."


def method(section: Section) -> Iterator[str]:
    """How the figures were made."""
    points, machine = section.points, section.environment
    isa = ", ".join(machine.isa) or "no instruction set told"
    yield f"Machine: {machine.cpu} ({isa}), {machine.cores} cores, {machine.memory_mb:,} MB, kernel {machine.kernel}."
    processes, runs = _range(point.processes for point in points), _range(point.runs for point in points)
    yield (
        f"Latency: {runs} timed calls of each variant and slate in {processes} fresh processes, threads: "
        f"{section.threads}, scope: {section.scope}; the first call and the warm-up are kept apart. The interval "
        "of p50 resamples processes, then their calls."
    )
    yield (
        f"Accuracy: the variant that was timed, on {section.rows:,} test rows of {section.users:,} users; its interval "
        "resamples users. Models share these users, so a difference between two is surer than their intervals look."
    )
    yield f"Libraries: {', '.join(f'{name} {version}' for name, version in sorted(machine.libraries.items()))}."
    key = f"comparability key {section.comparability_key}"
    yield f"Data: {section.dataset}, fingerprint {section.dataset_fingerprint[:12]}; {key}."
    column = "mean of its five data sets" if section.paper_column == "overall" else section.paper_column
    yield f"Paper's figures: RecBench, Tables 3 to 5, column {column}; its latencies come from another machine."


# ---- Tables ----


def columns(task: str) -> list[Column]:
    """The columns of table.md and of the page, for a task."""
    return [
        Column("model", lambda p: p.model + (" ⚠" if p.warnings else ""), lambda p: p.model),
        Column("variant", lambda p: p.variant, lambda p: p.variant),
        Column("slate", lambda p: str(p.slate), lambda p: p.slate),
        Column(
            "front", lambda p: {True: "yes", False: "no", None: DASH}[p.on_front], lambda p: bool(p.on_front)
        ),
        Column("p50 ms [95%]", _p50, lambda p: p.p50_ms),
        *(_metric_column(metric) for metric in TABLE_METRICS[task]),
        Column(f"× {REFERENCE}", lambda p: _number(p.speedup), lambda p: p.speedup),
        Column("mean ms", lambda p: significant(p.mean_ms), lambda p: p.mean_ms),
        Column("p90 ms", lambda p: _number(p.p90_ms), lambda p: p.p90_ms),
        Column("p99 ms", lambda p: _number(p.p99_ms), lambda p: p.p99_ms),
        Column("max ms", lambda p: significant(p.max_ms), lambda p: p.max_ms),
        Column("first call ms", lambda p: significant(p.first_call_ms), lambda p: p.first_call_ms),
        Column("load ms", lambda p: significant(p.load_ms), lambda p: p.load_ms),
        Column("peak RSS MB", lambda p: significant(p.peak_rss_mb), lambda p: p.peak_rss_mb),
        Column("file MB", lambda p: significant(p.file_mb), lambda p: p.file_mb),
        Column("runs", lambda p: str(p.runs), lambda p: p.runs),
        Column("processes", lambda p: str(p.processes), lambda p: p.processes),
        Column("threads", lambda p: str(p.threads), lambda p: p.threads),
        Column("scope", lambda p: p.scope, lambda p: p.scope),
        Column("group", lambda p: p.group, lambda p: p.group),
        Column("paper accuracy", lambda p: f"{p.paper.accuracy:.4f}" if p.paper else DASH, _paper_accuracy),
        Column("paper ms", lambda p: _number(_paper_ms(p)), _paper_ms),
        Column("warnings", lambda p: "; ".join(p.warnings), lambda p: "; ".join(p.warnings)),
    ]


def _metric_column(metric: str) -> Column:
    title = metric.upper() if metric != "logloss" else metric
    interval = " [95%]" if metric in ("auc", "gauc") else ""
    return Column(f"{title}{interval}", lambda p: _accuracy(p, metric), lambda p: p.value(metric))


def _paper_accuracy(point: Point) -> float | None:
    return point.paper.accuracy if point.paper else None


def _paper_ms(point: Point) -> float | None:
    return point.paper.latency_ms if point.paper else None


def _markdown(parts: Sequence[Section]) -> str:
    lines = ["# Accuracy against latency", ""]
    for section in parts:
        lines += [f"## {_md(_title(section))}", ""]
        for answer in answers(section):
            lines += [f"**{answer.question}: {_md(answer.label)}**, {_md(answer.figures)}.", ""]
            lines += [*(f"- {_md(note)}" for note in answer.notes), ""]
        table = columns(section.task)
        lines += [_md_row([column.title for column in table]), _md_row(["---"] * len(table))]
        lines += [_md_row([column.text(point) for column in table]) for point in section.points]
        lines += ["", *(f"⚠ {_md(warning)}  " for warning in _warnings(section)), ""]
        lines += [f"- {_md(text)}" for text in _footnotes(section)]
        lines += ["", "How it was measured:", "", *(f"- {_md(line)}" for line in method(section)), ""]
        lines += ["Not measured:", "", *(f"- {_md(line)}" for line in absent(section)), ""]
        lines += ["```sh", *(source.command.replace("`", "") for source in section.sources), "```", ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _csv(parts: Sequence[Section]) -> str:
    """One row per point, every figure in a column of its own; what is not known is empty."""
    rows = [_flat(section, point) for section in parts for point in section.points]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(section: Section, point: Point) -> dict[str, str]:
    fields: dict[str, Any] = {"dataset": section.dataset, "task": section.task, "section": section.id}
    fields |= msgspec.structs.asdict(point)
    accuracy, paper = fields.pop("accuracy"), fields.pop("paper")
    keys = [key for name in METRICS for key in (name, f"{name}_ci95")]
    fields |= {key: accuracy[key] for key in keys if accuracy.get(key) is not None}
    fields |= {"paper_accuracy": paper and paper.accuracy, "paper_latency_ms": paper and paper.latency_ms}
    fields["warnings"] = "; ".join(fields.pop("warnings"))
    row: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, tuple):
            row |= {f"{name}_low": _cell(value[0]), f"{name}_high": _cell(value[1])}
        else:
            row[name] = _cell(value)
    return row


# ---- The page ----


def _page(parts: Sequence[Section], report: dict[str, Any]) -> str:
    """One file with its style, script and data inside; without a script the tables are still there."""
    fills = {
        "title": html.escape(_listing(list(dict.fromkeys(part.dataset for part in parts)))),
        "style": _asset("page.css"),
        "script": _asset("page.js"),
        "created": html.escape(report["created"]),
        "data": _embedded({**report, "styles": {name: shape for name, (_, shape) in VARIANT_STYLES.items()}}),
        "body": "\n".join(_section_html(index, part) for index, part in enumerate(parts)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fills[match[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _embedded(value: object) -> str:
    """JSON that may stand inside a script element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _section_html(index: int, section: Section) -> str:
    commands = "\n".join(source.command for source in section.sources)
    warnings = [f"⚠ {warning}" for warning in _warnings(section)]
    return f"""<section class="part" id="{section.id}" data-index="{index}">
<h2>{html.escape(_title(section))}</h2>
{_list_html(section.notes, "alert")}
<div class="answers">{"".join(_answer_html(answer) for answer in answers(section))}</div>
<div class="board"></div>
<h3>Every figure</h3>
{_list_html(warnings, "alert")}
<div class="scroll" tabindex="0" role="region" aria-label="Table of every figure">{_table_html(section)}</div>
{_list_html(_footnotes(section), "notes")}
<div class="columns">
<div><h3>How it was measured</h3>{_list_html(method(section), "notes")}</div>
<div><h3>Not measured</h3>{_list_html(absent(section), "notes")}</div>
</div>
<details><summary>Commands that measure this again</summary><pre>{html.escape(commands)}</pre></details>
</section>"""


def _answer_html(answer: Answer) -> str:
    return f"""<article class="answer" data-slate="{answer.slate}">
<p class="question">{html.escape(answer.question)}</p>
<p class="pick">{html.escape(answer.label)}</p>
<p class="figures">{html.escape(answer.figures)}</p>
{_list_html(answer.notes, "notes")}</article>"""


def _table_html(section: Section) -> str:
    table = columns(section.task)
    head = "".join(f'<th scope="col">{html.escape(column.title)}</th>' for column in table)
    rows = "\n".join(_row_html(table, point) for point in section.points)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _row_html(table: Sequence[Column], point: Point) -> str:
    cells = "".join(_cell_html(index, column, point) for index, column in enumerate(table))
    kind = ' class="front"' if point.on_front else ""
    return f'<tr{kind} data-point="{html.escape(point.id)}">{cells}</tr>'


def _cell_html(index: int, column: Column, point: Point) -> str:
    value = column.value(point)
    sort = "" if value is None else html.escape(str(value))
    tag, scope = ("td", "") if index else ("th", ' scope="row"')
    kind = "" if isinstance(value, str) else ' class="number"'
    return f'<{tag}{scope}{kind} data-sort="{sort}">{html.escape(column.text(point))}</{tag}>'


def _list_html(lines: Sequence[str] | Iterator[str], kind: str) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


# ---- Texts and numbers ----


def _title(section: Section) -> str:
    threads = f"{section.threads} thread{'s' if section.threads > 1 else ''}"
    return (
        f"{section.dataset} · {section.task} · {section.environment.cpu} · {threads} · scope {section.scope}"
    )


def _footnotes(section: Section) -> list[str]:
    """What a reader of the table has to know."""
    lines = [*section.notes]
    for name, figures in sorted(section.baselines.items()):
        values = ", ".join(f"{key.upper()} {value:.4f}" for key, value in figures.items())
        lines.append(f"Baseline {name} (knows items but no user): {values}.")
    lines.append(
        "front: no other point of the slate is as fast and as accurate, and better in one of the two."
    )
    lines.append(f"{DASH}: not measured, for the reason under “Not measured”.")
    lines.append(f"{paper_title(section)}.")
    return lines


def _warnings(section: Section) -> list[str]:
    """Each variant's warnings once, whatever its slates."""
    return list(
        dict.fromkeys(f"{point.label}: {text}" for point in section.points for text in point.warnings)
    )


def significant(value: float, digits: int = 3) -> str:
    """A number in plain notation with that many significant digits: 0.148, 6.40, 1,140."""
    if not value or not math.isfinite(value):
        return "0" if value == 0 else DASH
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def _number(value: float | None) -> str:
    return DASH if value is None else significant(value)


def _p50(point: Point) -> str:
    low, high = point.p50_ci95_ms
    return f"{significant(point.p50_ms)} [{significant(low)}, {significant(high)}]"


def _accuracy(point: Point, metric: str) -> str:
    value, interval = point.value(metric), point.interval(metric)
    if value is None:
        return DASH
    return f"{value:.4f}" + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _range(values: Iterator[int]) -> str:
    low, *_, high = [*sorted(values) * 2]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _listing(words: Sequence[str], most: int = 4) -> str:
    """A, B and C; or the first few and how many more."""
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _md(text: str) -> str:
    """Text that Markdown shows as it is."""
    plain = html.escape(text.replace("\n", " "), quote=False)
    return re.sub(r"([\\`*|]|\](?=[(\[]))", r"\\\1", plain)


def _md_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell if cell == '---' else _md(cell) for cell in cells)} |"
