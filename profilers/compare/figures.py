"""The figures of a report: one row for each number or word that is said of a point, and where it is shown.

Everything that shows a point reads FIGURES: the console, table.md, table.csv, report.html and report.json, and through
report.json the page's script. A new figure is a row here and the field of a run's `Result` that holds its value.
An accuracy is not listed: each row of `stats.metrics` is a figure as well (`metric_figures`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from rbserve.core.tasks import TASKS
from rbserve.core.variants import REFERENCE, find_variant
from rbserve.profilers.compare.points import BaselineGap, Point, TeacherComparison
from rbserve.profilers.compare.wording import (
    DASH,
    interval_text,
    share_text,
    significant,
    stages_text,
)
from rbserve.runs.changes import changed, options_text
from rbserve.runs.measurement import Latency, SlateSizes
from rbserve.runs.plan import TABLE
from rbserve.runs.roofline import Roofline
from rbserve.stats.bootstrap import RESAMPLES
from rbserve.stats.intervals import Interval
from rbserve.stats.metrics import ILLEGAL_SHARE, METRICS, metric_title

PLACES = {
    "profile": "the console's table of a profile",
    "page": "the page's table of every figure",
    "once": "the page's table, but not its print where all rows agree: the text says it too",
    "summary": "the first table of a section in table.md",
    "accuracy": "table.md: accuracy of each variant",
    "student": "table.md: students beside their teachers",
    "call": "table.md: what a call costs",
    "tip": "what the page shows of a point under the pointer",
    "filter": "the page's filters",
    "target": "the statistics of the page's latency target",
}
"""Where a figure may be shown; report.json and table.csv have all figures."""


class Figure(NamedTuple):
    """One figure of a point.

    `key` is its field in report.json and its column in table.csv. `get` reads its value, None where it was not
    measured; `text` writes it for people. `title` heads its column; `{size}` in it is what the task calls the size of a
    request, `{metric}` the task's headline metric. `shown` has its PLACES, separated by spaces. A `rare` figure is left
    out of a table in which no point has it. `note` explains the figure below a table that has it.
    """

    key: str
    title: str
    unit: str
    get: Callable[[Point], Any]
    text: Callable[[Any], str] = str
    shown: str = ""
    interval: Callable[[Point], Interval | None] | None = None
    rare: bool = False
    note: str = ""

    def name(self, task: str) -> str:
        """Title and unit: "p50 ms"."""
        title = self.title.format(size=TASKS[task].size_name, metric=metric_title(TASKS[task].metric, task))
        return f"{title} {self.unit}".strip()

    def head(self, task: str) -> str:
        """The head of its column: "p50 ms [95%]"."""
        return self.name(task) + " [95%]" * bool(self.interval)

    def cell(self, point: Point, absent: str = DASH) -> str:
        """The value with its interval, `absent` where there is none."""
        value = self.get(point)
        if value is None:
            return absent
        return self.text(value) + interval_text(self.interval(point) if self.interval else None, self.text)

    def order(self, point: Point) -> float | str | None:
        """What a column sorts by: the number, or the text."""
        value = self.get(point)
        return value if value is None or isinstance(value, int | float) else self.text(value)

    def shown_in(self, place: str) -> bool:
        """Whether it is shown in one of PLACES."""
        return place in self.shown.split()


# ---- Values and texts ----


def _warm(read: Callable[[Latency], Any]) -> Callable[[Point], Any]:
    """Reads a figure of the latency for remembered users; None where the model remembers nobody."""
    return lambda point: read(point.result.warm_ms) if point.result.warm_ms else None


def _lesson(read: Callable[[TeacherComparison], Any]) -> Callable[[Point], Any]:
    """Reads a figure of a student beside its teacher; None where the model was not distilled."""
    return lambda point: read(point.lesson) if point.lesson else None


def _cost(read: Callable[[Roofline], Any]) -> Callable[[Point], Any]:
    """Reads a figure of what a call costs; None where that was not measured."""
    return lambda point: read(point.result.cost) if point.result.cost else None


def _below(read: Callable[[BaselineGap], Any]) -> Callable[[Point], Any]:
    """Reads a figure of the gap to the best baseline; None where the accuracy is above it."""
    return lambda point: read(point.below) if point.below else None


def _speedup(adopted: bool) -> Callable[[Point], float | None]:
    """Reads the speed-up over torch-fp32, or over the other variant that an adopted model came as."""
    return lambda point: point.speedup if (point.reference != REFERENCE) is adopted else None


def _ms_per_candidate(point: Point) -> float | None:
    if TASKS[point.run.task].ranks or point.slate == TABLE:
        return None
    return point.p50_ms / point.slate


def _sizes(read: Callable[[SlateSizes], Any]) -> Callable[[Point], Any]:
    """Reads a figure of the candidates of each call; None where all calls have as many as the slate says."""
    return lambda point: read(point.result.slate_sizes) if point.result.slate_sizes else None


def _sizes_text(sizes: SlateSizes) -> str:
    """The fewest, the median and the most candidates of a call: "1 / 14 / 120"."""
    return f"{sizes.min} / {sizes.median:g} / {sizes.max}"


def _recall(k: int) -> Callable[[Point], float | None]:
    """Reads the share of the k items of the exact list that an index finds; None of a variant without one."""
    return lambda point: point.run.predictions.exact_recall.get(point.variant, {}).get(k)


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _joined(words: Sequence[str]) -> str:
    return "; ".join(words)


def _four_digits(value: float) -> str:
    return f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _hundredths(share: float) -> str:
    return significant(100 * share, 2)


def _teacher(point: Point) -> str | None:
    """The teacher and the variant of it that the student is compared with."""
    lesson = point.lesson
    return " ".join(filter(None, [lesson.teacher, lesson.variant])) if lesson else None


# ---- The table ----

_FRONT = (
    "front: no other point of the {size} is as fast and as accurate, and better in one of the two; "
    "accuracies that are printed alike are equal, and of these only the fastest is on the front."
)
_PROBABILITY = (
    f"P(front): share of {RESAMPLES:,} resamples in which the point is on the front. Accuracies redraw test "
    "users; times redraw processes, by Student's t as their intervals do, so few processes make it unsure."
)
_STAGES = "stages: share of a call's time, from observed calls that are no part of the latencies."
_WARM = (
    "warm: the same requests of users whose history the model read at an earlier request and keeps "
    "(rbserve serve --user-cache)."
)
_COST = (
    "MFLOP, MB: of a call's matrix products, and of all that its operators read and write. % of peak, "
    "% of bandwidth: the part of its time that these would take alone, as fast as this machine does them."
)
_ADOPTED = (
    "× as adopted: p50 of the variant that an adopted model came as (its own library, its ONNX file) divided by this "
    "one's."
)
_STUDENT = (
    "% of its {metric}, × teacher: of a student distilled from a teacher's scores, the share of the teacher's accuracy "
    "that it keeps and how many times as fast it is at the same {size}, by p50. An AUC of 0.5 is chance: half of the "
    "accuracy would be nothing."
)

_RECALL = (
    "recall@k: the share of the k items of the exact list, of the same model and users, that the index finds."
)
_BASELINE = (
    "▼: no better than the best baseline on these test rows. “below” where the 95% interval of the difference, from "
    f"{RESAMPLES:,} resamples of the same users, excludes 0; of run files without the baseline's answers, where "
    "the accuracy's own interval is below the baseline."
)

# fmt: off
FIGURES: list[Figure] = [
    # which point
    Figure("id", "", "", lambda p: p.id),
    Figure("model", "", "", lambda p: p.run.model),
    Figure("name", "model", "", lambda p: p.name, shown="page summary accuracy student call"),
    Figure("changed", "", "", lambda p: changed(p.run), options_text),
    Figure("variant", "variant", "", lambda p: p.variant, shown="profile page summary accuracy student call"),
    Figure("item_form", "items", "", lambda p: p.run.item_form, shown="filter"),
    Figure("runtime", "runtime", "", lambda p: find_variant(p.variant).runtime, shown="filter"),
    Figure("precision", "precision", "", lambda p: find_variant(p.variant).precision, shown="filter"),
    Figure("run", "", "", lambda p: p.run.id),
    Figure("users", "", "", lambda p: len(set(p.run.predictions.users))),
    Figure("scope", "scope", "", lambda p: p.result.scope, shown="profile"),
    Figure("slate", "{size}", "", lambda p: p.slate, shown="profile page summary student call tip"),
    Figure("slate_sizes", "candidates", "", _sizes(_sizes_text), shown="profile page tip", rare=True),
    Figure("slate_min", "", "", _sizes(lambda of: of.min)),
    Figure("slate_median", "", "", _sizes(lambda of: of.median)),
    Figure("slate_max", "", "", _sizes(lambda of: of.max)),
    # against the other points
    Figure("on_front", "front", "", lambda p: p.on_front, _yes_no, "page summary tip", note=_FRONT),
    Figure("dominated_by", "dominated by", "", lambda p: p.dominated_by, shown="tip", rare=True),
    Figure("domination_certain", "certainly", "", lambda p: p.domination_certain, _yes_no, "tip", rare=True),
    Figure("front_probability", "P(front)", "", lambda p: p.front_probability, share_text, "page summary tip",
           note=_PROBABILITY),
    # latency and accuracy
    Figure("p50_ms", "p50", "ms", lambda p: p.p50_ms, significant, "profile page summary tip target",
           lambda p: p.p50_ci95_ms),
    Figure("p50_ci95_ms", "", "", lambda p: p.p50_ci95_ms),
    Figure("mean_ms", "mean", "ms", lambda p: p.result.latency_ms.mean, significant, "profile page"),
    Figure("mean_ci95_ms", "", "", lambda p: p.result.latency_ms.mean_ci95),
    Figure("p90_ms", "p90", "ms", lambda p: p.result.latency_ms.p90, significant, "profile page target"),
    Figure("p95_ms", "p95", "ms", lambda p: p.result.latency_ms.p95, significant, "page target"),
    Figure("p99_ms", "p99", "ms", lambda p: p.result.latency_ms.p99, significant, "profile page summary tip target"),
    Figure("max_ms", "max", "ms", lambda p: p.result.latency_ms.max, significant, "profile page"),
    Figure("p50_ms_per_candidate", "p50 of a candidate", "ms", _ms_per_candidate, significant, "tip", rare=True),
    Figure("warm_p50_ms", "warm p50", "ms", _warm(lambda ms: ms.p50), significant, "page call",
           _warm(lambda ms: ms.ci95), rare=True, note=_WARM),
    Figure("warm_p50_ci95_ms", "", "", _warm(lambda ms: ms.ci95)),
    Figure("accuracy", "", "", lambda p: p.result.accuracy),  # in tables, metric_figures stand in its place
    Figure("exact_recall_10", "recall@10 of exact", "", _recall(10), _four_digits, "profile page accuracy tip",
           rare=True, note=_RECALL),
    Figure("exact_recall_100", "recall@100 of exact", "", _recall(100), _four_digits, "profile page accuracy tip",
           rare=True),
    Figure("baseline_mark", "best baseline", "", _below(lambda gap: gap.mark), shown="page accuracy tip", rare=True,
           note=_BASELINE),
    Figure("baseline_gap", "less the baseline's", "", _below(lambda gap: gap.gap), _signed, "page accuracy tip",
           _below(lambda gap: gap.ci95), rare=True),
    Figure("baseline_gap_ci95", "", "", _below(lambda gap: gap.ci95)),
    Figure("stages", "stages", "", lambda p: p.result.stages, stages_text, "page call", rare=True, note=_STAGES),
    Figure("stages_check", "", "", lambda p: p.result.stages_check),
    # a student against its teacher
    Figure("lesson", "", "", lambda p: p.lesson),
    Figure("teacher", "teacher", "", _teacher, shown="page student", rare=True),
    Figure("lesson_kept", "% of its {metric}", "", _lesson(lambda of: of.kept), _percent, "page student",
           _lesson(lambda of: of.kept_ci95), rare=True, note=_STUDENT),
    Figure("lesson_speedup", "× teacher", "", _lesson(lambda of: of.speedup), significant, "page student",
           _lesson(lambda of: of.speedup_ci95), rare=True),
    # what a call costs
    Figure("parameters", "", "", _cost(lambda of: of.parameters)),
    Figure("mflop", "MFLOP", "", _cost(lambda of: of.flops / 1e6), significant, "page call", rare=True, note=_COST),
    Figure("moved_mb", "MB", "", _cost(lambda of: (of.weight_bytes + of.activation_bytes) / 1e6), significant,
           "page call", rare=True),
    Figure("share_of_peak", "% of peak", "", _cost(lambda of: of.share_of_peak), _hundredths, "page call", rare=True),
    Figure("share_of_bandwidth", "% of bandwidth", "", _cost(lambda of: of.share_of_bandwidth), _hundredths,
           "page call", rare=True),
    # speed-up, memory
    Figure("speedup", f"× {REFERENCE}", "", _speedup(adopted=False), significant, "page summary tip", rare=True),
    Figure("adopted_speedup", "× as adopted", "", _speedup(adopted=True), significant, "page tip", rare=True,
           note=_ADOPTED),
    Figure("first_call_ms", "first call", "ms", lambda p: p.result.first_call_ms, significant, "profile page"),
    Figure("load_ms", "load", "ms", lambda p: p.result.load_ms, significant, "profile page"),
    Figure("loaded_rss_mb", "loaded RSS", "MB", lambda p: p.result.loaded_rss_mb, significant, "profile page"),
    Figure("peak_rss_mb", "peak RSS", "MB", lambda p: p.result.peak_rss_mb, significant, "profile page summary tip"),
    Figure("file_mb", "file", "MB", lambda p: p.result.file_mb, significant, "profile page tip"),
    Figure("overhead_us", "", "", lambda p: p.result.overhead_us),
    Figure("energy_mj", "", "", lambda p: p.result.energy_mj),
    # how it was measured, and what the paper has
    Figure("runs", "runs", "", lambda p: p.result.n, shown="profile page once tip"),
    Figure("processes", "processes", "", lambda p: p.processes, shown="page once tip"),
    Figure("threads", "", "", lambda p: p.result.threads),
    Figure("group", "group", "", lambda p: p.run.group, shown="page once filter"),
    Figure("paper", "", "", lambda p: p.paper),
    Figure("paper_accuracy", "paper accuracy", "", lambda p: p.paper and p.paper.accuracy, _four_digits, "page tip"),
    Figure("paper_latency_ms", "paper", "ms", lambda p: p.paper and p.paper.latency_ms, significant, "page tip"),
    Figure("aside", "aside", "", lambda p: p.aside, shown="tip", rare=True),
    Figure("own_metrics", "", "", lambda p: p.own_metrics),  # own_figures stand in its place
    Figure("own_intervals", "", "", lambda p: p.own_intervals),
    Figure("warnings", "warnings", "", lambda p: p.warnings, _joined, "page once tip"),
]
# fmt: on


def metric_figures(task: str) -> list[Figure]:
    """A figure for each metric of the task that tables have; the headline metric is in the first tables too."""
    listed = [_metric_figure(name, task) for name, metric in METRICS[task].items() if metric.in_tables]
    return [*listed, _metric_figure(ILLEGAL_SHARE, task)._replace(rare=True)]


def _metric_figure(name: str, task: str) -> Figure:
    shown = "page accuracy profile" + " summary tip" * (name == TASKS[task].metric)
    metric = METRICS[task].get(name)
    return Figure(
        name,
        metric_title(name, task),
        "",
        lambda point: point.value(name),
        _four_digits,
        shown,
        (lambda point: point.interval(name)) if metric and metric.draws else None,
    )


def figures_of(task: str) -> list[Figure]:
    """FIGURES with the task's accuracies in the place of "accuracy"."""
    listed: list[Figure] = []
    for figure in FIGURES:
        listed += metric_figures(task) if figure.key == "accuracy" else [figure]
    return listed


