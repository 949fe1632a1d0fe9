"""The verb `doctor`: what on this machine disturbs measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbserve.cli.console import print_json
from rbserve.cli.options import Json
from rbserve.progress import say

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.profilers.doctor import Diagnosis

STYLES = {"ok": "green", "noise": "bold yellow", "missing": "cyan", "unknown": "dim"}


def doctor(as_json: Json = False) -> None:
    """Find what disturbs a profile on this machine, what is missing, and what helps.

    Changes nothing; the exit code is 0 whatever is found.

    Example: rbserve doctor
    """
    from rbserve.cli.console import show
    from rbserve.profilers.doctor import examine

    diagnosis = examine()
    if as_json:
        print_json(diagnosis)
        return
    show(findings_table(diagnosis))
    say(", ".join(f"{name} {version}" for name, version in diagnosis.versions.items()))


def findings_table(diagnosis: Diagnosis) -> Table:
    """One row for each finding: its state, what was seen, and what helps."""
    from rich.markup import escape
    from rich.table import Table

    pinned = "" if diagnosis.core is None else f", profiles are pinned to core {diagnosis.core}"
    noisy = sum(finding.state == "noise" for finding in diagnosis.findings)
    table = Table(
        title=f"{escape(diagnosis.cpu)}{pinned}",
        caption=f"{noisy} source(s) of noise" if noisy else "no source of noise found",
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for name in ("", "looked at", "seen", "what helps"):
        table.add_column(name)
    for finding in diagnosis.findings:
        state = f"[{STYLES[finding.state]}]{finding.state}[/]"
        table.add_row(state, finding.name, escape(finding.seen), escape(finding.remedy))
    return table
