"""The verb about this machine: `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbserve.cli.console import print_json
from rbserve.cli.data import Json
from rbserve.progress import say

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.profilers.doctor import Diagnosis

STYLES = {"ok": "green", "noise": "bold yellow", "missing": "cyan", "unknown": "dim"}


def doctor(as_json: Json = False) -> None:
    """Say what of this machine disturbs a profile, what it lacks, and what to do about it.

    Changes nothing, and its exit code is 0 whatever it finds.

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
    """A row a finding, and below each that disturbs what helps against it."""
    from rich.markup import escape
    from rich.table import Table

    pinned = "" if diagnosis.core is None else f", profiles are pinned to core {diagnosis.core}"
    noisy = sum(one.state == "noise" for one in diagnosis.findings)
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
    for one in diagnosis.findings:
        state = f"[{STYLES[one.state]}]{one.state}[/]"
        table.add_row(state, one.name, escape(one.seen), escape(one.remedy))
    return table
