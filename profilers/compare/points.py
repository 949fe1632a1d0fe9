"""Points: one variant of one model at one slate, its measured result and what a comparison adds to it.

A point does not copy the figures of its result: `figures.py` says how each of them is read from a point.
"""

from __future__ import annotations

import msgspec

from rbserve.core.tasks import TASKS
from rbserve.core.variants import ADOPTED_REFERENCES, REFERENCE
from rbserve.profilers.compare.paper import PaperRow
from rbserve.runs.changes import display_name
from rbserve.runs.measurement import Measurement, Result
from rbserve.runs.plan import Slate
from rbserve.stats.intervals import Interval

INCONCLUSIVE = "INCONCLUSIVE"


class TeacherComparison(msgspec.Struct, frozen=True):
    """A distilled model's point beside its teacher's at the same slate.

    `kept` is the student's accuracy divided by the teacher's, with an interval from resamples of the same users;
    `speedup` is the teacher's p50 divided by the student's. `variant` is the teacher's: the variant that taught, where
    it was timed, else the teacher's fastest. An unknown figure is null, and `absent` says why.
    """

    teacher: str
    variant: str | None = None
    kept: float | None = None
    kept_ci95: Interval | None = None
    speedup: float | None = None
    speedup_ci95: Interval | None = None
    absent: str | None = None


class BaselineGap(msgspec.Struct, frozen=True):
    """An accuracy that is not above that of the best baseline on the same test rows.

    `gap` is the accuracy less the baseline's, `value`, with an interval from resamples of the same users, None without
    the baseline's answers. `certain`: the interval has no 0 or, without answers, the accuracy's own interval has not
    the baseline's value.
    """

    name: str
    title: str
    value: float
    gap: float
    ci95: Interval | None
    certain: bool

    @property
    def mark(self) -> str:
        """ "below popularity" or, where the test rows do not settle it, "no better than popularity"."""
        return f"{'below' if self.certain else 'no better than'} {self.name}"

    @property
    def text(self) -> str:
        """The mark with the gap: "below popularity (last likes), 0.7996: -0.0093 [-0.0149, -0.0031]"."""
        between = f" [{self.ci95[0]:+.4f}, {self.ci95[1]:+.4f}]" if self.ci95 else ""
        preposition = "below" if self.certain else "no better than"
        return f"{preposition} {self.title}, {self.value:.4f}: {self.gap:+.4f}{between}"


class Point(msgspec.Struct, frozen=True, eq=False):
    """One variant of one model at one slate; two points are equal only when they are the same object.

    `name` is the model and what was changed of its row's config. `speedup` is the p50 of the model's `reference`
    variant divided by this one's. The other fields come from comparing the point with others of its section, and are
    None before. `on_front` stays None where the accuracy is unknown. `dominated_by` is the id of the most accurate
    point on the front that is no slower; `domination_certain` says that its intervals clear this point's in both
    directions. `front_probability` is the share of resamples in which the point is on the front. `aside` says why the
    accuracy may not be compared with that of other points. `below` is the gap to the best baseline of an accuracy that
    is not above it. `paper` is what the paper prints for the model.
    """

    name: str
    run: Measurement
    result: Result
    reference: str = REFERENCE
    speedup: float | None = None
    paper: PaperRow | None = None
    aside: str | None = None
    on_front: bool | None = None
    dominated_by: str | None = None
    domination_certain: bool | None = None
    front_probability: float | None = None
    lesson: TeacherComparison | None = None
    below: BaselineGap | None = None

    @property
    def id(self) -> str:
        """The point's name within its section: "gdcn/onnx-int8/20"."""
        return f"{self.name}/{self.variant}/{self.slate}"

    @property
    def label(self) -> str:
        """The point's name in a sentence: "gdcn onnx-int8"."""
        return f"{self.name} {self.variant}"

    @property
    def model(self) -> str:
        """The model's row in the zoo, or the student's name."""
        return self.run.model

    @property
    def variant(self) -> str:
        """Runtime and precision: "onnx-int8"."""
        return self.result.variant

    @property
    def slate(self) -> Slate:
        """Candidates in a call, or the length k of the list asked for where the model ranks the catalogue."""
        return self.result.slate

    @property
    def own_metrics(self) -> dict[str, float | None]:
        """The values of the user's own metrics by their name, `module:function`."""
        return self.run.own_metrics.get(self.variant, {})

    @property
    def own_intervals(self) -> dict[str, Interval]:
        """The 95% intervals over users of the user's own metrics, of those that have one."""
        return self.run.own_intervals.get(self.variant, {})

    @property
    def processes(self) -> int:
        """Fresh processes that were timed."""
        return self.result.processes

    @property
    def p50_ms(self) -> float:
        """Median milliseconds of a call."""
        return self.result.latency_ms.p50

    @property
    def p50_ci95_ms(self) -> Interval:
        """The 95% interval of the median, in milliseconds."""
        return self.result.latency_ms.ci95

    @property
    def warnings(self) -> list[str]:
        """The result's warnings, then why its latency is INCONCLUSIVE, then what its time grows faster than."""
        unsettled = [f"{INCONCLUSIVE}: {reason}" for reason in self.result.inconclusive]
        growth = [
            f"{TASKS[self.run.task].size_name} {self.slate}: {warning}"
            for warning in self.result.growth_warnings
        ]
        return [*self.result.warnings, *unsettled, *growth]

    @property
    def inconclusive(self) -> bool:
        """Whether the machine was disturbed, or the times unsteady, so that this latency settles nothing."""
        return bool(self.result.inconclusive)

    def value(self, metric: str) -> float | None:
        """The accuracy called `metric`, None where it was not measured or is not defined."""
        return accuracy_of(self.run, self.result, metric)

    def interval(self, metric: str) -> Interval | None:
        """The 95% interval of the accuracy called `metric`."""
        return accuracy_interval(self.run, self.result, metric)


def accuracy_of(run: Measurement, result: Result, metric: str) -> float | None:
    """An accuracy of a run's result, or a metric of the user's own; None where it is not measured or not defined."""
    value = result.accuracy.get(metric, run.own_metrics.get(result.variant, {}).get(metric))
    return value if isinstance(value, float) else None


def accuracy_interval(run: Measurement, result: Result, metric: str) -> Interval | None:
    """The 95% interval of what `accuracy_of` returns, where it has one."""
    own = run.own_intervals.get(result.variant, {}).get(metric)
    interval = result.accuracy.get(f"{metric}_ci95", own)
    return interval if isinstance(interval, tuple) else None


def points_of(run: Measurement, paper: PaperRow | None = None, aside: str | None = None) -> list[Point]:
    """The points of a run, one a result, before they are compared with those of other runs."""
    name, reference = display_name(run), reference_of(run)
    references_ms = {
        (result.scope, result.slate): result.latency_ms.p50
        for result in run.results
        if result.variant == reference
    }
    points = []
    for result in run.results:
        reference_ms = references_ms.get((result.scope, result.slate))
        speedup = reference_ms / result.latency_ms.p50 if reference_ms else None
        points.append(Point(name, run, result, reference, speedup, paper, aside))
    return points


def reference_of(run: Measurement) -> str:
    """The variant that a run's speed-ups are relative to: torch-fp32, or what an adopted model came as."""
    measured = {result.variant for result in run.results}
    known = [variant for variant in ADOPTED_REFERENCES if variant in measured]
    return known[0] if run.adopted and known else REFERENCE
