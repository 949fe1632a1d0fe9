"""The verb `size`: how many replicas a rate of requests takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import DATASET, MODEL, SLATE, VARIANT, Json, Runs, only, only_slate, words
from rbserve.cli.records import FromRecord
from rbserve.core.errors import RbserveError
from rbserve.profilers.capacity.plan import CapacityPlan
from rbserve.progress import say

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.profilers.capacity.sizing import Fleet, Simulated, Sizing

SlateSize = Annotated[
    list[str] | None,
    typer.Option(
        *SLATE,
        help="Candidates per request (table: requests as they come), or items to ask for where a model ranks "
        "(default the only one measured).",
    ),
]
OfModel = Annotated[list[str] | None, typer.Option(*MODEL, help="Model of the runs (default the only one).")]
OfDataset = Annotated[
    list[str] | None, typer.Option(*DATASET, help="Data set of the runs (default the only one).")
]
OfVariant = Annotated[
    list[str] | None, typer.Option(*VARIANT, help="Variant that is served (default the only one measured).")
]
Scope = Annotated[
    str | None, typer.Option(help="Scope of the runs (default end_to_end where there is one, else forward).")
]
Threads = Annotated[
    int | None, typer.Option(help="Threads of the runs (default the only number measured).", min=1)
]
Arrivals = Annotated[
    Path | None,
    typer.Option(
        help="File of arrivals, one a line, in seconds or as timestamps (default a Poisson process). With --rate "
        "they come that much faster or slower."
    ),
]
VerifiedFile = Annotated[
    Path | None, typer.Option(help="Output of rbserve verify --json at this slate: what HTTP adds to a call.")
]


def size(
    *,
    slo: Annotated[
        str,
        typer.Option(
            help="Limits of a request's time, wait included, such as 'p99<50ms' or 'p50<5ms,p99<50ms'."
        ),
    ],
    plan: Annotated[CapacityPlan, FromRecord(CapacityPlan)],
    slate: SlateSize = None,
    model: OfModel = None,
    dataset: OfDataset = None,
    variant: OfVariant = None,
    scope: Scope = None,
    threads: Threads = None,
    arrivals: Arrivals = None,
    verified: VerifiedFile = None,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Say how many replicas a rate of requests takes, by simulating the server's queue.

    Calls take as long as a profile measured. A request that is refused, or expires in the queue, counts as one that
    takes forever.

    Example: rbserve size --rate 5000 --slo "p99<50ms" --slate 100 --model gdcn --variant onnx-int8
    """
    from rbserve.pipeline.home import Home

    answer = Home().size(
        slo,
        plan,
        slate=only_slate(slate),
        model=only(words(model), "--model") if model else None,
        dataset=only(words(dataset), "--dataset") if dataset else None,
        variant=only(words(variant), "--variant") if variant else None,
        scope=scope,
        threads=threads,
        arrivals=arrivals,
        verified=verified,
        runs=runs,
    )
    if as_json:
        print_json(answer)
    else:
        _show(answer, plan)
    if answer.impossible is not None:
        hint = "fewer candidates, a faster variant (rbserve recommend --slo), or another limit"
        raise RbserveError(f"not possible: {answer.impossible}", hint)


def _show(answer: Sizing, plan: CapacityPlan) -> None:
    from rbserve.cli.console import show

    mean, tail = answer.call_ms
    print(
        f"{answer.model} {answer.variant} on {answer.dataset}, slate {answer.slate}: a call takes {mean:.3g} ms (p99 "
        f"{tail:.3g}), HTTP adds {answer.overhead_ms:.3g} ms; a worker answers {answer.capacity_per_s:,.0f} a second "
        "at most"
    )
    if answer.needed is not None and answer.needed_ci95 is not None:
        low, high = answer.needed_ci95
        workers = f" of {plan.workers} workers" * (plan.workers > 1)
        print(
            f"{answer.needed:,} replica{'s' * (answer.needed > 1)}{workers} surely answer {answer.rate:,.6g} a second "
            f"with {', '.join(answer.objectives)}: {answer.likely:,} [{low:,}, {high:,}]; one more while one restarts"
        )
    show(fleets_table(answer))
    for line in _remarks(answer, plan):
        say(f"- {line}")


def _remarks(answer: Sizing, plan: CapacityPlan) -> list[str]:
    lines = []
    if not answer.overhead_measured:
        lines.append(
            f"what HTTP adds ({answer.overhead_ms:g} ms) was not measured for this: rbserve verify --json, and "
            "--verified FILE"
        )
    if answer.inline:
        lines.append(
            "calls are so short that the server refuses nobody: --deadline and --queue change nothing"
        )
    elif plan.deadline_ms is None:
        lines.append(f"without --deadline, requests are refused where {plan.max_waiting} wait already")
    return lines


def fleets_table(answer: Sizing) -> Table:
    """Numbers of replicas with the latencies, the goodput and the refusals of each."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("replicas", "workers", "used", "p50 ms [95%]", "p99 ms [95%]", "goodput/s [95%]", "refused"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"meets {', '.join(answer.objectives)}")
    for fleet in answer.fleets:
        table.add_row(*_cells(fleet))
    return table


def _cells(fleet: Fleet) -> list[str]:
    return [
        f"{fleet.replicas:,}",
        f"{fleet.workers:,}",
        f"{fleet.used:.0%}",
        _figure(fleet.p50_ms, ".3g"),
        _figure(fleet.p99_ms, ".3g"),
        _figure(fleet.goodput_per_s, ",.0f"),
        f"{fleet.refused:.2%}" if fleet.refused else "none",
        "yes" if fleet.meets else "no",
    ]


def _figure(simulated: Simulated, form: str) -> str:
    """A figure with its interval; "never" for requests that are not answered."""
    texts = ["never" if end is None else format(end, form) for end in (simulated.value, *simulated.ci95)]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"
