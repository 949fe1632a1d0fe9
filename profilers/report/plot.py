"""The pictures of a report: accuracy against p50 latency, with intervals, the front and, apart, the paper's figures.

pareto.png and .svg have every section; figures/ has each panel alone, of a column's width and legible at 400 pixels,
for a paper or a slide. Points carry 95% intervals both ways; what the front dominates is dimmed, the less the surer
a point is on it. What was timed and not judged stands on the lower edge. The paper's figures come from other data and
another machine, so they get a panel of their own and never share an axis with a measurement.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from rbserve.core.errors import UsageError
from rbserve.core.tasks import TASKS
from rbserve.profilers.compare.front import nondominated
from rbserve.profilers.compare.paper import PaperRow, paper_title
from rbserve.profilers.compare.points import Point
from rbserve.profilers.compare.sections import Section
from rbserve.profilers.report.label_layout import Name, Segment, steps, write

# Okabe and Ito's colours, told apart by colour-blind readers; each variant has a marker of its own as well.
VARIANT_STYLES = {
    "torch-fp32": ("#D55E00", "o"),
    "onnx-fp32": ("#0072B2", "s"),
    "onnx-int8": ("#009E73", "^"),
    "onnx-int4": ("#CC79A7", "D"),
    "openvino-bf16": ("#8A6D00", "v"),
}
OTHER_STYLE = ("#7A5195", "P")
INK, MUTED, RULE = "#1c2430", "#667080", "#e3e7ec"

WIDTH, LEFT, RIGHT, GAP = 12.0, 0.85, 1.3, 2.05  # inches, as are the next
HEADER, FIRST, OTHERS, EMPTY, BELOW = 1.6, 5.4, 4.0, 1.3, 1.15
DPI = 150
COLUMN, TALL, COLUMN_DPI = (
    5.2,
    4.3,
    240,
)  # inches of a figure of its own: 1,248 pixels, and 9 points are 10 px at 400
CROWD = 12  # more models than this need the whole width for their names


def draw(sections: Sequence[Section], folder: Path) -> None:
    """Writes pareto.png, pareto.svg and figures/; the same sections give the same bytes."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "a report needs matplotlib, which is not installed", "pip install 'rbserve[report]'"
        ) from None
    with matplotlib.rc_context(
        {"svg.hashsalt": "rbserve", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
    ):
        _save(figure(sections), folder / "pareto")
        (folder / "figures").mkdir()
        names: set[str] = set()
        for section in sections:
            for slate in _drawn(section):
                name = _figure_name(section, slate)
                name = f"{section.id}-{name}" if name in names else name
                names.add(name)
                _save(column_figure(section, slate), folder / "figures" / name, COLUMN_DPI)


def _save(picture: Any, path: Path, dpi: int = DPI) -> None:
    """The picture as .png and .svg, without the time of day in it."""
    picture.savefig(path.with_name(f"{path.name}.png"), dpi=dpi, metadata={"Software": None})
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    picture.savefig(path.with_name(f"{path.name}.svg"), metadata=nothing)


def _figure_name(section: Section, slate: int) -> str:
    """A file's name, of plain letters: "ml-100k-ctr-forward-slate-100"."""
    parts = [section.dataset, section.task, section.scope, section.slate_name, str(slate)]
    parts += ["unseen"] if section.exclude_seen else []
    parts += [f"{section.threads}-threads"] if section.threads > 1 else []
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts)).strip("-.")


