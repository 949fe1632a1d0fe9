"""The console's table of a profile, and the sentences below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rbserve.core.tasks import TASKS

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.profilers.compare.points import BaselineGap
    from rbserve.runs.measurement import Measurement, Result


def results_table(measurement: Measurement) -> Table:
    """A profile: one row a variant, scope and slate, latency in milliseconds a call, accuracy beside it."""
    from rich import box
    from rich.table import Table

    from rbserve.profilers.compare.baselines import gaps_of
    from rbserve.profilers.compare.figures import columns
    from rbserve.profilers.compare.points import points_of

    plan, machine, task = measurement.plan, measurement.environment, measurement.task
    seen = ", seen items left out" if plan.exclude_seen else ""
    gaps = gaps_of(measurement, TASKS[task].metric)
    lines = [
        f"{plan.threads} thread(s) on {machine.cpu}{seen}; ms per call; [ ] 95% interval; – too few runs to certify",
        *captions(measurement, gaps),
    ]
    table = Table(
        title=f"{measurement.model} on {measurement.dataset}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption="\n".join(lines),
        caption_justify="left",
        title_justify="left",
    )
    points = points_of(measurement)
    figures = [
        figure if figure.shown_in("summary") else figure._replace(interval=None)  # two intervals fit
        for figure in columns(points, "profile")
    ]
    for figure in figures:
        head = figure.head(task).replace(" ", "\n")
        words = figure.key in ("variant", "scope")
        table.add_column(head, justify="left" if words else "right", no_wrap=True, vertical="bottom")
    for point, following in zip(points, [*points[1:], None], strict=True):
        cells = [figure.cell(point) for figure in figures]
        cells[0] += " INCONCLUSIVE" * point.inconclusive + " ▼" * (point.variant in gaps)
        table.add_row(*cells, end_section=following is None or following.variant != point.variant)
    return table


def captions(measurement: Measurement, gaps: Mapping[str, BaselineGap] | None = None) -> Iterator[str]:
    """Sentences below the table of a profile: what disturbed it, stages, costs, warnings, baselines.

    `gaps` has how far variants are below the best baseline.
    """
    yield from _instrument(measurement)
    for result in measurement.results:
        if result.inconclusive:
            yield f"INCONCLUSIVE: {_shape(result, measurement)}: {'; '.join(result.inconclusive)}"
        yield from _sizes(result, measurement)
        yield from _costs(result, measurement)
    for variant, share in measurement.predictions.illegal_share.items():
        yield f"paths of {variant} that lead to no item: {share:.1%}"
    if measurement.distilled:
        yield measurement.distilled.said
    if measurement.random:
        yield "accuracy: absent, the weights are random; the latency is that of the model's true shape"
    for variant, reason in measurement.left_out.items():
        yield f"{variant}: not measured, {reason}"
    warned: dict[str, list[str]] = {}
    for variant, warnings in measurement.variant_warnings.items():
        for warning in warnings:
            warned.setdefault(warning, []).append(variant)
    yield from (f"warning: {', '.join(variants)}: {warning}" for warning, variants in warned.items())
    yield from _baselines(measurement)
    yield from (f"▼ {variant}: {gap.text}" for variant, gap in (gaps or {}).items())


def _baselines(measurement: Measurement) -> Iterator[str]:
    """The accuracies of each baseline, and the variants that are no better."""
    from rbserve.runs.baselines import forms_of
    from rbserve.runs.measurement import baseline_title
    from rbserve.stats.metrics import metric_title

    main = TASKS[measurement.task].metric
    reached = {result.variant: result.accuracy.get(main) for result in measurement.results}
    for name, values in measurement.baselines.items():
        figures = ", ".join(
            f"{metric_title(key, measurement.task)} {value:.4f}" for key, value in values.items()
        )
        no_better = [
            variant
            for variant, own in reached.items()
            if isinstance(own, float) and own <= values.get(main, -1.0)
        ]
        beaten = f"; no better: {', '.join(no_better)}" if no_better else ""
        yield f"baseline {baseline_title(name, forms_of(measurement))}: {figures}{beaten}"


def _instrument(measurement: Measurement) -> Iterator[str]:
    """The timing loop's overhead, how a budget was spent, and the energy of calls."""
    overheads = [result.overhead_us for result in measurement.results if result.overhead_us is not None]
    if overheads:
        yield f"harness overhead {max(overheads):.2g} us per call; nothing is subtracted"
    plan = measurement.plan
    if plan.budget_s is not None and measurement.seconds is not None:
        runs = ", ".join(f"{variant} {count}" for variant, count in plan.runs_of.items())
        yield (
            f"budget {plan.budget_s:g} s, took {measurement.seconds:.0f} s: {plan.processes} processes a variant; "
            f"runs a process: {runs}"
        )
        if plan.processes < 5:
            yield "fewer than five processes hardly show the spread between them; a longer budget has more"
    if measurement.environment.energy_absent:
        yield f"energy: absent, {measurement.environment.energy_absent}"
    for result in measurement.results:
        if result.energy_mj is not None:
            shape = _shape(result, measurement)
            yield f"energy of {shape}: {result.energy_mj:.3g} mJ per call, the whole processor package's"


def _shape(result: Result, measurement: Measurement) -> str:
    """Variant, scope and size of a result: "onnx-int8, forward, slate 20"."""
    return f"{result.variant}, {result.scope}, {TASKS[measurement.task].size_name} {result.slate}"


def _sizes(result: Result, measurement: Measurement) -> Iterator[str]:
    """The distribution of the candidates of a table's own requests, and the p95 that a column has no room for."""
    from rbserve.profilers.compare.wording import number_text, sizes_text

    if result.slate_sizes:
        yield (
            f"{_shape(result, measurement)}: the table's own requests, {sizes_text(result.slate_sizes)}; "
            f"p95 {number_text(result.latency_ms.p95)} ms"
        )


def _costs(result: Result, measurement: Measurement) -> Iterator[str]:
    """A result's stages, how near its calls are to the machine's limits, and how their time grows.

    A profile of two scopes shows the stages of the second: they include those of the first.
    """
    from rbserve.profilers.compare.wording import stages_text

    line = f"{result.variant} {result.scope}, {TASKS[measurement.task].size_name} {result.slate}"
    if result.stages and result.scope == measurement.plan.scopes[-1]:
        yield f"{line}: {stages_text(result.stages)}{_observed(result.stages_check)}"
    cost = result.cost
    if cost and result.scope == "forward":
        moved = (cost.weight_bytes + cost.activation_bytes) / 1e6
        cores = "this core's" if result.threads == 1 else f"these {result.threads} cores'"
        known = cost.share_of_peak is not None and cost.peak_gflops is not None
        peak = f"{cost.share_of_peak:.0%} of {cores} {cost.peak_gflops:.0f} GFLOP/s, " if known else ""
        slowest = stages_text(dict([*cost.operators.items()][:3]))
        yield (
            f"{line}: {cost.flops / 1e6:.3g} MFLOP, {moved:.3g} MB ({cost.weight_bytes / 1e6:.3g} of weights): {peak}"
            f"{cost.share_of_bandwidth:.0%} of {cost.bandwidth_gbs:.0f} GB/s; {slowest}"
        )
    yield from (f"warning: {line}: {warning}" for warning in result.growth_warnings)


def _observed(check: float | None) -> str:
    """How much longer a call took when its stages were observed; nothing where that is within STAGES_OFF."""
    from rbserve.runs.summary import STAGES_OFF

    if check is None or abs(check - 1) <= STAGES_OFF:
        return ""
    return f" (observed, a call took {check:.0%} of its time)"
