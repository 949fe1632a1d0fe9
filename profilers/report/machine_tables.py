"""The view of a report on several kinds of machines: title, heads, cells and notes of its table."""

from __future__ import annotations

from collections.abc import Iterator

from rbserve.profilers.compare.machines import MachineFigures, MachineRow, MachineTable
from rbserve.profilers.compare.wording import DASH, interval_text, number_text, significant


def machine_title(table: MachineTable) -> str:
    """What a table by kind of machine is about: planted · ctr · latency on each kind of machine · 1 thread."""
    threads = f"{table.threads} thread{'s' * (table.threads > 1)}"
    seen = " · seen items left out" * table.exclude_seen
    return f"{table.dataset} · {table.task} · latency on each kind of machine · {threads} · scope {table.scope}{seen}"


def machine_heads(table: MachineTable) -> list[str]:
    """The heads of the columns: the point, then a block of two columns for each kind of machine."""
    blocks = [head for kind in table.kinds for head in (f"{kind}: p50 ms [95%]", f"{kind}: p99 ms")]
    return ["model", "variant", table.slate_name, *blocks]


def machine_cells(row: MachineRow) -> list[str]:
    """A row under these heads."""
    return [row.name, row.variant, str(row.slate), *(cell for part in row.figures for cell in _block(part))]


def machine_notes(table: MachineTable) -> Iterator[str]:
    """Sentences below the table: what each kind is, and that kinds are not compared."""
    for kind, cpu, key in zip(table.kinds, table.cpus, table.comparability_keys, strict=True):
        yield f"{kind}: {cpu}, comparability key {key}."
    yield "Each block is a section of its own above, with its own front: compare variants within a block."
    if any(part and part.inconclusive for row in table.rows for part in row.figures):
        yield "⚠: that time is INCONCLUSIVE, for the reason that its section gives."


def _block(part: MachineFigures | None) -> tuple[str, str]:
    if part is None:
        return DASH, DASH
    p50 = significant(part.p50_ms) + interval_text(part.p50_ci95_ms, significant)
    return p50 + " ⚠" * part.inconclusive, number_text(part.p99_ms)