def figure(sections: Sequence[Section]) -> Any:
    """The matplotlib Figure: for each section its first slate, wide; below, the other slates and the paper's panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layouts = [_rows(section) for section in sections]
    height = sum(HEADER + sum(tall + BELOW for tall, _ in rows) for rows in layouts)
    picture = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(picture)
    top = height
    for section, rows in zip(sections, layouts, strict=True):
        _header(picture, section, top)
        top -= HEADER
        for tall, panels in rows:
            for left, wide, slate in panels:
                axes = picture.add_axes((left / WIDTH, (top - tall) / height, wide / WIDTH, tall / height))
                _paper_panel(axes, section) if slate is None else _panel(axes, section, slate)
            top -= tall + BELOW
    return picture


def column_figure(section: Section, slate: int) -> Any:
    """One slate as a figure of its own, a column wide."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(COLUMN, TALL), dpi=DPI, facecolor="white")
    FigureCanvasAgg(picture)
    named = bool(section.baselines)
    wide = COLUMN - 0.72 - (0.95 if named else 0.15)
    axes = picture.add_axes((0.72 / COLUMN, 0.82 / TALL, wide / COLUMN, (TALL - 1.25) / TALL))
    _panel(axes, section, slate)
    axes.set_title("", loc="left")
    threads = f"{section.threads} thread{'s' * (section.threads > 1)}"
    _text(picture, 0.1, TALL - 0.26, f"{section.dataset}, {section.slate_name} {slate}", 11, INK, "bold")
    facts = f"{section.environment.cpu}, {threads}, {section.scope}; bars: 95%"
    picture.text(
        (COLUMN - 0.1) / COLUMN,
        (TALL - 0.26) / TALL,
        facts,
        fontsize=8.5,
        color=MUTED,
        ha="right",
        parse_math=False,
    )
    picture.legend(
        handles=_handles(section.at(slate), 6),
        loc="lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
        handletextpad=0.2,
        columnspacing=1.0,
        borderaxespad=0.1,
    )
    return picture


def style(variant: str) -> tuple[str, str]:
    """Colour and marker of a variant."""
    return VARIANT_STYLES.get(variant, OTHER_STYLE)


# ---- Layout and panels ----


def _rows(section: Section) -> list[tuple[float, list[tuple[float, float, int | None]]]]:
    """Rows of (height, [(left, width, slate; None for the paper)]), in inches."""
    first, *others = _drawn(section) or section.slates[:1]
    full = WIDTH - LEFT - RIGHT
    tall = FIRST if _drawn(section) else EMPTY
    rows: list[tuple[float, list[tuple[float, float, int | None]]]] = [(tall, [(LEFT, full, first)])]
    panels: list[int | None] = [*others, None] if _printed(section) else [*others]
    abreast = 2 if len({point.model for point in section.points}) <= CROWD else 1
    for start in range(0, len(panels), abreast):
        pair = panels[start : start + abreast]
        wide = (full - GAP) * 0.55 if len(pair) == 2 else full
        right = LEFT + wide + GAP
        # The paper's panel names no baselines, so it may use the margin they are named in.
        sizes = [(LEFT, wide), (right, WIDTH - right - (0.35 if pair[-1] is None else RIGHT))]
        rows.append((OTHERS, [(*size, slate) for size, slate in zip(sizes, pair, strict=False)]))
    return rows


def _drawn(section: Section) -> list[int]:
    """The slates with an accuracy to draw."""
    return [
        slate
        for slate in section.slates
        if any(point.value(section.metric) is not None for point in section.at(slate))
    ]


def _handles(points: Sequence[Point], size: float) -> list[Any]:
    """A legend's marks of the variants, and the front's line."""
    from matplotlib.lines import Line2D

    variants = dict.fromkeys(point.variant for point in points)
    marks = [
        Line2D([], [], color=style(one)[0], marker=style(one)[1], ls="", ms=size, label=one)
        for one in variants
    ]
    return [*marks, Line2D([], [], color=INK, lw=1.6, label="front")]