def own_figures(points: Sequence[Point]) -> list[Figure]:
    """A figure for each metric of the user's own that a run of the points has."""
    names = {name: None for point in points for name in point.own_metrics}
    shown = "page accuracy profile"
    return [
        Figure(name, name, "", partial(_own_metric, name), _four_digits, shown, partial(_own_interval, name))
        for name in names
    ]


def _own_metric(name: str, point: Point) -> float | None:
    return point.own_metrics.get(name)


def _own_interval(name: str, point: Point) -> Interval | None:
    return point.own_intervals.get(name)


def columns(points: Sequence[Point], place: str) -> list[Figure]:
    """The figures that a table of points of one task has as columns in one of PLACES."""
    listed = [*figures_of(points[0].run.task), *own_figures(points)] if points else []
    return [
        figure
        for figure in listed
        if figure.shown_in(place) and not (figure.rare and all(figure.get(point) is None for point in points))
    ]


def facts(point: Point) -> list[tuple[str, str]]:
    """Names and texts of what the page shows of a point under the pointer."""
    task = point.run.task
    return [(figure.name(task), figure.cell(point, "not measured")) for figure in columns([point], "tip")]


def point_record(point: Point) -> dict[str, Any]:
    """A point in report.json: every figure by its key."""
    record: dict[str, Any] = msgspec.to_builtins({figure.key: figure.get(point) for figure in FIGURES})
    return {**record, "facts": facts(point)}


def page_choices() -> dict[str, list[tuple[str, str]]]:
    """Keys and titles of the figures that the page filters by, and of those that its latency target may be set for."""
    return {
        place: [(figure.key, figure.title) for figure in FIGURES if figure.shown_in(place)]
        for place in ("filter", "target")
    }
