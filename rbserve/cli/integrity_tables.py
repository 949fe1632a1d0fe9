"""The console's tables of an integrity report: what `rbserve datasets show` found in a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbserve.cli.console import show

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.data.integrity_report import Check, FieldFigures, IntegrityReport, SplitFigures


def show_integrity(report: IntegrityReport) -> None:
    """Prints the second look at a data set; what matters most, the checks, stands last."""
    for table in integrity_tables(report):
        show(table)


def integrity_tables(report: IntegrityReport) -> list[Table]:
    """The second look at a data set: summary, splits, what was dropped and mended, the paper's figures, checks."""
    tables = [_summary_table(report), _splits_table(report.splits)]
    if report.fields:
        tables.append(_fields_table(report.fields))
    tables.append(_reasons_table(report))
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
    history_only = f"; {sizes['given']:,} are given: history only, no label" if sizes["given"] else ""
    table.add_row(
        "labels",
        f"{sizes['positives']:,} liked, {_percent(report.positive_rate)} of the labelled{history_only}",
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


def _fields_table(fields: list[FieldFigures]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="\nFields", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("of the", "kind"):
        table.add_column(name, vertical="bottom")
    for name in ("values", "missing", "unseen\nin test", "AUC\nalone"):
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    for field in fields:
        kind = f"up to {field.width} categories" if field.kind == "multi" else field.kind
        values = "–" if field.values is None else f"{field.values:,}{' hashes' if field.hashed else ''}"
        table.add_row(
            escape(field.name),
            field.scope,
            kind,
            values,
            _percent(field.missing),
            _percent(field.unseen),
            "–" if field.auc is None else f"{field.auc:.3f}",
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