def _header(picture: Any, section: Section, top: float) -> None:
    """Title, machine and legend of a section, whose upper edge is `top` inches up."""
    from matplotlib.lines import Line2D

    height = picture.get_figheight()
    environment = section.environment
    threads = f"{section.threads} thread{'s' if section.threads > 1 else ''}"
    title = f"{section.dataset}: {section.metric_label} against latency"
    _text(picture, 0.3, top - 0.42, title, 17, INK, "bold")
    seen = ", seen items left out" if section.exclude_seen else ""
    facts = f"{environment.cpu}, {threads}, scope {section.scope}{seen}; bars are 95% intervals"
    _text(picture, 0.3, top - 0.72, facts, 10.5, MUTED)
    handles = _handles(section.points, 8)
    handles += [
        Line2D([], [], color=MUTED, marker="o", ls="", ms=8, alpha=0.35, label="dominated (dimmed)"),
        Line2D([], [], color="#c3cad3", lw=1, label="same model"),
    ]
    if section.baselines:
        handles.append(Line2D([], [], color=MUTED, lw=1.2, ls=(0, (5, 4)), label="baseline, no model"))
    picture.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.2 / WIDTH, (top - 0.78) / height),
        ncols=len(handles),
        frameon=False,
        fontsize=10,
        handletextpad=0.5,
        columnspacing=1.6,
        borderaxespad=0.2,
    )


def _text(
    picture: Any, x: float, y: float, text: str, size: float, color: str, weight: str = "normal"
) -> None:
    """Plain text on the figure, inches from its lower left corner."""
    height = picture.get_figheight()
    picture.text(x / WIDTH, y / height, text, fontsize=size, color=color, weight=weight, parse_math=False)


def _panel(axes: Any, section: Section, slate: int) -> None:
    """One slate: every point with its intervals, the front, the baselines and the labels."""
    metric = section.metric
    points = [point for point in section.at(slate) if point.value(metric) is not None]
    front = sorted((point for point in points if point.on_front), key=lambda point: point.p50_ms)
    ends = [end for point in section.at(slate) for end in point.p50_ci95_ms]
    what = TASKS[section.task].size_unit
    title = f"{section.slate_name} {slate}: {slate} {what}{'s' if slate > 1 else ''} per call"
    _frame(axes, section.metric_label, title, min(ends) / 1.35, max(ends) * 1.5)
    axes.set_xlabel("p50 latency per call, ms (log scale, left is faster)", color=MUTED, fontsize=10)
    unjudged = [point for point in section.at(slate) if point.value(metric) is None]
    if not points:
        reason = f"{section.metric_label} was not measured: latency only"
        axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        _on_the_edge(axes, unjudged)
        write(axes, _edge_names(unjudged, 0.0), [(one.p50_ms, 0.0) for one in unjudged], [])
        return
    low, high = _reach(points, metric)
    axes.set_ylim(low, high)
    _baselines(axes, section)
    _models(axes, points, metric)
    _on_the_edge(axes, unjudged)
    groups: dict[tuple[bool, bool, str], list[Point]] = {}
    for point in points:
        groups.setdefault((bool(point.on_front), point.aside is not None, point.variant), []).append(point)
    for group in groups.values():
        _marks(axes, group, metric)
    xs, ys = [point.p50_ms for point in front], [point.value(metric) or 0.0 for point in front]
    corners = [*xs, axes.get_xlim()[1]], [*ys, *ys[-1:]]
    corners = corners if front else ([], [])
    axes.step(*corners, where="post", color=INK, lw=1.6, zorder=3.5)
    _name_points(axes, points, front, unjudged, metric, steps(*corners))


def _reach(points: Sequence[Point], metric: str) -> tuple[float, float]:
    """Limits of the accuracy axis: every interval in full."""
    ends = [end for point in points for end in point.interval(metric) or (point.value(metric) or 0.0,)]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 0.01
    return low - margin, high + margin


