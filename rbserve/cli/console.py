"""What people see: documents and tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rbserve.core.tasks import TASKS

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.data.integrity import Check, IntegrityReport, SplitFigures
    from rbserve.runs.measurement import Measurement, Result


def print_json(data: Any) -> None:
    """A document on standard output."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data)).decode() + "\n")


def show(table: Table) -> None:
    """Prints a table to standard output, as wide as its content when that is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    console.print(table)


def models_table(rows: list[dict[str, object]]) -> Table:
    """The zoo, a row a model."""
    from rich.table import Table

    table = Table("model", "group", "task", "items as", "paper's name", "needs", box=None, pad_edge=False)
    for row in rows:
        needs = row["needs"]
        assert isinstance(needs, tuple)
        table.add_row(
            str(row["name"]),
            str(row["group"]),
            str(row["task"]),
            str(row["item_form"]),
            str(row["paper_name"]),
            "; ".join(needs) or "–",
        )
    return table


def backbones_table(rows: list[dict[str, object]]) -> Table:
    """The language models, and what their weights take: in bf16 two bytes each, in int4 five eighths."""
    from rich.table import Table

    table = Table("language model", "architecture", box=None, pad_edge=False, caption_justify="left", caption=(
        "--weights random gives any of them its true shape without its weights, for its latency alone"))  # fmt: skip
    for name in ("billion weights", "GiB in bf16", "GiB in int4"):
        table.add_column(name, justify="right")
    table.add_column("licence")
    table.add_column("needs")
    for row in rows:
        billions = row["billion_parameters"]
        sizes = ["–"] * 3
        if isinstance(billions, float):
            gib = [f"{billions * 1e9 * each / 2**30:.1f}" for each in (2, 0.625)]
            sizes = [f"{billions:.3f}", *gib]
        table.add_row(
            str(row["name"]), str(row["architecture"]), *sizes, str(row["licence"]), str(row["needs"])
        )
    return table


def results_table(measurement: Measurement) -> Table:
    """A profile: one row a variant, scope and slate, latency in milliseconds a call, accuracy beside it."""
    from rich import box
    from rich.table import Table

    from rbserve.profilers.compare.figures import columns
    from rbserve.profilers.compare.points import points_of

    plan, machine, task = measurement.plan, measurement.environment, measurement.task
    seen = ", seen items left out" if plan.exclude_seen else ""
    lines = [
        f"{plan.threads} thread(s) on {machine.cpu}{seen}; ms per call; [ ] 95% interval; – too few runs to certify",
        *_captions(measurement),
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
        cells[0] += " INCONCLUSIVE" * point.inconclusive
        table.add_row(*cells, end_section=following is None or following.variant != point.variant)
    return table


def _captions(measurement: Measurement) -> Iterator[str]:
    """What a profile has to say below its table: stages, illegal paths, warnings, baselines."""
    yield from _instrument(measurement)
    for result in measurement.results:
        if result.inconclusive:
            shape = f"{result.variant}, {result.scope}, {TASKS[measurement.task].size_name} {result.slate}"
            yield f"INCONCLUSIVE: {shape}: {'; '.join(result.inconclusive)}"
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


def _baselines(measurement: Measurement) -> Iterator[str]:
    """What each baseline reaches, and that a variant is no better."""
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
        yield f"baseline {baseline_title(name, measurement.baseline_forms)}: {figures}{beaten}"


def _instrument(measurement: Measurement) -> Iterator[str]:
    """What the measuring itself cost, and what a budget was spent on."""
    overheads = [one.overhead_us for one in measurement.results if one.overhead_us is not None]
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
    for one in measurement.results:
        if one.energy_mj is not None:
            shape = f"{one.variant}, {one.scope}, {TASKS[measurement.task].size_name} {one.slate}"
            yield f"energy of {shape}: {one.energy_mj:.3g} mJ per call, the whole processor package's"


def _costs(result: Result, measurement: Measurement) -> Iterator[str]:
    """Where a line's time goes, how near it is to the machine's limits, and how it grows.

    End to end, a call has all the stages of its other scope.
    """
    line = f"{result.variant} {result.scope}, {TASKS[measurement.task].size_name} {result.slate}"
    if result.stages and result.scope == measurement.plan.scopes[-1]:
        yield f"{line}: {_shares(result.stages)}{_off(result.stages_check)}"
    cost = result.cost
    if cost and result.scope == "forward":
        moved = (cost.weight_bytes + cost.activation_bytes) / 1e6
        cores = "this core's" if result.threads == 1 else f"these {result.threads} cores'"
        peak = "" if cost.share_of_peak is None or cost.peak_gflops is None else (
            f"{cost.share_of_peak:.0%} of {cores} {cost.peak_gflops:.0f} GFLOP/s, ")  # fmt: skip
        yield (
            f"{line}: {cost.flops / 1e6:.3g} MFLOP, {moved:.3g} MB ({cost.weight_bytes / 1e6:.3g} of weights): {peak}"
            f"{cost.share_of_bandwidth:.0%} of {cost.bandwidth_gbs:.0f} GB/s; {_shares(cost.operators, 3)}"
        )
    yield from (f"warning: {line}: {warning}" for warning in result.growth_warnings)


def _shares(shares: dict[str, float], most: int | None = None) -> str:
    """The shares, or the first few, that are not nothing."""
    return ", ".join(f"{name} {share:.0%}" for name, share in [*shares.items()][:most] if share >= 0.005)


def _off(check: float | None) -> str:
    """What is to be said of stages that do not add up to the time of the calls unobserved."""
    from rbserve.runs.summary import STAGES_OFF

    if check is None or abs(check - 1) <= STAGES_OFF:
        return ""
    return f" (observed, a call took {check:.0%} of its time)"


def show_integrity(report: IntegrityReport) -> None:
    """Prints the second look at a data set; what matters most, the checks, stands last."""
    for table in integrity_tables(report):
        show(table)


def integrity_tables(report: IntegrityReport) -> list[Table]:
    """The second look at a data set: summary, splits, what was dropped and mended, the paper's figures, checks."""
    tables = [_summary_table(report), _splits_table(report.splits), _reasons_table(report)]
    if report.table_2:
        tables.append(_paper_table(report))
    return [*tables, _checks_table(report)]