def _frame(axes: Any, metric_label: str, title: str, low: float, high: float) -> None:
    """The axes of a panel for latencies from `low` to `high`."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(low, high)
    inches = axes.get_position().width * axes.figure.get_figwidth() / math.log10(high / low)
    ticks = {
        12.0: (1.0, 1.2, 1.5, *range(2, 10)),
        5.0: (1.0, 2.0, 3.0, 5.0, 7.0),
        1.6: (1.0, 2.0, 5.0),
        0.0: (1.0,),
    }
    subs = next(leads for room, leads in ticks.items() if inches > room)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=50))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.set_title(title, loc="left", fontsize=12, color=INK, weight="bold", pad=9, parse_math=False)
    axes.set_ylabel(f"{metric_label} (up is better)", color=MUTED, fontsize=10)
    axes.grid(color=RULE, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=9.5, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#b8c0ca")


def _baselines(axes: Any, section: Section) -> None:
    """Dashed lines, named in the right margin where no point can be; one off the axis is named at its edge."""
    low, high = axes.get_ylim()
    line = (high - low) * 1.45 * 9.5 / 72 / (axes.get_position().height * axes.figure.get_figheight())
    rows = sorted(
        (figures[section.metric], name)
        for name, figures in section.baselines.items()
        if section.metric in figures
    )
    texts, spots = [], []
    for value, name in rows:
        arrow = "↓ " if value < low else "↑ " if value > high else ""
        form = [f" ({section.baseline_forms[name]})"] if name in section.baseline_forms else []
        texts.append([f" {arrow}{name}", *form, f" {value:.4f}"])
        spots.append((min(max(value, low), high), line * len(texts[-1])))
    for (value, _), words, height in zip(rows, texts, _stacked(spots, high), strict=True):
        axes.axhline(value, color=MUTED, lw=1.2, ls=(0, (5, 4)), zorder=1)
        at = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(1.0, height, "\n".join(words), color=MUTED, fontsize=9.5, parse_math=False, **at)
    axes.set_ylim(low, high)


def _stacked(spots: Sequence[tuple[float, float]], top: float) -> list[float]:
    """Middles for texts of (wished middle, height), rising, so that none covers another and none is above `top`."""
    middles: list[float] = []
    for number, (wish, height) in enumerate(spots):
        below = middles[-1] + (spots[number - 1][1] + height) / 2 if middles else wish
        middles.append(max(wish, below))
    for number in reversed(range(len(middles))):
        above = (
            middles[number + 1] - (spots[number + 1][1] + spots[number][1]) / 2
            if number + 1 < len(middles)
            else top
        )
        middles[number] = min(middles[number], above)
    return middles


def _models(axes: Any, points: Sequence[Point], metric: str) -> None:
    """A faint line through the variants of each model."""
    for name in dict.fromkeys(point.name for point in points):
        own = sorted((point for point in points if point.name == name), key=lambda point: point.p50_ms)
        ys = [point.value(metric) for point in own]
        axes.plot([point.p50_ms for point in own], ys, color="#c3cad3", lw=1, zorder=1.5)


def _marks(axes: Any, points: Sequence[Point], metric: str) -> None:
    """The points of one variant, all on the front or all dominated, with their intervals."""
    front = bool(points[0].on_front)
    color, marker = style(points[0].variant)
    xs, ys = [point.p50_ms for point in points], [point.value(metric) for point in points]
    alpha, width, layer = (0.85, 1.5, 4.0) if front else (0.22, 1.1, 2.0)
    bars: dict[str, Any] = {"color": color, "alpha": alpha, "lw": width, "zorder": layer}
    axes.hlines(ys, *zip(*(point.p50_ci95_ms for point in points), strict=True), **bars)
    sure = [(point.p50_ms, *interval) for point in points if (interval := point.interval(metric))]
    if sure:
        axes.vlines(*zip(*sure, strict=True), **bars)
    size, strength = (9.5, 1.0) if front else (7.0, 0.5)
    if points[0].aside:  # hollow: judged on other rows
        hollow = {"mfc": "white", "mec": color, "mew": 1.3, "zorder": layer + 1}
        axes.plot(xs, ys, ls="", marker=marker, ms=size, **hollow)
        return
    for point, x, y in zip(points, xs, ys, strict=True):
        solid = strength if front else max(strength, point.front_probability or 0.0)
        edge = {"mec": "white", "mew": 0.8, "alpha": solid, "zorder": layer + 1}
        axes.plot([x], [y], ls="", marker=marker, color=color, ms=size, **edge)


def _on_the_edge(axes: Any, points: Sequence[Point]) -> None:
    """What was timed and not judged, on the lower edge of its axes."""
    for point in points:
        color, marker = style(point.variant)
        edge = {"mec": "white", "mew": 0.8, "alpha": 0.6, "zorder": 5, "clip_on": False}
        transform = axes.get_xaxis_transform()
        axes.plot([point.p50_ms], [0], ls="", marker=marker, color=color, ms=7, transform=transform, **edge)


def _edge_names(points: Sequence[Point], low: float) -> list[Name]:
    slowest = {one.name: one for one in sorted(points, key=lambda one: (one.p50_ms, one.variant))}
    return [Name(one.name, one.p50_ms, low, 90.0, "#4a5361", "normal", 9.0) for one in slowest.values()]


# ---- The paper ----


def _printed(section: Section) -> list[PaperRow]:
    """The paper's rows with both figures, for the models of the section."""
    models = {point.model for point in section.points}
    return [row for row in section.paper if row.latency_ms is not None and row.model in models]


def _paper_panel(axes: Any, section: Section) -> None:
    """The paper's table for the task: hollow grey, on its own axes; the rows measured here are darker."""
    rows = [row for row in section.paper if row.latency_ms is not None]
    mine = {row.model for row in _printed(section)}
    spots = [(row.latency_ms or 0.0, row.accuracy) for row in rows]
    xs, ys = [x for x, _ in spots], [y for _, y in spots]
    title = paper_title(section.paper_column).replace(" (", "\n(")
    _frame(axes, section.metric_label, title, min(xs) / 2.5, max(xs) * 2.5)
    axes.title.set_fontsize(10.5)
    axes.set_facecolor("#f7f8fa")
    label = "latency per sample as printed, ms (log scale)"
    cautions = [fill(caution, 80) for caution in section.paper_cautions]
    axes.set_xlabel("\n".join([label, *cautions]), color=MUTED, fontsize=10 if not cautions else 8.5)
    margin = 0.08 * (max(ys) - min(ys))
    axes.set_ylim(min(ys) - margin, max(ys) + margin)
    for row, (x, y) in zip(rows, spots, strict=True):
        axes.plot(x, y, "o", ms=6.5, mfc="none", mec="#3d4653" if row.model in mine else "#b4bcc7", mew=1.3)
    kept = nondominated(spots, ("lower", "higher"))
    front = sorted(spot for spot, keep in zip(spots, kept, strict=True) if keep)
    corners = [x for x, _ in front], [y for _, y in front]
    axes.step(*corners, where="post", color="#9aa4b1", lw=1.1, ls=(0, (2, 2)), zorder=1)
    names = [
        Name(row.model, x, y, 90.0, "#3d4653" if row.model in mine else "#8a94a1", "normal", 8.5)
        for row, (x, y), keep in zip(rows, spots, kept, strict=True)
        if keep or row.model in mine
    ]
    write(axes, sorted(names, key=lambda name: (name.color, name.x)), spots, steps(*corners))


# ---- Labels ----


def _name_points(
    axes: Any,
    points: Sequence[Point],
    front: Sequence[Point],
    unjudged: Sequence[Point],
    metric: str,
    step_line: Sequence[Segment],
) -> None:
    """Names each model once: on the front at its fastest variant there, else at its slowest."""

    def at(point: Point) -> tuple[float, float]:
        return point.p50_ms, point.value(metric) or 0.0

    slowest = {one.name: one for one in sorted(points, key=lambda one: (one.p50_ms, one.variant))}
    # A line leads from there to the model's other variants.
    named = {one.name: one for one in reversed(front)}
    others = sorted((one for one in slowest.values() if one.name not in named), key=lambda one: at(one)[1])
    names = [Name(one.name, *at(one), 135.0, INK, "bold", 10.0) for one in named.values()]
    names += [Name(one.name, *at(one), 0.0, "#4a5361", "normal", 9.5) for one in others]
    low = axes.get_ylim()[0]
    names += _edge_names(unjudged, low)
    lines = [*step_line]
    for point in points:
        x, y = at(point)
        low, high = point.interval(metric) or (y, y)
        lines.append((x, low, x, high))
        lines.append((point.p50_ci95_ms[0], y, slowest[point.name].p50_ms, y))  # and its model's line
    write(axes, names, [*map(at, points), *((one.p50_ms, low) for one in unjudged)], lines)