def _summary_table(report: IntegrityReport) -> Table:
    from rich.markup import escape
    from rich.table import Table

    sizes, text = report.sizes, report.text
    table = Table.grid("", "", padding=(0, 2))
    table.add_row("data set", f"[bold]{escape(report.name)}[/]: {_verdict(report)}")
    table.add_row("source", f"{escape(report.source)}, fingerprint {report.fingerprint[:12]}")
    table.add_row(
        "clean rows",
        f"{sizes['interactions']:,} interactions of {sizes['users']:,} users with {sizes['items']:,} items "
        f"(of {sizes['items_with_text']:,} that have a text)",
    )
    given = f"; {sizes['given']:,} are given: history only, no label" if sizes["given"] else ""
    table.add_row(
        "labels", f"{sizes['positives']:,} liked, {_percent(report.positive_rate)} of the labelled{given}"
    )
    table.add_row(
        "texts",
        f"{text.items_with_words:,} of {text.items:,} items in the table have words "
        f"({_percent(text.items_with_words_rate)}); the {text.vocabulary:,} words of the vocabulary are "
        f"{_percent(text.tokens_in_vocabulary)} of what the texts say; "
        f"{_percent(text.interactions_with_text)} of the readable interactions had an item with a text",
    )
    table.add_row("options", escape(", ".join(f"{name} {value}" for name, value in report.options.items())))
    return table


def _splits_table(splits: list[SplitFigures]) -> Table:
    from rich.table import Table

    table = Table(title="\nSplits", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("", "rows", "users", "items", "liked", "rows a\nuser", "history\nmean", "empty", "full"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True, vertical="bottom")
    longest = max(len(split.history_lengths) for split in splits) - 1
    table.add_column(f"lengths\n0–{max(longest, 0)}")
    for split in splits:
        table.add_row(
            f"{split.task} {split.split}",
            f"{split.rows:,}",
            f"{split.users:,}",
            f"{split.items:,}",
            _percent(split.positive_rate),
            _one_decimal(split.rows_per_user),
            _one_decimal(split.history_mean),
            _percent(split.empty),
            _percent(split.full),
            _bars(split.history_lengths),
        )
    return table


def _reasons_table(report: IntegrityReport) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid("", "", padding=(0, 2))
    table.columns[0].justify = "right"
    for title, reasons in (
        ("raw rows and items lost", report.lost),
        ("left out by the protocol (rows, or users)", report.left_out),
        ("mended and kept", report.repaired),
    ):
        table.add_row("", "")
        table.add_row(f"[bold]{reasons.total:,}[/]", f"[bold]{title}[/]")
        for reason, count in reasons.reasons.items():
            table.add_row(f"{count:,}", escape(reason))
    return table


def _paper_table(report: IntegrityReport) -> Table:
    from rich.markup import escape
    from rich.table import Table

    title = f"\nRecBench, Table 2: {escape(report.paper or '')}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("paper", "here", "here / paper"):
        table.add_column(name, justify="right")
    for line in report.table_2:
        ratio = "[green]same[/]" if line.here == line.paper else f"{line.ratio:.3f}"
        table.add_row(line.what, f"{line.paper:,}", f"{line.here:,}", ratio)
    return table


def _checks_table(report: IntegrityReport) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="\nChecks", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("")
    table.add_column("checked", justify="right", no_wrap=True)
    table.add_column("violations", justify="right", no_wrap=True)
    for check in report.checks:
        meaning = f"{check.meaning} ({escape(check.detail)})" if check.detail else check.meaning
        table.add_row(_outcome(check), meaning, f"{check.checked:,} {check.unit}", f"{check.violations:,}")
    table.add_row("")
    table.add_row("", f"[bold]{escape(report.name)}[/]: {_verdict(report)}")
    return table


def _verdict(report: IntegrityReport) -> str:
    passed, failed = (sum(check.passed is value for check in report.checks) for value in (True, False))
    if not report.ok:
        return f"[bold red]NOT SOUND[/], {failed} of {len(report.checks)} checks failed"
    return f"[bold green]sound[/], {passed} of {len(report.checks)} checks passed"


def _outcome(check: Check) -> str:
    if check.passed is None:
        return "[yellow]not made[/]"
    return "[green]passed[/]" if check.passed else "[bold red]FAILED[/]"


def _bars(counts: list[int], most: int = 24) -> str:
    """Counts as a line of blocks of eighths, a dot for none; neighbours together where there are over `most`."""
    step = -(-len(counts) // most) or 1
    sums = [sum(counts[begin : begin + step]) for begin in range(0, len(counts), step)]
    highest = max(sums, default=0)
    return "".join("▁▂▃▄▅▆▇█"[-(-count * 8 // highest) - 1] if count else "·" for count in sums)


def _percent(share: float | None) -> str:
    """A share; neither all nor nothing is said of what is only nearly so."""
    if share is None:
        return "–"
    return "<0.1%" if 0 < share < 0.0005 else ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def _one_decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
